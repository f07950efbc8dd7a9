"""Adaptive repeats: the next student runs go where they would most likely change which rewrite of a document is best.

The true gains of a document's rewrites are taken as normal around the document's mean (`prior_sd`), and a run as normal
around the true gain (`noise_sd`). A candidate's value is the knowledge gradient, the expected rise of the best
posterior mean (Frazier, Powell and Dayanik 2008, SIAM J. Control Optim. 47), taken a run over several runs ahead, since one
noisy run alone is often worth nothing (the KG(*) of Frazier and Powell 2010, Decision Analysis 7). Being in the unit of
the gain, it is comparable across documents. As K students run at once, slots are filled one after another with the
posterior narrowed as if the earlier ones had come back at their mean.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from student.noise import gains_table, reliability

MAX_AHEAD = 16
"""Most runs of one rewrite that are valued together."""


class Slot(NamedTuple):
    """One student run: the `repeat`-th of a document's rewrite (all count from 0)."""

    document: int
    rewrite: int
    repeat: int


Measure = Callable[[list[Slot]], Sequence[float | None]]
"""Trains a student a slot and gives their gains, None for a failed one."""


def allocate(
    means: Sequence[Sequence[float] | np.ndarray],
    counts: Sequence[Sequence[int] | np.ndarray],
    noise_sd: float,
    prior_sd: float,
    budget: int,
    *,
    every_group: bool = False,
) -> list[np.ndarray]:
    """How many more runs each rewrite gets: one int array (G,) a group, aligned with `means` and `counts`.

    `means` hold the mean gain so far (anything where the count is 0). Every rewrite runs once before any runs twice.
    `budget` is shared by all groups; with `every_group` each group spends that many by itself, as when documents share
    students and each new student has one place for each document.
    """
    assert budget >= 0 and noise_sd >= 0 and prior_sd >= 0
    beliefs = [_Belief(m, c, noise_sd, prior_sd) for m, c in zip(means, counts, strict=True)]
    if every_group:
        for belief in beliefs:
            for _ in range(budget if len(belief.extra_G) else 0):
                belief.add(budget)
        return [belief.extra_G for belief in beliefs]
    for left in range(budget, 0, -1):
        best = max(beliefs, key=lambda belief: belief.value(left), default=None)
        if best is None or best.value(left) < 0:
            break
        best.add(left)
    return [belief.extra_G for belief in beliefs]


def choose_best(
    means_G: Sequence[float] | np.ndarray, counts_G: Sequence[int] | np.ndarray, noise_sd: float, prior_sd: float
) -> int | None:
    """Index of the rewrite with the highest posterior mean; None where none ran.

    The posterior mean draws a rewrite that ran seldom towards its group's mean, so that one lucky run does not win.
    """
    if not np.any(np.asarray(counts_G) > 0):
        return None
    return int(np.argmax(posterior(means_G, counts_G, noise_sd, prior_sd)[0]))


def posterior(
    means_G: Sequence[float] | np.ndarray, counts_G: Sequence[int] | np.ndarray, noise_sd: float, prior_sd: float
) -> tuple[np.ndarray, np.ndarray]:
    """Posterior means and variances (G,) of a group's true gains; the prior's mean is the group's, by weighted least
    squares."""
    counts = np.asarray(counts_G, dtype=np.float64)
    means = np.where(counts > 0, np.asarray(means_G, dtype=np.float64), 0.0)
    noise = max(noise_sd**2, 1e-18)
    prior = max(prior_sd**2, 1e-18)
    weights = np.where(counts > 0, 1 / (prior + noise / np.maximum(counts, 1)), 0.0)
    centre = float((weights * means).sum() / weights.sum()) if weights.any() else 0.0
    variances = 1 / (1 / prior + counts / noise)
    return centre + variances * counts / noise * (means - centre), variances


def noise_and_prior(gains: Sequence[Sequence[Sequence[float | None]]], common_seeds: bool = False) -> tuple[float, float]:
    """Pooled `(noise_sd, prior_sd)` of the gains so far (documents x rewrites x repeats).

    Before anything ran twice, the spread inside groups is taken as half noise and half contrast.
    """
    found = reliability(gains, common_seeds=common_seeds, resamples=2)
    if found.noise_variance is None or found.between_variance is None:
        table_DGR = gains_table(gains)
        table_DGR = table_DGR[(np.isfinite(table_DGR).sum((1, 2)) >= 2) if table_DGR.size else slice(0)]
        spread = float(np.nanmean(np.nanvar(table_DGR, axis=(1, 2), ddof=1))) if len(table_DGR) else 1.0
        return math.sqrt(spread / 2), math.sqrt(spread / 2)
    total = max(0.0, found.between_variance) + found.noise_variance
    # An estimate of no contrast at all would end the search; a twentieth of the variance keeps it open.
    return math.sqrt(found.noise_variance), math.sqrt(max(found.between_variance, 0.05 * total))


