import math
from dataclasses import replace

import pytest
import torch

from configs.schema import Config
from student.records import Outcome
from teacher.algorithms import rest_em, selection
from teacher.algorithms.trainers import token_ids
from teacher.records import Reward, Rewrite
from teacher.writers.local import load_teacher


def rewrite(text):
    return Rewrite(document_id="a", strategy="copy", text=text, completion=text, prompt="in the shop 1\n<lesson>")


def reward(*gains):
    return Reward(value=sum(gains) / len(gains), outcome=Outcome(gain=gains[-1]), gains=gains)


TEXTS = [rewrite(text) for text in "abcd"]
REFUSED = Reward(value=-1.0, outcome=None)


def config_of(keep=1, m=1, credit="whole"):
    return Config.model_validate({"rl": {"keep": keep, "rewrites_per_lesson": m}, "reward": {"set_credit": credit}})


def kept(rewards, keep=1, texts=TEXTS, **settings):
    config = config_of(keep, **settings)
    return [chosen.text for chosen in selection.accepted(config.reward, config.rl, [texts], [rewards])]


def test_the_best_that_beat_the_mean_are_kept():
    rewards = [reward(0.1), reward(0.9), reward(0.8), reward(0.0)]
    assert kept(rewards) == ["b"]
    assert kept(rewards, keep=3) == ["b", "c"]


def test_a_group_without_contrast_gives_nothing():
    assert kept([reward(0.5)] * 4) == []


def test_a_contrast_within_the_noise_gives_nothing():
    noisy = [reward(0.0, 1.0), reward(1.1, 0.1), reward(-0.1, 0.9), reward(1.0, 0.0)]
    clear = [reward(0.5, 0.5), reward(0.6, 0.6), reward(0.4, 0.4), reward(0.5, 0.5)]
    assert kept(noisy) == []
    assert kept(clear) == ["b"]


def test_what_a_common_seed_does_to_all_is_no_noise():
    assert kept([reward(0.0, 1.0), reward(0.1, 1.1), reward(-0.1, 0.9), reward(0.0, 1.0)]) == ["b"]


def test_what_was_repeated_more_has_the_smaller_error():
    often = [reward(*[0.5, 1.1] * 8), reward(0.8, 0.2), reward(0.3, 0.9), reward(1.0, 0.4)]
    seldom = [reward(0.5, 1.1), *often[1:]]
    assert kept(often) == ["a"]
    assert kept(seldom) == []


def test_a_refused_rewrite_is_never_learnt_from():
    refused = Reward(value=2.0, outcome=None)
    assert kept([refused, reward(0.0), reward(0.1), reward(0.0)]) == []


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
    noisy = reward(0.0, 1.0), reward(1.5, 0.5), reward(0.1, 1.1)
    doubled = [one for one in noisy for _ in range(2)]
    apart, together = (
        selection.units_of(config_of(m=m).reward, config_of(m=m).rl, SIX[: 3 * m], rewards)
        for m, rewards in ((1, noisy), (2, doubled))
    )
    assert selection.standard_error(together[0], together) == selection.standard_error(apart[0], apart)
    assert selection.standard_error(apart[0], apart) == pytest.approx(math.sqrt(1 / 3))
    assert kept(doubled, texts=SIX, m=2) == kept(noisy, texts=SIX[:3]) == []


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
    metrics = rest_em.update(config, 1, writer, [group], [[reward(1.0), reward(0.0)]])
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
    rest_em.update(config, 1, writer, [group], [[reward(1.0), reward(0.0)]])
    assert (end() > before + 1) == ended


def test_nothing_kept_leaves_the_model_as_it_was(make_config):
    config = make_config()
    writer = load_teacher(config.teacher, train_seed=config.run.seed)
    before = [parameter.clone() for parameter in writer.model.parameters()]
    assert rest_em.update(config, 1, writer, [TEXTS], [[reward(0.5)] * 4])["kept"] == 0
    assert all(torch.equal(a, b) for a, b in zip(before, writer.model.parameters(), strict=True))
