"""What an evaluation leaves on disk: evaluation.json, and the rows and lessons that it was made from."""

import itertools
import statistics
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from configs.files import write_json, write_whole
from configs.format import amount
from curation.evaluation.arms import names_by_group
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
    ScalingPoint,
    StudentResult,
)
from curation.evaluation.texts import taught_texts
from student.engine.models import read_tokenizer
from student.plans import TaughtText, plain
from student.records import Document, group_of, in_measure
from student.text.words import overlap_shares
from teacher.records import ONE_RUN, Rewrite
from teacher.reward.assignment import clusters_of


def student_result(
    inputs: Inputs, label: str, measurements: Measurements, estimates: StudentEstimates, teacher: Path | None
) -> StudentResult:
    """One student's part of evaluation.json; `teacher` is the trained teacher's checkpoint."""
    model, documents = inputs.students[label], len(inputs.documents)
    tokenizer = read_tokenizer(model)

    def lesson_tokens(texts: Mapping[str, Sequence[TaughtText]]) -> float:
        # A text that a lesson holds twice counts once: the x axis of a scaling curve is different tokens.
        counts = [
            sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in dict.fromkeys(plain(lesson)))
            for lesson in texts.values()
        ]
        return sum(counts) / documents

    def overlap(texts: Mapping[str, Sequence[TaughtText]]) -> float:
        shares = [share for lesson in texts.values() for share in overlap_shares(plain(lesson))]
        return statistics.fmean(shares) if shares else 0.0

    size = inputs.config.rl.rewrites_per_lesson
    arms = {}
    for name, runs in names_by_group(inputs.arms).items():
        of_runs = [measurements.texts[run] for run in runs]
        by_run = [taught_texts(groups, size) for groups in of_runs]
        rewrites = [[rewrite for group in groups for rewrite in group[:size]] for groups in of_runs]
        arm = next(arm for arm in inputs.arms if arm.name == runs[0])
        of_strategies = [shares_of(of_run) if arm.written or arm.chosen else {} for of_run in rewrites]
        arms[name] = ArmResult(
            words=arm.words if len(runs) == 1 else arm.words_of_runs(f"{len(runs)} training runs") + arm.learnt,
            equal_tokens=arm.equal_tokens and estimates.arms["together", name].as_planned,
            lesson_tokens=statistics.fmean(map(lesson_tokens, by_run)),
            texts=sum(len(texts) for lessons in by_run for texts in lessons.values()) / documents / len(runs),
            rejected=sum(rewrite.rejected is not None for of_run in rewrites for rewrite in of_run),
            overlap=statistics.fmean(map(overlap, by_run)),
            strategies=shares_of(itertools.chain(*rewrites)) if arm.written or arm.chosen else {},
            together=estimates.arms["together", name],
            single=estimates.arms.get(("single", name)),
            training_runs=len(runs),
            strategies_by_run=of_strategies if len(runs) > 1 else [],
        )
    scaling: dict[str, list[ScalingPoint]] = {}
    for (name, number), found in sorted(estimates.scaling.items(), key=lambda item: item[0][1]):
        texts = taught_texts(measurements.texts[name], number)
        tokens, shared = lesson_tokens(texts), overlap(texts)
        point = ScalingPoint(
            rewrites=number, lesson_tokens=tokens, overlap=shared, gain=found.measures[inputs.config.reward.measure],
            **found._asdict(),
        )  # fmt: skip
        scaling.setdefault(name, []).append(point)
    return StudentResult(
        model=model,
        teacher=None if teacher is None else str(teacher),
        arms=arms,
        comparisons=estimates.comparisons,
        scaling=scaling,
        sequences=estimates.sequences,
        replay_effect=estimates.replay_effect,
    )


