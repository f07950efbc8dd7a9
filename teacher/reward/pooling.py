"""What lessons are worth, judged with the help of all documents of a step.

One student run of a lesson is noisy, and what a student forgets is caused by all lessons that it learnt; but what
strategies are worth shows on every document. A student's value is modelled as `group + mean over its lessons of
(shares . effect + own) + noise`: a mixed model in which the strategies' effects are fixed and each lesson's own part is
random. The results are its best linear unbiased predictions (Robinson 1991, Statistical Science 6), so that a lesson's
own luck counts as far as it is known to be more than noise.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from student.statistics.reliability import noise_variance
from teacher.reward.assignment import LessonResult, PlannedStudent, RewriteSet, TaughtLesson

RIDGE = 1.0
"""Weight of the zero prior on an effect, in lessons: a strategy seen once or twice moves little."""

UNKNOWN_NOISE = 0.5
"""Share of what strategies leave unexplained that counts as noise where nothing was repeated."""


class PooledPredictions:
    """Gain and forgetting of each lesson of a step, predicted with data of all documents.

    A student's forgetting belongs to no lesson alone: of D documents that share a student each causes one D-th. A
    lesson that is charged with its own student's forgetting hardly feels what it does (on the lab, with eight
    documents, question-answer lessons showed 0.01 nats more of it than permuted ones, where students of nothing else
    show 0.1 more). So whole students are regressed on what they were taught, and a lesson is charged as if its student
    learnt lessons like it alone.
    """

    def __init__(
        self, lessons_DG: Sequence[Sequence[RewriteSet]], results: Mapping[TaughtLesson, Sequence[LessonResult]]
    ) -> None:
        self._lessons_L = [TaughtLesson(d, g) for d, lessons in enumerate(lessons_DG) for g in range(len(lessons))]
        self._results = {n: results[lesson] for n, lesson in enumerate(self._lessons_L) if results.get(lesson)}
        """By number of the lesson, of those that any student learnt."""
        names = sorted({rewrite.strategy for lessons in lessons_DG for lesson in lessons for rewrite in lesson})
        self._shares_LS = np.zeros((len(self._lessons_L), len(names)))
        for n, (d, g, _) in enumerate(self._lessons_L):
            taught = [names.index(rewrite.strategy) for rewrite in lessons_DG[d][g] if rewrite.rejected is None]
            if taught:
                self._shares_LS[n] = np.bincount(taught, minlength=len(names)) / len(taught)

    def of_lessons(self) -> dict[TaughtLesson, float]:
        """Gains of lessons where each shows its own document's: lessons of one document are compared."""
        rows = [
            (statistics.fmean(result.gain for result in results), [n], self._lessons_L[n].document)
            for n, results in self._results.items()
        ]
        repeats = 1 + max((r.student.repeat for results in self._results.values() for r in results), default=0)
        gains_by_document: dict[int, list[list[float]]] = defaultdict(list)
        for n, results in self._results.items():
            by_repeat = {result.student.repeat: result.gain for result in results}
            gains_R = [by_repeat.get(repeat, math.nan) for repeat in range(repeats)]
            gains_by_document[self._lessons_L[n].document].append(gains_R)
        noise = noise_variance(list(gains_by_document.values()))
        if noise is not None:  # of one run; a row is the mean of several
            noise /= statistics.fmean(len(results) for results in self._results.values())
        return self._pooled(rows, noise)

    def of_students(self, measure: Literal["gain", "forgotten"]) -> dict[TaughtLesson, float]:
        """The `measure` of a `LessonResult` where it is the whole student's: students of one batch and repeat are
        compared."""
        taught: dict[PlannedStudent, list[int]] = defaultdict(list)
        values: dict[PlannedStudent, float] = {}
        for n, results in self._results.items():
            for result in results:
                taught[result.student].append(n)
                values[result.student] = getattr(result, measure)
        groups: dict[tuple[int, int], int] = {}
        rows = [
            (values[student], lessons, groups.setdefault((student.batch, student.repeat), len(groups)))
            for student, lessons in taught.items()
        ]
        return self._pooled(rows, None)

    def _pooled(self, rows: Sequence[tuple[float, list[int], int]], noise: float | None) -> dict[TaughtLesson, float]:
        """From a value, the lessons that it is of and the group to compare it in, a row for each run."""
        if not rows:
            return {}
        lessons_KN = np.full((len(rows), max(len(lessons) for _, lessons, _ in rows)), -1)
        for k, (_, lessons, _) in enumerate(rows):
            lessons_KN[k, : len(lessons)] = lessons
        values_K, groups_K = np.array([row[0] for row in rows]), np.array([row[2] for row in rows])
        pooled_L = pooled_values(values_K, lessons_KN, groups_K, self._shares_LS, noise)
        return {self._lessons_L[n]: float(pooled_L[n]) for n in np.flatnonzero(np.isfinite(pooled_L))}


