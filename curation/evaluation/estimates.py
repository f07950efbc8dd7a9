"""From rows to estimates: everything in evaluation.json about gains and accuracies, from items.parquet alone."""

import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from configs.schema import Evaluation
from curation.evaluation.arms import ALONE, Arm, edits_arm, repeated_arm
from curation.evaluation.edit_estimates import estimate_edits
from curation.evaluation.records import (
    ArmEstimates,
    Comparison,
    Correction,
    EditSequences,
    Estimate,
    FalsePositives,
    ReplayEffect,
)
from curation.evaluation.statistics import LEVEL, ClusteredMean, Kind, false_positives
from curation.lab.items import BEST
from student.statistics.intervals import holm

Row = Mapping[str, Any]
MEASURES = {
    "gain": ("document", "gain"),
    "accuracy": ("document", "accuracy"),
    "benchmark": ("benchmark", "gain"),
    "retention": ("retention", "accuracy"),
}
"""What is compared: the kind of its rows, and what is read off them."""
COMPARED_SETTINGS = ("together", "single")


class StudentEstimates(NamedTuple):
    """The estimates of one student model."""

    arms: dict[tuple[str, str], ArmEstimates]
    """By setting (`together`, `single`) and arm."""
    scaling: dict[tuple[str, int], tuple[Estimate, Estimate]]
    """Gain and accuracy by arm and number of rewrites."""
    comparisons: list[Comparison]
    sequences: list[EditSequences]
    replay_effect: ReplayEffect | None
    false_positives: FalsePositives | None


def estimate_students(
    rows: Sequence[Row], arms: Sequence[Arm], settings: Evaluation
) -> tuple[dict[str, StudentEstimates], Correction]:
    """The estimates by student label, and how their comparisons were corrected: over all students at once."""
    by_student: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        by_student.setdefault(row["student"], {}).setdefault(row["setting"], []).append(row)
    comparisons, correction = _compare(by_student, arms, settings)
    gain_p_values = [
        comparison.p
        for of_student in comparisons.values()
        for comparison in of_student
        if (comparison.setting, comparison.measure) == ("together", "gain")
    ]
    estimates = {}
    for label, by_setting in by_student.items():
        taught = edits_arm(settings, arms).name
        sequences, replay_effect = estimate_edits(by_setting.get("sequence", []), taught, settings.replay)
        estimates[label] = StudentEstimates(
            arms={
                (setting, group): _estimate_arm(by_setting[setting], names)
                for setting in COMPARED_SETTINGS
                if setting in by_setting
                for group, names in names_by_group(arms).items()
                if setting == "together" or any(row["arm"] in names for row in by_setting[setting])
            },
            scaling=_estimate_scaling(by_setting.get("scaling", [])),
            comparisons=comparisons[label],
            sequences=sequences,
            replay_effect=replay_effect,
            false_positives=_check_false_positives(
                by_setting.get("false-positives", []), repeated_arm(arms), settings, gain_p_values
            ),
        )
    return estimates, correction


class DocumentMean(NamedTuple):
    """One document (or one batch, of items about no document) under one seed: mean over its questions."""

    gain: float
    accuracy: float
    batch: int
    texts: int = 1
    """How many texts its questions are about."""


DocumentMeans = Mapping[tuple[str, int], DocumentMean]
"""By document and seed."""


def document_means(rows: Sequence[Row], arm: str, kind: str = "document", source: str | None = None) -> DocumentMeans:
    """The means of an arm. Items about no document are the batch's: its number stands for a document. `source` None
    takes the items of all sources."""
    grouped: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        if row["arm"] == arm and row["kind"] == kind and source in (None, row["source"]):
            grouped.setdefault((row["document_id"] or str(row["batch"]), row["seed"]), []).append(row)
    return {
        key: DocumentMean(
            statistics.fmean(row["loglik_after"] - row["loglik_before"] for row in group),
            statistics.fmean(row["correct_after"] for row in group),
            group[0]["batch"],
            1 if kind == "document" else len(group),
        )
        for key, group in grouped.items()
    }


