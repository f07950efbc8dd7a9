"""What an arm of texts was worth to students, and the mean of several training runs."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from configs.schema.reward import Measure
from student.records import MEASURES, SHARES
from student.statistics.intervals import (
    Estimate,
    Mean,
    clustered_mean,
    estimate,
    estimate_difference,
    estimate_share,
    independent_documents,
    skewness,
)


class DocumentResult(NamedTuple):
    """What one student showed about one document."""

    gain: float
    """In the rewarded measure."""
    accuracy: float
    """Share of answers right after the lesson."""
    penalties: Mapping[str, float]
    """What is taken off the gain, by name."""
    measures: Mapping[str, float] = {}
    """The rise of each measure that the exam told, the rewarded one among them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What lessons were worth to students, asked questions of one split."""

    gain: Estimate
    """In `measure`, over documents."""
    accuracy: Estimate
    reward: Estimate
    """Gain minus penalties: what the teacher is trained for."""
    measure: Measure = "loglik"
    """What is rewarded."""
    gains: dict[str, float] = field(default_factory=dict)
    """Mean over seeds, by document."""
    accuracies: dict[str, float] = field(default_factory=dict)
    penalties: dict[str, dict[str, float]] = field(default_factory=dict)
    """By document and name."""
    measures: dict[str, dict[str, float]] = field(default_factory=dict)
    """The rise of every measure that the exams told, by document and measure."""
    batches: dict[str, int] = field(default_factory=dict)
    """The batch of each document: those of one batch share students."""
    failed: int = 0
    """Students that failed; their documents count with the other seeds."""
    by_student: "Mapping[str, Evaluation]" = field(default_factory=dict)
    """The same by student model, where there are several."""

    @classmethod
    def of(
        cls,
        results: Mapping[str, Sequence[DocumentResult]],
        batches: Mapping[str, int],
        failed: int = 0,
        by_student: "Mapping[str, Evaluation] | None" = None,
        measure: Measure = "loglik",
    ) -> "Evaluation":
        """From the results of each document, one for each seed; documents without any are left out."""
        results = {name: of_document for name, of_document in results.items() if of_document}
        gains = {name: statistics.fmean(r.gain for r in of_document) for name, of_document in results.items()}
        accuracies = {name: statistics.fmean(r.accuracy for r in of_document) for name, of_document in results.items()}
        penalties = {name: mean_by_name([r.penalties for r in of_document]) for name, of_document in results.items()}
        measures = {name: mean_by_name([r.measures for r in of_document]) for name, of_document in results.items()}
        rewards = [gain - sum(penalties[name].values()) for name, gain in gains.items()]
        clusters = [batches[name] for name in results]
        return cls(
            gain=estimate_gains(list(gains.values()), clusters, measure),
            accuracy=estimate_share(list(accuracies.values()), clusters),
            reward=estimate_gains(rewards, clusters, measure),
            measure=measure,
            gains=gains,
            accuracies=accuracies,
            penalties=penalties,
            measures=measures,
            batches=dict(batches),
            failed=failed,
            by_student=by_student or {},
        )

    @property
    def by_measure(self) -> dict[Measure, Estimate]:
        """The mean rise of every measure, each over the documents that tell it."""
        return {
            measure: estimate_gains([gains[d] for d in gains], [self.batches[d] for d in gains], measure)
            for measure in MEASURES
            if (gains := self.in_measure(measure))
        }

    def in_measure(self, measure: Measure) -> dict[str, float]:
        """The rise of a measure in each document that tells it."""
        if measure == self.measure:
            return self.gains
        return {document: gains[measure] for document, gains in self.measures.items() if measure in gains}


def estimate_gains(gains: Sequence[float], clusters: Sequence[int], measure: Measure) -> Estimate:
    """Mean and interval of gains in a measure, or of differences between such: those of shares are differences."""
    return (estimate_difference if measure in SHARES else estimate)(gains, clusters)


def difference_name(measure: Measure, rewarded: Measure, against: str) -> str:
    """How a trained teacher's gain minus another arm's is named in metrics."""
    return f"{'trained' if measure == rewarded else measure}_minus_{against}"


def mean_by_name(values: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each name's values, over the mappings that have it."""
    names = dict.fromkeys(name for of_one in values for name in of_one)
    return {name: statistics.fmean(of_one[name] for of_one in values if name in of_one) for name in names}


