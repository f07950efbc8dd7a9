r"""Adaptive against uniform repeats at the same number of students: which picks the truly best rewrite more often?

In the simulation the recorded runs of a rewrite are the world: its truth is their mean, and a student's gain is one of
them, drawn with replacement (the bootstrap's plug-in principle). On the lab the students are trained for real, with
seeds that the recording never used, and the truth is the recording's mean: the regret saved is unbiased however few
runs were recorded, while `best_chosen` is blurred alike for both. Both ways choose by the same posterior.

    notewright reliability configs/lab.yaml --source lab --adaptive --credit shared --documents 50 --rewrites 8 \
        --repeats 6 'teacher.strategies=[permuted]' student.steps=8

compares them on 400 people with eight restatements each, whose merits are so alike that one run has a reliability of
0.3; about ten minutes of one core.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from curation.reliability.study import ReliabilityStudy
from student.statistics.adaptive import PlannedRun, best_rewrites, repeat_adaptively, repeat_uniformly
from student.statistics.intervals import Interval, bootstrap_interval
from student.statistics.mixed_model import MeasuredRun
from student.statistics.reliability import gains_table

Gains = Sequence[Sequence[Sequence[float | None]]]
"""Documents x rewrites x repeats, ragged; None for a failed run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """How well one way of spending the budget chose."""

    best_chosen: float
    """Share of documents whose truly best rewrite was chosen."""
    regret: float
    """True gain of the best rewrite minus that of the chosen one, nats a token, mean over documents."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Both ways at one budget."""

    how: str
    """`simulated` or `live`."""
    runs_per_rewrite: int
    uniform: Arm
    adaptive: Arm
    doubled: Arm | None = None
    """Uniform repeats with twice the budget, for scale; simulated only."""
    regret_saved: float
    """Uniform's regret minus adaptive's."""
    regret_saved_interval: Interval
    """95% over documents (or the batches that share students)."""
    best_gained: float
    """Adaptive's share of best chosen minus uniform's."""
    best_gained_interval: Interval


def simulate(
    recorded: Gains,
    runs_per_rewrite: int,
    *,
    clusters: Sequence[Hashable],
    shared: bool,
    students: int,
    simulations: int = 20,
    seed: int = 0,
) -> Comparison | None:
    """Both ways on recorded outcomes; None where fewer than two rewrites of any document were recorded.

    `shared` says that the documents of a cluster share students; `students` is `student.statistics.adaptive`'s.
    """
    world = _World(recorded)
    if not world.documents:
        return None
    rng = np.random.default_rng(seed)
    batches = world.batches(clusters) if shared else None
    results = []
    for _ in range(simulations):
        # One column a repeat and document: with common seeds, what a repeat does to all rewrites stays together. In a
        # shared student a rewrite may sit twice in a repeat, in other company, and draws anew.
        columns_DR = rng.integers(world.repeats, size=(len(world.documents), 64 * world.repeats))

        def draw(seats: list[PlannedRun], columns_DR: np.ndarray = columns_DR) -> list[float]:
            drawn_N = rng.integers(world.repeats, size=len(seats)).tolist()
            if not shared:
                drawn_N = [columns_DR[seat.document, seat.repeat % columns_DR.shape[1]] for seat in seats]
            return [world.run(seat, int(column)) for seat, column in zip(seats, drawn_N, strict=True)]

        budgets = runs_per_rewrite, 2 * runs_per_rewrite
        uniform, doubled = (repeat_uniformly(draw, world.sizes, budget, batches=batches) for budget in budgets)
        adaptive = repeat_adaptively(draw, world.sizes, runs_per_rewrite, batches=batches, students=students)
        results.append([world.verdict(runs) for runs in (uniform, adaptive, doubled)])
    return _comparison("simulated", runs_per_rewrite, world, np.mean(results, axis=0), clusters)


def run_live(study: ReliabilityStudy, recorded: Gains, runs_per_rewrite: int, *, students: int) -> Comparison | None:
    """Both ways with fresh students; the truth is the mean of the recorded ones. None where a rewrite has none."""
    world = _World(recorded)
    if world.sizes != [len(group.rewrites) for group in study.groups]:
        return None
    batches = study.clusters if study.documents_per_student > 1 else None
    uniform = repeat_uniformly(study.measure, world.sizes, runs_per_rewrite, batches=batches)
    adaptive = repeat_adaptively(study.measure, world.sizes, runs_per_rewrite, batches=batches, students=students)
    verdicts_ADM = np.stack([world.verdict(uniform), world.verdict(adaptive)])
    return _comparison("live", runs_per_rewrite, world, verdicts_ADM, study.clusters)


class _World:
    """Recorded runs of the documents with at least two rewrites that ran."""

    def __init__(self, recorded: Gains):
        self.table_DGR = gains_table(recorded)
        ran_DG = np.isfinite(self.table_DGR).any(-1)
        self.documents = [d for d in range(len(recorded)) if ran_DG[d].sum() >= 2]
        self.rewrites = [np.flatnonzero(ran_DG[d]) for d in self.documents]
        places = zip(self.documents, self.rewrites, strict=True)
        self.truth = [np.nanmean(self.table_DGR[d, g_G], axis=-1) for d, g_G in places]
        self.repeats = self.table_DGR.shape[2] if self.table_DGR.ndim == 3 else 0

    @property
    def sizes(self) -> list[int]:
        return [len(g_G) for g_G in self.rewrites]

    def batches(self, clusters: Sequence[Hashable]) -> list[int]:
        """Numbers of the clusters of the documents that are left."""
        numbers = {name: number for number, name in enumerate(dict.fromkeys(clusters))}
        return [numbers[clusters[d]] for d in self.documents]

    def run(self, seat: PlannedRun, column: int) -> float:
        """A recorded run; the next one where this one failed."""
        runs_R = self.table_DGR[self.documents[seat.document], self.rewrites[seat.document][seat.rewrite]]
        return float(next(run for run in np.roll(runs_R, -column) if np.isfinite(run)))

    def verdict(self, runs: Sequence[MeasuredRun]) -> np.ndarray:
        """(D, 2): whether the best was chosen, and the regret."""
        rows = []
        for truth_G, choice in zip(self.truth, best_rewrites(runs, self.sizes), strict=True):
            regret = truth_G.max() - (truth_G.mean() if choice is None else truth_G[choice])
            rows.append((choice is not None and regret == 0, regret))
        return np.array(rows, dtype=np.float64)


def _comparison(
    how: str, runs_per_rewrite: int, world: _World, verdicts_ADM: np.ndarray, clusters: Sequence[Hashable]
) -> Comparison:
    uniform_DM, adaptive_DM = verdicts_ADM[:2]
    names = [clusters[d] for d in world.documents]
    best_D, saved_D = adaptive_DM[:, 0] - uniform_DM[:, 0], uniform_DM[:, 1] - adaptive_DM[:, 1]
    arms = [Arm(best_chosen=float(v[:, 0].mean()), regret=float(v[:, 1].mean())) for v in verdicts_ADM]
    return Comparison(
        how=how,
        runs_per_rewrite=runs_per_rewrite,
        uniform=arms[0],
        adaptive=arms[1],
        doubled=arms[2] if len(arms) > 2 else None,
        regret_saved=float(saved_D.mean()),
        regret_saved_interval=bootstrap_interval(saved_D, names),
        best_gained=float(best_D.mean()),
        best_gained_interval=bootstrap_interval(best_D, names),
    )
