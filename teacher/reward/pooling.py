"""What lessons are worth, judged with the help of all documents of a step.

One student run of a lesson is noisy, and what a student forgets is the doing of all lessons that it learnt; but what
strategies are worth shows on every document. What a student shows is taken as `group + mean over its lessons of
(shares . effect + own) + noise`: a mixed model with the strategies' effects fixed and what is the lesson's own random.
The values are its best linear unbiased predictions (Robinson 1991, Statistical Science 6), so that a lesson's own luck
counts as far as it is known to be more than noise.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from student.records import Outcome
from student.statistics.adaptive import MeasuredRun
from student.statistics.reliability import noise_variance
from teacher.reward.assignment import RewriteSet, TaughtLesson

RIDGE = 1.0
"""Weight of the zero prior on an effect, in lessons: a strategy seen once or twice moves little."""

UNKNOWN_NOISE = 0.5
"""Share of what strategies leave unexplained that counts as noise where nothing was repeated."""


def pooled_values(
    values_K: np.ndarray,
    lessons_KN: np.ndarray,
    groups_K: np.ndarray,
    shares_LS: np.ndarray,
    noise_variance: float | None = None,
) -> np.ndarray:
    """Predicted worth (L,) of each lesson as if a student learnt lessons like it alone, float64; nan for one that is in
    no run.

    Args:
        values_K: what each of K runs showed: the gain of one lesson's document, or a figure of a whole student.
        lessons_KN: numbers of the lessons that a run's value is of, at most N; -1 for an empty place.
        groups_K: number of each run's group. Only runs of one group are compared.
        shares_LS: share of each of S strategies in the rewrites of a lesson.
        noise_variance: of a run's value around its true one; None where it is unknown.
    """
    taught_KN = lessons_KN >= 0
    count_K = taught_KN.sum(1)
    assert count_K.all(), "a run without lessons tells nothing of them"
    x_KS = np.where(taught_KN[..., None], shares_LS[lessons_KN], 0.0).sum(1) / count_K[:, None]
    _, group_K = np.unique(groups_K, return_inverse=True)
    level_K, centre_KS = _group_means(values_K[:, None], group_K)[:, 0], _group_means(x_KS, group_K)
    y_K, x_KS = values_K - level_K, x_KS - centre_KS
    # Sums over lessons and not means, so that the prior weighs the same against a lesson alone or among others.
    a_KS, b_K = x_KS * count_K[:, None], y_K * count_K
    effect_S = np.linalg.solve(a_KS.T @ a_KS + RIDGE * np.eye(a_KS.shape[1]), a_KS.T @ b_K)
    left_K = y_K - x_KS @ effect_S
    freedom = max(1, len(y_K) - len(np.unique(group_K)) - int(np.linalg.matrix_rank(x_KS)))
    left_variance = float(left_K @ left_K) / freedom
    noise = UNKNOWN_NOISE * left_variance if noise_variance is None else noise_variance
    own = max(0.0, 1 - noise / left_variance) if left_variance > 0 else 0.0
    # Of a lesson in several runs, the mean of what each says.
    base_K = level_K - centre_KS @ effect_S + own * left_K
    sums_L, runs_L = np.zeros(len(shares_LS)), np.zeros(len(shares_LS))
    np.add.at(sums_L, lessons_KN[taught_KN], np.broadcast_to(base_K[:, None], lessons_KN.shape)[taught_KN])
    np.add.at(runs_L, lessons_KN[taught_KN], 1)
    return np.where(runs_L > 0, sums_L / np.maximum(1, runs_L) + shares_LS @ effect_S, np.nan)


def _group_means(values_KC: np.ndarray, group_K: np.ndarray) -> np.ndarray:
    """For each row the mean of its group's rows."""
    sums_GC = np.zeros((group_K.max() + 1, values_KC.shape[1]))
    np.add.at(sums_GC, group_K, values_KC)
    return (sums_GC / np.bincount(group_K)[:, None])[group_K]


@dataclass(slots=True)
class LessonResults:
    """What is known of one lesson: a figure for each student that learnt it, failed ones left out."""

    gains: list[float] = field(default_factory=list)
    """Of its document (of everything, under `shard` credit), in nats a token."""
    students: list[tuple[int, int]] = field(default_factory=list)
    """Repeat of each run's student, and a number that is the student's alone in that repeat."""
    forgotten: list[float] = field(default_factory=list)
    """Loss gained on the retention texts by the whole student, nats a token."""
    last: Outcome | None = None
    """Narrowed to the lesson's document."""

    def note(self, gain: float, lost: float, outcome: Outcome | None, repeat: int, number: int) -> None:
        """Adds one student: its document's gain, what it forgot, and which it was."""
        self.gains.append(gain)
        self.forgotten.append(lost)
        self.students.append((repeat, number))
        self.last = outcome


