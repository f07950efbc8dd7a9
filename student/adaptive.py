"""Adaptive repeats: the next student runs go where they would most likely change which rewrite of a document is best.

The true gains of a document's rewrites are taken as normal around the document's mean (`prior_sd`), and a run as normal
around the true gain (`noise_sd`). A candidate's value is the knowledge gradient, the expected rise of the best
posterior mean (Frazier, Powell and Dayanik 2008, SIAM J. Control Optim. 47), taken per run over several runs, since
one noisy run alone is often worth nothing (the KG(*) of Frazier and Powell 2010, Decision Analysis 7). Being in the
unit of the gain, it is comparable across documents. As K students run at once, slots are filled one after another with
the posterior narrowed as if the earlier ones had come back at their mean.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from student.noise import gains_table, reliability

RUNS_AHEAD = np.array([1, 2, 4, 8, 16])
"""Numbers of runs of one rewrite that are valued together."""


class Slot(NamedTuple):
    """One student run: the `repeat`-th of a document's rewrite (all count from 0)."""

    document: int
    rewrite: int
    repeat: int


class Spread(NamedTuple):
    """Standard deviations that beliefs rest on, in the unit of the gain."""

    noise_sd: float
    """Of one run around the true gain."""
    prior_sd: float
    """Of the true gains of a document's rewrites."""
    seed_sd: float = 0.0
    """Of what all rewrites of a document share in a repeat."""


Gains = Sequence[Sequence[Sequence[float | None]]]
"""Documents x rewrites x repeats, ragged; None for a failed run."""

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
    beliefs = [
        _Belief(*posterior(means_G, counts_G, noise_sd, prior_sd), counts_G, noise_sd)
        for means_G, counts_G in zip(means, counts, strict=True)
    ]
    return _fill(beliefs, budget, every_group)


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
    """Posterior means and variances (G,) of a group's true gains around the group's mean, itself unknown."""
    counts = np.asarray(counts_G, dtype=np.float64)
    totals_G = np.where(counts > 0, np.asarray(means_G, dtype=np.float64) * counts, 0.0)
    noise = max(noise_sd**2, 1e-18)
    return _solve(np.diag(counts / noise), totals_G / noise, prior_sd)


def posterior_of_runs(runs_GR: np.ndarray, spread: Spread) -> tuple[np.ndarray, np.ndarray]:
    """`posterior` from single runs (nan where there is none), with what a repeat's common seed does to all of them
    estimated away: best linear unbiased prediction (Robinson 1991, Statistical Science 6)."""
    ran_GR = np.isfinite(runs_GR).astype(np.float64)
    y_GR = np.where(ran_GR > 0, runs_GR, 0.0)
    noise, seed = max(spread.noise_sd**2, 1e-18), spread.seed_sd**2
    # Runs of one repeat have covariance noise * I + seed * 11'; its inverse is (I - shared_R * 11') / noise.
    shared_R = seed / (noise + ran_GR.sum(0) * seed)
    precision_GG = (np.diag(ran_GR.sum(1)) - (ran_GR * shared_R) @ ran_GR.T) / noise
    return _solve(precision_GG, (y_GR.sum(1) - ran_GR @ (shared_R * y_GR.sum(0))) / noise, spread.prior_sd)


def estimate_spread(gains: Gains, *, common_seeds: bool = False) -> Spread:
    """Pooled standard deviations from the gains so far.

    Before anything ran twice, the spread inside groups is taken as half noise and half contrast.
    """
    found = reliability(gains, common_seeds=common_seeds, resamples=2)
    if found.noise_variance is None or found.between_variance is None:
        table_DGR = gains_table(gains)
        variances = [float(np.nanvar(runs_GR, ddof=1)) for runs_GR in table_DGR if np.isfinite(runs_GR).sum() >= 2]
        half = math.sqrt(sum(variances) / len(variances) / 2) if variances else 1.0
        return Spread(half, half)
    total = max(0.0, found.between_variance) + found.noise_variance
    # An estimate of no contrast at all would end the search; a twentieth of the variance keeps it open.
    prior_sd = math.sqrt(max(found.between_variance, 0.05 * total))
    return Spread(math.sqrt(found.noise_variance), prior_sd, math.sqrt(max(0.0, found.seed_variance or 0.0)))


def repeat_adaptively(
    measure: Measure,
    group_sizes: Sequence[int],
    budget: int,
    batch: int,
    *,
    every_group: bool = False,
    common_seeds: bool = False,
) -> list[list[list[float | None]]]:
    """Runs students in rounds until `budget` slots are spent; returns gains, documents x rewrites x repeats, ragged.

    `batch` is how many slots go out at once (how many students fit). With `every_group` each round gives every
    document one slot, whatever `batch` is. The spread is estimated anew from all gains before each round.
    """
    gains: list[list[list[float | None]]] = [[[] for _ in range(size)] for size in group_sizes]
    spent = 0
    while spent < budget:
        tried = [[len(runs) for runs in group] for group in gains]
        places = 1 if every_group else min(batch, budget - spent)
        extra = _fill(_beliefs(gains, common_seeds), places, every_group)
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


