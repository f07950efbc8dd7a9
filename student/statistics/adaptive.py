"""Adaptive repeats: the next student runs go where they are most likely to change which rewrite of a document is best.

The value of a run is the knowledge gradient, the expected rise of the best posterior mean (Frazier, Powell and Dayanik
2008, SIAM J. Control Optim. 47). It is taken per run over several runs, since one noisy run alone is often worth
nothing (the KG(*) of Frazier and Powell 2010, Decision Analysis 7). Its unit is that of the gain, so that documents can
be compared. Many students run at once, so runs are planned one after another, each as if the earlier ones had come
back at their mean and had narrowed the posterior.
"""

import math
import random
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np

from student.statistics.mixed_model import MeasuredRun, estimate_standard_deviations, posteriors

RUNS_AHEAD = np.array([1, 2, 4, 8, 16])
"""Numbers of runs of one rewrite that are valued together."""


class PlannedRun(NamedTuple):
    """A rewrite of a document (both count from 0) that a student is to learn."""

    document: int
    rewrite: int
    student: Hashable = None
    """The student; planned runs of one student share its luck."""
    repeat: int = 0
    """Runs of a document in one repeat have the same seed (common random numbers)."""


Measure = Callable[[list[PlannedRun]], Sequence[float | None]]
"""Trains the students of planned runs and gives each run's gain, None if its student failed."""


def next_shared_runs(
    runs: Sequence[MeasuredRun], group_sizes: Sequence[int], students: int, *, seed: int = 0
) -> list[list[int]]:
    """The rewrite of each document that each of the next students learns, where a student learns one of every document.

    The d-th list has a rewrite for each of the `students` (it is empty for a document without rewrites), in random
    order, so that a rewrite meets changing others. One that never ran comes first; a promising one may come often.
    """
    rewrites = _plan(runs, group_sizes, students, every_document=True)
    for d, rewrites_K in enumerate(rewrites):
        random.Random(f"{seed} {d}").shuffle(rewrites_K)
    return rewrites


def next_separate_runs(runs: Sequence[MeasuredRun], group_sizes: Sequence[int], budget: int) -> list[list[int]]:
    """Rewrites of each document that run next, where a student learns one document: `budget` in all, most of the
    documents where most is at stake."""
    return _plan(runs, group_sizes, budget, every_document=False)


