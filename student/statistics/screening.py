"""Which of a document's lessons are worth a student's training, by cheap signs of their worth.

Ridge regression (Hoerl and Kennedy 1970) of gains on signs, both within documents: what documents differ in counts
nowhere. The penalty is chosen by generalised cross-validation (Golub, Heath and Wahba 1979). How well it predicts is
told out of sample: documents are left out in turn, predicted, and compared with what their lessons gained. From the
lower end of that correlation's interval follows how many lessons of a document have to be taught.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from student.statistics.intervals import Estimate
from student.statistics.prediction import rank_correlation

FOLDS = 10
PENALTIES = np.geomspace(0.1, 1e4, 21)
LEAST_TAUGHT = 2
"""Of a document: a lesson that is taught alone stands out of nothing."""
DRAWS = 4000
COVERED = 0.95
"""Share of gains that the interval of a prediction holds."""
LEAST_RELIABILITY = 0.2
"""Below it the correction for the gains' noise would be a guess."""


@dataclass(frozen=True, slots=True)
class Fit:
    """A fitted screen, and what it was seen to do on documents that it was not fitted on."""

    weights_S: np.ndarray
    """Gain for one unit of each sign."""
    correlation: Estimate
    """Rank correlation with gains within documents that were left out, with its 95% interval; nan where it cannot be
    told."""
    documents: int
    """Documents that tell of it."""
    predicted_N: np.ndarray
    """What each lesson was predicted to gain above its document's mean, by a fit without its document."""
    spread: float
    """How far 95 in 100 gains lie at most from what was predicted so, by the mean of a document with many lessons
    (split conformal prediction, Lei et al. 2018). nan where too few lessons tell it."""

    def predict(self, signs_GS: np.ndarray) -> np.ndarray:
        """What the lessons of one document gain above their mean (G,)."""
        return within(signs_GS, np.zeros(len(signs_GS), int)) @ self.weights_S

    def rank(self, signs_GS: np.ndarray) -> np.ndarray:
        """The lessons of one document from the best prediction to the worst (G,); equal ones in their order."""
        return np.argsort(-self.predict(signs_GS), kind="stable")

    def error(self, lessons: int) -> float:
        """Half the 95% interval of a prediction among so many lessons, whose own luck is part of their mean."""
        return self.spread * math.sqrt(1 - 1 / lessons)


def fit_screen(
    signs_NS: np.ndarray,
    gains_N: np.ndarray,
    groups_N: Sequence[Hashable],
    documents_N: Sequence[Hashable],
    clusters: dict[Hashable, Hashable] | None = None,
) -> Fit:
    """A screen fitted on N lessons.

    Args:
        signs_NS: S signs of each; nan where one cannot be told.
        gains_N: what each gained.
        groups_N: the lessons that are compared with each other: those of a document in one step.
        documents_N: the document of each lesson. All its groups are left out together.
        clusters: of each group, where groups are not independent, such as documents that shared students.
    """
    names = list(dict.fromkeys(groups_N))
    numbers = {name: number for number, name in enumerate(names)}
    group_N = np.array([numbers[name] for name in groups_N], int)
    x_NS, y_N = within(signs_NS, group_N), within(gains_N[:, None], group_N)[:, 0]
    order = {name: place for place, name in enumerate(sorted(set(documents_N), key=repr))}
    # A fixed shuffle: neighbours in a file are alike, and a fold of them would be told by less.
    fold_U = np.random.default_rng(0).permutation(len(order)) % FOLDS
    fold_N = np.array([fold_U[order[name]] for name in documents_N], int)
    predicted_N = np.zeros(len(y_N))
    for fold in range(FOLDS):
        if (out_N := fold_N == fold).any():
            predicted_N[out_N] = x_NS[out_N] @ _ridge(x_NS[~out_N], y_N[~out_N])
    size = max(np.bincount(group_N), default=0)
    tables_DG = np.full((2, len(names), size), np.nan)
    seen_D = np.zeros(len(names), int)
    for n, d in enumerate(group_N):
        tables_DG[:, d, seen_D[d]] = predicted_N[n], y_N[n]
        seen_D[d] += 1
    agreement = rank_correlation(
        tables_DG[0], tables_DG[1], None if clusters is None else [clusters[name] for name in names]
    )
    nothing = Estimate(math.nan, math.nan, math.nan)
    correlation = agreement.estimate() if agreement.documents else nothing
    return Fit(_ridge(x_NS, y_N), correlation, agreement.documents, predicted_N, _spread(y_N - predicted_N, group_N))


