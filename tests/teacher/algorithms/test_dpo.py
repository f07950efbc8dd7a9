from dataclasses import replace

import pytest
import torch
from trl import DPOTrainer

from configs.schema import Config
from student.records import Outcome
from teacher.algorithms import dpo
from teacher.algorithms.trainers import token_ids
from teacher.records import Reward, Rewrite, SamplingError
from teacher.writers.local import load_teacher

PROMPT = "in the shop 1\n<lesson>"
REFUSED = Reward(value=-1.0, outcome=None)


def rewrite(text, prompt=PROMPT, **fields):
    return Rewrite(document_id="a", strategy="copy", text=text, completion=text, prompt=prompt, **fields)


def reward(gain, error=0.1):
    return Reward(value=gain, outcome=Outcome(gain=gain), gains=(gain,), error=SamplingError(error, 1000.0))


def pairs(texts, rewards, prompts=None, keep=1, m=1, credit="whole", refused=(), level=None):
    config = Config.model_validate(
        {"rl": {"keep": keep, "rewrites_per_lesson": m, "false_keep": level}, "reward": {"set_credit": credit}}
    )
    group = [
        rewrite(text, prompt, rejected="leak" if text in refused else None)
        for text, prompt in zip(texts, prompts or "p" * len(texts), strict=True)
    ]
    return [won.text + lost.text for won, lost in dpo.pairs_of(config.reward, config.rl, group, rewards)]


def test_the_best_meets_the_worst():
    rewards = [reward(0.1), reward(0.9), reward(0.8), reward(0.0)]
    assert pairs("abcd", rewards) == ["bd"]
    assert pairs("abcd", rewards, keep=2) == ["bd", "ca"]
    assert pairs("abcd", [reward(0.9), reward(0.8), reward(0.7), reward(0.0)], keep=3) == ["ad", "bd", "cd"]


def test_no_pair_without_a_contrast_beyond_the_noise():
    assert pairs("abcd", [reward(0.5)] * 4) == []
    assert pairs("abc", [reward(0.5), reward(0.6), reward(0.4)], level=0.05) == []
    assert pairs("abc", [reward(0.5), reward(1.9), reward(0.1)], level=0.05) == ["bc"]
    assert pairs("abc", [REFUSED, reward(-2.0), REFUSED], level=0.05, refused="ac") == []


def test_only_equal_prompts_meet():
    rewards = [reward(0.1), reward(0.9), reward(0.8), reward(0.0)]
    assert pairs("abcd", rewards, prompts="xyxy") == ["ca", "bd"]
    assert pairs("abcd", rewards, prompts="wxyz") == []


def test_a_ready_part_wins_no_pair():
    config = Config.model_validate({"rl": {"false_keep": None}})
    group = [replace(rewrite(text, "p"), strategy=strategy) for text, strategy in zip("abcd", "xyxy", strict=True)]
    rewards = [reward(0.1), reward(0.9), reward(0.8), reward(0.2)]
    found = dpo.pairs_of(config.reward, config.rl, group, rewards, policy=False)
    assert [won.text + lost.text for won, lost in found] == ["ca", "bd"], "each within its strategy"


def test_the_members_of_the_best_set_meet_those_of_the_worst_in_order():
    rewards = [reward(0.1), reward(0.1), reward(0.9), reward(0.9), reward(0.5), reward(0.5)]
    assert pairs("abcdef", rewards, m=2) == ["ca", "db"]
    apart = [reward(0.1), reward(0.2), reward(0.9), reward(0.3), reward(0.5), reward(0.8)]
    assert pairs("abcdef", apart, m=2, credit="marginal") == ["ca", "fb"]


def test_what_a_gate_refused_loses_and_never_wins():
    rewards = [reward(0.1), reward(0.9), REFUSED, reward(0.2)]
    assert pairs("abcd", rewards, refused="c") == ["bc"]
    assert pairs("abcd", rewards) == [], "the worst one's students failed, which says nothing about it"
    in_sets = [reward(0.9), REFUSED, reward(0.1), reward(0.1)]
    assert pairs("abcd", in_sets, m=2, refused="b") == ["ac"]


