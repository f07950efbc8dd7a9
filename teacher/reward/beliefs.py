"""What is known of each lesson from the students that learnt it, and what is believed of it from all of them."""

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from student.records import Outcome
from student.statistics.adaptive import Run
from student.statistics.reliability import noise_variance
from teacher.reward.assignment import RewriteSet, Seat
from teacher.reward.pooling import pooled_values


@dataclass(slots=True)
class Runs:
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


def runs_of_usable(usable: Sequence[Sequence[int]], runs: Mapping[Seat, Runs]) -> list[Run]:
    """All runs so far, lessons numbered among the `usable` ones of each document."""
    return [
        Run(document=d, rewrite=i, gain=gain, student=student, repeat=student[0])
        for d, lessons in enumerate(usable)
        for i, g in enumerate(lessons)
        if (seen := runs.get(Seat(d, g))) is not None
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
        self, table: Sequence[Sequence[RewriteSet]], runs: Mapping[Seat, Runs], documents_per_student: int
    ) -> None:
        self._seats = [Seat(d, g) for d, lessons in enumerate(table) for g in range(len(lessons))]
        self._runs = {n: seen for n, seat in enumerate(self._seats) if (seen := runs.get(seat)) and seen.gains}
        self._documents_per_student = documents_per_student
        names = sorted({rewrite.strategy for lessons in table for lesson in lessons for rewrite in lesson})
        self._shares_LS = np.zeros((len(self._seats), len(names)))
        for n, (d, g, _) in enumerate(self._seats):
            taught = [names.index(rewrite.strategy) for rewrite in table[d][g] if rewrite.rejected is None]
            if taught:
                self._shares_LS[n] = np.bincount(taught, minlength=len(names)) / len(taught)

    def of_lessons(self) -> dict[Seat, float]:
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

    def of_students(self, measure: str) -> dict[Seat, float]:
        """A `measure` of `Runs` that is a figure of the whole student: students of one batch and repeat are
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

    def _pooled(self, rows: Sequence[tuple[float, list[int], int]], noise: float | None) -> dict[Seat, float]:
        if not rows:
            return {}
        lessons_KN = np.full((len(rows), max(len(lessons) for _, lessons, _ in rows)), -1)
        for k, (_, lessons, _) in enumerate(rows):
            lessons_KN[k, : len(lessons)] = lessons
        values_K, groups_K = np.array([row[0] for row in rows]), np.array([row[2] for row in rows])
        pooled_L = pooled_values(values_K, lessons_KN, groups_K, self._shares_LS, noise)
        return {self._seats[n]: float(pooled_L[n]) for n in np.flatnonzero(np.isfinite(pooled_L))}