def pooled_values(
    values_K: np.ndarray,
    lessons_KN: np.ndarray,
    groups_K: np.ndarray,
    shares_LS: np.ndarray,
    known_noise_variance: float | None = None,
) -> np.ndarray:
    """Predicted worth (L,) of each lesson as if a student learnt lessons like it alone, float64; nan for one that is in
    no run.

    Args:
        values_K: what each of K runs showed: the gain of one lesson's document, or a measure of a whole student.
        lessons_KN: numbers of the lessons that a run's value is of, at most N; -1 for an empty place.
        groups_K: number of each run's group. Only runs of one group are compared.
        shares_LS: share of each of S strategies in the rewrites of a lesson.
        known_noise_variance: of a run's value around its true one; None where it is unknown.
    """
    taught_KN = lessons_KN >= 0
    count_K = taught_KN.sum(1)
    assert count_K.all(), "a run without lessons says nothing about them"
    x_KS = np.where(taught_KN[..., None], shares_LS[lessons_KN], 0.0).sum(1) / count_K[:, None]
    # Values and shares are taken within groups, so that what a group has in common (its documents, its seed) cancels.
    _, group_K = np.unique(groups_K, return_inverse=True)
    level_K, centre_KS = _group_means(values_K[:, None], group_K)[:, 0], _group_means(x_KS, group_K)
    y_K, x_KS = values_K - level_K, x_KS - centre_KS
    # Sums over lessons and not means, so that the prior weighs the same against a lesson alone or among others.
    a_KS, b_K = x_KS * count_K[:, None], y_K * count_K
    effect_S = np.linalg.solve(a_KS.T @ a_KS + RIDGE * np.eye(a_KS.shape[1]), a_KS.T @ b_K)
    # What strategies leave unexplained is the lessons' own worth and noise: the first part of it is kept.
    residual_K = y_K - x_KS @ effect_S
    freedom = max(1, len(y_K) - len(np.unique(group_K)) - int(np.linalg.matrix_rank(x_KS)))
    residual_variance = float(residual_K @ residual_K) / freedom
    noise = UNKNOWN_NOISE * residual_variance if known_noise_variance is None else known_noise_variance
    own_share = max(0.0, 1 - noise / residual_variance) if residual_variance > 0 else 0.0
    # A lesson in several runs takes the mean of what each says.
    base_K = level_K - centre_KS @ effect_S + own_share * residual_K
    sums_L, runs_L = np.zeros(len(shares_LS)), np.zeros(len(shares_LS))
    np.add.at(sums_L, lessons_KN[taught_KN], np.broadcast_to(base_K[:, None], lessons_KN.shape)[taught_KN])
    np.add.at(runs_L, lessons_KN[taught_KN], 1)
    return np.where(runs_L > 0, sums_L / np.maximum(1, runs_L) + shares_LS @ effect_S, np.nan)


def _group_means(values_KC: np.ndarray, group_K: np.ndarray) -> np.ndarray:
    """For each row the mean of its group's rows."""
    sums_GC = np.zeros((group_K.max() + 1, values_KC.shape[1]))
    np.add.at(sums_GC, group_K, values_KC)
    return (sums_GC / np.bincount(group_K)[:, None])[group_K]
