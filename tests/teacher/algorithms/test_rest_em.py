from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from transformers import LlamaModel

from configs.errors import RunError
from configs.schema import Config
from student.records import Outcome
from student.statistics.reliability import measured_noise
from teacher.algorithms import rest_em, selection
from teacher.algorithms.trainers import token_ids
from teacher.records import Reward, Rewrite, SamplingError
from teacher.writers.local import load_teacher


def rewrite(text):
    return Rewrite(document_id="a", strategy="copy", text=text, completion=text, prompt="in the shop 1\n<lesson>")


def reward(value, error=None, degrees=1000.0, shared=()):
    """With the standard error of its own noise."""
    measured = None if error is None else SamplingError(error, degrees, shared)
    return Reward(value=value, outcome=Outcome(gain=value), gains=(value,), error=measured)


TEXTS = [rewrite(text) for text in "abcd"]
REFUSED = Reward(value=-1.0, outcome=None)


def config_of(keep=1, m=1, credit="whole", level=None):
    return Config.model_validate(
        {"rl": {"keep": keep, "rewrites_per_lesson": m, "false_keep": level}, "reward": {"set_credit": credit}}
    )


def kept(rewards, keep=1, texts=TEXTS, floor=None, **settings):
    config = config_of(keep, **settings)
    return [chosen.text for chosen in selection.accepted(config.reward, config.rl, [texts], [rewards], floor)]


def test_without_a_level_the_best_above_the_mean_are_kept():
    rewards = [reward(0.1), reward(0.9), reward(0.8), reward(0.0)]
    assert kept(rewards) == ["b"]
    assert kept(rewards, keep=3, floor=2.0) == ["b", "c"]
    assert kept([REFUSED, reward(-2.0), REFUSED, REFUSED]) == ["b"]
    assert kept([reward(0.5)] * 4) == [], "no contrast"


@pytest.mark.parametrize("size", [2, 4, 8, 16])
@pytest.mark.parametrize("repeats", [1, 2])
def test_of_groups_of_equal_lessons_at_most_the_level_has_one_kept(size, repeats):
    """By noise that is measured anew for every hundred groups, with and without refused lessons, whatever its tail."""
    generator = np.random.default_rng(size + 10 * repeats)
    runs, documents = 20, 100
    settings = config_of(level=0.05)
    group = [rewrite(str(g)) for g in range(size)]
    for draw in (generator.normal, generator.laplace, lambda size: generator.standard_t(5, size)):
        hits = 0
        for _ in range(runs):
            noise = measured_noise(draw(size=(8, size, 2)) + generator.normal(size=(8, 1, 2)))
            for d, gains in enumerate(draw(size=(documents, size, repeats)).mean(2).tolist()):
                rewards = [reward(gain, (noise.variance / repeats) ** 0.5, noise.degrees) for gain in gains]
                refused = d % min(6, size - 1)
                rewards[:refused] = [Reward(value=min(gains) - 1.0, outcome=None)] * refused
                units = selection.units_of(settings.reward, settings.rl, group, rewards)
                hits += bool(selection.best_units(settings.reward, settings.rl, units))
        assert hits / (runs * documents) < 0.05 + 0.015, "three standard errors of the simulation"


def test_a_lesson_that_stands_out_is_kept():
    for value, expected in ((2.5, []), (3.8, ["b"])):
        assert kept([reward(0.0, 1.0), reward(value, 1.0), *[reward(0.0, 1.0)] * 2], level=0.05) == expected
    loose = [reward(0.0, 1.0), reward(2.5, 1.0), *[reward(0.0, 1.0)] * 2]
    assert kept(loose, level=0.3) == ["b"]


def test_what_was_repeated_more_has_the_smaller_error():
    others = [reward(0.0, 0.1), reward(0.1, 0.1), reward(-0.1, 0.1)]
    assert kept([reward(1.0, 0.1), *others], level=0.05) == ["a"]
    assert kept([reward(1.0, 1.0), *others], level=0.05) == []


def test_errors_that_rewards_share_count_as_far_as_their_loadings_differ():
    equal = [reward(0.0, 0.1, shared=(5.0, 1.0)), reward(1.0, 0.1, shared=(5.0, 1.0))]
    apart = [reward(0.0, 0.1, shared=(5.0, 1.0)), reward(1.0, 0.1, shared=(7.0, 1.0))]
    assert kept(equal, texts=TEXTS[:2], level=0.05) == ["b"]
    assert kept(apart, texts=TEXTS[:2], level=0.05) == []


