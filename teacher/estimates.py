"""Means with intervals, and what students gained from an arm of texts."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from student.noise import bootstrap_interval


class Estimate(NamedTuple):
    """A mean with its 95% bootstrap interval; the bounds are nan where one value alone makes none possible."""

    mean: float
    low: float
    high: float


def estimate(values: Sequence[float], clusters: Sequence[int] | None = None) -> Estimate:
    """Mean and interval over `values`, one a document. `clusters` names the batch of each: documents that share their
    students are not independent, and are drawn together."""
    if not values:
        return Estimate(math.nan, math.nan, math.nan)
    return Estimate(statistics.fmean(values), *bootstrap_interval(values, clusters))


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What students gained from one lesson a document, asked questions of one split."""

    gain: Estimate
    """Nats a token, over documents."""
    accuracy: Estimate
    """Share of answers right after the lesson."""
    gains: dict[str, float] = field(default_factory=dict)
    """Mean over seeds, by document."""
    accuracies: dict[str, float] = field(default_factory=dict)
    batches: dict[str, int] = field(default_factory=dict)
    """The batch of each document: those of one batch share students."""
    failed: int = 0
    """Students that failed; their documents count with the other seeds."""
    by_student: "Mapping[str, Evaluation]" = field(default_factory=dict)
    """The same by student model, where there are several."""

    @classmethod
    def of(
        cls,
        gains: Mapping[str, Sequence[float]],
        accuracies: Mapping[str, Sequence[float]],
        batches: Mapping[str, int],
        failed: int = 0,
        by_student: "Mapping[str, Evaluation] | None" = None,
    ) -> "Evaluation":
        """From the values of each document over seeds; documents without any are left out."""
        gain_by = {name: statistics.fmean(values) for name, values in gains.items() if values}
        accuracy_by = {name: statistics.fmean(values) for name, values in accuracies.items() if values}
        return cls(
            gain=estimate(list(gain_by.values()), [batches[name] for name in gain_by]),
            accuracy=estimate(list(accuracy_by.values()), [batches[name] for name in accuracy_by]),
            gains=gain_by,
            accuracies=accuracy_by,
            batches=dict(batches),
            failed=failed,
            by_student=by_student or {},
        )


def crossed_estimate(values: Sequence[Mapping[str, float]], batches: Mapping[str, int], seed: int = 0) -> Estimate:
    """Mean and 95% interval of values by document from several training runs.

    Runs and batches of documents are crossed, and both are drawn: the pigeonhole bootstrap (Owen 2007, arXiv
    0712.1111), which is on the safe side. With one run only batches are drawn.
    """
    names = sorted(set.intersection(*(set(found) for found in values)))
    if len(values) == 1:
        return estimate([values[0][name] for name in names], [batches[name] for name in names])
    rows = {batch: b for b, batch in enumerate(dict.fromkeys(batches[name] for name in names))}
    totals_SB, counts_B = np.zeros((len(values), len(rows))), np.zeros(len(rows))
    for name in names:
        b = rows[batches[name]]
        counts_B[b] += 1
        totals_SB[:, b] += [found[name] for found in values]
    rng = np.random.default_rng(seed)
    S, B, draws = len(values), len(rows), 5000
    weight_NS = rng.multinomial(S, [1 / S] * S, size=draws)
    weight_NB = rng.multinomial(B, [1 / B] * B, size=draws)
    means_N = np.einsum("ns,sb,nb->n", weight_NS, totals_SB, weight_NB) / (S * (weight_NB @ counts_B))
    low, high = np.percentile(means_N, [2.5, 97.5])
    return Estimate(float(totals_SB.sum() / (S * counts_B.sum())), float(low), float(high))