def test_equal_texts_are_no_pair():
    assert pairs("aa", [reward(0.9), reward(0.1)]) == []


def loglik(writer, chosen):
    prompt_ids, completion_ids = token_ids(writer, chosen)
    with torch.no_grad():
        logp_TV = writer.model(torch.tensor([prompt_ids + completion_ids])).logits[0, :-1].log_softmax(-1)
    return logp_TV[len(prompt_ids) - 1 :].gather(1, torch.tensor(completion_ids)[:, None]).sum().item()


@pytest.mark.parametrize("lora", [None, {"rank": 4, "alpha": 8.0}])
@pytest.mark.parametrize("beta", [0.01, 0.1])
def test_the_update_moves_the_winner_above_the_loser_from_the_rounds_start(make_config, lora, beta):
    config = make_config(
        teacher={"lora": lora}, rl={"algorithm": "dpo", "dpo": {"epochs": 1, "beta": beta, "batch_size": 2}}
    )
    writer = load_teacher(config.teacher, train_seed=config.run.seed)
    with torch.no_grad():  # a later round: the start of the round is not the start of the teacher
        for parameter in writer.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    won, lost = rewrite("<copy> gold iron salt"), rewrite("<copy> wood rope sand", ended=False)
    before = loglik(writer, won), loglik(writer, lost)
    rewards = [[reward(1.0), reward(0.0)]]
    metrics = dpo.update(config, 1, writer, [[won, lost]], rewards)
    # Where nothing was learnt yet the policy is its reference, whatever beta is.
    assert metrics["loss"] == pytest.approx(0.6931, abs=1e-3)
    assert (metrics["pairs"], metrics["documents"], metrics["preferred"]) == (1, 1, 0)
    again = dpo.update(config, 2, writer, [[won, lost]], rewards)
    assert again["loss"] == pytest.approx(0.6931, abs=1e-3), "the reference is the round's start"
    many = config.model_copy(
        update={"rl": config.rl.model_copy(update={"dpo": config.rl.dpo.model_copy(update={"epochs": 10})})}
    )
    metrics = dpo.update(many, 3, writer, [[won, lost]], rewards)
    assert metrics["preferred"] == 1
    assert loglik(writer, won) - loglik(writer, lost) > before[0] - before[1] + 1
    if lora:
        assert list(writer.model.peft_config) == ["default"]
        assert any(p.requires_grad for p in writer.model.parameters()), "the next round trains on"


def test_a_text_that_was_cut_is_not_given_an_end(make_config, monkeypatch):
    config = make_config(rl={"algorithm": "dpo"})
    writer = load_teacher(config.teacher, train_seed=config.run.seed)
    seen = []
    compute = DPOTrainer._compute_loss

    def spy(self, model, inputs, return_outputs):
        seen.append(writer.tokenizer.batch_decode(inputs["input_ids"]))
        return compute(self, model, inputs, return_outputs)

    monkeypatch.setattr(DPOTrainer, "_compute_loss", spy)
    group = [rewrite("<copy> gold iron"), replace(rewrite("<copy> wood rope"), ended=False)]
    dpo.update(config, 1, writer, [group], [[reward(1.0), reward(0.0)]])
    won, lost = seen[0]
    assert won.count("<eos>") == 1
    assert lost.count("<eos>") == 0


def test_no_pairs_leave_the_model_as_it_was(make_config):
    config = make_config(rl={"algorithm": "dpo"})
    writer = load_teacher(config.teacher, train_seed=config.run.seed)
    before = [parameter.clone() for parameter in writer.model.parameters()]
    metrics = dpo.update(config, 1, writer, [[rewrite("a"), rewrite("b")]], [[reward(0.5)] * 2])
    assert (metrics["pairs"], metrics["documents"]) == (0, 0)
    assert all(torch.equal(a, b) for a, b in zip(before, writer.model.parameters(), strict=True))