def mean_over_seeds(means: DocumentMeans, value: str) -> tuple[dict[str, float], dict[str, int]]:
    """Each document's `gain` or `accuracy`, mean over seeds, and its batch."""
    values: dict[str, list[float]] = {}
    batches: dict[str, int] = {}
    for (name, _), mean in means.items():
        values.setdefault(name, []).append(getattr(mean, value))
        batches[name] = mean.batch
    return {name: statistics.fmean(of_seeds) for name, of_seeds in values.items()}, batches


def names_by_group(arms: Sequence[Arm]) -> dict[str, list[str]]:
    """What is compared as one, with the names of its arms: several of a teacher's training runs, one else."""
    groups: dict[str, list[str]] = {}
    for arm in arms:
        groups.setdefault(arm.group, []).append(arm.name)
    return groups


def _estimate(runs: Sequence[DocumentMeans], value: str) -> Estimate | None:
    return _mean(runs, value, "share").estimate if all(runs) else None


def _mean(runs: Sequence[DocumentMeans], value: str, kind: Kind) -> ClusteredMean:
    """The mean of a `value` over training runs, one for most; `kind` says what accuracies are."""
    texts = min(mean.texts for means in runs for mean in means.values())
    values, clusters = zip(*(mean_over_seeds(means, value) for means in runs), strict=True)
    batches = {name: batch for of_run in clusters for name, batch in of_run.items()}
    return ClusteredMean(values, batches, kind if value == "accuracy" else "mean", texts)


def _estimate_arm(rows: Sequence[Row], names: Sequence[str]) -> ArmEstimates:
    runs = [[row for row in rows if row["arm"] == name] for name in names]
    # A student that failed left no rows; those of other arms tell that it was asked for.
    expected = {(row["seed"], row["batch"]) for row in rows}
    by_run = [{(row["seed"], row["batch"]): row for row in of_run} for of_run in runs]
    students = [row for of_run in by_run for row in of_run.values()]
    tokens = [row["tokens"] for row in students]
    losses = [
        {
            (str(batch), seed): DocumentMean(row["retention_loss_after"] - row["retention_loss_before"], 0.0, batch)
            for (seed, batch), row in of_run.items()
            if row["retention_loss_after"] is not None
        }
        for of_run in by_run
    ]

    def means(kind: str = "document", source: str | None = None) -> list[DocumentMeans]:
        return [document_means(of_run, name, kind, source) for of_run, name in zip(runs, names, strict=True)]

    sources = sorted({row["source"] for row in rows if row["kind"] == "benchmark"})
    benchmarks = {source: of_source for source in sources if all(of_source := means("benchmark", source))}
    return ArmEstimates(
        gain=_estimate(means(), "gain"),
        accuracy=_estimate(means(), "accuracy"),
        benchmarks={source: e for source, of_it in benchmarks.items() if (e := _estimate(of_it, "gain"))},
        benchmark_accuracies={source: e for source, of_it in benchmarks.items() if (e := _estimate(of_it, "accuracy"))},
        retention_loss=_estimate(losses, "gain"),
        retention_accuracy=_estimate(means("retention"), "accuracy"),
        steps=statistics.fmean(row["steps"] for row in students) if students else 0.0,
        tokens=statistics.fmean(tokens) if tokens else 0.0,
        tokens_least=min(tokens, default=0),
        tokens_most=max(tokens, default=0),
        planned_tokens=rows[0]["planned_tokens"],
        # Steps end where the tokens so far come nearest to the plan, so they miss it by a text at most.
        as_planned=bool(students)
        and all(abs(row["tokens"] - row["planned_tokens"]) <= row["longest_text"] for row in students),
        failed=len(expected) * len(names) - len(students),
    )