def repeat_adaptively(
    measure: Measure,
    group_sizes: Sequence[int],
    budget: int,
    batch: int,
    *,
    every_group: bool = False,
) -> list[list[list[float | None]]]:
    """Runs students in rounds until `budget` runs are spent; returns gains, documents x rewrites x repeats, ragged.

    `batch` is how many slots go out at once (how many students fit). With `every_group` each round gives every
    document one slot, whatever `batch` is. Noise and contrast are estimated anew from all gains before each round.
    """
    gains: list[list[list[float | None]]] = [[[] for _ in range(size)] for size in group_sizes]
    spent = 0
    while spent < budget:
        noise_sd, prior_sd = noise_and_prior(gains)
        tried = [[len(runs) for runs in group] for group in gains]
        extra = allocate(_means(gains), tried, noise_sd, prior_sd, 1 if every_group else min(batch, budget - spent),
                         every_group=every_group)
        slots = [
            Slot(d, g, tried[d][g] + more)
            for d, extra_G in enumerate(extra)
            for g, runs in enumerate(extra_G)
            for more in range(int(runs))
        ][: budget - spent]
        if not slots:
            break
        for slot, gain in zip(slots, measure(slots), strict=True):
            gains[slot.document][slot.rewrite].append(gain)
        spent += len(slots)
    return gains


def repeat_uniformly(measure: Measure, group_sizes: Sequence[int], budget: int) -> list[list[list[float | None]]]:
    """The same budget spread evenly, repeat by repeat; what is left of it goes to the first documents in turn."""
    every = [Slot(d, g, 0) for d, size in enumerate(group_sizes) for g in range(size)]
    slots = [every[i % len(every)]._replace(repeat=i // len(every)) for i in range(budget)] if every else []
    gains: list[list[list[float | None]]] = [[[] for _ in range(size)] for size in group_sizes]
    for slot, gain in zip(slots, measure(slots), strict=True):
        gains[slot.document][slot.rewrite].append(gain)
    return gains


def chosen(gains: Sequence[Sequence[Sequence[float | None]]]) -> list[int | None]:
    """The rewrite that each document's gains speak for; see `choose_best`."""
    noise_sd, prior_sd = noise_and_prior(gains)
    return [
        choose_best(means, counts, noise_sd, prior_sd)
        for means, counts in zip(_means(gains), _counts(gains), strict=True)
    ]


def _means(gains: Sequence[Sequence[Sequence[float | None]]]) -> list[list[float]]:
    return [[_mean(runs) for runs in group] for group in gains]


def _counts(gains: Sequence[Sequence[Sequence[float | None]]]) -> list[list[int]]:
    return [[len(_finite(runs)) for runs in group] for group in gains]


def _mean(runs: Sequence[float | None]) -> float:
    ran = _finite(runs)
    return sum(ran) / len(ran) if ran else 0.0


def _finite(runs: Sequence[float | None]) -> list[float]:
    return [gain for gain in runs if gain is not None and math.isfinite(gain)]


class _Belief:
    """What is believed of one group while slots are handed out."""

    def __init__(self, means_G: Sequence[float] | np.ndarray, counts_G: Sequence[int] | np.ndarray, noise: float, prior: float):
        self.means_G, self.variances_G = posterior(means_G, counts_G, noise, prior)
        self.counts_G = np.asarray(counts_G, dtype=np.int64)
        self.noise_variance = max(noise**2, 1e-18)
        self.extra_G = np.zeros(len(self.counts_G), dtype=np.int64)
        self._values: np.ndarray | None = None
        self._ahead = 0

    def value(self, left: int) -> float:
        """Worth a run of the group's most valuable slot; infinite while a rewrite never ran, below 0 without rewrites."""
        values_G = self._values_G(left)
        return float(values_G.max()) if len(values_G) else -1.0

    def add(self, left: int) -> None:
        """Gives one run to the most valuable rewrite."""
        g = int(np.argmax(self._values_G(left)))
        self.extra_G[g] += 1
        self.variances_G[g] = 1 / (1 / self.variances_G[g] + 1 / self.noise_variance)
        self._values = None

    def _values_G(self, left: int) -> np.ndarray:
        ahead = min(left, MAX_AHEAD)
        if self._values is None or self._ahead != ahead:
            self._ahead = ahead
            self._values = self._knowledge_gradient(ahead)
            never = self.counts_G + self.extra_G == 0
            self._values = np.where(never, np.inf, self._values)
        return self._values

    def _knowledge_gradient(self, ahead: int) -> np.ndarray:
        """Expected rise of the best posterior mean a run, over the best number of runs up to `ahead`."""
        if len(self.means_G) < 2:
            return np.zeros(len(self.means_G))
        order = np.argsort(self.means_G)
        rival_G = np.full(len(order), self.means_G[order[-1]])
        rival_G[order[-1]] = self.means_G[order[-2]]
        runs_A = np.arange(1, ahead + 1)
        narrowed_GA = 1 / (1 / self.variances_G[:, None] + runs_A / self.noise_variance)
        shift_GA = np.sqrt(np.maximum(self.variances_G[:, None] - narrowed_GA, 1e-30))
        z_GA = -np.abs(self.means_G - rival_G)[:, None] / shift_GA
        return (shift_GA * _expected_excess(z_GA) / runs_A).max(axis=1)


def _expected_excess(z: np.ndarray) -> np.ndarray:
    """E[max(0, z + standard normal)]."""
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    cumulative = np.array([math.erfc(-value / math.sqrt(2)) / 2 for value in z.ravel()]).reshape(z.shape)
    return np.maximum(z * cumulative + density, 0.0)
