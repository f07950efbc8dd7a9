import numpy as np
import pytest

from student.statistics.intervals import estimate
from teacher.reward.evaluation import DocumentResult, Evaluation, crossed_estimate, crossed_test, mean_by_name

BATCHES = {f"{batch}-{d}": batch for batch in range(6) for d in range(2)}


@pytest.mark.parametrize(("run_sd", "batch_sd", "cell_sd"), [(0.2, 0.3, 0.3), (0.0, 0.5, 0.3), (0.5, 0.2, 0.2)])
def test_the_interval_over_runs_and_batches_covers_the_truth(run_sd, batch_sd, cell_sd):
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        cells_SB = (
            run_sd * rng.normal(size=(3, 1)) + batch_sd * rng.normal(size=(1, 6)) + cell_sd * rng.normal(size=(3, 6))
        )
        crossed = crossed_estimate([{n: cells_SB[s, b] for n, b in BATCHES.items()} for s in range(3)], BATCHES)
        assert crossed.mean == pytest.approx(cells_SB.mean())
        covered += crossed.low <= 0 <= crossed.high
    assert 0.90 <= covered / 200 <= 0.995


def test_one_run_is_an_interval_over_batches():
    values = {name: batch + 0.1 * int(name[-1]) for name, batch in BATCHES.items()}
    assert crossed_estimate([values], BATCHES) == estimate(list(values.values()), list(BATCHES.values()))


@pytest.mark.parametrize("runs", [1, 3])
def test_the_interval_excludes_zero_where_p_is_below_five_percent(runs):
    rng = np.random.default_rng(1)
    significant = 0
    for _ in range(60):
        values = [{name: rng.normal(0.5) for name in BATCHES} for _ in range(runs)]
        interval, p = crossed_test(values, BATCHES)
        assert interval == crossed_estimate(values, BATCHES)
        assert (p < 0.05) == (interval.low > 0 or interval.high < 0)
        significant += p < 0.05
    assert 0 < significant < 60
    assert crossed_test([{"0-0": 1.0}] * runs, BATCHES)[1] is None, "one batch"


def test_an_interval_of_a_share_stays_a_share():
    shares = {"a": 1.0, "b": 1.0, "c": 0.4, "d": 0.5}
    results = {name: [DocumentResult(share, share, {})] for name, share in shares.items()}
    evaluation = Evaluation.of(results, {"a": 0, "b": 0, "c": 1, "d": 1})
    assert evaluation.gain.high > 1.0
    assert 0 < evaluation.accuracy.low < 0.3 and 0.95 < evaluation.accuracy.high < 1


def test_the_reward_is_the_gain_minus_each_documents_penalties():
    penalties = {"a": {"retention": 0.5, "length": 0.25}, "b": {"retention": 0.0, "length": 0.25}}
    results = {
        "a": [DocumentResult(gain, 1.0, penalties["a"]) for gain in (2.0, 1.0)],
        "b": [DocumentResult(1.0, 0.0, penalties["b"])],
        "c": [],
    }
    evaluation = Evaluation.of(results, {"a": 0, "b": 1, "c": 1})
    assert evaluation.gain.mean == 1.25
    assert evaluation.reward.mean == pytest.approx((1.5 - 0.75 + 1.0 - 0.25) / 2)
    assert evaluation.penalties == penalties, "c was never measured"
    assert mean_by_name(list(evaluation.penalties.values())) == {"retention": 0.25, "length": 0.25}


def test_a_share_of_one_batch_has_no_interval():
    results = {name: [DocumentResult(share, share, {})] for name, share in (("a", 1.0), ("b", 0.0))}
    evaluation = Evaluation.of(results, {"a": 0, "b": 0})
    assert evaluation.accuracy.mean == 0.5
    assert np.isnan(evaluation.accuracy.low) and np.isnan(evaluation.accuracy.high)
