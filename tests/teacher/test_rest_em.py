import pytest
import torch

from student.records import Outcome
from teacher import rest_em
from teacher.records import Reward, Rewrite
from teacher.writer import load_teacher


def rewrite(text):
    return Rewrite(document_id="a", strategy="copy", text=text, completion=text, prompt="in the shop 1\n<lesson>")


def reward(*gains):
    return Reward(value=sum(gains) / len(gains), outcome=Outcome(gain=gains[-1]), gains=gains)


TEXTS = [rewrite(text) for text in "abcd"]


def kept(rewards, keep=1):
    return [chosen.text for chosen in rest_em.select(TEXTS, rewards, keep)]


def test_the_best_that_beat_the_mean_are_kept():
    rewards = [reward(0.1), reward(0.9), reward(0.8), reward(0.0)]
    assert kept(rewards) == ["b"]
    assert kept(rewards, keep=3) == ["b", "c"]


def test_a_group_without_contrast_gives_nothing():
    assert kept([reward(0.5)] * 4) == []


def test_a_contrast_within_the_noise_gives_nothing():
    noisy = [reward(0.0, 1.0), reward(0.1, 1.1), reward(-0.1, 0.9), reward(0.0, 1.0)]
    clear = [reward(0.5, 0.5), reward(0.6, 0.6), reward(0.4, 0.4), reward(0.5, 0.5)]
    assert kept(noisy) == []
    assert kept(clear) == ["b"]


def test_a_refused_rewrite_is_never_learnt_from():
    refused = Reward(value=2.0, outcome=None)
    assert kept([refused, reward(0.0), reward(0.1), reward(0.0)]) == []


@pytest.mark.parametrize("lora", [None, {"rank": 4, "alpha": 8.0}])
def test_the_update_raises_the_likelihood_of_what_was_kept_and_of_its_end(make_config, lora):
    config = make_config(teacher={"lora": lora}, rl={"epochs": 10})
    writer = load_teacher(config, train=True)
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


def test_nothing_kept_leaves_the_model_as_it_was(make_config):
    config = make_config()
    writer = load_teacher(config, train=True)
    before = [parameter.clone() for parameter in writer.model.parameters()]
    assert rest_em.update(config, 1, writer, [TEXTS], [[reward(0.5)] * 4])["kept"] == 0
    assert all(torch.equal(a, b) for a, b in zip(before, writer.model.parameters(), strict=True))
