"""How much of a gain is due to the rewrite, and how much is retraining noise.

The model of a gain is `y[d, g, r] = document[d] + rewrite[d, g] + seed[d, r] + noise[d, g, r]`: rewrites are nested in
documents, and runs ("repeats") in rewrites. `seed` is the part that all rewrites of a document share in repeat r if
they are trained with common random numbers. It changes no ranking inside a group, so it is no noise of the reward.

Variance components are Henderson's method 3 (Searle, Casella and McCulloch, "Variance Components", 1992, ch. 5), which
on full tables is the classical analysis of variance. Reliability is the intraclass correlation of Shrout and Fleiss
(1979); with common seeds it is its consistency form ICC(C, 1) of McGraw and Wong (1996). Spearman-Brown gives the
reliability of the mean of R runs.
"""

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from student.statistics.intervals import Sums, jackknife


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """Variance components of a gain, and the reliability that follows. None: the data cannot tell, see `reason`."""

    documents: int
    """Documents with at least two rewrites that ran."""
    rewrites: int
    """Rewrites that ran at least once."""
    runs: int
    """Student runs that gave a gain."""
    failed: int
    """Student runs that failed."""
    between_variance: float | None = None
    """Variance of true gains between rewrites of a document. It is unbiased, so it can be below 0 if they are equal."""
    noise_variance: float | None = None
    """Variance of one run of the same rewrite, without `seed_variance` if seeds are common."""
    seed_variance: float | None = None
    """Variance of the part that all rewrites of a document share in a repeat; None if seeds are not common."""
    reliability: float | None = None
    """Share of true differences in the variance between single runs of different rewrites, 0 ... 1."""
    low: float | None = None
    high: float | None = None
    """95% interval of `reliability` over documents (or over `clusters`)."""
    reason: str = ""
    """Why a field is None; empty if none is."""

    def at(self, repeats: float) -> float | None:
        """Reliability of the mean of `repeats` runs (Spearman-Brown)."""
        return spearman_brown(self.reliability, repeats)

    def interval_at(self, repeats: float) -> tuple[float | None, float | None]:
        """Interval of `at(repeats)`. Spearman-Brown is monotone, so it maps the bounds."""
        return spearman_brown(self.low, repeats), spearman_brown(self.high, repeats)


def spearman_brown(reliability: float | None, repeats: float) -> float | None:
    """Reliability of the mean of `repeats` runs, from that of one run; None stays None."""
    if reliability is None:
        return None
    return repeats * reliability / (1 + (repeats - 1) * reliability)


def repeats_for(reliability: float | None, target: float = 0.8) -> int | None:
    """Fewest repeats whose mean reaches reliability `target`; None if the reliability is unknown or 0."""
    assert 0 < target < 1
    if not reliability:
        return None
    needed = target / (1 - target) * (1 - reliability) / reliability
    return max(1, math.ceil(needed - 1e-9))


def gains_table(gains: Sequence[Any] | np.ndarray) -> np.ndarray:
    """Gains of documents x rewrites x repeats as a float64 array (D, G, R). Missing entries of ragged lists, None and
    infinite gains become nan."""
    if isinstance(gains, np.ndarray) and gains.dtype != object:
        assert gains.ndim == 3, f"gains are documents x rewrites x repeats, not of {gains.ndim} axes"
        return gains.astype(np.float64)
    documents = [[list(runs) for runs in rewrites] for rewrites in gains]
    G = max((len(rewrites) for rewrites in documents), default=0)
    R = max((len(runs) for rewrites in documents for runs in rewrites), default=0)
    table_DGR = np.full((len(documents), G, R), np.nan)
    for d, rewrites in enumerate(documents):
        for g, runs in enumerate(rewrites):
            table_DGR[d, g, : len(runs)] = [np.nan if gain is None else gain for gain in runs]
    table_DGR[~np.isfinite(table_DGR)] = np.nan
    return table_DGR


def mean_of_runs(table_DGR: np.ndarray) -> np.ndarray:
    """Mean over the runs that there are (D, G); nan where there is none."""
    known_DGR = np.isfinite(table_DGR)
    with np.errstate(invalid="ignore"):
        return np.where(known_DGR, table_DGR, 0.0).sum(-1) / known_DGR.sum(-1)


