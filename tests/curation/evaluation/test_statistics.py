import math

import numpy as np

from curation.evaluation.statistics import ClusteredMean
from student.statistics.intervals import holm


def clustered(rng, mean=0.0, clusters=6, size=8, between=1.0, within=0.5):
    """Values whose clusters share a draw, as documents of one student do."""
    shared = rng.normal(mean, between, clusters)
    values = {f"{c}-{i}": shared[c] + rng.normal(0, within) for c in range(clusters) for i in range(size)}
    return values, {name: int(name.split("-")[0]) for name in values}


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
