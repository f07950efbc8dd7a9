"""What lessons are worth, judged with the help of all documents of a step.

One student run of a lesson is noisy, and what a student forgets is the doing of all lessons that it learnt; but what
strategies are worth shows on every document. What a student shows is taken as `group + mean over its lessons of
(shares . effect + own) + noise`: a mixed model with the strategies' effects fixed and what is the lesson's own random.
The values are its best linear unbiased predictions (Robinson 1991, Statistical Science 6), so that a lesson's own luck
counts as far as it is known to be more than noise.
"""

import numpy as np

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