def _spread(off_N: np.ndarray, group_N: np.ndarray) -> float:
    sizes_N = np.bincount(group_N)[group_N] if len(group_N) else group_N
    compared_N = sizes_N > 1
    off_N = np.sort(np.abs(off_N[compared_N]) / np.sqrt(1 - 1 / sizes_N[compared_N]))
    place = math.ceil(COVERED * (len(off_N) + 1))
    return float(off_N[place - 1]) if place <= len(off_N) else math.nan


def within(values_NC: np.ndarray, group_N: np.ndarray) -> np.ndarray:
    """Values minus the mean of their group (float64); 0 where one is unknown."""
    known_NC = np.isfinite(values_NC)
    filled_NC = np.where(known_NC, values_NC, 0.0)
    sums = np.zeros((2, group_N.max(initial=-1) + 1, values_NC.shape[1]))
    np.add.at(sums[0], group_N, filled_NC)
    np.add.at(sums[1], group_N, known_NC)
    means = sums[0] / np.maximum(sums[1], 1)
    return np.where(known_NC, filled_NC - means[group_N], 0.0)


def _ridge(x_NS: np.ndarray, y_N: np.ndarray) -> np.ndarray:
    """Weights (S,) of centred signs; 0 for signs without differences."""
    scale_S = np.sqrt((x_NS**2).mean(0)) if len(x_NS) else np.zeros(x_NS.shape[1])
    told_S = scale_S > 1e-12
    weights_S = np.zeros(len(scale_S))
    if not told_S.any():
        return weights_S
    u_NK, s_K, v_KS = np.linalg.svd(x_NS[:, told_S] / scale_S[told_S], full_matrices=False)
    uy_K = u_NK.T @ y_N
    kept_PK = s_K**2 / (s_K**2 + PENALTIES[:, None])
    residual_P = (y_N @ y_N) - ((2 * kept_PK - kept_PK**2) * uy_K**2).sum(1)
    score_P = residual_P / np.maximum(len(y_N) - kept_PK.sum(1), 1e-9) ** 2
    best = int(score_P.argmin())
    weights_S[told_S] = (v_KS.T @ (kept_PK[best] / np.maximum(s_K, 1e-12) * uy_K)) / scale_S[told_S]
    return weights_S


@lru_cache(maxsize=512)
def lessons_to_teach(correlation: float, lessons: int, reliability: float, regret: float) -> int:
    """The fewest of a document's lessons whose teaching costs no more than `regret`, of `lessons` in all.

    The best of the taught is chosen by one noisy gain each. Its true gain may fall short of that of the choice among
    all by a share `regret` of what the truly best has above the mean. True gains, predictions and noise are normal;
    predictions have this correlation with measured gains, whose share of true differences is `reliability`.
    """
    if lessons <= LEAST_TAUGHT:
        return lessons
    share = min(1.0, max(LEAST_RELIABILITY, reliability))
    true = min(0.99, max(0.0, correlation) / math.sqrt(share))
    generator = np.random.default_rng(0)
    true_DG, noise_DG, other_DG = generator.normal(size=(3, DRAWS, lessons))
    shown_DG = true_DG + noise_DG * math.sqrt(1 / share - 1)
    order_DG = np.argsort(-(true * true_DG + math.sqrt(1 - true**2) * other_DG), 1)
    true_DG, shown_DG = np.take_along_axis(true_DG, order_DG, 1), np.take_along_axis(shown_DG, order_DG, 1)
    chosen_K = [
        np.take_along_axis(true_DG, shown_DG[:, :k].argmax(1)[:, None], 1).mean() for k in range(1, lessons + 1)
    ]
    allowed = chosen_K[-1] - regret * true_DG.max(1).mean()
    return next(k for k, chosen in enumerate(chosen_K, 1) if k >= LEAST_TAUGHT and chosen >= allowed)
