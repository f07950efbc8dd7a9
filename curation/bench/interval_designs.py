"""Simulated evaluations whose truth is known, for `notewright bench intervals`."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from configs.seeds import stable_seed

CLUSTERS = (3, 6, 12, 24)
CROSSED = ((3, 6), (3, 12), (5, 6), (5, 12))
"""Training runs and batches."""
DOCUMENTS, QUESTIONS = 8, 10
"""Documents a batch, questions a document."""
REWRITES, REPEATS = 4, 3


class Design(NamedTuple):
    """A kind of evaluation whose truth is known."""

    family: str
    """What is estimated."""
    name: str
    clusters: int
    truth: float
    draws: np.ndarray
    """(N, C, ...): for each draw and cluster a mean (1,), shares or differences of documents (D,), gains of rewrites
    and repeats (G, R); for crossed designs (N, S, B, D)."""


def designs(draws: int) -> Iterator[Design]:
    """All designs, each with its own seed."""
    for name in MEANS:
        for C in CLUSTERS:
            truth, draw = MEANS[name]
            yield Design("mean", name, C, truth, draw(_rng("mean", name, C), (draws, C, 1)))
    for correlation in (0.0, 0.1, 0.3):
        for share in (0.02, 0.1, 0.5, 0.9, 0.98):
            for C in CLUSTERS:
                name = f"share {share:g}, correlation {correlation:g}"
                rng = _rng(name, C)
                probabilities = _shares(rng.normal(size=(draws, C, 1)), share, correlation)
                yield Design("share", name, C, share, _answers(rng, probabilities))
    for correlation in (0.0, 0.1, 0.3):
        for shares in ((0.5, 0.5), (0.9, 0.9), (0.98, 0.98), (0.98, 0.9), (0.9, 0.1), (0.1, 0.02)):
            for C in CLUSTERS:
                name = f"share {shares[0]:g} minus {shares[1]:g}, correlation {correlation:g}"
                rng = _rng(name, C)
                # Half of what sets batches apart is common to both arms.
                common = rng.normal(size=(draws, C, 1))
                arms = [
                    _answers(rng, _shares(math.sqrt(0.5) * (common + rng.normal(size=common.shape)), p, correlation))
                    for p in shares
                ]
                yield Design("difference of shares", name, C, shares[0] - shares[1], arms[0] - arms[1])
    for name, variances in PARTS.items():
        for S, B in CROSSED:
            rng = _rng(name, S, B)
            effects = _crossed(rng, draws, S, B, variances)
            yield Design("mean over runs", f"{S} runs, {name}", B, 0.0, effects)
            for share in (0.5, 0.9, 0.98):
                probabilities = _shares(effects, share, 0.3)
                answers = _answers(rng, probabilities)
                yield Design("share over runs", f"{S} runs, {name}, share {share:g}", B, share, answers)
            other = _answers(rng, _shares(_crossed(rng, draws, S, B, variances), 0.9, 0.3))
            pair = f"{S} runs, {name}, share 0.98 minus 0.9"
            yield Design("difference over runs", pair, B, 0.98 - 0.9, answers - other)
    for effect in ("normal", "lognormal"):
        for truth in (0.05, 0.3, 0.6, 0.9):
            for C in CLUSTERS:
                name = f"reliability {truth:g}, {effect} rewrites"
                rng = _rng(name, C)
                rewrites = rng.normal(size=(draws, C, REWRITES, 1))
                if effect == "lognormal":
                    rewrites = (np.exp(rewrites) - math.exp(0.5)) / math.sqrt((math.e - 1) * math.e)
                noise = rng.normal(size=(draws, C, REWRITES, REPEATS))
                gains = math.sqrt(truth) * rewrites + math.sqrt(1 - truth) * noise
                yield Design("reliability", name, C, truth, gains)


MEANS: dict[str, tuple[float, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]]] = {
    "normal": (0.0, lambda rng, shape: rng.normal(size=shape)),
    "t, 3 degrees of freedom": (0.0, lambda rng, shape: rng.standard_t(3, size=shape)),
    "lognormal, sigma 0.5": (math.exp(0.125), lambda rng, shape: np.exp(0.5 * rng.normal(size=shape))),
    "lognormal, sigma 1": (math.exp(0.5), lambda rng, shape: np.exp(rng.normal(size=shape))),
}
"""The mean of the clusters' distribution, and draws from it."""

PARTS = {"batches differ": (0.1, 0.6, 0.3), "runs differ": (0.5, 0.3, 0.2)}
"""Variances of runs, of batches, and of their cells."""


def _rng(*name: object) -> np.random.Generator:
    return np.random.default_rng(stable_seed(0, "intervals", *map(str, name)))


def _shares(normal: np.ndarray, share: float, correlation: float) -> np.ndarray:
    """Shares of a beta distribution with that mean and intraclass correlation, at the quantiles of normal draws."""
    if not correlation:
        return np.full(normal.shape, share)
    grid = np.linspace(-8, 8, 4001)
    uniform = np.interp(normal, grid, _cumulative(np.exp(-(grid**2) / 2)))
    logits = np.linspace(-200, 200, 80_001)
    a, b = share * (1 / correlation - 1), (1 - share) * (1 / correlation - 1)
    density = np.exp(-a * np.logaddexp(0, -logits) - b * np.logaddexp(0, logits))
    return 1 / (1 + np.exp(-np.interp(uniform, _cumulative(density), logits)))


def _cumulative(density: np.ndarray) -> np.ndarray:
    sums = np.cumsum(density)
    return sums / sums[-1]


def _answers(rng: np.random.Generator, probabilities: np.ndarray) -> np.ndarray:
    """Each document's share of right answers; the last axis becomes documents."""
    shape = (*probabilities.shape[:-1], DOCUMENTS)
    return rng.binomial(QUESTIONS, np.broadcast_to(probabilities, shape)) / QUESTIONS


def _crossed(rng: np.random.Generator, draws: int, S: int, B: int, variances: Sequence[float]) -> np.ndarray:
    """(N, S, B, 1): normal effects of runs, batches and cells."""
    runs, batches, cells = (math.sqrt(variance) for variance in variances)
    effects = runs * rng.normal(size=(draws, S, 1, 1)) + batches * rng.normal(size=(draws, 1, B, 1))
    return np.asarray(effects + cells * rng.normal(size=(draws, S, B, 1)))
