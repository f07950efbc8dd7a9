"""What lessons are worth, judged with the help of all documents of a step.

One student run of a lesson is noisy, and what a student forgets is caused by all lessons that it learnt; but what
strategies are worth shows on every document. A student's value is modelled as `group + mean over its lessons of
(shares . effect + own) + noise`: a mixed model in which the strategies' effects are fixed and each lesson's own part is
random. The results are its best linear unbiased predictions (Robinson 1991, Statistical Science 6), so that a lesson's
own part counts as far as the runs are known to show more than noise. That noise is measured, on lessons that were
taught twice, and never guessed: a guess that is too high shrinks real differences between lessons.

Predictions are linear in the values, so what noise does to them is known too: a `SamplingError` stands beside each.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from student.statistics.reliability import Noise
from teacher.records import Prediction, SamplingError
from teacher.reward.assignment import LessonResult, PlannedStudent, RewriteSet, TaughtLesson
from teacher.reward.screen import STRATEGY, Known

RIDGE = 1.0
"""Weight of the zero prior on an effect, in lessons: a strategy seen once or twice moves little."""


class PooledPredictions:
    """Gain and forgetting of each lesson of a step, predicted with data of all documents.

    A student's forgetting belongs to no lesson alone: of D documents that share a student each causes one D-th. A
    lesson that is charged with its own student's forgetting hardly feels what it does (on the lab, with eight
    documents, question-answer lessons showed 0.01 nats more of it than permuted ones, where students of nothing else
    show 0.1 more). So whole students are regressed on what they were taught, and a lesson is charged as if its student
    learnt lessons like it alone.
    """

    def __init__(
        self,
        lessons_DG: Sequence[Sequence[RewriteSet]],
        results: Mapping[TaughtLesson, Sequence[LessonResult]],
        earlier: Sequence[Known] = (),
    ) -> None:
        """`earlier`: lessons of earlier steps, which say too what strategies are worth: where a screen leaves lessons
        out, those of a step may all be of one."""
        self._lessons_L = [TaughtLesson(d, g) for d, lessons in enumerate(lessons_DG) for g in range(len(lessons))]
        self._results = {n: results[lesson] for n, lesson in enumerate(self._lessons_L) if results.get(lesson)}
        """By number of the lesson, of those that any student learnt."""
        labels = {rewrite.strategy for lessons in lessons_DG for lesson in lessons for rewrite in lesson}
        of_earlier = {name for one in earlier for name in one.signs if name.startswith(STRATEGY)}
        names = sorted(labels | {name.removeprefix(STRATEGY) for name in of_earlier})
        self._earlier = earlier
        self._earlier_ES = np.zeros((len(earlier), len(names)))
        for e, one in enumerate(earlier):
            self._earlier_ES[e] = [one.signs.get(f"{STRATEGY}{name}") or 0.0 for name in names]
        self._shares_LS = np.zeros((len(self._lessons_L), len(names)))
        for n, (d, g, _) in enumerate(self._lessons_L):
            taught = [names.index(rewrite.strategy) for rewrite in lessons_DG[d][g] if rewrite.rejected is None]
            if taught:
                self._shares_LS[n] = np.bincount(taught, minlength=len(names)) / len(taught)

    def of_lessons(self, noise: Noise | None) -> dict[TaughtLesson, Prediction]:
        """Gains of lessons where each shows its own document's: lessons of one document are compared. Empty where the
        `noise` of a run is unknown, since nothing then says how far to trust a lesson's own gain."""
        return self._predictions(self._of_lessons(noise))

    def leads(self, noise: Noise | None) -> dict[int, Prediction]:
        """By document: how far the mean of its taught lessons lies above that of all that passed the gates, by what
        their strategies are worth. Empty where `of_lessons` is."""
        pooled = self._of_lessons(noise)
        usable: dict[int, list[int]] = defaultdict(list)
        for n, lesson in enumerate(self._lessons_L):
            if self._shares_LS[n].any():
                usable[lesson.document].append(n)
        taught = {d: [n for n in numbers if n in self._results] for d, numbers in usable.items()}
        return {
            d: pooled.lead(self._shares_LS, taught[d], numbers) for d, numbers in usable.items() if pooled and taught[d]
        }

    def _of_lessons(self, noise: Noise | None) -> "PooledValues | None":
        if noise is None:
            return None
        rows = [
            (statistics.fmean(result.gain for result in results), [n], self._lessons_L[n].document)
            for n, results in self._results.items()
        ]
        if rows:  # a row is the mean of several runs
            noise = noise._replace(
                variance=noise.variance / statistics.fmean(len(results) for results in self._results.values())
            )
            names, L = list(dict.fromkeys(one.group for one in self._earlier)), len(self._lessons_L)
            rows += [(one.gain, [L + e], L + names.index(one.group)) for e, one in enumerate(self._earlier)]
        return self._pooled(rows, noise)

    def of_students(self, measure: Literal["gain", "forgotten"]) -> dict[TaughtLesson, Prediction]:
        """The `measure` of a `LessonResult` where it is the whole student's: students of one batch and repeat are
        compared. No student is repeated with the same lessons, so all that strategies leave unexplained is noise."""
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
        return self._predictions(self._pooled(rows, None))

    def _pooled(self, rows: Sequence[tuple[float, list[int], int]], noise: Noise | None) -> "PooledValues | None":
        """From a value, the lessons that it is of and the group to compare it in, a row for each run."""
        if not rows:
            return None
        lessons_KN = np.full((len(rows), max(len(lessons) for _, lessons, _ in rows)), -1)
        for k, (_, lessons, _) in enumerate(rows):
            lessons_KN[k, : len(lessons)] = lessons
        values_K, groups_K = np.array([row[0] for row in rows]), np.array([row[2] for row in rows])
        shares_LS = np.concatenate([self._shares_LS, self._earlier_ES])
        return pooled_values(values_K, lessons_KN, groups_K, shares_LS, noise)

    def _predictions(self, pooled: "PooledValues | None") -> dict[TaughtLesson, Prediction]:
        if pooled is None:
            return {}
        return {
            self._lessons_L[n]: Prediction(float(pooled.values_L[n]), pooled.error(n))
            for n in np.flatnonzero(np.isfinite(pooled.values_L[: len(self._lessons_L)])).tolist()
        }


