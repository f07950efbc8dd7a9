"""From rows to figures: everything in evaluation.json about gains and accuracies, from evaluation/items.parquet alone.

students = estimate_students(read_items(run_dir), design)
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from curation.evaluation.records import (
    ArmEstimates,
    Comparison,
    Correction,
    EditSequence,
    Estimate,
    FalsePositives,
)
from curation.evaluation.statistics import LEVEL, Mean, false_positives
from student.statistics.intervals import holm

Row = Mapping[str, Any]
MEASURES = {
    "gain": ("document", "gain"),
    "accuracy": ("document", "accuracy"),
    "benchmark": ("benchmark", "gain"),
    "retention": ("retention", "accuracy"),
}
"""What is compared: the kind of its rows, and what is read off them."""


class Design(NamedTuple):
    """What the rows do not say themselves."""

    arms: Sequence[str]
    reference: str
    """Every other arm is compared with it."""
    challengers: Sequence[str]
    """The trained teachers' arms: compared with every other one as well."""
    seeds: int
    pairs: int
    """Of the false-positive check."""
    repeated_arm: str | None
    """Whose students were repeated for it."""
    edits_arm: str
    replay: float


class StudentEstimates(NamedTuple):
    """One student's figures."""

    measured: dict[tuple[str, str], ArmEstimates]
    """By setting (`together`, `single`) and arm."""
    scaling: dict[tuple[str, int], tuple[Estimate, Estimate]]
    """Gain and accuracy by arm and number of rewrites."""
    comparisons: list[Comparison]
    sequences: list[EditSequence]
    false_positives: FalsePositives | None


def estimate_students(rows: Sequence[Row], design: Design) -> tuple[dict[str, StudentEstimates], Correction]:
    """Every student's figures, and how their comparisons were corrected: over all students at once."""
    by_student: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        by_student.setdefault(row["student"], {}).setdefault(row["setting"], []).append(row)
    raw = {name: _comparisons(settings, design) for name, settings in by_student.items()}
    families: dict[str, int] = {}
    for measure in MEASURES:
        for setting in ("together", "single"):
            family = [
                (name, i)
                for name, found in raw.items()
                for i, comparison in enumerate(found)
                if comparison.measure == measure and comparison.setting == setting
            ]
            for (name, i), p in zip(family, holm([raw[n][i].p for n, i in family]), strict=True):
                raw[name][i] = raw[name][i].model_copy(update={"p_corrected": p, "verdict": _verdict(raw[name][i], p)})
            if family:
                families[f"{setting}/{measure}"] = sum(raw[name][i].p is not None for name, i in family)
    real = [c.p for found in raw.values() for c in found if (c.setting, c.measure) == ("together", "gain")]
    found = {
        name: StudentEstimates(
            measured={
                (setting, arm): _measured(settings[setting], arm)
                for setting in ("together", "single")
                if setting in settings
                for arm in design.arms
                if setting == "together" or any(row["arm"] == arm for row in settings[setting])
            },
            scaling=_scaling(settings.get("scaling", [])),
            comparisons=raw[name],
            sequences=_sequences(settings.get("sequence", []), design),
            false_positives=_false_positives(settings.get("false-positives", []), design, real),
        )
        for name, settings in by_student.items()
    }
    return found, Correction(method="holm", level=LEVEL, families=families)


class DocumentMean(NamedTuple):
    """One document (or one batch, of items about no document) under one seed: mean over its questions."""

    gain: float
    accuracy: float
    batch: int


def cells(
    rows: Sequence[Row], arm: str, kind: str = "document", source: str | None = None
) -> dict[tuple[str, int], DocumentMean]:
    """By document and seed. Items about no document are the batch's: its number stands for a document. `source` None
    takes the items of all sources."""
    found: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        if row["arm"] == arm and row["kind"] == kind and source in (None, row["source"]):
            found.setdefault((row["document_id"] or str(row["batch"]), row["seed"]), []).append(row)
    return {
        key: DocumentMean(
            statistics.fmean(row["loglik_after"] - row["loglik_before"] for row in own),
            statistics.fmean(row["correct_after"] for row in own),
            own[0]["batch"],
        )
        for key, own in found.items()
    }


