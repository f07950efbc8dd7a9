"""`notewright evaluate CONFIG.yaml`: does the text help, by how much, and how sure is that?

A measurement goes through these modules, one step each:

    inputs     arms, documents, questions and students of the config, checked
    teachers   the trained teachers, where they are missing
    texts      what every arm teaches, written once
    measure    students of each model, taught at equal tokens and equal steps (students, edits): rows in Parquet
    estimates  gains, accuracies and comparisons, from these rows alone (statistics)
    result     evaluation.json (records)

The terminal's tables, the pictures and the page are made from evaluation.json (`curation.report`).
"""

import time
from functools import partial
from typing import Any

import pyarrow.parquet as pq
from transformers.utils.logging import disable_progress_bar

from configs.schema import Config
from curation.console.progress import say
from curation.console.workers import run_side_by_side
from curation.evaluation.estimates import estimate_students
from curation.evaluation.inputs import Inputs, read_inputs
from curation.evaluation.measure import Measurements, measure_student
from curation.evaluation.mixes import strategy_mixes
from curation.evaluation.records import EvaluationResult
from curation.evaluation.result import lesson_table, notes, student_result, write_result
from curation.evaluation.teachers import Checkpoints, trained_teachers
from curation.evaluation.texts import LessonTexts
from student.pools import make_pool
from teacher.run.ownership import acquire_config


def run_evaluate(config: Config) -> EvaluationResult:
    """Measures what is missing and writes evaluation.json and the Parquet files into `run.dir`. Raises UserError
    (nothing was started) and RunError (finished students are kept, the same command goes on)."""
    started = time.monotonic()
    disable_progress_bar()
    inputs = read_inputs(config)
    acquire_config(config)
    pools = partial(make_pool, sharing=min(config.evaluation.workers, len(inputs.students)))
    # Teachers are trained by the config as it is: the evaluation's own steps and tokens are none of theirs.
    secret = inputs.secret_items
    checkpoints = trained_teachers(config, inputs.arms, inputs.students, inputs.train, pools, secret)
    # Texts that all students share are written first, here.
    of_arms = {arm: checkpoint for (arm, _), checkpoint in checkpoints.items()}
    texts = LessonTexts(inputs.config, inputs.documents, secret)
    for arm in inputs.arms:
        # A teacher that is trained here writes for its own student alone, which comes later.
        if arm.chosen or (arm.written and not arm.trained_here(config.evaluation)):
            say(f"texts: {arm.words}")
            texts.of(arm, of_arms.get(arm.name))
    del texts  # and with it a teacher in memory
    tasks = {}
    for label in inputs.students:
        of_student = {arm: checkpoint for (arm, student), checkpoint in checkpoints.items() if student == label}
        tasks[label] = partial(measure_student, inputs._replace(train=()), label, of_student, pools)
    measurements = run_side_by_side(tasks, config.evaluation.workers, kept="finished students are kept")
    rows = [row for of_student in measurements.values() for row in pq.read_table(of_student.items).to_pylist()]
    result = _make_result(inputs, checkpoints, measurements, rows, started)
    write_result(config.run.dir, rows, lesson_table(inputs, measurements, rows), result)
    return result


def _make_result(
    inputs: Inputs, checkpoints: Checkpoints, measurements: dict[str, Measurements], rows: list[Any], started: float
) -> EvaluationResult:
    config, settings = inputs.config, inputs.config.evaluation
    estimates, correction = estimate_students(rows, inputs.arms, settings, config.reward.measure)
    # A student's first trained teacher: in reverse order it is set last.
    teachers = {label: teacher for (_, label), teacher in reversed(checkpoints.items()) if teacher is not None}
    assert config.student.steps is not None and config.student.tokens_per_step is not None
    students = {
        label: student_result(inputs, label, measurements[label], estimates[label], teachers.get(label))
        for label in inputs.students
    }
    return EvaluationResult(
        measure=config.reward.measure,
        documents=len(inputs.documents),
        documents_per_student=config.reward.documents_together,
        seeds=settings.seeds,
        steps=config.student.steps,
        tokens_per_step=config.student.tokens_per_step,
        rewrites=config.rl.rewrites_per_lesson,
        reference=settings.against,
        students=students,
        correction=correction,
        strategy_mixes=strategy_mixes(students),
        student_runs=sum(of_student.student_runs for of_student in measurements.values()),
        seconds=round(time.monotonic() - started, 1),
        notes=notes(inputs, students),
    )
