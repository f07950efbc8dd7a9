"""What an evaluation leaves on disk: evaluation.json, and the rows and lessons that it was made from."""

import json
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from transformers import AutoTokenizer

from configs.files import write_whole
from curation.evaluation.estimates import StudentEstimates, document_means, mean_over_seeds
from curation.evaluation.inputs import Inputs
from curation.evaluation.measure import Measurements
from curation.evaluation.records import (
    ITEM_COLUMNS,
    ITEMS_FILE,
    LESSON_COLUMNS,
    LESSONS_FILE,
    RESULT_FILE,
    ArmResult,
    EvaluationResult,
    Expectation,
    ScalingPoint,
    StudentResult,
)
from curation.evaluation.statistics import LEVEL
from curation.evaluation.texts import taught_texts
from teacher.gates.text import overlap_shares

BEST = {"student-augmented": "strategy:permuted", "student-fixed": "strategy:question-answer"}
"""The single strategy that is worth most to each of the lab's students."""
JUNK = ("strategy:wrong", "strategy:filler")


def student_result(
    inputs: Inputs, label: str, measurements: Measurements, estimates: StudentEstimates, teacher: Path | None
) -> StudentResult:
    """One student's part of evaluation.json; `teacher` is the trained teacher's checkpoint."""
    model, documents = inputs.students[label], len(inputs.documents)
    tokenizer = AutoTokenizer.from_pretrained(model)

    def lesson_tokens(texts: Mapping[str, Sequence[str]]) -> float:
        # A text that a lesson holds twice counts once: the x axis of a scaling curve is different tokens.
        counts = [
            sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in dict.fromkeys(lesson))
            for lesson in texts.values()
        ]
        return sum(counts) / documents

    def overlap(texts: Mapping[str, Sequence[str]]) -> float:
        shares = [share for lesson in texts.values() for share in overlap_shares(lesson)]
        return statistics.fmean(shares) if shares else 0.0

    size = inputs.config.rl.rewrites_per_lesson
    arms = {}
    for arm in inputs.arms:
        groups = measurements.texts[arm.name]
        texts = taught_texts(groups, size)
        rewrites = [rewrite for group in groups for rewrite in group[:size]]
        taught = [rewrite for rewrite in rewrites if rewrite.rejected is None]
        strategies = Counter(rewrite.strategy for rewrite in taught if arm.written or arm.kind == "best-of")
        arms[arm.name] = ArmResult(
            words=arm.words,
            equal_tokens=arm.equal_tokens and estimates.arms["together", arm.name].as_planned,
            lesson_tokens=lesson_tokens(texts),
            texts=len(taught) / documents,
            rejected=len(rewrites) - len(taught),
            overlap=overlap(texts),
            strategies={name: count / strategies.total() for name, count in strategies.most_common()},
            together=estimates.arms["together", arm.name],
            single=estimates.arms.get(("single", arm.name)),
        )
    scaling: dict[str, list[ScalingPoint]] = {}
    for (name, number), (gain, accuracy) in sorted(estimates.scaling.items(), key=lambda item: item[0][1]):
        texts = taught_texts(measurements.texts[name], number)
        tokens, shared = lesson_tokens(texts), overlap(texts)
        point = ScalingPoint(rewrites=number, lesson_tokens=tokens, overlap=shared, gain=gain, accuracy=accuracy)
        scaling.setdefault(name, []).append(point)
    return StudentResult(
        model=model,
        teacher=None if teacher is None else str(teacher),
        arms=arms,
        comparisons=estimates.comparisons,
        scaling=scaling,
        sequences=estimates.sequences,
        false_positives=estimates.false_positives,
    )


def lesson_table(
    inputs: Inputs, measurements: Mapping[str, Measurements], rows: Sequence[Mapping[str, Any]]
) -> pa.Table:
    """What was taught in the setting `together`, and what came of it, see `records.LESSON_COLUMNS`."""
    together = [row for row in rows if row["setting"] == "together"]
    size = inputs.config.rl.rewrites_per_lesson
    lines = []
    for label, of_student in measurements.items():
        student_rows = [row for row in together if row["student"] == label]
        for arm in inputs.arms:
            means = document_means(student_rows, arm.name)
            gains, accuracies = (mean_over_seeds(means, value)[0] for value in ("gain", "accuracy"))
            for document, group in zip(inputs.documents, of_student.texts[arm.name], strict=True):
                taught = [rewrite for rewrite in group[:size] if rewrite.rejected is None]
                lines.append(
                    {
                        "student": label,
                        "arm": arm.name,
                        "document_id": document.id,
                        "document": document.text,
                        "texts": [rewrite.text for rewrite in taught],
                        "strategies": [rewrite.strategy for rewrite in taught],
                        "rejected": [rewrite.rejected for rewrite in group[:size] if rewrite.rejected is not None],
                        "gain": gains.get(document.id),
                        "accuracy": accuracies.get(document.id),
                    }
                )
    return pa.Table.from_pylist(lines, schema=LESSON_COLUMNS)


