"""Correlations within documents, regret and the correction for noise, on planted data whose truth is known."""

import math

import numpy as np
import pytest

from student.statistics.prediction import (
    average_ranks,
    rank_correlation,
    regret,
    regret_difference,
    true_correlation,
)

NAN = math.nan


def planted(rng, documents, rewrites, correlation, *, reliability, runs):
    """Runs of signal and target (D, G, R), whose true values have that correlation, one run of either that
    reliability, and whose documents differ by far more than their rewrites."""
    true_DG = rng.normal(size=(documents, rewrites))
    signal_DG = correlation * true_DG + math.sqrt(1 - correlation**2) * rng.normal(size=true_DG.shape)
    tables = []
    for table_DG, share, R in zip((signal_DG, true_DG), reliability, runs, strict=True):
        noise_DGR = rng.normal(size=(documents, rewrites, R)) * math.sqrt(1 / share - 1)
        tables.append(table_DG[..., None] + noise_DGR + 5 * rng.normal(size=(documents, 1, 1)))
    return tables


def test_equal_values_share_their_mean_rank():
    assert average_ranks(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [3.5, 1.0, 3.5, 2.0]


def test_a_rank_correlation_by_hand():
    # Ranks 1 2 3 against 1 3 2: 1 - 6 * 2 / (3 * 8) = 0.5; reversed: -1. With weights 2 and 1 their mean is 0.
    signal = np.array([[1.0, 2.0, 3.0], [1.0, 2.0, NAN], [4.0, 4.0, 4.0], [1.0, NAN, NAN]])
    target = np.array([[10.0, 30.0, 20.0], [9.0, 8.0, 7.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    found = rank_correlation(signal, target)
    assert found.mean.mean == pytest.approx((2 * 0.5 - 1) / 3)
    assert (found.documents, found.silent) == (2, 2)


def test_only_differences_within_documents_count():
    rng = np.random.default_rng(0)
    documents_D1 = 10 * rng.normal(size=(50, 1))
    found = rank_correlation(documents_D1 + rng.normal(size=(50, 6)), documents_D1 + rng.normal(size=(50, 6)))
    assert abs(found.mean.mean) < 0.15


def test_a_constant_signal_tells_nothing():
    target = np.arange(12.0).reshape(4, 3)
    found = rank_correlation(np.ones((4, 3)), target)
    assert found.documents == 0 and found.silent == 4
    assert math.isnan(found.mean.mean) and found.p is None
    assert regret(np.ones((4, 3)), target).mean == 1.0  # as a choice at random


def test_regret_by_hand():
    target = np.array([[0.0, 1.0, 5.0], [4.0, 4.0, 1.0], [2.0, 2.0, 2.0]])
    signal = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0], [3.0, 2.0, 1.0]])
    # Lost: 5 - 1 in the first; in the second 4 - 2.5 among two equal signals; nothing can be lost in the third.
    # A random choice loses 5 - 2 and 4 - 3.
    assert regret(signal, target).mean == pytest.approx(5.5 / 4)
    assert regret(target, target).mean == 0.0
    difference = regret_difference(signal, target, target)
    assert difference.mean == pytest.approx(5.5 / 4)
    same = regret_difference(signal, signal, target).estimate()
    assert same.mean == 0.0 and same.low < 0 < same.high


@pytest.mark.parametrize(
    ("documents", "rewrites", "correlation", "reliability"),
    [(12, 6, 0.5, (0.8, 0.3)), (32, 9, 0.5, (0.8, 0.15)), (24, 5, 0.9, (0.7, 0.5))],
)
def test_intervals_cover_the_planted_truth(documents, rewrites, correlation, reliability):
    """The corrected correlation recovers what noise hides; the intervals of it, of the rank correlation and of the
    regret cover: of 300 draws 285 should, and fewer than 276 would be too few by more than two standard errors."""
    rng, draws = np.random.default_rng(documents), 300

    def draw(number):
        return planted(rng, number, rewrites, correlation, reliability=reliability, runs=(2, 3))

    many_signal, many_target = (table_DGR.mean(-1) for table_DGR in draw(4000))
    ranks, lost = rank_correlation(many_signal, many_target).mean.mean, regret(many_signal, many_target).mean
    estimates, covered = [], {"corrected": [], "ranks": [], "regret": []}
    for _ in range(draws):
        signal, target = draw(documents)
        corrected, _ = true_correlation(signal, target)
        if corrected is not None:
            estimates.append(corrected.mean)
            covered["corrected"].append(corrected.low <= correlation <= corrected.high)
        for name, truth, found in (
            ("ranks", ranks, rank_correlation(signal.mean(-1), target.mean(-1)).estimate()),
            ("regret", lost, regret(signal.mean(-1), target.mean(-1)).estimate()),
        ):
            covered[name].append(found.low <= truth <= found.high)
    assert len(estimates) > 0.95 * draws
    assert np.median(estimates) == pytest.approx(correlation, abs=0.05)
    for name, hits in covered.items():
        assert np.mean(hits) > 0.92, f"{name} covers {np.mean(hits):.3f}"


def test_a_useless_signal_is_seldom_taken_for_a_good_one():
    rng = np.random.default_rng(1)
    p_values, beyond = [], []
    for _ in range(400):
        signal, target = planted(rng, 16, 5, 0.0, reliability=(0.8, 0.2), runs=(1, 3))
        p_values.append(rank_correlation(signal[..., 0], target.mean(-1)).p)
        found = regret(signal[..., 0], target.mean(-1)).estimate()
        beyond.append(not found.low <= 1 <= found.high)
    assert np.mean(np.array(p_values) < 0.05) < 0.085
    assert np.mean(beyond) < 0.085


def test_documents_of_one_title_are_one_cluster():
    rng = np.random.default_rng(2)
    signal, target = (table[..., 0] for table in planted(rng, 10, 6, 0.5, reliability=(0.8, 0.8), runs=(1, 1)))
    alone = rank_correlation(signal, target).estimate()
    doubled = [np.concatenate([table, table]) for table in (signal, target)]
    titles = [d % 10 for d in range(20)]
    assert rank_correlation(*doubled, titles).estimate() == pytest.approx(alone)
    assert rank_correlation(*doubled).estimate().low > alone.low


def test_a_few_documents_that_agree_by_chance_are_not_sure():
    """Two rewrites are in the same order in each of three documents once in four times, and nothing spreads."""
    signal, target = np.array([[1.0, 2.0]] * 3), np.array([[5.0, 7.0]] * 3)
    found = rank_correlation(signal, target)
    assert found.mean.mean == 1.0 and found.p > 0.05
    nearly = rank_correlation(np.array([[1.0, 3.0, 2.0, 4.0]] * 3), np.array([[1.0, 2.0, 3.0, 4.0]] * 3)).estimate()
    assert nearly.high - nearly.low > 0.3
    always_best = regret(target, target).estimate()
    assert always_best.mean == 0.0 and always_best.high > 0.5


@pytest.mark.parametrize(("documents", "correlation"), [(6, 0.9), (12, 0.9), (6, 0.5)])
def test_documents_of_two_rewrites_that_all_agree_leave_room_for_one_that_does_not(documents, correlation):
    """Of 6 documents that are ordered rightly with a probability of 0.86 all agree 4 times in 10."""
    rng = np.random.default_rng(documents)
    truth = 2 / math.pi * math.asin(correlation)  # of two normal pairs (Sheppard 1899)
    covered = []
    for _ in range(400):
        target = rng.normal(size=(documents, 2))
        signal = correlation * target + math.sqrt(1 - correlation**2) * rng.normal(size=target.shape)
        found = rank_correlation(signal, target).estimate()
        assert found.high > found.low
        covered.append(found.low <= truth <= found.high)
    assert np.mean(covered) > 0.92


@pytest.mark.parametrize("documents", [3, 6, 12])
@pytest.mark.parametrize("rewrites", [2, 3])
def test_regret_is_covered_where_a_few_documents_decide(documents, rewrites):
    """Of 6 documents of two rewrites it was covered 85 times in 100, where their spreads are lognormal. The regret of
    normal values with a correlation is 1 minus that."""
    rng = np.random.default_rng(documents * rewrites)
    for correlation in (0.0, 0.5, 0.9):
        hits = []
        for _ in range(300):
            signal, target = (
                table[..., 0]
                for table in planted(rng, documents, rewrites, correlation, reliability=(1, 1), runs=(1, 1))
            )
            target = (target - target.mean(1, keepdims=True)) * np.exp(0.7 * rng.normal(size=(documents, 1)))
            found = regret(signal, target).estimate()
            hits.append(found.low <= 1 - correlation <= found.high)
        assert np.mean(hits) > 0.92, f"{correlation} is covered {np.mean(hits):.3f}"


def test_a_regret_difference_is_as_unsure_as_a_regret_and_only_of_documents_with_something_to_lose():
    target = np.array([[1.0, 2.0]] * 6)
    found = regret_difference(target, -target, target)
    assert found.mean == -2.0 and found.estimate().high - found.estimate().low > 0.5
    # Nothing can be lost where the target is the same for both, whatever the signals.
    signal = np.array([[1.0, 2.0]] * 4 + [[2.0, 1.0]] * 2)
    more = [np.concatenate([table, np.array([[1.0, 2.0]] * 20)]) for table in (signal, target)]
    more_target = np.concatenate([target, np.ones((20, 2))])
    for clusters in (None, [f"title {d}" for d in range(26)]):
        few = regret_difference(signal, target, target, clusters and clusters[:6])
        assert regret_difference(*more, more_target, clusters) == few
        assert few.degrees == 5


def test_copies_of_a_document_do_not_narrow_what_all_agree_on():
    signal, titles = np.array([[1.0, 2.0]] * 12), [d % 3 for d in range(12)]
    assert rank_correlation(signal, signal, titles).mean.degrees == 2
    alone, copied = rank_correlation(signal, signal).estimate(), rank_correlation(signal, signal, titles).estimate()
    assert copied.low < alone.low < 1


def test_silent_documents_are_no_clusters_of_a_corrected_correlation():
    rng = np.random.default_rng(6)
    signal, target = planted(rng, 10, 6, 0.6, reliability=(0.8, 0.7), runs=(2, 3))
    alone, _ = true_correlation(signal, target)
    silent = [np.concatenate([table, np.full((20, *table.shape[1:]), NAN)]) for table in (signal, target)]
    assert alone is not None
    for clusters in (None, [f"title {d}" for d in range(30)]):
        found, why = true_correlation(*silent, clusters)
        assert found == pytest.approx(alone) and not why
    found, why = true_correlation(*(table[9:17] for table in silent))
    assert found is None and why
    # One document alone has repeats of the signal: without it its noise is not known.
    for seed in range(20):
        signal, target = planted(np.random.default_rng(seed), 8, 6, 0.9, reliability=(0.9, 0.9), runs=(2, 2))
        signal[1:, :, 1] = NAN
        found, why = true_correlation(signal, target)
        assert found is None and "uncertain" in why


def test_shared_students_do_not_tie_documents_together():
    """Documents whose rewrites were taught together have the students' noise in common. Each deals its own rewrites to
    the students at random, so that a cluster may be a document all the same: the intervals cover."""
    rng, covered = np.random.default_rng(4), []
    for _ in range(300):
        true_DG, noise_S = rng.normal(size=(16, 6)), 1.5 * rng.normal(size=(2, 6))
        company_DG = np.array([noise_S[d // 8][rng.permutation(6)] for d in range(16)])
        found = rank_correlation(company_DG + 0.0 * true_DG, true_DG).estimate()
        covered.append(found.low <= 0 <= found.high)
    assert np.mean(covered) > 0.92


def test_what_cannot_be_corrected_says_why():
    rng = np.random.default_rng(3)
    signal, target = planted(rng, 20, 5, 0.5, reliability=(0.8, 0.5), runs=(2, 1))
    found, why = true_correlation(signal, target)
    assert found is None and "two runs of the target" in why
    noise = rng.normal(size=(2, 6, 5, 2))
    found, why = true_correlation(noise[0], noise[1])
    assert found is None and ("uncertain" in why or "no true differences" in why)
    # A sign without noise is two equal runs.
    signal, target = planted(rng, 200, 5, 0.6, reliability=(1.0, 0.3), runs=(1, 3))
    found, why = true_correlation(np.repeat(signal, 2, -1), target)
    assert found is not None and found.low < 0.6 < found.high and not why
    # Runs that are missing for most documents make it less sure, not wrong.
    signal, target = planted(rng, 200, 5, 0.6, reliability=(0.5, 0.3), runs=(2, 3))
    signal[60:, :, 1] = NAN
    fewer, _ = true_correlation(signal, target)
    assert fewer is not None and fewer.low < 0.6 < fewer.high


def test_runs_that_are_repeated_on_some_documents_correct_the_signal_on_all():
    """With seeds that all rewrites of a document share, which move no ranking inside it."""
    rng, covered, estimates = np.random.default_rng(5), [], []
    for _ in range(120):
        signal, target = planted(rng, 24, 9, 0.6, reliability=(0.7, 0.2), runs=(2, 3))
        signal += 2 * rng.normal(size=(24, 1, 2))
        signal[8:, :, 1] = NAN
        found, _ = true_correlation(signal, target, common_seeds=True)
        if found is not None:
            covered.append(found.low <= 0.6 <= found.high)
            estimates.append(found.mean)
    assert len(covered) > 110 and np.mean(covered) > 0.89
    assert np.median(estimates) == pytest.approx(0.6, abs=0.06)
