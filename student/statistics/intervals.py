"""Confidence intervals, p-values, and means with an interval."""

import math
import statistics
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

Sums = np.ndarray
"""(..., S): statistics that are summed over documents, e.g. the sum and the number of values."""

FEW_CLUSTERS = 6
"""With fewer clusters intervals are not bootstrapped: with 4, percentiles at nominal 95% cover 80%, Student's t 95%."""


class Interval(NamedTuple):
    """Bounds of a confidence interval; both nan if fewer than two clusters make one impossible."""

    low: float
    high: float


def bootstrap_interval(
    values: Sequence[float | None] | np.ndarray,
    clusters: Sequence[Hashable] | None = None,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """95% interval of the mean of `values`; None and nan are left out. `clusters` (aligned with `values`) names
    those drawn together because they are not independent: of rewrites of one document, of documents of one student."""
    values_N = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    known_N = np.isfinite(values_N)
    sums_NS = np.stack([values_N[known_N], np.ones(known_N.sum())], axis=1)
    names = range(len(values_N)) if clusters is None else clusters
    known_names = [name for name, known in zip(names, known_N, strict=True) if known]

    def mean(sums: Sums) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return sums[..., 0] / sums[..., 1]

    return cluster_interval(sums_NS, mean, known_names, resamples=resamples, seed=seed)


def cluster_interval(
    sums_NS: Sums,
    statistic: Callable[[Sums], np.ndarray],
    clusters: Sequence[Hashable] | None = None,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """95% interval of a `statistic` (from (..., S) to (...)) of the sum of all rows; clusters are drawn whole.

    Expanded percentile bootstrap (Hesterberg 2015, arXiv 1411.5279, section 5.3.2), which keeps its level from 6
    clusters on, where plain percentiles and BCa fall to 85%. With fewer clusters, Student's t with the standard error
    of the jackknife.
    """
    sums_CS = sums_NS
    if clusters is not None:  # rows are summed within each cluster, in order of first appearance
        assert len(clusters) == len(sums_NS), f"{len(clusters)} clusters for {len(sums_NS)} rows"
        index: dict[Hashable, int] = {}
        cluster_N = [index.setdefault(name, len(index)) for name in clusters]
        sums_CS = np.zeros((len(index), sums_NS.shape[1]))
        np.add.at(sums_CS, cluster_N, sums_NS)
    C = len(sums_CS)
    if C < 2:
        return Interval(math.nan, math.nan)
    t = t_quantile(0.975, C - 1)
    if C < FEW_CLUSTERS:
        jackknife_C = statistic(sums_CS.sum(0) - sums_CS)  # without one cluster each
        jackknife_C = jackknife_C[np.isfinite(jackknife_C)]
        if len(jackknife_C) < 2:
            return Interval(math.nan, math.nan)
        error = math.sqrt((C - 1) * float(np.var(jackknife_C)))
        centre = float(statistic(sums_CS.sum(0)))
        return Interval(centre - t * error, centre + t * error)
    drawn_BC = np.random.default_rng(seed).multinomial(C, np.full(C, 1 / C), size=resamples)
    replicates_B = statistic(drawn_BC @ sums_CS)
    replicates_B = replicates_B[np.isfinite(replicates_B)]
    if len(replicates_B) < 2:
        return Interval(math.nan, math.nan)
    tail = NormalDist().cdf(-t * math.sqrt(C / (C - 1)))
    low, high = np.quantile(replicates_B, [tail, 1 - tail])
    return Interval(float(low), float(high))


@lru_cache
def t_quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's t: with t = sqrt(df) tan(a) the density in a is proportional to cos(a)^(df - 1)."""
    angle_N = np.linspace(-math.pi / 2, math.pi / 2, 200_001)
    density_N = np.cos(angle_N) ** (degrees - 1)
    cumulative_N = np.cumsum((density_N + np.roll(density_N, 1)) / 2)
    angle = np.interp(probability, (cumulative_N - cumulative_N[0]) / (cumulative_N[-1] - cumulative_N[0]), angle_N)
    return math.sqrt(degrees) * math.tan(angle)


def t_tail(t: float, degrees: int) -> float:
    """Two-sided p-value of Student's t with `degrees` degrees of freedom; integrated as in `t_quantile`."""
    assert degrees >= 1

    def area(low: float) -> float:
        angle_N = np.linspace(low, math.pi / 2, 20_001)
        return float(np.trapezoid(np.cos(angle_N) ** (degrees - 1), angle_N))

    return min(1.0, area(math.atan(abs(t) / math.sqrt(degrees))) / area(0.0))


def wilson(hits: int, trials: int) -> Interval:
    """95% interval of a share, which holds also where none or all of the trials are hits (Wilson 1927)."""
    z = NormalDist().inv_cdf(0.975)
    share = hits / trials
    centre = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    # The bounds of none and of all hits are 0 and 1 exactly, which rounding would miss by a last bit.
    return Interval(max(0.0, centre - half) if hits else 0.0, min(1.0, centre + half) if hits < trials else 1.0)


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


class Estimate(NamedTuple):
    """A mean with its 95% interval; the bounds are nan if fewer than two clusters make none possible."""

    mean: float
    low: float
    high: float


class Mean(NamedTuple):
    """A mean with its standard error (nan where there is none) and the degrees of freedom of the error."""

    mean: float
    error: float
    degrees: int

    def estimate(self) -> Estimate:
        """With Student's t interval."""
        half = t_quantile(0.975, self.degrees) * self.error if self.degrees else math.nan
        return Estimate(self.mean, self.mean - half, self.mean + half)

    @property
    def p(self) -> float | None:
        """Two-sided, that the mean is 0: below 0.05 exactly where the interval excludes 0. None without an error."""
        if math.isnan(self.error):
            return None
        if self.error <= 1e-12 * max(1.0, abs(self.mean)):
            return 1.0 if abs(self.mean) < 1e-12 else 0.0
        return t_tail(self.mean / self.error, self.degrees)


def clustered_mean(values: Sequence[float], clusters: Sequence[Hashable] | None = None) -> Mean:
    """The mean of `values` with its cluster-robust standard error (Liang and Zeger 1986, with the factor C / (C - 1)
    for C clusters) and C - 1 degrees of freedom. `clusters` (aligned with `values`; None: each by itself) names those
    that are not independent: of rewrites of one document, of documents of one student."""
    if not values:
        return Mean(math.nan, math.nan, 0)
    mean = statistics.fmean(values)
    residuals: dict[Hashable, float] = {}
    for value, name in zip(values, range(len(values)) if clusters is None else clusters, strict=True):
        residuals[name] = residuals.get(name, 0.0) + value - mean
    C = len(residuals)
    if C < 2:
        return Mean(mean, math.nan, 0)
    squares = math.fsum(residual**2 for residual in residuals.values())
    return Mean(mean, math.sqrt(squares * C / (C - 1)) / len(values), C - 1)


def estimate(values: Sequence[float], clusters: Sequence[Hashable] | None = None) -> Estimate:
    """Mean of `values` and its 95% interval, see `clustered_mean`."""
    return clustered_mean(values, clusters).estimate()


def as_share(estimate: Estimate) -> Estimate:
    """The estimate of a share, with bounds clipped to 0 ... 1; nan stays."""
    low, high = (bound if math.isnan(bound) else min(1.0, max(0.0, bound)) for bound in estimate[1:])
    return Estimate(estimate.mean, low, high)
