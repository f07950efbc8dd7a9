"""95% intervals of means, shares and differences of shares over clusters, their p-values, and Holm's correction.

Clusters are what is independent: documents, or the batches of documents that share students. Every interval and p-value
of the project comes from here, so that the same data say the same everywhere; `notewright bench intervals` shows that
they cover (student/RESULTS.md).
"""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

Sums = np.ndarray
"""(..., S): statistics that are summed over documents, e.g. the sum and the number of values."""

LEAST_CORRELATION = 0.05
"""Documents of a cluster shared a student, so they are never counted as independent: without it shares of 0.95 whose
clusters differ (intraclass correlation 0.3) are covered 91 times in 100 by 24 clusters, with it 95."""


class Interval(NamedTuple):
    """Bounds of a confidence interval; both nan if fewer than two clusters make one impossible."""

    low: float
    high: float


class Estimate(NamedTuple):
    """A mean with its 95% interval; the bounds are nan if fewer than two clusters make none possible."""

    mean: float
    low: float
    high: float

    @property
    def interval(self) -> Interval:
        """Its bounds."""
        return Interval(self.low, self.high)


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over documents, and what their clusters say about its error."""

    mean: float
    error: float
    """Standard error; nan with fewer than two clusters."""
    degrees: float
    """Degrees of freedom of the error."""
    skew: float = 0.0
    """Skewness of the clusters over the root of their number, -1 ... 1."""
    documents: float = math.inf
    """How many independent documents there are at most, see `LEAST_CORRELATION`."""
    square: float = 0.0
    """Mean of the squared values."""

    def estimate(self) -> Estimate:
        """With Student's t interval, whose bound on the side of the skew is Hall's (1992, "On the removal of skewness
        by transformation", the cubic one) where that is wider."""
        if math.isnan(self.error):
            return Estimate(self.mean, math.nan, math.nan)
        t = t_quantile(0.975, self.degrees)
        below, above = max(t, self._inverse(t)), max(t, -self._inverse(-t))
        return Estimate(self.mean, self.mean - below * self.error, self.mean + above * self.error)

    @property
    def p(self) -> float | None:
        """Two-sided, that the mean is 0: below 0.05 exactly where `estimate` excludes 0. None without an error."""
        if math.isnan(self.error):
            return None
        if self.error == 0:
            return 1.0 if abs(self.mean) < 1e-12 else 0.0
        t, a = self.mean / self.error, self.skew
        return max(t_tail(t, self.degrees), t_tail(t + a * t**2 / 3 + a**2 * t**3 / 27 + a / 6, self.degrees))

    def share(self) -> Estimate:
        """The mean of shares (or of hits, 0 or 1) with Wilson's interval at the effective number of documents, that is
        with the design effect of the clusters, and Student's t in place of z (Korn and Graubard 1998; Dean and Pagano
        2015). All right gives an upper bound of 1 and a lower one below it."""
        if math.isnan(self.error):
            return Estimate(self.mean, math.nan, math.nan)
        share = min(1.0, max(0.0, self.mean))
        trials = self.documents
        if self.error > 0:
            trials = min(trials, max(1.0, share * (1 - share) / self.error**2))
        return Estimate(share, *wilson(share, trials, t_quantile(0.975, self.degrees)))

    def difference(self) -> "Mean":
        """The mean as one of differences of shares, -1 ... 1: its error is no smaller than if there were one document
        more, half of which gains all and half of which loses all (after Agresti and Min 2005), so that documents that
        all agree do not make an interval of no width."""
        more = self.documents + 1
        variance = ((self.square * self.documents + 1) / more - (self.mean * self.documents / more) ** 2) / more
        return replace(self, error=max(self.error, math.sqrt(variance))) if self.error >= 0 else self

    def _inverse(self, t: float) -> float:
        """The statistic that Hall's transformation maps to `t`."""
        a = self.skew
        return t if abs(a) < 1e-6 else 3 / a * (math.cbrt(1 + a * (t - a / 6)) - 1)


def clustered_mean(values: Sequence[float], clusters: Sequence[Hashable] | None = None, texts: int = 1) -> Mean:
    """The mean of `values`, each over so many `texts` (a document's questions are all about one text). `clusters`
    (aligned with `values`; None: each by itself) names those that are not independent."""
    values_N = np.asarray(values, dtype=np.float64)
    N = len(values_N)
    if not N:
        return Mean(math.nan, math.nan, 0)
    mean = jackknife(np.stack([values_N, np.ones(N)], 1), lambda sums: sums[..., 0] / sums[..., 1], clusters)
    sizes = [texts * size for size in Counter(range(N) if clusters is None else clusters).values()]
    return replace(mean, documents=independent_documents(sizes), square=float((values_N**2).mean()))


def independent_documents(sizes: Sequence[int]) -> float:
    """How many independent documents clusters of these sizes are worth at most (Kish 1965, the design effect)."""
    return sum(sizes) / (1 + LEAST_CORRELATION * (sum(size**2 for size in sizes) / sum(sizes) - 1))


def estimate(values: Sequence[float], clusters: Sequence[Hashable] | None = None) -> Estimate:
    """Mean of `values` and its 95% interval, see `Mean.estimate`."""
    return clustered_mean(values, clusters).estimate()


def estimate_share(values: Sequence[float], clusters: Sequence[Hashable] | None = None, texts: int = 1) -> Estimate:
    """Mean of shares or hits and its 95% interval, see `Mean.share`."""
    return clustered_mean(values, clusters, texts).share()


def estimate_difference(values: Sequence[float], clusters: Sequence[Hashable] | None = None) -> Estimate:
    """Mean of differences of shares and its 95% interval, see `Mean.difference`."""
    return clustered_mean(values, clusters).difference().estimate()


def jackknife(
    sums_NS: Sums, statistic: Callable[[Sums], np.ndarray], clusters: Sequence[Hashable] | None = None
) -> Mean:
    """A `statistic` (from (..., S) to (...)) of the sum of all rows, with the error and the skewness that leaving out
    one cluster at a time shows (Efron and Stein 1981). For a mean of clusters of one size it is the usual error."""
    sums_CS = clustered_sums(sums_NS, clusters)
    whole = float(statistic(sums_CS.sum(0)))
    without_C = statistic(sums_CS.sum(0) - sums_CS) if len(sums_CS) > 1 else np.empty(0)
    without_C = without_C[np.isfinite(without_C)]
    C = len(without_C)
    if C < 2 or not math.isfinite(whole):
        return Mean(whole, math.nan, 0)
    effects_C = without_C.mean() - without_C
    error = math.sqrt((C - 1) * float((effects_C**2).mean()))
    if error <= 1e-12 * max(1.0, abs(whole)):
        return Mean(whole, 0.0, C - 1)
    return Mean(whole, error, C - 1, skewness(effects_C))


def clustered_sums(sums_NS: Sums, clusters: Sequence[Hashable] | None) -> Sums:
    """Rows summed within each cluster (C, S), in order of first appearance; the rows themselves without clusters."""
    if clusters is None:
        return sums_NS
    assert len(clusters) == len(sums_NS), f"{len(clusters)} clusters for {len(sums_NS)} rows"
    index: dict[Hashable, int] = {}
    cluster_N = [index.setdefault(name, len(index)) for name in clusters]
    sums_CS = np.zeros((len(index), sums_NS.shape[1]))
    np.add.at(sums_CS, cluster_N, sums_NS)
    return sums_CS


def skewness(effects_C: np.ndarray) -> float:
    """That of a sample whose mean is 0, corrected for its size, over the root of its size. It is -1 ... 1: no sample is
    more skewed than if one value differs from all others."""
    C, variance = len(effects_C), float((effects_C**2).mean())
    if C < 3 or not variance:
        return 0.0
    return float((effects_C**3).mean()) / variance**1.5 * math.sqrt(C - 1) / (C - 2)


@lru_cache
def t_quantile(probability: float, degrees: float) -> float:
    """Quantile of Student's t: with t = sqrt(df) tan(a) the density in a is proportional to cos(a)^(df - 1)."""
    angle_N = np.linspace(-math.pi / 2, math.pi / 2, 200_001)
    density_N = np.cos(angle_N) ** (degrees - 1)
    cumulative_N = np.cumsum((density_N + np.roll(density_N, 1)) / 2)
    angle = np.interp(probability, (cumulative_N - cumulative_N[0]) / (cumulative_N[-1] - cumulative_N[0]), angle_N)
    return math.sqrt(degrees) * math.tan(angle)


def t_tail(t: float, degrees: float) -> float:
    """Two-sided p-value of Student's t with `degrees` degrees of freedom; integrated as in `t_quantile`."""
    assert degrees >= 1

    def area(low: float) -> float:
        angle_N = np.linspace(low, math.pi / 2, 20_001)
        return float(np.trapezoid(np.cos(angle_N) ** (degrees - 1), angle_N))

    return min(1.0, area(math.atan(abs(t) / math.sqrt(degrees))) / area(0.0))


def wilson(share: float, trials: float, quantile: float | None = None) -> Interval:
    """95% interval of a share of independent trials, which holds also for none and all of them (Wilson 1927).
    `quantile`: of the normal distribution, if no other is given."""
    z = NormalDist().inv_cdf(0.975) if quantile is None else quantile
    centre = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    # The bounds of none and of all hits are 0 and 1 exactly, which rounding would miss by a last bit.
    return Interval(max(0.0, centre - half) if share > 0 else 0.0, min(1.0, centre + half) if share < 1 else 1.0)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """P-values adjusted for the number of tests, in the order given (Holm 1979, step-down).

    An adjusted value below 0.05 means that the family-wise procedure rejects. None stays None and does not count.
    """
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(known):
        adjusted[i] = largest = max(largest, min(1.0, p * (len(known) - rank)))
    return adjusted
