"""From rows to estimates: everything in evaluation.json about gains and accuracies, from items.parquet alone."""

import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from configs.schema import Evaluation
from configs.schema.reward import Measure
from curation.evaluation.arms import ALONE, Arm, edits_arm, names_by_group
from curation.evaluation.edit_estimates import estimate_edits, share_right
from curation.evaluation.records import (
    ArmEstimates,
    Comparison,
    Correction,
    EditSequences,
    Estimate,
    ReplayEffect,
)
from curation.evaluation.statistics import LEVEL, ClusteredMean, Kind, kind_of_gain
from curation.lab.items import BEST
from student.records import MEASURES
from student.statistics.intervals import holm

Row = Mapping[str, Any]
COMPARED_SETTINGS = ("together", "single")


class StudentEstimates(NamedTuple):
    """The estimates of one student model."""

    arms: dict[tuple[str, str], ArmEstimates]
    """By setting (`together`, `single`) and arm."""
    scaling: dict[tuple[str, int], "ScalingEstimates"]
    """By arm and number of rewrites."""
    comparisons: list[Comparison]
    sequences: list[EditSequences]
    replay_effect: ReplayEffect | None


def estimate_students(
    rows: Sequence[Row], arms: Sequence[Arm], settings: Evaluation, measure: Measure = "loglik"
) -> tuple[dict[str, StudentEstimates], Correction]:
    """The estimates by student label, and how their comparisons were corrected: over all students at once. `measure` is
    the rewarded one, whose rise is the gain."""
    by_student: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        by_student.setdefault(row["student"], {}).setdefault(row["setting"], []).append(row)
    comparisons, correction = _compare(by_student, arms, settings, measure)
    estimates = {}
    for label, by_setting in by_student.items():
        taught = edits_arm(settings, arms).name
        sequences, replay_effect = estimate_edits(by_setting.get("sequence", []), taught, settings.replay)
        estimates[label] = StudentEstimates(
            arms={
                (setting, group): _estimate_arm(by_setting[setting], names, measure)
                for setting in COMPARED_SETTINGS
                if setting in by_setting
                for group, names in names_by_group(arms).items()
                if setting == "together" or any(row["arm"] in names for row in by_setting[setting])
            },
            scaling=_estimate_scaling(by_setting.get("scaling", []), measure),
            comparisons=comparisons[label],
            sequences=sequences,
            replay_effect=replay_effect,
        )
    return estimates, correction


class DocumentMean(NamedTuple):
    """One document (or one batch, of items about no document) under one seed: mean over its questions."""

    values: Mapping[str, float]
    """The gain in each measure that its questions tell, and `accuracy`."""
    cluster: int
    texts: int = 1
    """How many texts its questions are about."""

    def minus(self, other: "DocumentMean") -> "DocumentMean":
        """What both tell, as a difference."""
        return self._replace(values={v: mean - other.values[v] for v, mean in self.values.items() if v in other.values})


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
            _gains(group) | {"accuracy": share_right(group)},
            group[0]["cluster"],
            1 if kind == "document" else len(group),
        )
        for key, group in grouped.items()
    }


def _gains(rows: Sequence[Row]) -> dict[str, float]:
    told = {
        measure: [
            row[f"{measure}_after"] - row[f"{measure}_before"] for row in rows if row[f"{measure}_after"] is not None
        ]
        for measure in MEASURES
    }
    return {measure: statistics.fmean(gains) for measure, gains in told.items() if gains}


def mean_over_seeds(means: DocumentMeans, value: str) -> tuple[dict[str, float], dict[str, int]]:
    """A value of each document that tells it, mean over seeds, and its cluster."""
    values: dict[str, list[float]] = {}
    batches: dict[str, int] = {}
    for (name, _), mean in means.items():
        if value in mean.values:
            values.setdefault(name, []).append(mean.values[value])
            batches[name] = mean.cluster
    return {name: statistics.fmean(of_seeds) for name, of_seeds in values.items()}, batches


def _estimate(runs: Sequence[DocumentMeans], value: str) -> Estimate | None:
    told = all(any(value in mean.values for mean in means.values()) for means in runs)
    return _mean(runs, value, "share").estimate if told else None


