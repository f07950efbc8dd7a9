import math

import numpy as np

from curation.evaluation.statistics import ClusteredMean, false_positives
from student.statistics.intervals import holm


def clustered(rng, mean=0.0, clusters=6, size=8, between=1.0, within=0.5):
    """Values whose clusters share a draw, as documents of one student do."""
    shared = rng.normal(mean, between, clusters)
    values = {f"{c}-{i}": shared[c] + rng.normal(0, within) for c in range(clusters) for i in range(size)}
    return values, {name: int(name.split("-")[0]) for name in values}


def test_intervals_cover_and_naive_ones_would_not():
    rng = np.random.default_rng(0)
    covered = naive = 0
    for _ in range(1000):
        values, clusters = clustered(rng)
        estimate = ClusteredMean(values, clusters).estimate
        covered += estimate.low < 0 < estimate.high
        alone = ClusteredMean(values, {name: i for i, name in enumerate(values)}).estimate
        naive += alone.low < 0 < alone.high
    assert 0.93 < covered / 1000 < 0.97
    assert naive / 1000 < 0.75, "documents that share a student are not independent"


def test_the_interval_excludes_zero_where_p_is_below_five_percent():
    rng = np.random.default_rng(1)
    for _ in range(200):
        mean = ClusteredMean(*clustered(rng, mean=1.0))
        estimate = mean.estimate
        assert (estimate.low > 0 or estimate.high < 0) == (mean.p < 0.05)


def test_the_detectable_effect_is_detected_four_times_in_five():
    rng = np.random.default_rng(2)
    sizes = [ClusteredMean(*clustered(rng)).detectable for _ in range(300)]
    effect = math.sqrt(np.mean(np.square(sizes)))
    found = sum(ClusteredMean(*clustered(rng, mean=effect)).p < 0.05 for _ in range(500))
    assert 0.72 < found / 500 < 0.9


def test_one_cluster_has_no_interval():
    mean = ClusteredMean({"a": 1.0, "b": 2.0}, {"a": 0, "b": 0})
    assert (mean.p, mean.detectable, mean.estimate.low) == (None, None, None)
    assert ClusteredMean({"a": 0.0, "b": 0.0}, {"a": 0, "b": 1}).p == 1.0


def test_holm_keeps_a_family_of_nothing_from_differing():
    rng = np.random.default_rng(3)
    once = corrected = 0
    for _ in range(300):
        p_values = [ClusteredMean(*clustered(rng, size=2)).p for _ in range(10)]
        once += min(p_values) < 0.05
        corrected += min(holm(p_values)) < 0.05
    assert once / 300 > 0.2, "of ten comparisons one is often below 5% by luck"
    assert corrected / 300 < 0.08


def repeated(rng, shift=0.0):
    """An arm's students, 12 of each of 6 batches: a document's own level, and a student's luck in common."""
    gains, clusters = {}, {}
    for batch in range(6):
        luck = rng.normal(0, 0.3, 12) + shift * (np.arange(12) < 2)
        for i in range(8):
            level = rng.normal(3, 1)
            gains[f"{batch}-{i}"] = {seed: level + luck[seed] + rng.normal(0, 0.2) for seed in range(12)}
            clusters[f"{batch}-{i}"] = batch
    return gains, clusters


def test_an_arm_seldom_differs_from_itself():
    gains, clusters = repeated(np.random.default_rng(4))
    found = false_positives("untrained", gains, clusters, pairs=400, side=2, family=[0.2, 1e-6, 0.04])
    assert 0.01 <= found.differ / 400 <= 0.09
    assert found.differ_corrected < found.differ
    assert (found.pairs, found.seeds) == (400, 12)


def test_the_check_would_notice_clusters_that_are_ignored():
    gains, clusters = repeated(np.random.default_rng(5))
    alone = {name: number for number, name in enumerate(gains)}
    drawn_by_batch = false_positives("a", gains, clusters, pairs=200, side=2)
    # The same students, paired as if every document had its own: far too sure.
    rng = np.random.default_rng(6)
    differ = 0
    for _ in range(200):
        order = {batch: rng.permutation(12) for batch in range(6)}
        values = {n: gains[n][order[clusters[n]][0]] - gains[n][order[clusters[n]][1]] for n in gains}
        differ += ClusteredMean(values, alone).p < 0.05
    assert differ / 200 > 3 * drawn_by_batch.differ / 200


def test_too_few_students_make_no_check():
    assert false_positives("a", {"x": {0: 1.0}, "y": {0: 1.0}}, {"x": 0, "y": 1}, pairs=10, side=1) is None
