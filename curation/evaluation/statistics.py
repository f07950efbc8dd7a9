"""Means over documents whose batches share students, and how often an arm differs from itself by luck.

Clusters are batches of documents. The standard error is the cluster-robust one of a mean (Liang and Zeger 1986, with
the factor C / (C - 1)), intervals and p-values are Student's t with C - 1 degrees of freedom, so that an interval
excludes 0 exactly where p < 0.05.
"""

import math
import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from curation.evaluation.records import Estimate, FalsePositives
from student.statistics.intervals import holm, t_quantile, t_tail, wilson

LEVEL = 0.05
POWER = 0.8
"""The power that defines the minimum detectable effect."""


class ClusteredMean:
    """The mean of some documents' values, and all that its clusters say about it."""

    def __init__(self, values: Mapping[str, float], clusters: Mapping[str, int]) -> None:
        assert values, "the mean of nothing"
        self.n = len(values)
        self.mean = statistics.fmean(values.values())
        residuals: dict[int, float] = {}
        for name, value in values.items():
            residuals[clusters[name]] = residuals.get(clusters[name], 0.0) + value - self.mean
        self.clusters = len(residuals)
        self.error: float | None = None
        """Standard error; None with one cluster."""
        if self.clusters > 1:
            squares = sum(residual**2 for residual in residuals.values())
            self.error = math.sqrt(squares * self.clusters / (self.clusters - 1)) / self.n

    @property
    def p(self) -> float | None:
        """Two-sided, that the mean is 0."""
        if self.error is None:
            return None
        if self.error <= 1e-12 * max(1.0, abs(self.mean)):
            return 1.0 if abs(self.mean) < 1e-12 else 0.0
        return t_tail(self.mean / self.error, self.clusters - 1)

    @property
    def detectable(self) -> float | None:
        """The smallest true mean that is found different from 0 with probability `POWER`."""
        if self.error is None:
            return None
        degrees = self.clusters - 1
        return (t_quantile(1 - LEVEL / 2, degrees) + t_quantile(POWER, degrees)) * self.error

    def estimate(self, share: bool = False) -> Estimate:
        """With its 95% interval; bounds of a `share` cannot lie outside 0 ... 1."""
        low = high = None
        if self.error is not None:
            half = t_quantile(1 - LEVEL / 2, self.clusters - 1) * self.error
            low, high = self.mean - half, self.mean + half
            if share:
                low, high = max(0.0, low), min(1.0, high)
        return Estimate(mean=self.mean, low=low, high=high, n=self.n, clusters=self.clusters)


def false_positives(
    arm: str,
    gains: Mapping[str, Mapping[int, float]],
    clusters: Mapping[str, int],
    *,
    pairs: int,
    side: int,
    family: Sequence[float | None] = (),
) -> FalsePositives | None:
    """Compares an arm with itself `pairs` times; None where a batch has fewer students than two sides need.

    `gains` are by document and seed; a seed is one student for all documents of a batch. A pair has `side` students on
    each side, drawn anew for every batch, and is corrected among `family`, the p-values of the real comparisons."""
    batches: dict[int, list[str]] = {}
    for name in gains:
        batches.setdefault(clusters[name], []).append(name)
    seeds = {batch: sorted(set.intersection(*(set(gains[n]) for n in names))) for batch, names in batches.items()}
    if not seeds or len(batches) < 2 or min(map(len, seeds.values())) < 2 * side:
        return None
    rng = np.random.default_rng(0)
    differ = corrected = 0
    for _ in range(pairs):
        differences: dict[str, float] = {}
        for batch, names in batches.items():
            # Whole students are drawn: their luck is common to all documents of the batch, as in a real comparison.
            drawn = [seeds[batch][i] for i in rng.permutation(len(seeds[batch]))[: 2 * side]]
            for name in names:
                left, right = (statistics.fmean(gains[name][s] for s in half) for half in (drawn[:side], drawn[side:]))
                differences[name] = left - right
        p = ClusteredMean(differences, clusters).p
        assert p is not None
        differ += p < LEVEL
        p_corrected = holm([*family, p])[-1]
        corrected += p_corrected is not None and p_corrected < LEVEL
    low, high = wilson(differ, pairs)
    return FalsePositives(
        arm=arm,
        pairs=pairs,
        seeds=min(map(len, seeds.values())),
        differ=differ,
        rate=Estimate(mean=differ / pairs, low=low, high=high, n=pairs, clusters=pairs),
        differ_corrected=corrected,
    )