def crossed_estimate(values: Sequence[Mapping[str, float]], batches: Mapping[str, int]) -> Estimate:
    """Mean and 95% interval of values by document from several training runs, see `crossed_mean`."""
    return crossed_mean(values, batches).estimate()


def crossed_share(values: Sequence[Mapping[str, float]], batches: Mapping[str, int]) -> Estimate:
    """`crossed_estimate` of shares, whose interval stays in 0 ... 1."""
    return crossed_mean(values, batches).share()


def crossed_test(
    values: Sequence[Mapping[str, float]], batches: Mapping[str, int], *, of_shares: bool = False
) -> tuple[Estimate, float | None]:
    """`crossed_estimate`, and the two-sided p-value that the mean is 0 (None where no interval is possible), which is
    below 0.05 exactly where the interval excludes 0. `of_shares`: values are differences of shares."""
    mean = crossed_mean(values, batches)
    if of_shares:
        mean = mean.difference()
    return mean.estimate(), mean.p


def crossed_mean(values: Sequence[Mapping[str, float]], batches: Mapping[str, int]) -> Mean:
    """The mean of values by document from several training runs.

    Runs and batches of documents are crossed random effects (Searle, Casella and McCulloch, "Variance Components",
    1992, ch. 4): the variance of the grand mean is (MS_runs + MS_batches - MS_cells) / cells, and Student's t has its
    Satterthwaite degrees of freedom. Batches count equally. With one run only batches are drawn.
    """
    names = sorted(set.intersection(*(set(of_run) for of_run in values)))
    if len(values) == 1:
        return clustered_mean([values[0][name] for name in names], [batches[name] for name in names])
    members: dict[int, list[str]] = {}
    for name in names:
        members.setdefault(batches[name], []).append(name)
    cells_SB = np.array(
        [[statistics.fmean(of_run[name] for name in batch) for batch in members.values()] for of_run in values]
    )
    S, B = cells_SB.shape
    grand = float(cells_SB.mean())
    if B < 2:
        return Mean(grand, math.nan, 0)
    runs_S1, batches_1B = cells_SB.mean(1, keepdims=True), cells_SB.mean(0, keepdims=True)
    freedoms = np.array([S - 1, B - 1, (S - 1) * (B - 1)])
    squares = np.array(
        [
            B * ((runs_S1 - grand) ** 2).sum(),
            S * ((batches_1B - grand) ** 2).sum(),
            ((cells_SB - runs_S1 - batches_1B + grand) ** 2).sum(),
        ]
    )
    mean_squares = squares / freedoms
    # The unbiased estimate can fall below the variance of runs or batches alone: the larger of these is its floor.
    variance = max(mean_squares @ [1, 1, -1], mean_squares[:2].max()) / (S * B)
    # Third moments of independent effects add up.
    parts = (mean_squares[:2] / max(variance * S * B, 1e-300)) ** 1.5
    skews = skewness(runs_S1.ravel() - grand), skewness(batches_1B.ravel() - grand)
    spread = ((mean_squares / (S * B)) ** 2 / freedoms).sum()
    return Mean(
        grand,
        math.sqrt(variance),
        # Rounded down; where nothing differs, as in the smaller of the two samples.
        max(1, int(variance**2 / spread)) if spread else min(S, B) - 1,
        skew=float(np.clip(parts @ skews, -1, 1)),
        documents=independent_documents([len(batch) for batch in members.values()]),
        square=statistics.fmean(statistics.fmean(of_run[name] for of_run in values) ** 2 for name in names),
    )
