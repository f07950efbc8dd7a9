import math

import pytest

from configs.schema import Reward as RewardSettings
from student.records import Outcome
from teacher.records import Reward, Rewrite
from teacher.training.metrics import diversity, diversity_alarm, noise_metrics, step_metrics, strategy_shares


def rewrite(strategy="copy", text="gold", rejected=None):
    return Rewrite(document_id="a", strategy=strategy, text=text, completion=text, prompt="", rejected=rejected)


def reward(*gains):
    metrics = {"accuracy_before": 0.0, "accuracy_after": 1.0}
    return Reward(value=sum(gains) / len(gains), outcome=Outcome(gain=gains[-1], metrics=metrics), gains=gains)


def test_a_step_is_summed_up_under_the_names_of_metrics_jsonl():
    groups = [[rewrite(), rewrite("faq")], [rewrite("faq"), rewrite("faq", rejected="leak")]]
    rewards = [[reward(0.0), reward(1.0)], [reward(0.5), Reward(value=-0.5, outcome=None)]]
    metrics = step_metrics(groups, rewards, RewardSettings(credit="document"))
    assert metrics["reward/mean"] == 0.25
    assert metrics["gain/mean"] == 0.5
    assert metrics["strategy/faq"] == 0.75
    assert metrics["gain_by_strategy/faq"] == 0.75
    assert metrics["gates/leak"] == 1
    assert metrics["accuracy/after"] == 1.0
    assert metrics["reward/low"] < 0.25 < metrics["reward/high"]
    assert "reward/reliability" not in metrics, "unknown with one repeat"


def test_reliability_tells_signal_from_retraining_noise():
    signal = [[reward(0.0, 0.02), reward(0.5, 0.48), reward(1.0, 1.01)]] * 4
    noise = [
        [reward(0.0, 0.9), reward(0.8, 0.1), reward(0.5, 0.4)],
        [reward(0.2, 0.7), reward(0.9, 0.2), reward(0.5, 0.6)],
    ] * 2
    assert noise_metrics(signal)["reward/reliability"] > 0.99
    assert noise_metrics(noise)["reward/reliability"] < 0.3
    assert noise_metrics(signal)["reward/noise_sd"] < 0.05 < noise_metrics(noise)["reward/noise_sd"]


def test_diversity_falls_when_a_group_says_one_thing():
    same = diversity([[rewrite(text="gold iron salt wood rope sand milk corn") for _ in range(6)]])
    words = "gold iron salt wood rope sand milk corn silk glass clay wool".split()
    varied = diversity([[rewrite(f"s{i}", " ".join(words[2 * i : 2 * i + 2])) for i in range(6)]])
    assert same["diversity/compression_ratio"] > 1.5 * varied["diversity/compression_ratio"]
    assert (same["diversity/distinct_strategies"], varied["diversity/distinct_strategies"]) == (1, 6)


def test_the_entropy_is_that_of_the_mix_of_strategies():
    mixed = diversity([[rewrite("a"), rewrite("b")], [rewrite("b"), rewrite("a")]])
    assert mixed["diversity/strategy_entropy"] == pytest.approx(math.log(2))
    assert diversity([[rewrite("a"), rewrite("a")]])["diversity/strategy_entropy"] == 0
    assert "diversity/lesson_overlap" not in mixed, "a lesson of one text repeats nobody"


def test_a_lesson_of_copies_shows_inside_the_lesson():
    one, two = "gold iron salt wood rope sand milk corn", "silk glass clay wool lime coal horn reed"
    copies = [[rewrite(text=text) for text in (one, one, two, two)]]
    mixed = [[rewrite(text=text) for text in (one, two, one, two)]]
    assert diversity(copies, 2)["diversity/lesson_overlap"] == 1
    assert diversity(mixed, 2)["diversity/lesson_overlap"] == 0
    ratio = "diversity/lesson_compression_ratio"
    assert diversity(copies, 2)[ratio] > 1.2 * diversity(mixed, 2)[ratio]


def test_the_alarm_rings_where_texts_compress_much_better_than_at_first():
    first = {"diversity/compression_ratio": 2.0}
    assert diversity_alarm({"diversity/compression_ratio": 2.9}, first, 1.5) is None
    warning = diversity_alarm({"diversity/compression_ratio": 3.2}, first, 1.5)
    assert "compress 3.2-fold, 1.6 times" in warning
    assert "\n" not in warning
    assert diversity_alarm(first, {}, 1.5) is None, "nothing to compare with"


def test_rewrites_of_one_set_are_one_lesson_for_the_reliability():
    sets = [
        [reward(0.0, 0.9), reward(0.8, 0.1), reward(0.5, 0.4)],
        [reward(0.2, 0.7), reward(0.9, 0.2), reward(0.5, 0.6)],
    ]
    doubled = [[one for one in group for _ in range(2)] for group in sets]
    groups = [[rewrite()] * 6] * 2
    whole, marginal = RewardSettings(), RewardSettings(set_credit="marginal")
    expected = noise_metrics(sets)
    assert step_metrics(groups, doubled, whole, 2)["reward/reliability"] == expected["reward/reliability"]
    assert step_metrics(groups, doubled, marginal, 2)["reward/noise_sd"] == noise_metrics(doubled)["reward/noise_sd"]


def test_shares_add_up_to_one():
    shares = strategy_shares([[rewrite("a"), rewrite("b"), rewrite("b")]])
    assert shares == pytest.approx({"strategy/b": 2 / 3, "strategy/a": 1 / 3})
    assert strategy_shares([]) == {}
