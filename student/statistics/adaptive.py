"""Adaptive repeats: the next student runs go where they would most likely change which rewrite of a document is best.

A seat's value is the knowledge gradient, the expected rise of the best posterior mean (Frazier, Powell and Dayanik
2008, SIAM J. Control Optim. 47), taken per run over several runs, since one noisy run alone is often worth nothing
(the KG(*) of Frazier and Powell 2010, Decision Analysis 7). Being in the unit of the gain, it is comparable across
documents. As many students run at once, seats are filled one after another with the posterior narrowed as if the
earlier ones had come back at their mean.
"""

import math
import random
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np

from student.statistics.mixed_model import MeasuredRun, estimate_standard_deviations, posteriors

__all__ = [
    "MeasuredRun",
    "PlannedRun",
    "best_rewrites",
    "next_separate_runs",
    "next_shared_runs",
    "posterior_gains",
    "repeat_adaptively",
    "repeat_uniformly",
]

RUNS_AHEAD = np.array([1, 2, 4, 8, 16])
"""Numbers of runs of one rewrite that are valued together."""


class PlannedRun(NamedTuple):
    """A place in a student run: a rewrite of a document (both count from 0)."""

    document: int
    rewrite: int
    student: Hashable = None
    """Names the student run; seats of one student share its luck."""
    repeat: int = 0
    """Runs of a document in one repeat have the same seed (common random numbers)."""


Measure = Callable[[list[PlannedRun]], Sequence[float | None]]
"""Trains the students of some seats and gives each seat's gain, None where its student failed."""


def next_shared_runs(
    runs: Sequence[MeasuredRun], group_sizes: Sequence[int], students: int, *, seed: int = 0
) -> list[list[int]]:
    """Which rewrite each document brings to each of the next `students` students, one seat a document in each.

    The d-th list is of length `students` (empty for a group without rewrites), in random order, so that company
    changes. A rewrite that never ran comes first; a promising one may be seated several times.
    """
    extra = _fill(_beliefs(runs, group_sizes), students, every_group=True)
    seats = [[g for g, count in enumerate(extra_G) for _ in range(count)] for extra_G in extra]
    for d, seats_K in enumerate(seats):
        random.Random(f"{seed} {d}").shuffle(seats_K)
    return seats


def next_separate_runs(runs: Sequence[MeasuredRun], group_sizes: Sequence[int], budget: int) -> list[list[int]]:
    """Like `next_shared_runs` without shared students: `budget` runs in all, most where most is at stake."""
    extra = _fill(_beliefs(runs, group_sizes), budget, every_group=False)
    return [[g for g, count in enumerate(extra_G) for _ in range(count)] for extra_G in extra]


def posterior_gains(runs: Sequence[MeasuredRun], group_sizes: Sequence[int]) -> list[np.ndarray]:
    """Posterior mean gain (G,) of each document's rewrites, fit for a reward although they ran unequally often.

    They are on the document's own level, drawn towards its mean as far as the runs are few or noisy, without the luck
    of students and seeds. A rewrite that never ran has the group's mean; nan where none of the group ran.
    """
    return [belief.means_G for belief in _beliefs(runs, group_sizes)]


def best_rewrites(runs: Sequence[MeasuredRun], group_sizes: Sequence[int]) -> list[int | None]:
    """The rewrite that each document's runs speak for, by posterior mean; None where none of them ran."""
    ran = {(run.document, run.rewrite) for run in runs if run.gain is not None}
    choices: list[int | None] = []
    for d, means_G in enumerate(posterior_gains(runs, group_sizes)):
        candidates = [g for g in range(len(means_G)) if (d, g) in ran]
        choices.append(max(candidates, key=lambda g: means_G[g]) if candidates else None)
    return choices


def repeat_adaptively(
    measure: Measure,
    group_sizes: Sequence[int],
    runs_per_rewrite: int,
    *,
    batches: Sequence[int] | None = None,
    students: int = 32,
) -> list[MeasuredRun]:
    """Spends `runs_per_rewrite` x G runs a document in rounds, and returns what came of them.

    The first round is that of `repeat_uniformly`. With `batches` (a number for each document) documents of one batch
    share their students, one seat a document in each, and every round gives each batch `students` of them. Without,
    students learn of one document alone, every round has `students`, and the budget of all goes where most is at stake.
    """
    runs = _ran(_one_repeat(group_sizes, 0, batches), measure)
    if batches is not None:
        places, repeat = (runs_per_rewrite - 1) * max(group_sizes, default=0), 1
        while places > 0:
            dealt = next_shared_runs(runs, group_sizes, min(students, places), seed=repeat)
            seats = [
                PlannedRun(d, g, (batches[d], repeat, k), repeat)
                for d, seats_K in enumerate(dealt)
                for k, g in enumerate(seats_K)
            ]
            runs += _ran(seats, measure)
            places, repeat = places - students, repeat + 1
        return runs
    budget = runs_per_rewrite * sum(group_sizes)
    tried = Counter((run.document, run.rewrite) for run in runs)
    while len(runs) < budget:
        seats = []
        for d, seats_K in enumerate(next_separate_runs(runs, group_sizes, min(students, budget - len(runs)))):
            for g in seats_K:
                seats.append(PlannedRun(d, g, (d, g, tried[d, g]), tried[d, g]))
                tried[d, g] += 1
        runs += _ran(seats, measure)
    return runs