def _in_measures(runs: Sequence[DocumentMeans]) -> dict[Measure, Estimate]:
    """The gain in every measure that is told."""
    return {measure: e for measure in MEASURES if (e := _estimate(runs, measure))}


def _mean(runs: Sequence[DocumentMeans], value: str, accuracy: Kind) -> ClusteredMean:
    """The mean of a `value` over training runs, one for most; `accuracy` says what accuracies are. A gain in shares is
    a difference of them."""
    texts = min(mean.texts for means in runs for mean in means.values())
    values, clusters = zip(*(mean_over_seeds(means, value) for means in runs), strict=True)
    batches = {name: batch for of_run in clusters for name, batch in of_run.items()}
    kind = accuracy if value == "accuracy" else kind_of_gain(value)
    return ClusteredMean(values, batches, kind, texts)


def _estimate_arm(rows: Sequence[Row], names: Sequence[str], measure: Measure) -> ArmEstimates:
    runs = [[row for row in rows if row["arm"] == name] for name in names]
    # A student that failed left no rows; those of other arms tell that it was asked for.
    expected = {(row["seed"], row["batch"]) for row in rows}
    by_run = [{(row["seed"], row["batch"]): row for row in of_run} for of_run in runs]
    students = [row for of_run in by_run for row in of_run.values()]
    tokens = [row["tokens"] for row in students]
    losses = [
        {
            (str(batch), seed): DocumentMean(
                {"loss": row["retention_loss_after"] - row["retention_loss_before"]}, row["cluster"]
            )
            for (seed, batch), row in of_run.items()
            if row["retention_loss_after"] is not None
        }
        for of_run in by_run
    ]

    def means(kind: str = "document", source: str | None = None) -> list[DocumentMeans]:
        return [document_means(of_run, name, kind, source) for of_run, name in zip(runs, names, strict=True)]

    sources = sorted({row["source"] for row in rows if row["kind"] == "benchmark"})
    benchmarks = {source: of_source for source in sources if all(of_source := means("benchmark", source))}
    measures = _in_measures(means())
    return ArmEstimates(
        gain=measures.get(measure),
        measures=measures,
        accuracy=_estimate(means(), "accuracy"),
        benchmarks={source: e for source, of_it in benchmarks.items() if (e := _estimate(of_it, "loglik"))},
        benchmark_accuracies={source: e for source, of_it in benchmarks.items() if (e := _estimate(of_it, "accuracy"))},
        retention_loss=_estimate(losses, "loss"),
        retention_accuracy=_estimate(means("retention"), "accuracy"),
        steps=statistics.fmean(row["steps"] for row in students) if students else 0.0,
        tokens=statistics.fmean(tokens) if tokens else 0.0,
        tokens_least=min(tokens, default=0),
        tokens_most=max(tokens, default=0),
        planned_tokens=rows[0]["planned_tokens"],
        # Steps end where the tokens so far come nearest to the plan, so they miss it by a text at most.
        as_planned=bool(students)
        and all(abs(row["tokens"] - row["planned_tokens"]) <= row["longest_text"] for row in students),
        cut=sum(row["steps_cut"] > 0 for row in students),
        failed=len(expected) * len(names) - len(students),
    )


def _compare(
    by_student: Mapping[str, Mapping[str, Sequence[Row]]],
    arms: Sequence[Arm],
    settings: Evaluation,
    rewarded: Measure,
) -> tuple[dict[str, list[Comparison]], Correction]:
    """The comparisons of all students, with the p-values and verdicts of Holm's procedure in each family."""
    # The kind of the rows, and the value that verdicts are about: one measure of gain, fixed before looking.
    compared = {
        "gain": ("document", rewarded),
        "accuracy": ("document", "accuracy"),
        "benchmark": ("benchmark", "loglik"),
        "retention": ("retention", "accuracy"),
    }
    means: dict[tuple[str, str, str, str, str], ClusteredMean] = {}
    described: dict[tuple[str, str, str, str, str], dict[Measure, Estimate]] = {}
    for label, setting, measure in itertools.product(by_student, COMPARED_SETTINGS, compared):
        rows, (kind, value) = by_student[label].get(setting, []), compared[measure]
        by_arm = {arm: document_means(rows, arm, kind) for arm in dict.fromkeys(row["arm"] for row in rows)}
        best = ALONE + BEST[label] if settings.lab and label in BEST else None
        present = [arm for arm in arms if arm.name in by_arm]
        for arm, against in _pairs(present, settings, best):
            sides = ({one.run: by_arm[one.name] for one in present if one.group == side} for side in (arm, against))
            runs = _paired_runs(*sides)
            if all(runs):
                key = label, setting, measure, arm, against
                means[key] = _mean(runs, value, "difference")
                described[key] = _in_measures(runs) if measure == "gain" else {}
    p_values = {key: mean.p for key, mean in means.items()}
    corrected: dict[tuple[str, str, str, str, str], float | None] = {}
    families: dict[str, int] = {}
    # One family a measure and setting: whoever reads one measure sees all its comparisons at once.
    for measure, setting in itertools.product(compared, COMPARED_SETTINGS):
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
            "measures": described[key], "p": p_values[key], "p_corrected": p, "detectable": mean.detectable,
            "verdict": verdict,
        }  # fmt: skip
        comparisons[label].append(Comparison.model_validate(comparison))
    return comparisons, Correction(method="holm", level=LEVEL, families=families)


