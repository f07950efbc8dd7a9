import itertools

import pytest
import torch
from transformers.modeling_outputs import CausalLMOutputWithPast

from teacher.prompting.prompts import build_prompt
from teacher.run.checkpoints import save_checkpoint
from teacher.writers.local import TransformersWriter, load_teacher


def prompts_for(writer, documents):
    for i, document in enumerate(documents):  # ragged lengths
        document.text += " wool" * (3 * i)
    return [build_prompt(writer.tokenizer, writer.settings, document) for document in documents]


def test_equal_seeds_give_equal_texts_and_leave_the_global_generator_alone(make_config, make_documents):
    writer = load_teacher(make_config().teacher)
    prompts = prompts_for(writer, make_documents(7))
    state = torch.get_rng_state()
    first = writer.write(prompts, 3, seed=5)
    assert torch.equal(state, torch.get_rng_state())
    assert [len(texts) for texts in first] == [3] * len(prompts)
    torch.rand(10)
    assert writer.write(prompts, 3, seed=5) == first
    assert writer.write(prompts, 3, seed=6) != first
    assert len({one.text for completions in first for one in completions}) > 15, "samples differ"


def test_greedy_texts_do_not_depend_on_what_shares_the_batch(make_config, make_documents):
    together = load_teacher(make_config(teacher={"temperature": 0.0, "batch_size": 4}).teacher)
    prompts = prompts_for(together, make_documents(7))
    alone = [together.write([prompt], 1, seed=0)[0] for prompt in prompts]
    assert together.write(prompts, 1, seed=9) == alone
    assert len({texts[0] for texts in alone}) > 1, "answers belong to their prompts"


def end_after(writer, tokens):
    """Makes the model write `gold` and, as the token number `tokens` of a completion, its end."""
    gold, end = writer.tokenizer.convert_tokens_to_ids(["gold", "<eos>"])

    def forward(input_ids, past_key_values=None, **_):
        done = 0 if forward.calls == 0 else forward.calls
        forward.calls += 1
        logits = torch.full((*input_ids.shape, len(writer.tokenizer)), -100.0)
        logits[..., end if done + 1 == tokens else gold] = 100.0
        return CausalLMOutputWithPast(logits=logits, past_key_values=past_key_values)

    forward.calls = 0
    return forward


@pytest.mark.parametrize(("tokens", "expected"), [(4, (3, True)), (10, (9, True)), (11, (10, False))])
def test_a_completion_ended_where_its_end_was_written_also_as_the_last_token(
    make_config, make_documents, monkeypatch, tokens, expected
):
    writer = load_teacher(make_config(teacher={"max_new_tokens": 10}).teacher)
    monkeypatch.setattr(writer.model, "forward", end_after(writer, tokens))
    [[completion]] = writer.write(prompts_for(writer, make_documents(1)), 1, seed=0)
    assert (len(completion.text.split()), completion.ended) == expected


def test_greedy_calls_that_go_on_write_what_one_long_call_would(make_config, make_documents):
    short = {"temperature": 0.0, "max_new_tokens": 6, "batch_size": 3}
    writer = load_teacher(make_config(teacher={**short, "continuations": 2}).teacher)
    long = load_teacher(make_config(teacher={**short, "max_new_tokens": 18}).teacher)
    prompts = prompts_for(writer, make_documents(5))
    written, expected = (itertools.chain(*one.write(prompts, 1, seed=0)) for one in (writer, long))
    for one, whole in zip(written, expected, strict=True):
        assert (one.text, one.ended) == (whole.text, whole.ended)
        assert one.ended or one.continuations == 2


@pytest.mark.parametrize(("tokens", "expected"), [(10, (9, True, 0)), (15, (14, True, 1)), (25, (20, False, 1))])
def test_what_hit_the_limit_goes_on_once_and_is_cut_after_that(
    make_config, make_documents, monkeypatch, tokens, expected
):
    writer = load_teacher(make_config(teacher={"max_new_tokens": 10, "continuations": 1}).teacher)
    monkeypatch.setattr(writer.model, "forward", end_after(writer, tokens))
    prompts = prompts_for(writer, make_documents(1))
    [[completion]] = writer.write(prompts, 1, seed=0)
    assert (len(completion.text.split()), completion.ended, completion.continuations) == expected
    # Where the context has no room for another call, the first is all there is.
    assert writer.max_prompt_tokens == 64 - 10 - 1
    writer.context = len(prompts[0].split()) + 19
    monkeypatch.setattr(writer.model, "forward", end_after(writer, 15))
    [[cut]] = writer.write(prompts, 1, seed=0)
    assert (len(cut.text.split()), cut.ended, cut.continuations) == (10, False, 0)