def shares_of(rewrites: Iterable[Rewrite]) -> dict[str, float]:
    """Share of each strategy in what passed the gates, the most frequent first."""
    counts = Counter(rewrite.strategy for rewrite in rewrites if rewrite.rejected is None)
    return {strategy: count / counts.total() for strategy, count in counts.most_common()}


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
            gains, accuracies = (
                mean_over_seeds(means, value)[0] for value in (inputs.config.reward.measure, "accuracy")
            )
            for document, group in zip(inputs.documents, of_student.texts[arm.name], strict=True):
                taught = [rewrite for rewrite in group[:size] if rewrite.rejected is None]
                lines.append(
                    {
                        "student": label,
                        "arm": arm.name,
                        "document_id": document.id,
                        "document": document.text,
                        "texts": [rewrite.shown for rewrite in taught],
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
    unit, drawn = "batches", "batches of documents that share students"
    clusters = len(set(clusters_of(inputs.documents, config.reward.documents_together)))
    if config.reward.documents_together == 1:
        unit, drawn = "titles", "titles of documents"
    asked = "all their questions, none of which was rewarded" if settings.questions == "all" else "held-out questions"
    kinds, measure = {arm.kind for arm in inputs.arms}, config.reward.measure
    of_run = ""
    if any(arm.run for arm in inputs.arms):
        runs = amount(settings.training_runs, "training run")
        of_run = f"; those of trained teachers also draw their {runs}, crossed with the {unit}"
    elif "trained" in kinds:
        of_run = f"; those of a trained teacher are of {ONE_RUN} and do not say what another run's would be worth"
    sentences = [
        f"{documents} documents that no teacher was trained on, asked {asked}; every arm but `none` and `raw` gets"
        f" {student.steps} steps of {student.tokens_per_step} tokens, and what holds fewer is met again.",
        f"Intervals are 95%, cluster-robust over {clusters} {drawn} (Student's t,"
        f" {clusters - 1} degrees of freedom), {settings.seeds} students a batch and arm, whose random numbers all arms"
        f" have in common{of_run}.",
        f"Gains and verdicts are {in_measure(measure)}, as `reward.measure` says; other measures describe.",
        "Comparisons are corrected by Holm within each setting and measure, over all students: a verdict other than"
        " `no detectable difference` stands after that.",
    ]
    if parted := parted_titles(inputs.documents, config.reward.documents_together):
        sentences.append(
            f"The texts of {amount(parted, 'title')} lie in several batches, which count as independent:"
            " intervals are too short by what such texts have in common. `reward.credit: document` draws titles."
        )
    for label, of_student in students.items():
        for arm in inputs.arms:
            measured = of_student.arms[arm.group]
            if arm.equal_tokens and not measured.equal_tokens:
                sentences.append(
                    f"UNEQUAL: students of {label} trained on {measured.together.tokens_least} to"
                    f" {measured.together.tokens_most} tokens of `{arm.name}`, not on the planned"
                    f" {measured.together.planned_tokens}: a text is longer than a step, or a lesson has none."
                )
    cut = sum(arm.together.cut for of_student in students.values() for arm in of_student.arms.values())
    if cut:
        sentences.append(f"student.max_lesson_tokens={student.max_lesson_tokens} cut the last steps of {cut} students.")
    if "raw" in kinds:
        sentences.append(
            f"`raw` reads the documents {student.epochs} times, with as many tokens and steps as that takes."
        )
    if "best-of" in kinds:
        sentences.append(
            "`best-of` chose among lessons by the same documents' reward questions, which are not asked here."
        )
    if "oracle" in kinds:
        sentences.append("`oracle` chose by the questions that are asked here, on other students: a bound, no method.")
    if settings.scaling:
        sentences.append(
            "Scaling curves: more different rewrites at the same tokens and steps, one seed; a point is compared with"
            " its arm's most rewrites, by Holm over a student's points."
        )
    if settings.single_documents:
        sentences.append("One document a student: a document's share of the tokens, the same steps, one seed.")
    if settings.edits:
        sentences.append(
            f"Edits in a row: intervals are over {settings.sequences} sequences, which edit"
            " documents of this one set in other orders and groups, with other seeds."
        )
    if clusters < 2:
        sentences.append("One batch or title of documents makes no interval possible: evaluate more of them.")
    return sentences


def write_result(run_dir: Path, rows: Sequence[Mapping[str, Any]], lessons: pa.Table, result: EvaluationResult) -> None:
    """Each file whole or not at all; evaluation.json last."""
    items = pa.Table.from_pylist(list(rows), schema=ITEM_COLUMNS)
    for name, table in ((ITEMS_FILE, items), (LESSONS_FILE, lessons)):
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        write_whole(run_dir / name, sink.getvalue().to_pybytes())
    write_json(run_dir / RESULT_FILE, result.model_dump(mode="json"))


def parted_titles(documents: Sequence[Document], together: int) -> int:
    """Titles of which documents or passages lie in more than one batch (without a title: those of one text, see
    `group_of`); where a student learns a single one, titles are drawn."""
    batches: dict[Hashable, set[int]] = defaultdict(set)
    for number, document in enumerate(documents):
        batches[group_of(document)].add(number // together)
    return 0 if together == 1 else sum(len(numbers) > 1 for numbers in batches.values())
