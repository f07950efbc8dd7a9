"""One step of an evaluation, in a process of its own: everything that is measured of one student model."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from curation.console.progress import StudentProgress, say
from curation.evaluation.arms import edits_arm
from curation.evaluation.edits import run_edits
from curation.evaluation.inputs import Inputs
from curation.evaluation.records import ITEM_COLUMNS
from curation.evaluation.students import ArmStudents, Row
from curation.evaluation.texts import Groups, LessonTexts, taught_texts
from teacher.reward.student_models import MakePool
from teacher.run.journal import Journal


class Measurements(NamedTuple):
    """What was measured of one student model."""

    items: Path
    """A Parquet file of rows, which may be many."""
    texts: dict[str, Groups]
    """By arm, as they were taught."""
    student_runs: int


def measure_student(
    inputs: Inputs, label: str, checkpoints: Mapping[str, Path | None], make_pool: MakePool
) -> Measurements:
    """Teaches and examines the students of one model in all settings. `checkpoints` has the trained teacher's by
    `trained` arm. Raises UserError and RunError."""
    config = inputs.config
    settings = config.student.model_copy(update={"model": inputs.students[label], "models": ()})
    folder = config.run.dir / "evaluation" / "students" / label.replace("/", "-")
    lesson_texts = LessonTexts(config, inputs.documents, inputs.secret_items)
    with Journal(folder) as journal, StudentProgress(f"evaluating {label}", 0) as progress:
        students = ArmStudents(inputs, label, settings, make_pool(settings), journal, progress.within)
        texts = {}
        for arm in inputs.arms:
            groups = lesson_texts.of(arm, checkpoints.get(arm.name))
            texts[arm.name] = students.choose(groups, arm) if arm.chosen else groups
        del lesson_texts  # and with it a teacher in memory
        rows = _together(students, texts)
        student_runs = students.students
        if config.evaluation.edits:
            arm = edits_arm(config.evaluation, inputs.arms)
            lessons = taught_texts(texts[arm.name], config.rl.rewrites_per_lesson)
            rows += run_edits(
                students, lessons, make_pool, folder / "edits", lambda line: say(f"{label}: {line}"),
                distill=arm.distilled,
            )  # fmt: skip
        if config.evaluation.single_documents:
            del students  # and with it a model in memory
            assert settings.tokens_per_step is not None
            # The same tokens a document as in the setting `together`, so that the two can be compared.
            share = max(8, settings.tokens_per_step // config.reward.documents_together)
            settings = settings.model_copy(update={"tokens_per_step": share})
            students = ArmStudents(inputs, label, settings, make_pool(settings), journal, progress.within)
            planned = [job for arm in inputs.arms for job in students.plan("single", arm, texts[arm.name], range(1))]
            rows += students.run(planned)
            student_runs += students.students
    # On disk, since rows may be many and would have to pass between processes.
    path = folder / "items.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=ITEM_COLUMNS), path)
    return Measurements(path, texts, student_runs)


def _together(students: ArmStudents, texts: Mapping[str, Groups]) -> list[Row]:
    """The arms, and their scaling curves, many documents a student; all in one pass, so that
    batches of students are full."""
    arms, config = students.inputs.arms, students.config
    settings, size = config.evaluation, config.rl.rewrites_per_lesson
    seeds, scaling = range(settings.seeds), [rewrites for rewrites in settings.scaling if rewrites != size]
    planned = [run for arm in arms for run in students.plan("together", arm, texts[arm.name], seeds)]
    for arm in arms:
        for rewrites in scaling if arm.scaled else ():
            planned += students.plan("scaling", arm, texts[arm.name], range(1), rewrites)
    rows = students.run(planned)
    # Students of the arms serve the curve as well.
    shared = [row for row in rows if row["setting"] == "together" and row["kind"] == "document"]
    if size in settings.scaling:
        scaled = {arm.name for arm in arms if arm.scaled}
        rows += [row | {"setting": "scaling"} for row in shared if row["arm"] in scaled and row["seed"] == 0]
    return rows