def _differences(means: DocumentMeans, others: DocumentMeans) -> DocumentMeans:
    """Only where both sides' students ran: what a seed does is common to both."""
    return {key: mean.minus(other) for key, mean in means.items() if (other := others.get(key))}


def _paired_runs(runs: Mapping[int, DocumentMeans], others: Mapping[int, DocumentMeans]) -> list[DocumentMeans]:
    """The differences of each training run, by its number: runs of one number have one seed. A side of a single one is
    compared with every run of the other."""
    if len(others) == 1:
        others = dict.fromkeys(runs, *others.values())
    elif len(runs) == 1:
        runs = dict.fromkeys(others, *runs.values())
    return [_differences(runs[run], others[run]) for run in runs if run in others]


def _pairs(arms: Sequence[Arm], settings: Evaluation, best: str | None = None) -> list[tuple[str, str]]:
    """Arms to compare, each pair once: every arm with the reference, trained teachers' with `evaluation.compared` or
    every other one, one that is distilled with the one of the same texts, and `best`, if it is an arm, with every
    other strategy alone. Several training runs are one side."""
    names, reference = list(dict.fromkeys(arm.group for arm in arms)), settings.against
    pairs = [(name, reference) for name in names if name != reference and reference in names]
    for trained in dict.fromkeys(arm.group for arm in arms if arm.kind == "trained"):
        compared = [name for name in names if name in settings.compared] if settings.compared else names
        others = [name for name in compared if name not in (trained, reference)]
        pairs += [(trained, other) for other in others if (other, trained) not in pairs]
    same = [(arm.group, arm._replace(distilled=False, name=arm.texts_of).group) for arm in arms if arm.distilled]
    pairs += [pair for pair in dict.fromkeys(same) if pair[1] in names and not {pair, pair[::-1]} & {*pairs}]
    if best in names:
        pairs += [(best, arm.name) for arm in arms if arm.kind == "strategy" and arm.name not in (best, reference)]
    return pairs


class ScalingEstimates(NamedTuple):
    """What so many rewrites a document are worth, see `records.ScalingPoint`."""

    measures: dict[Measure, Estimate]
    accuracy: Estimate
    more: Estimate | None
    more_p: float | None


def _estimate_scaling(rows: Sequence[Row], measure: Measure) -> dict[tuple[str, int], ScalingEstimates]:
    by_point: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        by_point.setdefault((row["arm"], row["rewrites"]), []).append(row)
    means = {point: document_means(of_point, point[0]) for point, of_point in by_point.items()}
    most = dict(sorted(by_point))
    # Paired with the most text, so that what a document or a batch is like drops out.
    more = {
        (arm, number): _mean([differences], measure, "difference")
        for arm, number in by_point
        if number < most[arm] and (differences := _differences(means[arm, most[arm]], means[arm, number]))
    }
    p_values = dict(zip(more, holm([mean.p for mean in more.values()]), strict=True))
    return {
        point: ScalingEstimates(
            _in_measures([of_point]), _mean([of_point], "accuracy", "share").estimate,
            more[point].estimate if point in more else None, p_values.get(point),
        )
        for point, of_point in means.items()
    }  # fmt: skip
