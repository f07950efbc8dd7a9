"""Means over documents whose batches share students.

Clusters are batches of documents; intervals and p-values are those of `student.statistics.intervals`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from curation.evaluation.records import Estimate
from student.records import SHARES
from student.statistics.intervals import clustered_mean, t_quantile
from teacher.reward.evaluation import crossed_mean

LEVEL = 0.05
POWER = 0.8
"""The power that defines the minimum detectable effect."""

Kind = Literal["mean", "share", "difference"]
"""What is averaged: values, shares of right answers, or differences of such shares."""


def kind_of_gain(measure: str) -> Kind:
    """Of a gain in a measure, and of a difference between two."""
    return "difference" if measure in SHARES else "mean"


class ClusteredMean:
    """The mean of some documents' values, and all that its clusters say about it."""

    def __init__(
        self,
        values: Mapping[str, float] | Sequence[Mapping[str, float]],
        clusters: Mapping[str, int],
        kind: Kind = "mean",
        texts: int = 1,
    ) -> None:
        """`values` by document, or those of each of several training runs, which are crossed with the clusters."""
        runs = [values] if isinstance(values, Mapping) else values
        names = sorted(set.intersection(*map(set, runs)))
        assert names, "the mean of nothing"
        of_values = [clusters[name] for name in names]
        if len(runs) == 1:
            mean = clustered_mean([runs[0][name] for name in names], of_values, texts)
        else:
            mean = crossed_mean(runs, clusters)
        if kind == "difference":
            mean = mean.difference()
        self.mean, low, high = mean.share() if kind == "share" else mean.estimate()
        bounds = None if math.isnan(low) else low, None if math.isnan(high) else high
        self.estimate = Estimate(
            mean=self.mean, low=bounds[0], high=bounds[1], n=len(names), clusters=len(set(of_values))
        )
        self.p = mean.p
        """Two-sided, that the mean is 0; None with one cluster."""
        self.detectable: float | None = None
        """The smallest true mean that is found different from 0 with probability `POWER`; None with one cluster."""
        if mean.p is not None:
            self.detectable = (high - low) / 2 + t_quantile(POWER, mean.degrees) * mean.error