def notes(inputs: Inputs, students: Mapping[str, StudentResult]) -> list[str]:
    """What a reader must know of how it was measured, a sentence each."""
    config = inputs.config
    settings, student, documents = config.evaluation, config.student, len(inputs.documents)
    clusters = math.ceil(documents / config.reward.documents_together)
    asked = "all their questions, none of which was rewarded" if settings.questions == "all" else "held-out questions"
    kinds = {arm.kind for arm in inputs.arms}
    sentences = [
        f"{documents} documents that no teacher was trained on, asked {asked}; every arm but `none` and `raw` gets"
        f" {student.steps} steps of {student.tokens_per_step} tokens, and what holds fewer is met again.",
        f"Intervals are 95%, cluster-robust over {clusters} batches of documents that share students (Student's t,"
        f" {clusters - 1} degrees of freedom), {settings.seeds} students a batch and arm, whose random numbers all arms"
        " have in common.",
        "Comparisons are corrected by Holm within each setting and measure, over all students: a verdict other than"
        " `no detectable difference` stands after that.",
    ]
    for label, of_student in students.items():
        for arm in inputs.arms:
            measured = of_student.arms[arm.name]
            if arm.equal_tokens and not measured.equal_tokens:
                sentences.append(
                    f"UNEQUAL: students of {label} trained on {measured.together.tokens_least} to"
                    f" {measured.together.tokens_most} tokens of `{arm.name}`, not on the planned"
                    f" {measured.together.planned_tokens}: a text is longer than a step, or a lesson has none."
                )
    if "raw" in kinds:
        sentences.append(
            f"`raw` reads the documents {student.epochs} times, with as many tokens and steps as that takes."
        )
    if "best-of" in kinds:
        sentences.append(
            "`best-of` chose among lessons by the same documents' reward questions, which are not asked here."
        )
    if settings.scaling:
        sentences.append("Scaling curves: more different rewrites at the same tokens and steps, one seed.")
    if settings.single_documents:
        sentences.append("One document a student: a document's share of the tokens, the same steps, one seed.")
    if settings.edits:
        sentences.append("A sequence of edits is one student; its matrix has no interval.")
    if clusters < 2:
        sentences.append("One batch of documents makes no interval possible: evaluate more of them.")
    return sentences


def lab_expectations(result: EvaluationResult) -> list[Expectation]:
    """The ordering that the lab was built for, as far as its arms, sequences and checks were measured."""
    expectations: list[Expectation] = []
    for label, student in result.students.items():

        def expect(words: str, holds: bool, label: str = label) -> None:
            expectations.append(Expectation(words=f"{label}: {words}", holds=holds))

        equal = {name: arm.together.gain for name, arm in student.arms.items() if arm.equal_tokens}
        gains = {name: gain.mean for name, gain in equal.items() if gain is not None}
        junk = [gains[name] for name in JUNK if name in gains]
        rest = [gain for name, gain in gains.items() if name not in JUNK]
        if junk and rest:
            expect("filler and wrong facts are at the bottom of all arms", max(junk) < min(rest))
        single = {name: gain for name, gain in gains.items() if name.startswith("strategy:")}
        best = BEST.get(label)
        if best in single:
            expect(f"{best} is the best single strategy", max(single, key=lambda name: gains[name]) == best)
        for c in student.comparisons:
            trained = (c.arm, c.setting, c.measure) == ("trained", "together", "gain")
            if trained and c.against in ("repeated", "untrained"):
                expect(f"the trained teacher beats {c.against}", c.verdict == "better")
        for sequence in student.sequences:
            if sequence.studied:
                how = "with replay" if sequence.replay else "without replay"
                above = sequence.studied[-1] > sequence.studied_unedited[-1]
                expect(f"after {len(sequence.studied)} edits {how} it knows more than the never-edited", above)
        if (check := student.false_positives) is not None:
            words = f"at most 5% of {check.pairs} pairs of equal arms differ by the verdict"
            expect(words, check.differ_corrected <= LEVEL * check.pairs)
    return expectations


def write_result(run_dir: Path, rows: Sequence[Mapping[str, Any]], lessons: pa.Table, result: EvaluationResult) -> None:
    """Each file whole or not at all; evaluation.json last."""
    items = pa.Table.from_pylist(list(rows), schema=ITEM_COLUMNS)
    for name, table in ((ITEMS_FILE, items), (LESSONS_FILE, lessons)):
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        write_whole(run_dir / name, sink.getvalue().to_pybytes())
    content = json.dumps(result.model_dump(mode="json"), allow_nan=False, indent=1)
    write_whole(run_dir / RESULT_FILE, content + "\n")