def reliability(
    gains: Sequence[Any] | np.ndarray,
    *,
    clusters: Sequence[Hashable] | None = None,
    common_seeds: bool = False,
) -> Reliability:
    """Variance components of gains, and the reliability of one run.

    Args:
        gains: documents x rewrites x repeats, as an array or as ragged lists; None or nan for failed runs.
        clusters: the batch of each document, whose documents shared students: they are the clusters of the interval.
        common_seeds: repeat r of all rewrites of a document had the same seed.
    """
    table_DGR = gains_table(gains)
    ran_DGR = np.isfinite(table_DGR)
    # Missing entries of a ragged table are runs that nobody started; they did not fail.
    started = table_DGR.size if isinstance(gains, np.ndarray) else sum(len(runs) for group in gains for runs in group)
    runs, ran_DG = int(ran_DGR.sum()), ran_DGR.any(-1)
    counts = {"documents": int((ran_DG.sum(-1) >= 2).sum()), "rewrites": int(ran_DG.sum())}
    counts |= {"runs": runs, "failed": started - runs}
    if not counts["documents"]:
        return Reliability(**counts, reason="no document has two rewrites that ran")
    sums_DS = component_sums(table_DGR, common_seeds)
    totals_S = sums_DS.sum(0)
    if totals_S[4] == 0:
        return Reliability(**counts, reason="no rewrite ran twice, so retraining noise cannot be told from contrast")
    between, noise, seeds = (float(component) for component in variance_components(totals_S))
    if between + noise <= 1e-24 * max(1.0, float(np.nanmax(table_DGR**2))):
        reason = "all gains of a document are equal: no contrast and no noise"
        return Reliability(**counts, between_variance=0.0, noise_variance=0.0, reason=reason)
    # On the scale of log F the error depends little on the reliability, and the jackknife holds (Arvesen 1969).
    ratio = jackknife(sums_DS, _log_variance_ratio, clusters).estimate()
    runs_a_rewrite = totals_S[1] / totals_S[2]
    low, high = (1 - runs_a_rewrite / (math.expm1(min(bound, 700)) + runs_a_rewrite) for bound in ratio.interval)
    return Reliability(
        **counts,
        between_variance=between,
        noise_variance=noise,
        seed_variance=seeds if common_seeds else None,
        reliability=_share(_intraclass(totals_S)),
        low=_share(low),
        high=_share(high),
        reason="" if math.isfinite(low) else "an interval needs two documents (or student batches) with repeats",
    )


class Noise(NamedTuple):
    """Retraining noise of one run, measured on lessons that were taught repeatedly with common seeds."""

    variance: float
    degrees: float
    """Degrees of freedom of the variance: about the number of runs beyond the first of each lesson."""


def measured_noise(gains: Sequence[Any] | np.ndarray) -> Noise | None:
    """`Reliability.noise_variance` with common seeds, without the rest; None if nothing was repeated."""
    sums_DS = component_sums(gains_table(gains), True)
    residual, degrees = float(sums_DS[:, 3].sum()), float(sums_DS[:, 4].sum())
    return Noise(residual / degrees, degrees) if degrees > 0.5 else None


def pooled_noise(parts: Iterable[Noise | None]) -> Noise | None:
    """One estimate from several of the same noise; None where there is none."""
    known = [part for part in parts if part is not None]
    degrees = sum(part.degrees for part in known)
    return Noise(sum(part.variance * part.degrees for part in known) / degrees, degrees) if known else None


def component_sums(table_DGR: np.ndarray, common_seeds: bool) -> Sums:
    """(D, 8): what each document (rewrites x repeats, nan where a run is missing) adds to the sums from which
    `variance_components` tells variances."""
    return np.array([_moments(runs_GR, common_seeds) for runs_GR in table_DGR]).reshape(-1, 8)