def posterior_gains(runs: Sequence[MeasuredRun], group_sizes: Sequence[int]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Posterior mean gain (G,) of each document's rewrites, which is fair to rewrites that ran unequally often, and its
    standard error (G,) by noise if all of them are equal.

    The mean is on the document's own level, drawn towards the document's mean as far as the runs are few or noisy,
    without the luck of students and seeds. A rewrite that never ran has the group's mean; all are nan if none of the
    group ran.
    """
    deviations = estimate_standard_deviations(runs)
    prior = deviations.prior_sd**2
    # Of r runs of variance s the share p / (p + s / r) is believed, with p the prior variance, so noise moves the mean
    # by that share of sqrt(s / r). In terms of the posterior variance v that is sqrt(v (1 - v / p)).
    return [
        (means_G, np.sqrt(np.maximum(0.0, variances_G * (1 - variances_G / prior))))
        for means_G, variances_G in posteriors(runs, group_sizes, deviations)
    ]


def best_rewrites(runs: Sequence[MeasuredRun], group_sizes: Sequence[int]) -> list[int | None]:
    """The rewrite of each document with the highest posterior mean among those that ran; None if none ran."""
    ran = {(run.document, run.rewrite) for run in runs if run.gain is not None}
    choices: list[int | None] = []
    for d, (means_G, _) in enumerate(posterior_gains(runs, group_sizes)):
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
    """Runs each document `runs_per_rewrite` x G times, in rounds of `students`, and returns all runs.

    The first round is that of `repeat_uniformly`. With `batches` (a number for each document) the documents of a batch
    share their students, each of which learns one rewrite of every document. Without, a student learns one document,
    and the budget of all documents goes where most is at stake.
    """
    runs = _measured(_one_repeat(group_sizes, 0, batches), measure)
    if batches is not None:
        remaining, repeat = (runs_per_rewrite - 1) * max(group_sizes, default=0), 1
        while remaining > 0:
            rewrites = next_shared_runs(runs, group_sizes, min(students, remaining), seed=repeat)
            planned = [
                PlannedRun(d, g, (batches[d], repeat, k), repeat)
                for d, rewrites_K in enumerate(rewrites)
                for k, g in enumerate(rewrites_K)
            ]
            runs += _measured(planned, measure)
            remaining, repeat = remaining - students, repeat + 1
        return runs
    budget = runs_per_rewrite * sum(group_sizes)
    counts = Counter((run.document, run.rewrite) for run in runs)
    while len(runs) < budget:
        planned = []
        for d, rewrites_of_d in enumerate(next_separate_runs(runs, group_sizes, min(students, budget - len(runs)))):
            for g in rewrites_of_d:
                planned.append(PlannedRun(d, g, (d, g, counts[d, g]), counts[d, g]))
                counts[d, g] += 1
        runs += _measured(planned, measure)
    return runs


def repeat_uniformly(
    measure: Measure, group_sizes: Sequence[int], runs_per_rewrite: int, *, batches: Sequence[int] | None = None
) -> list[MeasuredRun]:
    """Runs each rewrite `runs_per_rewrite` times, with changing other rewrites in its student."""
    repeats = range(runs_per_rewrite)
    return _measured([run for repeat in repeats for run in _one_repeat(group_sizes, repeat, batches)], measure)


def _one_repeat(group_sizes: Sequence[int], repeat: int, batches: Sequence[int] | None) -> list[PlannedRun]:
    """Every rewrite once, assigned to its batch's students at random."""
    planned = []
    for d, size in enumerate(group_sizes):
        order = list(range(size))
        random.Random(f"{repeat} {d}").shuffle(order)
        for k, g in enumerate(order):
            planned.append(PlannedRun(d, g, (d, g, repeat) if batches is None else (batches[d], repeat, k), repeat))
    return planned


def _measured(planned: list[PlannedRun], measure: Measure) -> list[MeasuredRun]:
    return [
        MeasuredRun(run.document, run.rewrite, gain, run.student, run.repeat)
        for run, gain in zip(planned, measure(planned), strict=True)
    ]


class _Posterior:
    """What is known of one document's rewrites while runs are planned."""

    def __init__(self, means_G: np.ndarray, variances_G: np.ndarray, runs_G: np.ndarray, noise_variance: float):
        self.means_G, self.variances_G, self.runs_G = means_G, variances_G, runs_G
        self.noise_variance = noise_variance
        self._value_runs()

    def add_run(self) -> int:
        """Plans one run of the most valuable rewrite; returns which."""
        # The best and its rival are worth the same if both ran equally often. The first is taken, so that the last bits
        # of rounding decide nothing.
        g = int(np.argmax(np.isclose(self.values_G, self.value, rtol=1e-6, atol=0.0)))
        self.runs_G[g] += 1
        self.variances_G[g] = 1 / (1 / max(self.variances_G[g], 1e-18) + 1 / self.noise_variance)
        self._value_runs()
        return g

    def _value_runs(self) -> None:
        self.values_G = np.where(self.runs_G == 0, np.inf, self._knowledge_gradient())
        # Value of the document's best run: inf while a rewrite never ran, -inf if there is no rewrite.
        self.value = float(self.values_G.max(initial=-math.inf))

    def _knowledge_gradient(self) -> np.ndarray:
        """Expected rise of the best posterior mean per run, at the best of `RUNS_AHEAD`."""
        if len(self.means_G) < 2 or np.isnan(self.means_G).any():
            # There is nothing to compare, or nothing is known because the runs so far failed: all take turns.
            return -1.0 * self.runs_G
        order = np.argsort(self.means_G)
        rival_G = np.full(len(order), self.means_G[order[-1]])
        rival_G[order[-1]] = self.means_G[order[-2]]
        variances_G = np.maximum(self.variances_G, 1e-18)
        narrowed_GA = 1 / (1 / variances_G[:, None] + RUNS_AHEAD / self.noise_variance)
        shift_GA = np.sqrt(np.maximum(variances_G[:, None] - narrowed_GA, 1e-30))
        z_GA = -np.abs(self.means_G - rival_G)[:, None] / shift_GA
        # E[max(0, z + standard normal)]
        density_GA = np.exp(-(z_GA**2) / 2) / math.sqrt(2 * math.pi)
        cumulative_GA = np.array([[math.erfc(-z / math.sqrt(2)) / 2 for z in z_A] for z_A in z_GA])
        excess_GA = np.maximum(z_GA * cumulative_GA + density_GA, 0.0)
        return (shift_GA * excess_GA / RUNS_AHEAD).max(axis=1)


def _plan(
    runs: Sequence[MeasuredRun], group_sizes: Sequence[int], budget: int, *, every_document: bool
) -> list[list[int]]:
    """The next rewrites of each document, in ascending order.

    One after another, `budget` runs go to each document (`every_document`), or to the document that values one most.
    """
    deviations = estimate_standard_deviations(runs)
    counts = [np.zeros(size, dtype=np.int64) for size in group_sizes]
    for run in runs:
        counts[run.document][run.rewrite] += 1
    documents = [
        _Posterior(*estimate, runs_G, max(deviations.noise_sd**2, 1e-18))
        for estimate, runs_G in zip(posteriors(runs, group_sizes, deviations), counts, strict=True)
    ]
    planned: list[list[int]] = [[] for _ in documents]
    for _ in range(budget):
        takers: Sequence[int] = range(len(documents))
        if not every_document and documents:
            takers = [max(takers, key=lambda d: documents[d].value)]
        for d in takers:
            if group_sizes[d]:
                planned[d].append(documents[d].add_run())
    return [sorted(rewrites) for rewrites in planned]
