"""What an evaluation leaves on disk: evaluation.json, and the rows and lessons that it was made from."""

import json
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datatrove.data import Document
from transformers import AutoTokenizer

from configs.files import write_whole
from configs.schema import Config
from curation.evaluation.arms import ArmLine
from curation.evaluation.estimates import StudentEstimates, cells, over_seeds
from curation.evaluation.records import (
    ITEM_COLUMNS,
    ITEMS_FILE,
    LESSON_COLUMNS,
    LESSONS_FILE,
    RESULT_FILE,
    Arm,
    EvaluationResult,
    ScalingPoint,
    StudentResult,
)
from curation.evaluation.students import Measurements
from curation.evaluation.teachers import Checkpoints
from curation.evaluation.texts import Groups, lesson_texts
from teacher.gates.text import overlap_shares


def student_result(
    config: Config,
    arms: Sequence[ArmLine],
    model: str,
    label: str,
    documents: Sequence[Document],
    measured: Measurements,
    found: StudentEstimates,
    checkpoints: Checkpoints,
) -> StudentResult:
    """One student's part of evaluation.json."""
    tokenizer = AutoTokenizer.from_pretrained(model)

    def tokens(texts: Mapping[str, Sequence[str]]) -> float:
        counts = [
            sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in dict.fromkeys(own))
            for own in texts.values()
        ]
        return sum(counts) / len(documents)

    def overlap(texts: Mapping[str, Sequence[str]]) -> float:
        shares = [share for own in texts.values() for share in overlap_shares(own)]
        return statistics.fmean(shares) if shares else 0.0

    size = config.rl.rewrites_per_lesson
    of_arms = {}
    for arm in arms:
        groups = measured.texts[arm.name]
        texts = lesson_texts(groups, size)
        taught = [rewrite for group in groups for rewrite in group[:size] if rewrite.rejected is None]
        shares = Counter(rewrite.strategy for rewrite in taught if arm.samples or arm.kind == "best-of")
        of_arms[arm.name] = Arm(
            words=arm.words(),
            equal_tokens=arm.equal_tokens,
            lesson_tokens=tokens(texts),
            texts=len(taught) / len(documents),
            rejected=sum(rewrite.rejected is not None for group in groups for rewrite in group[:size]),
            overlap=overlap(texts),
            strategies={name: count / shares.total() for name, count in shares.most_common()},
            together=found.measured["together", arm.name],
            single=found.measured.get(("single", arm.name)),
        )
    scaling: dict[str, list[ScalingPoint]] = {}
    for (name, number), (gain, accuracy) in sorted(found.scaling.items(), key=lambda item: item[0][1]):
        texts = lesson_texts(measured.texts[name], number)
        scaling.setdefault(name, []).append(
            ScalingPoint(
                rewrites=number, lesson_tokens=tokens(texts), overlap=overlap(texts), gain=gain, accuracy=accuracy
            )
        )
    trained = next((path for (_, of), path in checkpoints.items() if of == label and path is not None), None)
    return StudentResult(
        model=model,
        teacher=None if trained is None else str(trained),
        arms=of_arms,
        comparisons=found.comparisons,
        scaling=scaling,
        sequences=found.sequences,
        false_positives=found.false_positives,
    )


def lesson_table(
    arms: Sequence[ArmLine],
    documents: Sequence[Document],
    found: Mapping[str, Measurements],
    rows: Sequence[Mapping[str, Any]],
    config: Config,
) -> pa.Table:
    """What every arm taught about every document, and what came of it."""
    size = config.rl.rewrites_per_lesson
    lines = []
    for label, measured in found.items():
        own = [row for row in rows if row["student"] == label and row["setting"] == "together"]
        for arm in arms:
            by_document = cells(own, arm.name)
            gains, accuracies = (over_seeds(by_document, measure)[0] for measure in ("gain", "accuracy"))
            groups: Groups = measured.texts[arm.name]
            for document, group in zip(documents, groups, strict=True):
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


def notes(config: Config, arms: Sequence[ArmLine], documents: Sequence[Document]) -> list[str]:
    """What a reader must know of how it was measured."""
    settings, student = config.evaluation, config.student
    clusters = math.ceil(len(documents) / config.reward.documents_together)
    asked = "all their questions, none of which was rewarded" if settings.questions == "all" else "held-out questions"
    found = [
        f"{len(documents)} documents that no teacher was trained on, asked {asked}; every arm but `none` and"
        f" `raw` gets {student.steps} steps of {student.tokens_per_step} tokens, and what holds fewer is met again.",
        f"Intervals are 95%, cluster-robust over {clusters} batches of documents that share students (Student's t,"
        f" {clusters - 1} degrees of freedom), {settings.seeds} students a batch and arm, whose random numbers all arms"
        " have in common.",
        "Comparisons are corrected by Holm within each setting and measure, over all students: a verdict other than"
        " `no detectable difference` stands after that.",
    ]
    if any(arm.kind == "raw" for arm in arms):
        found.append(f"`raw` reads the documents {student.epochs} times, with as many tokens and steps as that takes.")
    if any(arm.kind == "best-of" for arm in arms):
        found.append("`best-of` chose among lessons by the same documents' reward questions, which are not asked here.")
    if settings.scaling:
        found.append("Scaling curves: more different rewrites at the same tokens and steps, one seed.")
    if settings.single_documents:
        found.append("One document a student: a document's share of the tokens, the same steps, one seed.")
    if settings.edits:
        found.append("A sequence of edits is one student; its matrix has no interval.")
    if clusters < 2:
        found.append("One batch of documents makes no interval possible: evaluate more of them.")
    return found


def write_result(
    config: Config, rows: Sequence[Mapping[str, Any]], lessons: pa.Table, result: EvaluationResult
) -> None:
    """Each file whole or not at all; evaluation.json last."""
    folder = config.run.dir
    for name, table in ((ITEMS_FILE, pa.Table.from_pylist(list(rows), schema=ITEM_COLUMNS)), (LESSONS_FILE, lessons)):
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        write_whole(folder / name, sink.getvalue().to_pybytes())
    content = json.dumps(result.model_dump(mode="json"), allow_nan=False, indent=1)
    write_whole(folder / RESULT_FILE, content + "\n")