def over_seeds(found: Mapping[tuple[str, int], DocumentMean], measure: str) -> tuple[dict[str, float], dict[str, int]]:
    """Each document's mean over seeds, and its batch."""
    values: dict[str, list[float]] = {}
    batches: dict[str, int] = {}
    for (name, _), cell in found.items():
        values.setdefault(name, []).append(getattr(cell, measure))
        batches[name] = cell.batch
    return {name: statistics.fmean(own) for name, own in values.items()}, batches


def _figure(found: Mapping[tuple[str, int], DocumentMean], measure: str) -> Estimate | None:
    if not found:
        return None
    values, batches = over_seeds(found, measure)
    return Mean(values, batches).figure(share=measure == "accuracy")


def _measured(rows: Sequence[Row], arm: str) -> ArmEstimates:
    own = [row for row in rows if row["arm"] == arm]
    asked = {(row["seed"], row["batch"]) for row in rows}
    students = {(row["seed"], row["batch"]): row for row in own}
    lost = {
        (str(batch), seed): DocumentMean(row["retention_loss_after"] - row["retention_loss_before"], 0.0, batch)
        for (seed, batch), row in students.items()
        if row["retention_loss_after"] is not None
    }
    sources = sorted({row["source"] for row in rows if row["kind"] == "benchmark"})
    benchmarks = {source: cells(own, arm, "benchmark", source) for source in sources}
    return ArmEstimates(
        gain=_figure(cells(own, arm), "gain"),
        accuracy=_figure(cells(own, arm), "accuracy"),
        benchmarks={name: f for name, found in benchmarks.items() if (f := _figure(found, "gain"))},
        benchmark_accuracies={name: f for name, found in benchmarks.items() if (f := _figure(found, "accuracy"))},
        retention_loss=_figure(lost, "gain"),
        retention_accuracy=_figure(cells(own, arm, "retention"), "accuracy"),
        steps=statistics.fmean(row["steps"] for row in students.values()) if students else 0.0,
        tokens=statistics.fmean(row["tokens"] for row in students.values()) if students else 0.0,
        failed=len(asked) - len(students),
    )


def _pairs(design: Design, arms: set[str]) -> list[tuple[str, str]]:
    """Arms to compare, each pair once."""
    there = [arm for arm in design.arms if arm in arms]
    found = [(arm, design.reference) for arm in there if arm != design.reference and design.reference in arms]
    for challenger in design.challengers:
        found += [
            (challenger, other)
            for other in there
            if challenger in arms and other not in (challenger, design.reference) and (other, challenger) not in found
        ]
    return list(dict.fromkeys(found))


def _comparisons(settings: Mapping[str, Sequence[Row]], design: Design) -> list[Comparison]:
    """Without the correction, which takes all students at once."""
    found = []
    for setting in ("together", "single"):
        rows = settings.get(setting, [])
        for measure, (kind, value) in MEASURES.items():
            by_arm = {arm: cells(rows, arm, kind) for arm in dict.fromkeys(row["arm"] for row in rows)}
            for arm, against in _pairs(design, set(by_arm)):
                ours, theirs = by_arm[arm], by_arm[against]
                # Only where both sides' students ran: what a seed does is common to both.
                paired = {key: _minus(ours[key], theirs[key]) for key in ours if key in theirs}
                if not paired:
                    continue
                mean = Mean(*over_seeds(paired, value))
                found.append(
                    Comparison(
                        measure=measure,  # type: ignore[arg-type]
                        setting=setting,  # type: ignore[arg-type]
                        arm=arm,
                        against=against,
                        difference=mean.figure(),
                        p=mean.p,
                        p_corrected=None,
                        detectable=mean.detectable,
                        verdict="no detectable difference",
                    )
                )
    return found


def _minus(ours: DocumentMean, theirs: DocumentMean) -> DocumentMean:
    return DocumentMean(ours.gain - theirs.gain, ours.accuracy - theirs.accuracy, ours.batch)