def _moments(runs_GR: np.ndarray, common_seeds: bool) -> list[float]:
    """Sums of squares of one document, with the coefficients of the variances in their expectations: of rewrites (sum,
    coefficient of their variance, of the noise), residual (sum, degrees of freedom), of seeds (as of rewrites)."""
    rewrite_N, repeat_N = np.nonzero(np.isfinite(runs_GR))
    y_N = runs_GR[rewrite_N, repeat_N]
    if len(y_N) < 2:
        return [0.0] * 8
    if not common_seeds:  # in closed form (Searle et al., section 3.6)
        _, index_N, runs_G = np.unique(rewrite_N, return_inverse=True, return_counts=True)
        N, G = len(y_N), len(runs_G)
        means_G = np.bincount(index_N, y_N) / runs_G
        between = float((runs_G * (means_G - y_N.mean()) ** 2).sum())
        within = float(((y_N - means_G[index_N]) ** 2).sum())
        return [between, N - float((runs_G**2).sum()) / N, G - 1, within, N - G, 0.0, 0.0, 0.0]
    ran_GR = np.zeros(runs_GR.shape)
    ran_GR[rewrite_N, repeat_N] = 1.0
    # Centred, because differences of large gains would lose digits.
    y_GR = np.where(ran_GR > 0, np.nan_to_num(runs_GR) - y_N.mean(), 0.0)
    of_rewrites, residual_GR, degrees = _adjusted(y_GR, ran_GR)
    of_seeds, _, _ = _adjusted(y_GR.T, ran_GR.T)
    return [*of_rewrites, float((residual_GR**2).sum()), degrees, *of_seeds]


def _adjusted(y_GR: np.ndarray, ran_GR: np.ndarray) -> tuple[tuple[float, float, float], np.ndarray, float]:
    """Rows adjusted for columns in a two-way table with gaps (Searle et al., section 5.5): the sum of squares that rows
    explain beyond columns (with the coefficients of the rows' variance and of the noise in its expectation), the
    residuals of the additive model, and their degrees of freedom."""
    runs_R = ran_GR.sum(0)
    weight_GR = ran_GR / np.maximum(runs_R, 1.0)
    information_GG = np.diag(ran_GR.sum(1)) - weight_GR @ ran_GR.T
    totals_G = y_GR.sum(1) - weight_GR @ y_GR.sum(0)
    values_G, vectors_GG = np.linalg.eigh(information_GG)
    known_G = values_G > 1e-8
    inverse_G = np.where(known_G, 1 / np.where(known_G, values_G, 1.0), 0.0)
    effects_G = vectors_GG @ (inverse_G * (vectors_GG.T @ totals_G))
    without_rows_GR = (y_GR - effects_G[:, None]) * ran_GR
    residual_GR = without_rows_GR - ran_GR * (without_rows_GR.sum(0) / np.maximum(runs_R, 1.0))
    rank = float(known_G.sum())
    degrees = float(ran_GR.sum() - (runs_R > 0).sum()) - rank
    return (float(effects_G @ totals_G), float(np.trace(information_GG)), rank), residual_GR, degrees


def variance_components(sums: Sums) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Variance between rewrites, of noise and of seeds, from sums of `component_sums` over documents."""
    with np.errstate(divide="ignore", invalid="ignore"):
        noise = sums[..., 3] / sums[..., 4]
        between = (sums[..., 0] - sums[..., 2] * noise) / sums[..., 1]
        seeds = (sums[..., 5] - sums[..., 7] * noise) / sums[..., 6]
    return between, noise, seeds


def _intraclass(sums: Sums) -> np.ndarray:
    between, noise, _ = variance_components(sums)
    with np.errstate(divide="ignore", invalid="ignore"):
        return between / (between + noise)


def _log_variance_ratio(sums: Sums) -> np.ndarray:
    """The logarithm of F: the variance between means of rewrites over what noise alone would make it."""
    between, noise, _ = variance_components(sums)
    with np.errstate(divide="ignore", invalid="ignore"):
        # From data without contrast F can be 0, and its logarithm infinite.
        return np.log(np.maximum(1 + sums[..., 1] / sums[..., 2] * between / noise, 1e-3))


def _share(value: float | np.ndarray) -> float | None:
    """An estimate of a share, clipped to 0 ... 1; None if it is not finite."""
    return float(np.clip(value, 0.0, 1.0)) if np.isfinite(value) else None