def test_where_the_noise_is_unknown_nothing_is_known_to_stand_out():
    assert kept([reward(0.0), reward(9.0), reward(0.0), reward(0.0)], level=0.05) == []


def test_a_refused_rewrite_is_never_learnt_from_and_nothing_is_compared_with_it():
    high, low = Reward(value=9.0, outcome=None), Reward(value=-9.0, outcome=None)
    for refused in (high, low):
        assert kept([refused, reward(0.0, 1.0), reward(0.1, 1.0), reward(0.0, 1.0)], level=0.05) == []
        assert kept([refused, reward(0.0), reward(0.1), reward(0.0)]) == ["c"]
    assert kept([low, low, low, reward(-2.0, 1.0)], level=0.05) == [], "a sole survivor stands out of nothing"


def test_a_lesson_that_gained_no_more_than_the_floor_is_not_kept():
    rewards = [reward(-4.0, 0.1), reward(-2.0, 0.1), reward(-4.0, 0.1), reward(-4.0, 0.1)]
    assert kept(rewards, level=0.05) == kept(rewards, level=0.05, floor=-3.0) == ["b"]
    assert kept(rewards, level=0.05, floor=0.0) == []


SIX = [rewrite(text) for text in "abcdef"]


def test_the_best_set_is_kept_and_not_the_best_rewrites():
    rewards = [reward(0.9), reward(0.1), reward(0.7), reward(0.7), reward(0.2), reward(0.3)]
    assert kept(rewards, texts=SIX, m=2) == ["c", "d"]
    assert kept(rewards, keep=2, texts=SIX, m=2) == ["c", "d", "a", "b"]
    assert kept(rewards, texts=SIX, m=2, credit="marginal") == ["a", "c"], "as many rewrites, each by itself"


def test_a_sets_refused_members_count_neither_for_nor_against_it():
    rewards = [reward(0.8), REFUSED, reward(0.5), reward(0.5), REFUSED, REFUSED]
    assert kept(rewards, texts=SIX, m=2) == ["a"]


def test_members_of_a_set_are_one_measurement():
    alone = [reward(0.0, 1.0), reward(2.2, 1.0), reward(0.1, 1.0)]
    doubled = [one for one in alone for _ in range(2)]
    assert kept(alone, texts=SIX[:3], level=0.05) == kept(doubled, texts=SIX, m=2, level=0.05) == []
    assert kept(alone, texts=SIX[:3], level=0.2) == ["b"]
    assert kept(doubled, texts=SIX, m=2, level=0.2) == ["c", "d"]


