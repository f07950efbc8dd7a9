"""Adaptive against uniform repeats at the same number of students: which picks the truly best rewrite more often?

In the simulation the recorded runs of a rewrite are the world: its truth is their mean, and a student's gain is one of
them, drawn with replacement (the bootstrap's plug-in principle). On the lab the students are trained for real, with
seeds that the recording never used, and the truth is the recording's mean.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from curation.trial import Trial
from student.adaptive import Gains, Measure, Slot, chosen, repeat_adaptively, repeat_uniformly
from student.noise import Interval, bootstrap_interval, gains_table


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
    runs_per_rewrite: float
    uniform: Arm
    adaptive: Arm
    regret_saved: float
    """Uniform's regret minus adaptive's."""
    regret_saved_interval: Interval
    """95% over documents (or the batches that share students)."""


def simulate(
    recorded: Gains,
    runs_per_rewrite: float,
    *,
    batch: int,
    every_group: bool,
    common_seeds: bool,
    clusters: Sequence[Hashable],
    simulations: int = 20,
    seed: int = 0,
) -> Comparison | None:
    """Both ways on recorded outcomes; None where fewer than two rewrites of any document were recorded."""
    world = _World(recorded)
    if not world.documents:
        return None
    rng = np.random.default_rng(seed)
    results = []
    for _ in range(simulations):
        # One column a repeat and document: with common seeds, what a repeat does to all rewrites stays together.
        columns_DR = rng.integers(world.repeats, size=(len(world.documents), 64 * world.repeats))

        def draw(slots: list[Slot], columns_DR: np.ndarray = columns_DR) -> list[float]:
            return [world.run(s, int(columns_DR[s.document, s.repeat % columns_DR.shape[1]])) for s in slots]

        results.append(_both(world, draw, draw, runs_per_rewrite, batch, every_group, common_seeds))
    return _comparison("simulated", runs_per_rewrite, world, np.mean(results, axis=0), clusters)


def run_live(
    trial: Trial, recorded: Gains, runs_per_rewrite: float, *, batch: int, every_group: bool, common_seeds: bool
) -> Comparison | None:
    """Both ways with fresh students; the truth is the mean of the recorded ones. None where a rewrite has none."""
    world = _World(recorded)
    if world.sizes != [len(group.rewrites) for group in trial.groups]:
        return None

    def measure(arm: str) -> Measure:
        return lambda slots: trial.measure(slots, arm)

    result = _both(world, measure("uniform"), measure("adaptive"), runs_per_rewrite, batch, every_group, common_seeds)
    return _comparison("live", runs_per_rewrite, world, result, trial.clusters)


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

    def run(self, slot: Slot, column: int) -> float:
        """A recorded run; the next one where this one failed."""
        runs_R = self.table_DGR[self.documents[slot.document], self.rewrites[slot.document][slot.rewrite]]
        return float(next(run for run in np.roll(runs_R, -column) if np.isfinite(run)))

    def verdict(self, gains: Gains, common_seeds: bool) -> np.ndarray:
        """(D, 2): whether the best was chosen, and the regret."""
        rows = []
        for truth_G, choice in zip(self.truth, chosen(gains, common_seeds=common_seeds), strict=True):
            regret = truth_G.max() - (truth_G.mean() if choice is None else truth_G[choice])
            rows.append((choice is not None and regret == 0, regret))
        return np.array(rows, dtype=np.float64)


def _both(
    world: _World,
    uniformly: Measure,
    adaptively: Measure,
    runs_per_rewrite: float,
    batch: int,
    every_group: bool,
    common_seeds: bool,
) -> np.ndarray:
    """(2, D, 2): verdicts of uniform and adaptive repeats at the same budget."""
    budget = round(runs_per_rewrite * sum(world.sizes))
    uniform = repeat_uniformly(uniformly, world.sizes, budget)
    adaptive = repeat_adaptively(
        adaptively, world.sizes, budget, batch, every_group=every_group, common_seeds=common_seeds
    )
    return np.stack([world.verdict(uniform, common_seeds), world.verdict(adaptive, common_seeds)])


def _comparison(
    how: str, runs_per_rewrite: float, world: _World, verdicts_ADM: np.ndarray, clusters: Sequence[Hashable]
) -> Comparison:
    uniform_DM, adaptive_DM = verdicts_ADM
    saved_D = uniform_DM[:, 1] - adaptive_DM[:, 1]
    arms = [Arm(best_chosen=float(v[:, 0].mean()), regret=float(v[:, 1].mean())) for v in (uniform_DM, adaptive_DM)]
    return Comparison(
        how=how,
        runs_per_rewrite=runs_per_rewrite,
        uniform=arms[0],
        adaptive=arms[1],
        regret_saved=float(saved_D.mean()),
        regret_saved_interval=bootstrap_interval(saved_D, [clusters[d] for d in world.documents]),
    )