def _compare(
    by_student: Mapping[str, Mapping[str, Sequence[Row]]], arms: Sequence[Arm], settings: Evaluation
) -> tuple[dict[str, list[Comparison]], Correction]:
    """The comparisons of all students, with the p-values and verdicts of Holm's procedure in each family."""
    means: dict[tuple[str, str, str, str, str], ClusteredMean] = {}
    for label, setting, measure in itertools.product(by_student, COMPARED_SETTINGS, MEASURES):
        rows, (kind, value) = by_student[label].get(setting, []), MEASURES[measure]
        by_arm = {arm: document_means(rows, arm, kind) for arm in dict.fromkeys(row["arm"] for row in rows)}
        best = ALONE + BEST[label] if settings.lab and label in BEST else None
        for arm, against in _pairs([arm for arm in arms if arm.name in by_arm], settings.against, best):
            runs = [_differences(by_arm[one.name], by_arm[against]) for one in arms if one.group == arm]
            if all(runs):
                means[label, setting, measure, arm, against] = _mean(runs, value, "difference")
    p_values = {key: mean.p for key, mean in means.items()}
    corrected: dict[tuple[str, str, str, str, str], float | None] = {}
    families: dict[str, int] = {}
    # One family a measure and setting: whoever reads one measure sees all its comparisons at once.
    for measure, setting in itertools.product(MEASURES, COMPARED_SETTINGS):
        family = [key for key in means if key[1:3] == (setting, measure)]
        corrected |= zip(family, holm([p_values[key] for key in family]), strict=True)
        if family:
            families[f"{setting}/{measure}"] = sum(p_values[key] is not None for key in family)
    comparisons: dict[str, list[Comparison]] = {label: [] for label in by_student}
    for key, mean in means.items():
        (label, setting, measure, arm, against), p = key, corrected[key]
        verdict = "no detectable difference"
        if p is not None and p < LEVEL:
            verdict = "better" if mean.mean > 0 else "worse"
        comparison = {
            "measure": measure, "setting": setting, "arm": arm, "against": against, "difference": mean.estimate,
            "p": p_values[key], "p_corrected": p, "detectable": mean.detectable, "verdict": verdict,
        }  # fmt: skip
        comparisons[label].append(Comparison.model_validate(comparison))
    return comparisons, Correction(method="holm", level=LEVEL, families=families)


def _differences(means: DocumentMeans, others: DocumentMeans) -> DocumentMeans:
    """Only where both sides' students ran: what a seed does is common to both."""
    return {
        key: DocumentMean(mean.gain - other.gain, mean.accuracy - other.accuracy, mean.batch, mean.texts)
        for key, mean in means.items()
        if (other := others.get(key))
    }


def _pairs(arms: Sequence[Arm], reference: str, best: str | None = None) -> list[tuple[str, str]]:
    """Arms to compare, each pair once: every arm with the reference, trained teachers' with every other one, and
    `best`, if it is an arm, with every other strategy alone. Several training runs are one side."""
    names = list(dict.fromkeys(arm.group for arm in arms))
    pairs = [(name, reference) for name in names if name != reference and reference in names]
    for trained in dict.fromkeys(arm.group for arm in arms if arm.kind == "trained"):
        others = [name for name in names if name not in (trained, reference)]
        pairs += [(trained, other) for other in others if (other, trained) not in pairs]
    if best in names:
        pairs += [(best, arm.name) for arm in arms if arm.kind == "strategy" and arm.name not in (best, reference)]
    return pairs


def _estimate_scaling(rows: Sequence[Row]) -> dict[tuple[str, int], tuple[Estimate, Estimate]]:
    estimates = {}
    for arm, rewrites in dict.fromkeys((row["arm"], row["rewrites"]) for row in rows):
        means = document_means([row for row in rows if row["rewrites"] == rewrites], arm)
        gain, accuracy = _estimate([means], "gain"), _estimate([means], "accuracy")
        assert gain is not None and accuracy is not None
        estimates[arm, rewrites] = gain, accuracy
    return estimates


def _check_false_positives(
    rows: Sequence[Row], arm: Arm | None, settings: Evaluation, family: Sequence[float | None]
) -> FalsePositives | None:
    if not rows or arm is None:
        return None
    gains: dict[str, dict[int, float]] = {}
    batches: dict[str, int] = {}
    for (name, seed), mean in document_means(rows, arm.name).items():
        gains.setdefault(name, {})[seed] = mean.gain
        batches[name] = mean.batch
    return false_positives(arm.name, gains, batches, pairs=settings.false_positives, side=settings.seeds, family=family)