@pytest.mark.parametrize("lora", [None, {"rank": 4, "alpha": 8.0}])
def test_the_update_raises_the_likelihood_of_what_was_kept_and_of_its_end(make_config, lora):
    config = make_config(teacher={"lora": lora}, rl={"rest_em": {"epochs": 10}})
    writer = load_teacher(config.teacher, train_seed=config.run.seed)
    group = [rewrite("<copy> gold iron salt"), rewrite("<copy> wood rope sand")]

    def loglik(text):
        prompt = writer.tokenizer(group[0].prompt, return_tensors="pt")["input_ids"]
        whole = writer.tokenizer(f"{group[0].prompt}{text}<eos>", return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logp_TV = writer.model(whole).logits[0, :-1].log_softmax(-1)
        new = whole[0, prompt.shape[1] :]
        return logp_TV[prompt.shape[1] - 1 :].gather(1, new[:, None]).squeeze(1)

    before, other = loglik(group[0].completion), loglik(group[1].completion)
    metrics = rest_em.update(config, 1, writer, [group], [[reward(1.0, 0.1), reward(0.0, 0.1)]])
    assert metrics["kept"] == 1
    assert (loglik(group[0].completion) > before).all(), "every token of the completion, and its end"
    gained = (loglik(group[0].completion) - before).sum()
    assert gained > (loglik(group[1].completion) - other).sum() + 1


@pytest.mark.parametrize("ended", [True, False])
def test_only_what_ended_teaches_to_end(make_config, ended):
    config = make_config(rl={"rest_em": {"epochs": 10}})
    writer = load_teacher(config.teacher, train_seed=config.run.seed)
    group = [replace(rewrite("<copy> gold iron salt"), ended=ended), rewrite("<copy> wood rope sand")]
    prompt_ids, completion_ids = token_ids(writer, group[0])
    assert writer.tokenizer.decode(completion_ids) == "<copy> gold iron salt" + " <eos>" * ended
    at = torch.tensor([prompt_ids + completion_ids[:4]])

    def end():
        with torch.no_grad():
            return writer.model(at).logits[0, -1].log_softmax(-1)[writer.tokenizer.eos_token_id]

    before = end()
    rest_em.update(config, 1, writer, [group], [[reward(1.0, 0.1), reward(0.0, 0.1)]])
    assert (end() > before + 1) == ended


def test_nothing_kept_leaves_the_model_as_it_was(make_config):
    config = make_config()
    writer = load_teacher(config.teacher, train_seed=config.run.seed)
    before = [parameter.clone() for parameter in writer.model.parameters()]
    assert rest_em.update(config, 1, writer, [TEXTS], [[reward(0.5)] * 4])["kept"] == 0
    assert all(torch.equal(a, b) for a, b in zip(before, writer.model.parameters(), strict=True))


def test_the_best_is_chosen_among_the_lessons_that_pass():
    """With pooled values the first by value need not have gained most itself."""
    first = replace(reward(5.0, 0.1), gains=(0.2,))
    rewards = [first, reward(4.9, 0.1), reward(0.0, 0.1), reward(0.0, 0.1)]
    assert kept(rewards, level=0.05) == ["a"]
    assert kept(rewards, level=0.05, floor=0.5) == ["b"]


def out_of_memory_above(monkeypatch, rows, seen):
    """From the second pass on, a backward pass of more than so many rows runs out of memory."""
    real, backward = LlamaModel.forward, Accelerator.backward

    def forward(self, input_ids=None, **others):
        if self.training:
            seen.append((len(input_ids), self.is_gradient_checkpointing))
        return real(self, input_ids=input_ids, **others)

    def limited(self, loss, **others):
        if len(seen) > 1 and seen[-1][0] > rows:
            raise torch.OutOfMemoryError("injected")
        return backward(self, loss, **others)

    monkeypatch.setattr(LlamaModel, "forward", forward)
    monkeypatch.setattr(Accelerator, "backward", limited)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("lora", [None, {"rank": 4, "alpha": 8.0}])
def test_an_update_out_of_memory_begins_again_in_smaller_passes(make_config, monkeypatch, lora, checkpointing):
    teacher = {"lora": lora, "batch_size": 4, "gradient_checkpointing": checkpointing}
    config = make_config(teacher=teacher, rl={"keep": 8, "rest_em": {"epochs": 2, "batch_size": 4}})
    words = (
        "gold iron salt",
        "wood rope",
        "sand milk corn silk",
        "glass",
        "clay wool",
        "lime coal horn",
        "reed",
        "moss",
    )
    group = [rewrite(f"<copy> {text}") for text in (*words, "bark", "dust snow")]
    rewards = [reward(1.0)] * len(words) + [reward(0.0)] * 2

    def trained():
        writer = load_teacher(config.teacher, train_seed=config.run.seed)
        start = [p.detach().clone() for p in writer.model.parameters()]
        metrics = rest_em.update(config, 1, writer, [group], [rewards])
        assert not writer.model.is_gradient_checkpointing
        return metrics, [p.detach() - before for p, before in zip(writer.model.parameters(), start, strict=True)]

    expected, whole = trained()
    assert expected["kept"] == 8
    seen = []
    out_of_memory_above(monkeypatch, 2, seen)
    metrics, parts = trained()
    tries = [(4, True), (2, True)]
    tries = tries if checkpointing else [(4, False), *tries]
    assert list(dict.fromkeys(seen)) == tries
    assert metrics["loss"] == pytest.approx(expected["loss"], abs=1e-4)
    apart = sum(float((a - b).square().sum()) for a, b in zip(whole, parts, strict=True))
    moved = sum(float(a.square().sum()) for a in whole)
    assert moved > 0 and (apart / moved) ** 0.5 < 1e-2, "AdamW's first steps are signs: rounding may turn tiny ones"


def test_an_update_that_never_fits_says_what_to_do_and_leaves_the_teacher(make_config, monkeypatch):
    config = make_config(teacher={"batch_size": 2})
    writer = load_teacher(config.teacher, train_seed=config.run.seed)
    before = [parameter.clone() for parameter in writer.model.parameters()]
    out_of_memory_above(monkeypatch, 0, [])
    with pytest.raises(RunError, match="one row in a pass: free memory"):
        rest_em.update(config, 1, writer, [TEXTS], [[reward(0.1), reward(0.9), reward(0.8), reward(0.0)]])
    assert all(torch.equal(a, b) for a, b in zip(before, writer.model.parameters(), strict=True))