def runs_of_usable(usable: Sequence[Sequence[int]], runs: Mapping[TaughtLesson, LessonResults]) -> list[MeasuredRun]:
    """All runs so far, lessons numbered among the `usable` ones of each document."""
    return [
        MeasuredRun(document=d, rewrite=i, gain=gain, student=student, repeat=student[0])
        for d, lessons in enumerate(usable)
        for i, g in enumerate(lessons)
        if (seen := runs.get(TaughtLesson(d, g))) is not None
        for gain, student in zip(seen.gains, seen.students, strict=True)
    ]


class PooledBeliefs:
    """What each lesson of a step is worth and costs when what its strategies did elsewhere is counted in.

    A student's forgetting is no lesson's alone: of D documents that share it each is the cause of one D-th, and a
    lesson that is charged with its own student's figure hardly feels what it does (on the lab, with eight documents,
    question-answer lessons showed 0.01 nats more of it than permuted ones, where students of nothing else show 0.1
    more). So whole students are regressed on what they were taught, and a lesson is charged as if its student learnt
    lessons like it alone.
    """

    def __init__(
        self,
        table: Sequence[Sequence[RewriteSet]],
        runs: Mapping[TaughtLesson, LessonResults],
        documents_per_student: int,
    ) -> None:
        self._seats = [TaughtLesson(d, g) for d, lessons in enumerate(table) for g in range(len(lessons))]
        self._runs = {n: seen for n, seat in enumerate(self._seats) if (seen := runs.get(seat)) and seen.gains}
        self._documents_per_student = documents_per_student
        names = sorted({rewrite.strategy for lessons in table for lesson in lessons for rewrite in lesson})
        self._shares_LS = np.zeros((len(self._seats), len(names)))
        for n, (d, g, _) in enumerate(self._seats):
            taught = [names.index(rewrite.strategy) for rewrite in table[d][g] if rewrite.rejected is None]
            if taught:
                self._shares_LS[n] = np.bincount(taught, minlength=len(names)) / len(taught)

    def of_lessons(self) -> dict[TaughtLesson, float]:
        """Gains of lessons of which each shows its own document's: those of one document are compared."""
        rows = [(statistics.fmean(seen.gains), [n], self._seats[n].document) for n, seen in self._runs.items()]
        by_document: dict[int, list[list[float]]] = defaultdict(list)
        repeats = 1 + max((repeat for seen in self._runs.values() for repeat, _ in seen.students), default=0)
        for n, seen in self._runs.items():
            by_repeat = {repeat: gain for (repeat, _), gain in zip(seen.students, seen.gains, strict=True)}
            by_document[self._seats[n].document].append([by_repeat.get(r, math.nan) for r in range(repeats)])
        noise = noise_variance(list(by_document.values()))
        if noise is not None:
            noise /= statistics.fmean(len(seen.gains) for seen in self._runs.values())
        return self._pooled(rows, noise)

    def of_students(self, measure: str) -> dict[TaughtLesson, float]:
        """A `measure` of `LessonResults` that is a figure of the whole student: students of one batch and repeat are
        compared."""
        taught: dict[tuple[int, int], list[int]] = defaultdict(list)
        figures: dict[tuple[int, int], float] = {}
        for n, seen in self._runs.items():
            for student, figure in zip(seen.students, getattr(seen, measure), strict=True):
                taught[student].append(n)
                figures[student] = figure
        groups: dict[tuple[int, int], int] = {}
        rows = []
        for student, lessons in taught.items():
            batch = self._seats[lessons[0]].document // self._documents_per_student
            group = groups.setdefault((batch, student[0]), len(groups))
            rows.append((figures[student], lessons, group))
        return self._pooled(rows, None)

    def _pooled(self, rows: Sequence[tuple[float, list[int], int]], noise: float | None) -> dict[TaughtLesson, float]:
        if not rows:
            return {}
        lessons_KN = np.full((len(rows), max(len(lessons) for _, lessons, _ in rows)), -1)
        for k, (_, lessons, _) in enumerate(rows):
            lessons_KN[k, : len(lessons)] = lessons
        values_K, groups_K = np.array([row[0] for row in rows]), np.array([row[2] for row in rows])
        pooled_L = pooled_values(values_K, lessons_KN, groups_K, self._shares_LS, noise)
        return {self._seats[n]: float(pooled_L[n]) for n in np.flatnonzero(np.isfinite(pooled_L))}