def test_each_prompt_has_its_temperature(make_config, make_documents):
    writer = load_teacher(make_config(teacher={"temperature": 1.0, "batch_size": 3}).teacher)
    prompts = prompts_for(writer, make_documents(6))
    greedy = list(itertools.chain(*writer.at(0.0).write(prompts, 1, seed=0)))
    mixed = [writer.write(prompts, 1, seed, temperatures=[0.0, 1.0] * 3) for seed in (1, 2)]
    assert [one for [one] in mixed[0]][::2] == [one for [one] in mixed[1]][::2] == greedy[::2]
    assert all(one != other for [one], [other] in zip(*(of_seed[1::2] for of_seed in mixed), strict=True))


def test_an_opening_is_part_of_the_completion_and_of_its_length(make_config, make_documents):
    writer = load_teacher(make_config(teacher={"max_new_tokens": 10, "batch_size": 3}).teacher)
    prompts = prompts_for(writer, make_documents(8))
    openings = ["<copy>", "", "<permuted>", ""] * 2
    prompt_ids = writer.tokenizer(prompts)["input_ids"]
    torch.manual_seed(0)
    sampled = writer.sample(prompt_ids, [writer.opening_ids(opening) for opening in openings])
    for opening, ids in zip(openings, sampled, strict=True):
        assert writer.tokenizer.decode(ids).startswith(opening)
        assert writer.read(ids).ended == (ids[-1] in writer.end_ids)
        assert len(ids) == 10 or writer.read(ids).ended
    assert sum(len(ids) == 10 for ids in sampled) >= 4
    [[completion]] = writer.write(prompts[:1], 1, 3, openings[:1])
    assert completion.text.startswith("<copy>")
    assert not writer.model.training


def test_the_longest_prompt_leaves_room_for_a_tag_and_the_completion(make_config, make_documents):
    writer = load_teacher(make_config(teacher={"max_new_tokens": 10}).teacher)
    assert writer.max_prompt_tokens == 64 - 10 - 1


def test_a_prompt_that_fails_does_not_take_its_batch_with_it(make_config, monkeypatch, caplog):
    writer = load_teacher(make_config().teacher)
    real = TransformersWriter.write

    def failing(self, prompts, n, seed, openings=(), temperatures=()):
        if "poison" in prompts:
            raise RuntimeError("out of memory")
        return real(self, prompts, n, seed, openings, temperatures)

    expected = [writer.write([prompt], 2, 0, ["<copy>"])[0] for prompt in ("gold", "salt")]
    monkeypatch.setattr(TransformersWriter, "write", failing)
    first, failed, last = writer.attempt(["gold", "poison", "salt"], 2, 0, ["<copy>"] * 3)
    assert [first, last] == expected and [str(one.error) for one in failed] == ["out of memory"] * 2
    assert "failed on a batch of 3 (RuntimeError); trying one at a time" in caplog.text


def test_another_temperature_leaves_the_writer_as_it_was(make_config):
    writer = load_teacher(make_config(teacher={"temperature": 1.0}).teacher)
    greedy = writer.at(0.0)
    assert (greedy.settings.temperature, writer.settings.temperature) == (0.0, 1.0)
    assert greedy.write(["gold"], 1, seed=0) == greedy.write(["gold"], 1, seed=1)
    assert writer.at(None) is writer


def test_no_prompts_give_no_texts(make_config, make_documents):
    assert load_teacher(make_config().teacher).write([], 2, seed=0) == []


def test_a_saved_teacher_writes_as_it_did(make_config, make_documents, tmp_path):
    for name, lora in (("full", None), ("adapter", {"rank": 4, "alpha": 8.0})):
        config = make_config(tmp_path / name, teacher={"lora": lora})
        writer = load_teacher(config.teacher, train_seed=config.run.seed)
        prompts = prompts_for(writer, make_documents(7))
        start = writer.write(prompts, 1, seed=0)
        with torch.no_grad():
            for parameter in writer.model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.2 * torch.randn_like(parameter))
        changed = writer.write(prompts, 1, seed=0)
        assert changed != start
        folder = save_checkpoint(tmp_path / name, 1, writer.model, writer.tokenizer, writer.settings, None)
        assert (folder / "adapter_config.json").is_file() == (lora is not None)
        assert load_teacher(config.teacher, folder).write(prompts, 1, seed=0) == changed
        assert load_teacher(config.teacher).write(prompts, 1, seed=0) == start
