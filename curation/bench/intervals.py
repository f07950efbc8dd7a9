"""`notewright bench intervals`: how often the project's 95% intervals hold the truth, in simulated evaluations.

Each design draws evaluations whose truth is known. The method in use is called as the rest of the code calls it; the
others are there for comparison, among them what was in use before. A width is the median of all draws.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from curation.bench.interval_designs import DOCUMENTS, QUESTIONS, REPEATS, Design, designs
from student.statistics.intervals import (
    Estimate,
    Mean,
    estimate,
    estimate_difference,
    estimate_share,
    t_quantile,
    wilson,
)
from student.statistics.reliability import reliability
from teacher.reward.evaluation import crossed_estimate, crossed_mean, crossed_share, crossed_test

TARGET = 0.93
"""A design that a method covers less often is out of its reach."""
BEFORE, BEFORE_FEW = "before", 6
"""What was in use before: Student's t with fewer than 6 clusters, else the expanded percentile bootstrap."""

Bounds = tuple[np.ndarray, np.ndarray]
"""(N,) lower and upper bounds of N draws."""


class Coverage(NamedTuple):
    """What one method did in one design."""

    family: str
    design: str
    clusters: int
    method: str
    used: bool
    """The method that the code uses."""
    coverage: float
    """Share of draws whose interval holds the truth; nominal is 0.95."""
    width: float
    out_of_reach: bool
    """The method covers less than 0.93 here. Where that is the one in use, its interval is given all the same."""


def run_bench(draws: int, progress: Callable[[str], object]) -> list[Coverage]:
    """The coverage of all methods in all designs, with so many draws of each."""
    results: list[Coverage] = []
    for design in designs(draws):
        if all(result.family != design.family for result in results):
            progress(f"{draws} draws of each design: {design.family}")
        for method, used, bounds in _intervals(design):
            coverage, width = _measured(bounds, design.truth)
            of = design.family, design.name, design.clusters, method, used
            results.append(Coverage(*of, coverage, width, out_of_reach=coverage < TARGET))
    return results


def _measured(bounds: Bounds, truth: float) -> tuple[float, float]:
    low_N, high_N = bounds
    covers_N = (low_N <= truth + 1e-12) & (truth - 1e-12 <= high_N)
    return round(float(covers_N.mean()), 4), round(float(np.median(high_N - low_N)), 4)


Method = tuple[str, bool, Bounds]
"""Its name, whether the code uses it, and its bounds."""


def _intervals(design: Design) -> Iterator[Method]:
    """The methods of a design, the one in use first."""
    draws, C = design.draws, design.clusters
    if design.family == "reliability":
        yield "jackknife of log F, Student's t or Hall", True, _each(_reliability, draws)
        yield BEFORE, False, (_jackknife if C < BEFORE_FEW else _expanded)(_components(draws), _intraclass)
        return
    yield from (_over_runs if "over runs" in design.family else _over_clusters)(design)


def _over_clusters(design: Design) -> Iterator[Method]:
    C, means_NC = design.clusters, design.draws.mean(-1)
    clusters = np.repeat(np.arange(C), design.draws.shape[-1]).tolist()
    name, function = {
        "mean": ("Student's t or Hall", estimate),
        "share": ("Wilson with design effect", estimate_share),
        "difference of shares": ("Student's t or Hall, with a least error", estimate_difference),
    }[design.family]
    yield name, True, _each(lambda values: function(values.ravel().tolist(), clusters), design.draws)
    sums_NC2 = np.stack([means_NC, np.ones(means_NC.shape)], -1)
    few = C < BEFORE_FEW
    before = _t(means_NC) if few else _expanded(sums_NC2, lambda sums: sums[..., 0] / sums[..., 1])
    yield BEFORE, False, _clipped(before, design.family)
    if not few:
        yield "Student's t", False, _clipped(_t(means_NC), design.family)
        yield "studentised bootstrap", False, _clipped(_studentised(means_NC), design.family)
    if design.family == "share":
        trials = C * DOCUMENTS * QUESTIONS
        yield (
            "Wilson, clusters ignored",
            False,
            _each(lambda of: (0.0, *wilson(float(of.mean()), trials)), design.draws),
        )


def _over_runs(design: Design) -> Iterator[Method]:
    B, documents = design.clusters, design.draws.shape[-1]
    batches = {f"{b}-{d}": b for b in range(B) for d in range(documents)}

    def by_document(values_SBD: np.ndarray) -> list[dict[str, float]]:
        return [dict(zip(batches, of_run.ravel().tolist(), strict=True)) for of_run in values_SBD]

    name, function = {
        "mean over runs": ("crossed t or Hall", crossed_estimate),
        "share over runs": ("Wilson with the crossed design effect", crossed_share),
        "difference over runs": ("crossed t or Hall, with a least error", _crossed_difference),
    }[design.family]
    yield name, True, _each(lambda values: function(by_document(values), batches), design.draws)
    # Before, intervals were of the same variance and degrees of freedom, without regard to skew and to bounds.
    plain = _each(lambda values: _plain(crossed_mean(by_document(values), batches)), design.draws)
    yield BEFORE, False, _clipped(plain, design.family)
    yield "Student's t over batches, runs ignored", False, _clipped(_t(design.draws.mean((1, 3))), design.family)


