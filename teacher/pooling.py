"""What lessons are worth, judged with the help of all documents of a step.

One student run of a lesson is noisy, but what its strategies are worth shows on every document. The gain of lesson g of
document d is taken as `document[d] + shares[d, g] . effect + own[d, g] + noise`: a mixed model with the strategies'
effects fixed and what is the lesson's own random. The values are its best linear unbiased predictions (Robinson 1991,
Statistical Science 6), so that a lesson's own luck counts as far as it is known to be more than noise.
"""

import numpy as np

RIDGE = 1.0
"""Weight of the zero prior on an effect, in lessons: a strategy seen once or twice moves little."""

UNKNOWN_NOISE = 0.5
"""Share of what strategies leave unexplained that counts as noise where nothing was repeated."""


def pooled_gains(gains_DG: np.ndarray, shares_DGS: np.ndarray, noise_variance: float | None) -> np.ndarray:
    """Predicted gains (D, G), float64.

    Args:
        gains_DG: mean gain of each lesson over its runs; nan where none ran, and nan comes back.
        shares_DGS: share of each of S strategies in the rewrites of a lesson.
        noise_variance: of a lesson's mean gain around its true one; None where it is unknown.
    """
    ran_DG = np.isfinite(gains_DG)
    documents_D = ran_DG.sum(1) > 0
    y_DG, mean_D = _centred(gains_DG, ran_DG)
    x_DGS = np.stack([_centred(shares_DGS[..., s], ran_DG)[0] for s in range(shares_DGS.shape[2])], axis=-1)
    x_NS, y_N = x_DGS[ran_DG], y_DG[ran_DG]
    effect_S = np.linalg.solve(x_NS.T @ x_NS + RIDGE * np.eye(x_NS.shape[1]), x_NS.T @ y_N)
    predicted_DG = x_DGS @ effect_S
    left_N = y_N - predicted_DG[ran_DG]
    freedom = max(1, int(ran_DG.sum()) - int(documents_D.sum()) - np.linalg.matrix_rank(x_NS))
    left_variance = float(left_N @ left_N) / freedom
    noise = UNKNOWN_NOISE * left_variance if noise_variance is None else noise_variance
    own = max(0.0, 1 - noise / left_variance) if left_variance > 0 else 0.0
    return np.where(ran_DG, mean_D[:, None] + predicted_DG + own * (y_DG - predicted_DG), np.nan)


def _centred(values_DG: np.ndarray, ran_DG: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values minus their document's mean over the lessons that ran (0 for others), and these means."""
    counts_D = np.maximum(1, ran_DG.sum(1))
    mean_D = np.where(ran_DG, values_DG, 0.0).sum(1) / counts_D
    return np.where(ran_DG, values_DG - mean_D[:, None], 0.0), mean_D
