import torch

from teacher.checkpoints import save_checkpoint
from teacher.strategies import build_prompt
from teacher.writer import load_teacher


def prompts_for(writer, documents):
    for i, document in enumerate(documents):  # ragged lengths
        document.text += " wool" * (3 * i)
    return [build_prompt(writer.tokenizer, writer.settings, document) for document in documents]


def test_equal_seeds_give_equal_texts_and_leave_the_global_generator_alone(make_config, make_documents):
    writer = load_teacher(make_config())
    prompts = prompts_for(writer, make_documents(7))
    state = torch.get_rng_state()
    first = writer.write(prompts, 3, seed=5)
    assert torch.equal(state, torch.get_rng_state())
    assert [len(texts) for texts in first] == [3] * len(prompts)
    torch.rand(10)
    assert writer.write(prompts, 3, seed=5) == first
    assert writer.write(prompts, 3, seed=6) != first
    assert len({text for texts in first for text in texts}) > 15, "samples differ"
    assert writer.tokens > 0
    assert writer.seconds > 0


def test_greedy_texts_do_not_depend_on_what_shares_the_batch(make_config, make_documents):
    together = load_teacher(make_config(teacher={"temperature": 0.0, "batch_size": 4}))
    prompts = prompts_for(together, make_documents(7))
    alone = [together.write([prompt], 1, seed=0)[0] for prompt in prompts]
    assert together.write(prompts, 1, seed=9) == alone
    assert len({texts[0] for texts in alone}) > 1, "answers belong to their prompts"


def test_no_prompts_no_texts(make_config, make_documents):
    assert load_teacher(make_config()).write([], 2, seed=0) == []


def test_a_saved_teacher_writes_as_it_did(make_config, make_documents, tmp_path):
    for name, lora in (("full", None), ("adapter", {"rank": 4, "alpha": 8.0})):
        config = make_config(tmp_path / name, teacher={"lora": lora})
        writer = load_teacher(config, train=True)
        prompts = prompts_for(writer, make_documents(7))
        start = writer.write(prompts, 1, seed=0)
        with torch.no_grad():
            for parameter in writer.model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.2 * torch.randn_like(parameter))
        changed = writer.write(prompts, 1, seed=0)
        assert changed != start
        folder = save_checkpoint(tmp_path / name, 1, writer, None)
        assert (folder / "adapter_config.json").is_file() == (lora is not None)
        assert load_teacher(config, folder).write(prompts, 1, seed=0) == changed
        assert load_teacher(config).write(prompts, 1, seed=0) == start
