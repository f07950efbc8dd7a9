"""`notewright bench intervals`: how often the project's 95% intervals hold the truth, in simulated evaluations.

Each design draws evaluations whose truth is known, and calls the method as the rest of the code does. A width is the
median of all draws.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from curation.bench.interval_designs import Design, designs
from curation.console.tables import markdown
from student.statistics.intervals import estimate, estimate_difference, estimate_share
from student.statistics.reliability import reliability
from teacher.reward.evaluation import crossed_estimate, crossed_share, crossed_test

TARGET = 0.93
"""A design that a method covers less often is out of its reach."""
OVER_CLUSTERS: dict[str, tuple[str, Callable[..., Sequence[float]]]] = {
    "mean": ("Student's t or Hall", estimate),
    "share": ("Wilson with design effect", estimate_share),
    "difference of shares": ("Student's t or Hall, with a least error", estimate_difference),
}
OVER_RUNS: dict[str, tuple[str, Callable[..., Sequence[float]]]] = {
    "mean over runs": ("crossed t or Hall", crossed_estimate),
    "share over runs": ("Wilson with the crossed design effect", crossed_share),
    "difference over runs": (
        "crossed t or Hall, with a least error", lambda *runs: crossed_test(*runs, of_shares=True)[0],
    ),
}  # fmt: skip
"""The method of each family in words, and its mean with both bounds."""


class Coverage(NamedTuple):
    """What the method in use did in one design."""

    family: str
    design: str
    clusters: int
    method: str
    coverage: float
    """Share of draws whose interval holds the truth; nominal is 0.95."""
    width: float
    out_of_reach: bool
    """The method covers less than 0.93 here. The interval is given all the same."""


def run_bench(draws: int, progress: Callable[[str], object]) -> list[Coverage]:
    """The coverage in all designs, with so many draws of each."""
    results: list[Coverage] = []
    for design in designs(draws):
        if all(result.family != design.family for result in results):
            progress(f"{draws} draws of each design: {design.family}")
        method, interval = _method(design)
        low_N, high_N = np.array([tuple(interval(draw)) for draw in design.draws])[:, 1:].T
        covers_N = (low_N <= design.truth + 1e-12) & (design.truth - 1e-12 <= high_N)
        coverage, width = round(float(covers_N.mean()), 4), round(float(np.median(high_N - low_N)), 4)
        of = design.family, design.name, design.clusters, method
        results.append(Coverage(*of, coverage, width, out_of_reach=coverage < TARGET))
    return results


def _method(design: Design) -> tuple[str, Callable[[np.ndarray], Sequence[float]]]:
    if design.family == "reliability":
        return "jackknife of log F, Student's t or Hall", _reliability
    documents = design.draws.shape[-1]
    if design.family in OVER_CLUSTERS:
        name, function = OVER_CLUSTERS[design.family]
        clusters = np.repeat(np.arange(design.clusters), documents).tolist()
        return name, lambda values: function(values.ravel().tolist(), clusters)
    name, function = OVER_RUNS[design.family]
    batches = {f"{b}-{d}": b for b in range(design.clusters) for d in range(documents)}
    return name, lambda values_SBD: function(
        [dict(zip(batches, of_run.ravel().tolist(), strict=True)) for of_run in values_SBD], batches
    )


def _reliability(gains_CGR: np.ndarray) -> Sequence[float]:
    found = reliability(gains_CGR)
    nothing = found.low is None or found.high is None
    return (0.0, -math.inf, math.inf) if nothing else (0.0, found.low, found.high)  # type: ignore[return-value]


def table(results: Sequence[Coverage]) -> str:
    """Markdown, a table for each family: coverage and median width. Bold is out of reach."""
    tables = []
    for family in dict.fromkeys(result.family for result in results):
        of_family = [result for result in results if result.family == family]
        counts = sorted({result.clusters for result in of_family})
        cells = {
            (r.design, r.clusters): f"{'**' * r.out_of_reach}{r.coverage:.2f}, {r.width:.2f}{'**' * r.out_of_reach}"
            for r in of_family
        }
        rows = [[name, *(cells[name, n] for n in counts)] for name in dict.fromkeys(r.design for r in of_family)]
        head = ["design", *(f"{count} clusters" for count in counts)]
        tables.append(f"{family.capitalize()} ({of_family[0].method}):\n\n{markdown(head, rows)}")
    return "\n\n".join(tables)