def chosen(gains: Gains, *, common_seeds: bool = False) -> list[int | None]:
    """The rewrite that each document's gains speak for, by posterior mean; None where none of them ran."""
    beliefs = _beliefs(gains, common_seeds)
    return [int(np.argmax(belief.means_G)) if belief.ran else None for belief in beliefs]


class _Belief:
    """What is believed of one group while slots are handed out."""

    def __init__(
        self, means_G: np.ndarray, variances_G: np.ndarray, counts_G: Sequence[int] | np.ndarray, noise_sd: float
    ):
        self.means_G, self.variances_G = means_G, variances_G
        self.counts_G = np.asarray(counts_G, dtype=np.int64)
        self.noise_variance = max(noise_sd**2, 1e-18)
        self.extra_G = np.zeros(len(self.counts_G), dtype=np.int64)
        self.ran = bool(self.counts_G.any())
        self._values_G: np.ndarray | None = None

    @property
    def value(self) -> float:
        """Worth of the group's best slot a run: inf while a rewrite never ran, below 0 where there is none."""
        return float(self._values().max()) if len(self.extra_G) else -1.0

    def add(self) -> None:
        """Gives one run to the most valuable rewrite."""
        g = int(np.argmax(self._values()))
        self.extra_G[g] += 1
        self.variances_G[g] = 1 / (1 / self.variances_G[g] + 1 / self.noise_variance)
        self._values_G = None

    def _values(self) -> np.ndarray:
        if self._values_G is None:
            never_G = self.counts_G + self.extra_G == 0
            self._values_G = np.where(never_G, np.inf, self._knowledge_gradient())
        return self._values_G

    def _knowledge_gradient(self) -> np.ndarray:
        """Expected rise of the best posterior mean a run, at the best of `RUNS_AHEAD`."""
        if len(self.means_G) < 2:
            return np.zeros(len(self.means_G))
        order = np.argsort(self.means_G)
        rival_G = np.full(len(order), self.means_G[order[-1]])
        rival_G[order[-1]] = self.means_G[order[-2]]
        narrowed_GA = 1 / (1 / self.variances_G[:, None] + RUNS_AHEAD / self.noise_variance)
        shift_GA = np.sqrt(np.maximum(self.variances_G[:, None] - narrowed_GA, 1e-30))
        z_GA = -np.abs(self.means_G - rival_G)[:, None] / shift_GA
        return (shift_GA * _expected_excess(z_GA) / RUNS_AHEAD).max(axis=1)


def _fill(beliefs: list[_Belief], budget: int, every_group: bool) -> list[np.ndarray]:
    """Hands out `budget` slots, one after another to whoever values one most."""
    for _ in range(budget):
        if every_group:
            takers = [belief for belief in beliefs if len(belief.extra_G)]
        else:
            best = max(beliefs, key=lambda belief: belief.value, default=None)
            takers = [best] if best is not None and best.value >= 0 else []
        for belief in takers:
            belief.add()
    return [belief.extra_G for belief in beliefs]


def _beliefs(gains: Gains, common_seeds: bool) -> list[_Belief]:
    spread = estimate_spread(gains, common_seeds=common_seeds)
    beliefs = []
    for group in gains:
        (runs_GR,) = gains_table([group])
        tried_G = [len(runs) for runs in group]
        beliefs.append(_Belief(*posterior_of_runs(runs_GR[: len(group)], spread), tried_G, spread.noise_sd))
    return beliefs


def _solve(precision_GG: np.ndarray, evidence_G: np.ndarray, prior_sd: float) -> tuple[np.ndarray, np.ndarray]:
    """Posterior means and variances around the group's mean, which has a flat prior."""
    G = len(evidence_G)
    prior = 1 / max(prior_sd**2, 1e-18)
    if G < 2:
        return evidence_G / np.maximum(np.diag(precision_GG), 1e-12), np.full(G, 1 / prior)
    centring_GG = np.eye(G) - 1 / G
    # The last term lets a group that never ran have a mean, too: 0.
    covariance_GG = np.linalg.inv(precision_GG + prior * (centring_GG + 1e-9 / G))
    contrast_G = np.diag(centring_GG @ covariance_GG @ centring_GG) * G / (G - 1)
    return covariance_GG @ evidence_G, contrast_G


def _expected_excess(z: np.ndarray) -> np.ndarray:
    """E[max(0, z + standard normal)]."""
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    cumulative = np.array([math.erfc(-value / math.sqrt(2)) / 2 for value in z.ravel()]).reshape(z.shape)
    return np.maximum(z * cumulative + density, 0.0)
