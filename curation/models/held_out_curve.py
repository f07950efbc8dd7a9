"""The curve of a warm-up on questions about titles it is not trained on, and the rule by which it ends."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from student.engine.exam import Grade
from student.statistics.intervals import clustered_mean, estimate, estimate_share

PATIENCE = 2
"""Evaluations in a row without a rise after which the training ends."""

MUCH_WORSE = 1.0
"""Nats a token below the start at which the training has diverged."""


def figures_of(grades: Sequence[Grade], clusters: Sequence[Hashable]) -> dict[str, Any]:
    """Mean log-likelihood of the gold answers (nats a token) and accuracy, each with its 95% interval over clusters."""
    loglik = estimate([grade.loglik for grade in grades], clusters)
    accuracy = estimate_share([float(grade.correct) for grade in grades], clusters)
    figures: dict[str, Any] = {}
    for name, found in ("loglik", loglik), ("accuracy", accuracy):
        mean, low, high = (round(value, 4) for value in found)
        figures |= {name: mean, f"{name}_interval": [low, high]}
    return figures


class Diverged(Exception):
    """The probe's answers became far worse than at the start, or no numbers."""


@dataclass(slots=True)
class HeldOutCurve:
    """What the student answers to the probe, from the start on.

    An evaluation is a rise if its mean log-likelihood lies above that of the last rise by more than the standard error
    of their paired difference, questions of one title being a cluster. The weights of the last rise are kept: of
    several that noise cannot tell apart, those of the least training (the one-standard-error rule, Breiman et al.
    1984).
    """

    clusters: list[Hashable]
    """The title of each question of the probe."""
    points: list[dict[str, Any]] = field(default_factory=list)
    """`tokens`, `loglik`, `accuracy` and their intervals, and whether it was a `rise`."""
    best: int = 0
    """Number of the last point that was a rise; 0 is the start."""
    best_logliks: list[float] = field(default_factory=list)
    """Of each question, at the best point."""

    def add(self, tokens: int, grades: Sequence[Grade]) -> bool:
        """Takes in the answers after so many tokens of training; tells whether they are a rise (the first always is).
        Raises Diverged."""
        logliks = [grade.loglik for grade in grades]
        point = figures_of(grades, self.clusters) if all(map(math.isfinite, logliks)) else None
        if point is None or (self.points and point["loglik"] < self.points[0]["loglik"] - MUCH_WORSE):
            now = "no finite number" if point is None else f"{point['loglik']:.2f} nats a token"
            start = f", after {self.points[0]['loglik']:.2f} at the start" if self.points else " at the start"
            raise Diverged(f"after {tokens} tokens the answers of the held-out curve are {now}{start}")
        rise = True
        if self.points:
            differences = [new - old for new, old in zip(logliks, self.best_logliks, strict=True)]
            change = clustered_mean(differences, self.clusters)
            rise = change.mean > change.error
        if rise:
            self.best, self.best_logliks = len(self.points), logliks
        self.points.append({"tokens": tokens, **point, "rise": rise})
        return rise

    @property
    def flat(self) -> bool:
        """Whether `PATIENCE` evaluations in a row were no rise."""
        return len(self.points) - 1 - self.best >= PATIENCE

    def line(self) -> str:
        """The last points in words."""
        shown = [f"{point['loglik']:.2f}" for point in self.points[-4:]]
        more = "... " if len(self.points) > 4 else ""
        return f"held-out {more}{' -> '.join(shown)} nats a token"

    def state(self) -> dict[str, Any]:
        """What `restore` needs, as plain values."""
        return {"points": self.points, "best": self.best, "best_logliks": self.best_logliks}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on where `state` was taken."""
        self.points, self.best = list(state["points"]), state["best"]
        self.best_logliks = list(state["best_logliks"])