def _verdict(comparison: Comparison, p: float | None) -> str:
    if p is None or p >= LEVEL:
        return "no detectable difference"
    return "better" if comparison.difference.mean > 0 else "worse"


def _scaling(rows: Sequence[Row]) -> dict[tuple[str, int], tuple[Estimate, Estimate]]:
    found = {}
    for arm, number in dict.fromkeys((row["arm"], row["rewrites"]) for row in rows):
        own = cells([row for row in rows if row["rewrites"] == number], arm)
        gain, accuracy = _figure(own, "gain"), _figure(own, "accuracy")
        assert gain is not None and accuracy is not None
        found[arm, number] = gain, accuracy
    return found


def _false_positives(rows: Sequence[Row], design: Design, family: Sequence[float | None]) -> FalsePositives | None:
    if not rows or design.repeated_arm is None:
        return None
    gains: dict[str, dict[int, float]] = {}
    batches: dict[str, int] = {}
    for (name, seed), cell in cells(rows, design.repeated_arm).items():
        gains.setdefault(name, {})[seed] = cell.gain
        batches[name] = cell.batch
    return false_positives(
        design.repeated_arm, gains, batches, pairs=design.pairs, side=design.seeds, family=family
    )  # fmt: skip


def _sequences(rows: Sequence[Row], design: Design) -> list[EditSequence]:
    found = []
    for how in dict.fromkeys(row["arm"] for row in rows):
        own = [row for row in rows if row["arm"] == how]
        edits = max(row["edit"] for row in own)
        states = [_state(own, edit) for edit in range(edits + 1)]
        asked = _edit_of(own)
        number = max(asked.values())
        accuracy, gain = (
            [
                [
                    statistics.fmean(state[name][i] for name, e in asked.items() if e == edit)
                    for edit in range(1, number + 1)
                ]
                for state in states
            ]
            for i in (0, 1)
        )
        studied = [range(row) for row in range(1, edits + 1)]
        sizes = [sum(e == edit for e in asked.values()) for edit in range(1, number + 1)]
        kept = [_retention(own, edit) for edit in range(edits + 1)]
        found.append(
            EditSequence(
                arm=design.edits_arm,
                replay=design.replay if how == "replay" else 0.0,
                accuracy=accuracy,
                gain=[[value - before for value, before in zip(row, gain[0], strict=True)] for row in gain],
                studied=[_weighted(accuracy[len(own)], sizes, own) for own in studied],
                studied_unedited=[_weighted(accuracy[0], sizes, own) for own in studied],
                retention_accuracy=None if kept[0][0] is None else [float(a) for a, _ in kept if a is not None],
                retention_loss=None if kept[0][1] is None else [float(b) for _, b in kept if b is not None],
            )
        )
    return found


def _state(rows: Sequence[Row], edit: int) -> dict[str, tuple[float, float]]:
    """Accuracy and log-likelihood by document after `edit` edits; edit 0 is what the first edit found."""
    when = "after" if edit else "before"
    by_document: dict[str, list[Row]] = {}
    for row in rows:
        if row["edit"] == max(1, edit) and row["kind"] == "document":
            by_document.setdefault(row["document_id"], []).append(row)
    return {
        name: (
            statistics.fmean(row[f"correct_{when}"] for row in own),
            statistics.fmean(row[f"loglik_{when}"] for row in own),
        )
        for name, own in by_document.items()
    }


def _edit_of(rows: Sequence[Row]) -> dict[str, int]:
    """The edit that first teaches each document: `batch` of the sequence's rows."""
    return {row["document_id"]: row["batch"] for row in rows if row["kind"] == "document"}


def _retention(rows: Sequence[Row], edit: int) -> tuple[float | None, float | None]:
    when = "after" if edit else "before"
    own = [row for row in rows if row["edit"] == max(1, edit)]
    known = [row[f"correct_{when}"] for row in own if row["kind"] == "retention"]
    return (statistics.fmean(known) if known else None), own[0][f"retention_loss_{when}"]


def _weighted(values: Sequence[float], sizes: Sequence[int], which: range) -> float:
    """Mean over documents of the edits `which`."""
    return sum(values[i] * sizes[i] for i in which) / sum(sizes[i] for i in which)