def _plain(mean: Mean) -> Estimate:
    return replace(mean, skew=0.0).estimate()


def _crossed_difference(values: Sequence[Mapping[str, float]], batches: Mapping[str, int]) -> Estimate:
    return crossed_test(values, batches, of_shares=True)[0]


def _reliability(gains_CGR: np.ndarray) -> Sequence[float]:
    found = reliability(gains_CGR)
    nothing = found.low is None or found.high is None
    return (0.0, -math.inf, math.inf) if nothing else (0.0, found.low, found.high)  # type: ignore[return-value]


def _each(function: Callable[[np.ndarray], Sequence[float]], draws: np.ndarray) -> Bounds:
    bounds_N3 = np.array([tuple(function(draw)) for draw in draws])
    return bounds_N3[:, 1], bounds_N3[:, 2]


def _clipped(bounds: Bounds, family: str) -> Bounds:
    """Bounds of shares lie in 0 ... 1."""
    return (np.clip(bounds[0], 0, 1), np.clip(bounds[1], 0, 1)) if family.startswith("share") else bounds


def _t(means_NC: np.ndarray) -> Bounds:
    C = means_NC.shape[1]
    mean_N, half_N = means_NC.mean(1), t_quantile(0.975, C - 1) * means_NC.std(1, ddof=1) / math.sqrt(C)
    return mean_N - half_N, mean_N + half_N


def _jackknife(sums_NCS: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray]) -> Bounds:
    C = sums_NCS.shape[1]
    total_N1S = sums_NCS.sum(1, keepdims=True)
    error_N = np.sqrt((C - 1) * statistic(total_N1S - sums_NCS).var(1))
    centre_N, half_N = statistic(total_N1S[:, 0]), t_quantile(0.975, C - 1) * error_N
    return np.clip(centre_N - half_N, 0, 1), np.clip(centre_N + half_N, 0, 1)


def _drawn(C: int, resamples: int = 499) -> np.ndarray:
    """How often each cluster is in each resample; common to all draws of a design."""
    return np.random.default_rng(0).multinomial(C, np.full(C, 1 / C), size=resamples)


def _expanded(sums_NCS: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray]) -> Bounds:
    """The expanded percentile bootstrap (Hesterberg 2015, arXiv 1411.5279, section 5.3.2)."""
    C = sums_NCS.shape[1]
    replicates_NB = statistic(_drawn(C) @ sums_NCS)
    tail = NormalDist().cdf(-t_quantile(0.975, C - 1) * math.sqrt(C / (C - 1)))
    low_N, high_N = np.nanquantile(replicates_NB, [tail, 1 - tail], axis=1)
    return low_N, high_N


def _studentised(means_NC: np.ndarray) -> Bounds:
    """The bootstrap-t (Efron and Tibshirani 1993, section 12.5)."""
    C = means_NC.shape[1]
    drawn_BC = _drawn(C)
    mean_N1, error_N = means_NC.mean(1, keepdims=True), means_NC.std(1, ddof=1) / math.sqrt(C)
    centred_NC = means_NC - mean_N1
    first_NB = centred_NC @ drawn_BC.T / C
    error_NB = np.sqrt(np.maximum(centred_NC**2 @ drawn_BC.T / C - first_NB**2, 0) / (C - 1))
    t_NB = first_NB / np.maximum(error_NB, 1e-9 * error_N[:, None] + 1e-300)
    low_N, high_N = np.quantile(t_NB, [0.025, 0.975], axis=1)
    return mean_N1[:, 0] - high_N * error_N, mean_N1[:, 0] - low_N * error_N


def _components(gains_NCGR: np.ndarray) -> np.ndarray:
    """(N, C, 2): the mean squares between and within rewrites of each document."""
    means_NCG = gains_NCGR.mean(-1)
    return np.stack([REPEATS * means_NCG.var(-1, ddof=1), gains_NCGR.var(-1, ddof=1).mean(-1)], -1)


def _intraclass(sums: np.ndarray) -> np.ndarray:
    between = (sums[..., 0] - sums[..., 1]) / REPEATS
    return between / (between + sums[..., 1])


def table(results: Sequence[Coverage]) -> str:
    """Markdown, a table for each family: coverage and median width of the method in use, and in parentheses of what was
    in use before. Bold is out of reach."""
    lines = []
    for family in dict.fromkeys(result.family for result in results):
        of_family = [result for result in results if result.family == family]
        counts = sorted({result.clusters for result in of_family})
        [method] = {result.method for result in of_family if result.used}
        lines += [f"{family.capitalize()} ({method}):", ""]
        lines += [_row(["design", *(f"{count} clusters" for count in counts)]), "|" + "---|" * (len(counts) + 1)]
        for design in dict.fromkeys(result.design for result in of_family):
            shown = [
                result for result in of_family if result.design == design and (result.used or result.method == BEFORE)
            ]
            cells = (" ".join(_cell(result) for result in shown if result.clusters == count) for count in counts)
            lines.append(_row([design, *cells]))
        lines.append("")
    return "\n".join(lines).rstrip()


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(result: Coverage) -> str:
    text = f"{result.coverage:.2f}, {result.width:.2f}"
    if not result.used:
        return f"({text})"
    return f"**{text}**" if result.out_of_reach else text
