"""Everything that is measured of one student model, in a process of its own."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from datatrove.data import Document

from configs.schema import Config
from curation.evaluation.arms import ArmLine, edits_line, scaling_lines
from curation.evaluation.edits import edits_folder, run_edits
from curation.evaluation.measure import Row, RunKey, StudentBench
from curation.evaluation.processes import Message, Tell
from curation.evaluation.records import ITEM_COLUMNS
from curation.evaluation.texts import Groups, LessonTexts, lesson_texts
from student.records import Job, Question
from teacher.reward.student_models import MakePool
from teacher.run.journal import Journal


class StudentTask(NamedTuple):
    """What a student's process is given. Picklable."""

    config: Config
    """With the one student, and the steps and tokens of the evaluation."""
    label: str
    documents: Sequence[Document]
    arms: Sequence[ArmLine]
    extra: Mapping[tuple[str, str], Sequence[Question]]
    items: Sequence[Question]
    """What no text may carry."""
    checkpoints: Mapping[str, Path | None]
    """By `trained` arm."""
    make_pool: MakePool


class Measurements(NamedTuple):
    """What comes back: rows are on disk, they may be many."""

    items: Path
    texts: dict[str, Groups]
    """By arm, as they were taught."""
    student_runs: int


def repeated_arm(arms: Sequence[ArmLine]) -> ArmLine | None:
    """The arm whose students are repeated for the false-positive check: texts that vary, where a teacher writes."""
    writes = [arm for arm in arms if arm.samples]
    others = [arm for arm in arms if arm.equal_tokens]
    return next(iter([*(a for a in writes if a.kind == "untrained"), *writes, *others]), None)


def measure_student(work: StudentTask, tell: Tell) -> Measurements:
    """All settings of one student model. Raises UserError and RunError."""
    config = work.config
    folder = config.run.dir / "evaluation" / "students" / work.label.replace("/", "-")
    arm_texts = LessonTexts(config, work.documents, work.items)
    with Journal(folder) as journal:
        counted = _Count(tell)
        pool = work.make_pool(config.student)
        bench = StudentBench(config, work.label, work.documents, work.extra, pool, journal, counted.reach)
        texts = {}
        for arm in work.arms:
            groups = arm_texts.texts(arm, work.arms, work.checkpoints.get(arm.name))
            if arm.kind == "best-of":
                counted.expect_unknown()
                groups = bench.choose(groups)
            texts[arm.name] = groups
        del arm_texts
        rows = _together(bench, work, texts, counted)
        runs = bench.runs.students
        if config.evaluation.edits:
            arm = edits_line(config, work.arms)
            taught = lesson_texts(texts[arm.name], config.rl.rewrites_per_lesson)
            for replay in dict.fromkeys((0.0, config.evaluation.replay)):
                rows += run_edits(
                    bench, taught, replay, work.make_pool, edits_folder(config, bench, taught, replay),
                    lambda line: tell(Message("line", f"{work.label}: {line}")),
                )  # fmt: skip
        if config.evaluation.single_documents:
            del pool, bench
            alone, more = _single(work, texts, journal, counted)
            rows, runs = rows + alone, runs + more
    path = folder / "items.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=ITEM_COLUMNS), path)
    return Measurements(path, texts, runs)


def _together(bench: StudentBench, work: StudentTask, texts: Mapping[str, Groups], counted: "_Count") -> list[Row]:
    """The arms, their scaling curves and the repeated students, many documents a student; all in one pass, so that
    batches of students are full."""
    settings, size = work.config.evaluation, work.config.rl.rewrites_per_lesson
    planned: list[tuple[RunKey, Job]] = []
    for arm in work.arms:
        planned += bench.plan("together", arm, texts[arm.name], size, range(settings.seeds))
    curves = scaling_lines(work.config, work.arms)
    for arm in curves:
        for number in settings.scaling:
            if number != size:
                planned += bench.plan("scaling", arm, texts[arm.name], number, range(1))
    repeated = repeated_arm(work.arms) if settings.false_positives else None
    if repeated is not None:
        seeds = range(settings.seeds, settings.false_positive_seeds)
        planned += bench.plan("false-positives", repeated, texts[repeated.name], size, seeds)
    counted.expect(len(planned))
    rows = bench.run(planned)
    own = [row for row in rows if row["setting"] == "together" and row["kind"] == "document"]
    if size in settings.scaling:
        names = {arm.name for arm in curves}
        rows += [row | {"setting": "scaling"} for row in own if row["arm"] in names and row["seed"] == 0]
    if repeated is not None:
        rows += [row | {"setting": "false-positives"} for row in own if row["arm"] == repeated.name]
    return rows


def _single(
    work: StudentTask, texts: Mapping[str, Groups], journal: Journal, counted: "_Count"
) -> tuple[list[Row], int]:
    """One document a student, at a document's share of the tokens."""
    config = work.config
    assert config.student.tokens_per_step is not None
    share = max(8, config.student.tokens_per_step // config.reward.documents_together)
    student = config.student.model_copy(update={"tokens_per_step": share})
    config = config.model_copy(update={"student": student})
    pool = work.make_pool(student)
    bench = StudentBench(config, work.label, work.documents, {}, pool, journal, counted.reach)
    documents = work.documents[: config.evaluation.single_documents]
    planned = [
        student_run
        for arm in work.arms
        for student_run in bench.plan(
            "single", arm, texts[arm.name], config.rl.rewrites_per_lesson, range(1), documents
        )
    ]
    counted.expect(len(planned))
    return bench.run(planned), bench.runs.students


class _Count:
    """Turns the running counts of one call after the other into messages."""

    def __init__(self, tell: Tell) -> None:
        self.tell, self._done, self._total, self._unknown = tell, 0, 0, False

    def expect(self, students: int) -> None:
        """So many students are asked for by the next call, equal ones counted each."""
        self._done, self._total, self._unknown = 0, students, False
        self.tell(Message("expect", students))

    def expect_unknown(self) -> None:
        """The next calls say themselves how many they ask for."""
        self._done, self._total, self._unknown = 0, 0, True

    def reach(self, done: int, total: int) -> None:
        if self._unknown and not self._done:
            self.tell(Message("expect", total))
        if not self._unknown and done == total:
            done = self._total  # equal students are trained once
        self.tell(Message("done", done - self._done))
        self._done = 0 if self._unknown and done == total else done