class PooledValues(NamedTuple):
    """Predictions of `pooled_values`, and what noise does to them within a group if all its lessons are equal."""

    values_L: np.ndarray
    own_error: float
    """Standard error by the noise of a lesson's own run."""
    loadings_LS: np.ndarray
    """On errors of variance 1 that all lessons share: those of the strategies' estimated effects."""
    degrees: float
    """Degrees of freedom of the noise's variance."""
    effect_S: np.ndarray
    """What strategies are worth."""

    def error(self, lesson: int) -> SamplingError:
        """Of a lesson's prediction."""
        return SamplingError(self.own_error, self.degrees, tuple(self.loadings_LS[lesson].tolist()))

    def lead(self, shares_LS: np.ndarray, taught: Sequence[int], group: Sequence[int]) -> Prediction:
        """How far the mean of the `taught` lessons of a `group` lies above that of all: what is their own, and not of
        their strategies, cancels in the mean of those that were taught, and nothing is known of the others'."""
        ahead_S, error_S = (table[taught].mean(0) - table[group].mean(0) for table in (shares_LS, self.loadings_LS))
        return Prediction(float(ahead_S @ self.effect_S), SamplingError(0.0, self.degrees, tuple(error_S.tolist())))


def pooled_values(
    values_K: np.ndarray, lessons_KN: np.ndarray, groups_K: np.ndarray, shares_LS: np.ndarray, noise: Noise | None
) -> PooledValues:
    """Predicted worth (L,) of each lesson as if a student learnt lessons like it alone, float64; nan for one that is in
    no run.

    Args:
        values_K: what each of K runs showed: the gain of one lesson's document, or a measure of a whole student.
        lessons_KN: numbers of the lessons that a run's value is of, at most N; -1 for an empty place.
        groups_K: number of each run's group. Only runs of one group are compared.
        shares_LS: share of each of S strategies in the rewrites of a lesson.
        noise: of a run's value around its true one, measured. None: all that strategies leave unexplained.
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
    inverse_SS = np.linalg.inv(a_KS.T @ a_KS + RIDGE * np.eye(a_KS.shape[1]))
    effect_S = inverse_SS @ (a_KS.T @ b_K)
    # What strategies leave unexplained is the lessons' own worth and noise: the first part of it is kept.
    residual_K = y_K - x_KS @ effect_S
    freedom = max(1, len(y_K) - len(np.unique(group_K)) - int(np.linalg.matrix_rank(x_KS)))
    residual_variance = float(residual_K @ residual_K) / freedom
    noise = noise or Noise(residual_variance, freedom)
    own_share = max(0.0, 1 - noise.variance / residual_variance) if residual_variance > 0 else 0.0
    # A lesson in several runs takes the mean of what each says.
    base_K = level_K - centre_KS @ effect_S + own_share * residual_K
    sums_L, runs_L = np.zeros(len(shares_LS)), np.zeros(len(shares_LS))
    np.add.at(sums_L, lessons_KN[taught_KN], np.broadcast_to(base_K[:, None], lessons_KN.shape)[taught_KN])
    np.add.at(runs_L, lessons_KN[taught_KN], 1)
    values_L = np.where(runs_L > 0, sums_L / np.maximum(1, runs_L) + shares_LS @ effect_S, np.nan)
    # A prediction's contrast to its group is own_share x (its value's contrast) + (1 - own_share) x (its shares'
    # contrast . effect). The effect's variance under noise alone is inverse @ weighted @ inverse, and its covariance
    # with the value's contrast is inverse @ (its shares' contrast), in the unit of the noise's variance.
    weighted_KS = a_KS * count_K[:, None]
    effect_SS = inverse_SS @ (weighted_KS.T @ weighted_KS) @ inverse_SS
    shared_SS = (1 - own_share) ** 2 * effect_SS + 2 * own_share * (1 - own_share) * inverse_SS
    roots_S, vectors_SS = np.linalg.eigh(shared_SS)
    sd = math.sqrt(noise.variance)
    loadings_LS = sd * shares_LS @ (vectors_SS * np.sqrt(np.maximum(roots_S, 0.0)))
    return PooledValues(values_L, own_share * sd, loadings_LS, noise.degrees, effect_S)


def _group_means(values_KC: np.ndarray, group_K: np.ndarray) -> np.ndarray:
    """For each row the mean of its group's rows."""
    sums_GC = np.zeros((group_K.max() + 1, values_KC.shape[1]))
    np.add.at(sums_GC, group_K, values_KC)
    return (sums_GC / np.bincount(group_K)[:, None])[group_K]