def repeat_uniformly(
    measure: Measure, group_sizes: Sequence[int], runs_per_rewrite: int, *, batches: Sequence[int] | None = None
) -> list[MeasuredRun]:
    """The same budget deviations evenly: each rewrite `runs_per_rewrite` times, in changing company."""
    repeats = range(runs_per_rewrite)
    return _ran([seat for repeat in repeats for seat in _one_repeat(group_sizes, repeat, batches)], measure)


def _one_repeat(group_sizes: Sequence[int], repeat: int, batches: Sequence[int] | None) -> list[PlannedRun]:
    """Every rewrite once, dealt to its batch's students at random."""
    seats = []
    for d, size in enumerate(group_sizes):
        order = list(range(size))
        random.Random(f"{repeat} {d}").shuffle(order)
        for k, g in enumerate(order):
            seats.append(PlannedRun(d, g, (d, g, repeat) if batches is None else (batches[d], repeat, k), repeat))
    return seats


def _ran(seats: list[PlannedRun], measure: Measure) -> list[MeasuredRun]:
    return [
        MeasuredRun(seat.document, seat.rewrite, gain, seat.student, seat.repeat)
        for seat, gain in zip(seats, measure(seats), strict=True)
    ]


class _Belief:
    """What is believed of one group while seats are handed out."""

    def __init__(self, means_G: np.ndarray, variances_G: np.ndarray, tried_G: np.ndarray, noise_variance: float):
        self.means_G, self.variances_G, self.tried_G = means_G, variances_G, tried_G
        self.noise_variance = noise_variance
        self.extra_G = np.zeros(len(tried_G), dtype=np.int64)
        self._values_G: np.ndarray | None = None

    @property
    def value(self) -> float:
        """Worth of the group's best seat a run: inf while a rewrite was never tried, -inf where there is none."""
        return float(self._values().max()) if len(self.extra_G) else -math.inf

    def add(self) -> None:
        """Gives one seat to the most valuable rewrite."""
        values_G = self._values()
        # Leader and rival are worth the same where both ran equally often: the first is taken, no last bit decides.
        g = int(np.argmax(np.isclose(values_G, values_G.max(), rtol=1e-6, atol=0.0)))
        self.extra_G[g] += 1
        self.variances_G[g] = 1 / (1 / max(self.variances_G[g], 1e-18) + 1 / self.noise_variance)
        self._values_G = None

    def _values(self) -> np.ndarray:
        if self._values_G is None:
            never_G = self.tried_G + self.extra_G == 0
            self._values_G = np.where(never_G, np.inf, self._knowledge_gradient())
        return self._values_G

    def _knowledge_gradient(self) -> np.ndarray:
        """Expected rise of the best posterior mean a run, at the best of `RUNS_AHEAD`."""
        if len(self.means_G) < 2 or np.isnan(self.means_G).any():
            # Nothing to compare; or nothing known, where a failed rewrite waits for the others.
            return -1.0 * (self.tried_G + self.extra_G)
        order = np.argsort(self.means_G)
        rival_G = np.full(len(order), self.means_G[order[-1]])
        rival_G[order[-1]] = self.means_G[order[-2]]
        variances_G = np.maximum(self.variances_G, 1e-18)
        narrowed_GA = 1 / (1 / variances_G[:, None] + RUNS_AHEAD / self.noise_variance)
        shift_GA = np.sqrt(np.maximum(variances_G[:, None] - narrowed_GA, 1e-30))
        z_GA = -np.abs(self.means_G - rival_G)[:, None] / shift_GA
        return (shift_GA * _expected_excess(z_GA) / RUNS_AHEAD).max(axis=1)


def _beliefs(runs: Sequence[MeasuredRun], group_sizes: Sequence[int]) -> list[_Belief]:
    deviations = estimate_standard_deviations(runs)
    tried = [np.zeros(size, dtype=np.int64) for size in group_sizes]
    for run in runs:
        tried[run.document][run.rewrite] += 1
    noise = max(deviations.noise_sd**2, 1e-18)
    found = posteriors(runs, group_sizes, deviations)
    return [_Belief(*part, tried_G, noise) for part, tried_G in zip(found, tried, strict=True)]


def _fill(beliefs: list[_Belief], budget: int, *, every_group: bool) -> list[np.ndarray]:
    """Hands out `budget` seats (to each group, with `every_group`), one after another to whoever values one most."""
    for _ in range(budget):
        if every_group:
            takers = [belief for belief in beliefs if len(belief.extra_G)]
        else:
            best = max(beliefs, key=lambda belief: belief.value, default=None)
            takers = [best] if best is not None and len(best.extra_G) else []
        for belief in takers:
            belief.add()
    return [belief.extra_G for belief in beliefs]


def _expected_excess(z: np.ndarray) -> np.ndarray:
    """E[max(0, z + standard normal)]."""
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    cumulative = np.array([math.erfc(-value / math.sqrt(2)) / 2 for value in z.ravel()]).reshape(z.shape)
    return np.maximum(z * cumulative + density, 0.0)
