"""`notewright evaluate CONFIG.yaml`: does the text help, by how much, and how sure is that?

Teachers that are missing are trained, every arm's texts are written once, students are taught at equal tokens and equal
steps, and what they answered goes to disk row by row; the figures are made from these rows alone (`figures`).
"""

import time
from collections.abc import Mapping, Sequence
from functools import partial
from types import SimpleNamespace

import pyarrow.parquet as pq
from datatrove.data import Document
from transformers.utils.logging import disable_progress_bar

from configs.errors import RunError, UserError
from configs.schema import Config
from curation.console.progress import say
from curation.corpus.training_data import read_asked, read_splits
from curation.evaluation.arms import ArmLine, edits_line, parse_arms
from curation.evaluation.estimates import Design, estimate_students
from curation.evaluation.lab_claims import lab_claims
from curation.evaluation.measure import HeldoutQuestions
from curation.evaluation.output import lesson_table, notes, student_result, write_result
from curation.evaluation.processes import run_tasks
from curation.evaluation.records import EvaluationResult
from curation.evaluation.students import (
    Measurements,
    StudentTask,
    measure_student,
    repeated_arm,
)
from curation.evaluation.teachers import Checkpoints, teacher_of_run, trained_teachers, trains
from curation.evaluation.texts import LessonTexts
from curation.lab import world
from curation.lab.build import build_lab
from curation.lab.items import LAB, lab_questions, lab_rewrites
from student.benchmarks.sources import make_benchmark
from student.engine.models import check_model
from student.pools import make_pool
from student.records import Question
from teacher.reward.assignment import batches_of
from teacher.reward.student_models import MakePool, labels
from teacher.run.ownership import acquire_config
from teacher.training.data import check_documents


def run_evaluate(config: Config) -> EvaluationResult:
    """Measures what is missing and writes evaluation.json and the Parquet files into `run.dir`.

    Raises UserError (nothing was started) and RunError (finished students are kept, the same command goes on).
    """
    started = time.monotonic()
    disable_progress_bar()
    given, config = config, as_evaluated(config)
    arms = parse_arms(config)
    if config.evaluation.lab:
        build_lab(config.lab, progress=say)
        _write_rewrites(config)
    train, documents = _documents(config, arms)
    students = {label: name for name, label in labels(list(config.evaluation.students)).items()}
    _check(config, arms, documents, students)
    extra = _extra(config)
    acquire_config(given)
    pools = partial(make_pool, sharing=min(config.evaluation.workers, len(students)))
    checkpoints = trained_teachers(given, arms, students, train, pools)
    found = _measure(config, arms, documents, extra, students, checkpoints, pools)
    rows = [row for measured in found.values() for row in pq.read_table(measured.items).to_pylist()]
    design = _design(config, arms)
    made, correction = estimate_students(rows, design)
    if set(made) != set(students):
        failed = next(label for label in students if label not in made)
        raise RunError(f"no student of {failed} gave an outcome: see student.learning_rate and student.max_text_tokens")
    per_student = config.reward.documents_together
    assert config.student.steps is not None and config.student.tokens_per_step is not None
    result = EvaluationResult(
        documents=len(documents),
        documents_per_student=per_student,
        seeds=config.evaluation.seeds,
        steps=config.student.steps,
        tokens_per_step=config.student.tokens_per_step,
        rewrites=config.rl.rewrites_per_lesson,
        reference=config.evaluation.against,
        students={
            label: student_result(config, arms, model, label, documents, found[label], made[label], checkpoints)
            for label, model in students.items()
        },
        correction=correction,
        claims=[],
        student_runs=sum(measured.student_runs for measured in found.values()),
        seconds=round(time.monotonic() - started, 1),
        notes=notes(config, arms, documents),
    )
    if config.evaluation.lab:
        result = result.model_copy(update={"claims": lab_claims(result)})
    write_result(config, rows, lesson_table(arms, documents, found, rows, config), result)
    return result


def as_evaluated(config: Config) -> Config:
    """The config with the students, steps, tokens and retention texts of its evaluation. Raises UserError where arms
    would get unequal tokens."""
    settings, student = config.evaluation, config.student
    steps, tokens = settings.steps or student.steps, settings.tokens_per_step or student.tokens_per_step
    if steps is None or tokens is None:
        raise UserError(
            "evaluate compares at equal tokens and equal steps: set evaluation.steps and evaluation.tokens_per_step"
        )
    students = settings.students or student.names
    if not students or "" in students:
        raise UserError("no student: set student.model, or evaluation.students")
    if "teacher" in students:
        raise UserError("evaluation.students: name the base models of students; 'teacher' is none here")
    texts = settings.retention_texts or config.reward.retention_texts
    return config.model_copy(
        update={
            "student": student.model_copy(update={"steps": steps, "tokens_per_step": tokens, "texts_per_step": None}),
            "evaluation": settings.model_copy(update={"students": tuple(students)}),
            "reward": config.reward.model_copy(update={"retention_texts": texts}),
        }
    )


def _write_rewrites(config: Config) -> None:
    """What the arm `file:lab` reads."""
    most = max(config.rl.rewrites_per_lesson, *config.evaluation.scaling, 1)
    ways = [name for name in config.evaluation.ensemble if name in world.STRATEGIES] or list(world.STRATEGIES)
    lab_rewrites(config.lab, config.run.dir / "evaluation", ways, most)


def _documents(config: Config, arms: Sequence[ArmLine]) -> tuple[list[Document], list[Document]]:
    """Training documents (where a teacher may be trained) and the evaluated ones, which have a question to be asked."""
    if not config.data.heldout:
        raise UserError("data.heldout is not set: name the documents that are evaluated, with `questions`")
    if any(trains(config, arm) for arm in arms):
        train, documents = read_splits(config)
        check_documents(config, train, documents)
        return train, documents
    documents = read_asked(config, config.data.heldout, config.data.heldout_limit)
    exams = HeldoutQuestions(config.student.prompt_template, config.evaluation.questions == "all")
    kept = [d for d in documents if any(q.split == "heldout" for q in exams.exam(d).questions)]
    if not kept:
        raise UserError(f"data.heldout: none of {len(documents)} documents has a held-out question, see `split`")
    if len(kept) < len(documents):
        left_out = len(documents) - len(kept)
        say(f"warning: data.heldout: {left_out} of {len(documents)} documents have no held-out question, left out")
    return [], kept


def _check(config: Config, arms: Sequence[ArmLine], documents: Sequence[Document], students: Mapping[str, str]) -> None:
    """What can be known to be wrong before anything is started. Raises UserError."""
    settings = config.evaluation
    for model in students.values():
        check_model("evaluation.students", model)
    if any(arm.samples or arm.kind == "best-of" for arm in arms):
        check_model("teacher.model", config.teacher.model)
    batches = len(batches_of(len(documents), config.reward.documents_together))
    if settings.edits > batches:
        raise UserError(f"evaluation.edits={settings.edits}, but {len(documents)} documents are {batches} batches")
    if any(arm.kind == "best-of" for arm in arms):
        exams = HeldoutQuestions(config.student.prompt_template, False)
        without = [d.id for d in documents if all(q.split == "heldout" for q in exams.exam(d).questions)]
        if without:
            raise UserError(
                f"evaluation.arms: best-of chooses by reward questions, and document {without[0]!r} has none"
            )
    arm_texts = LessonTexts(config, documents, ())
    for arm in arms:
        if arm.kind == "file":
            arm_texts.texts(arm, arms)
        elif arm.kind == "trained" and not trains(config, arm):
            teacher_of_run(config, arm)


def _extra(config: Config) -> dict[tuple[str, str], tuple[Question, ...]]:
    """The items that are asked of every student beside its documents' questions. Raises UserError."""
    settings = config.evaluation
    lines = [("benchmark", line) for line in settings.benchmarks]
    lines += [("retention", settings.retention_questions)] if settings.retention_questions else []
    nothing = SimpleNamespace(text="", id="", metadata={})
    found = {}
    for kind, line in lines:
        spec = line
        if line == LAB:
            spec = lab_questions(config.lab, config.run.dir / "evaluation", known=kind == "retention")
        benchmark = make_benchmark(spec, config.student.prompt_template, settings.benchmark_limit)
        found[kind, line] = benchmark.exam(nothing).questions
        if not found[kind, line]:
            raise UserError(f"evaluation: {line!r} holds no questions that are about no document")
    return found


def _measure(
    config: Config,
    arms: Sequence[ArmLine],
    documents: Sequence[Document],
    extra: Mapping[tuple[str, str], Sequence[Question]],
    students: Mapping[str, str],
    checkpoints: Checkpoints,
    pools: MakePool,
) -> dict[str, Measurements]:
    """By student label. What all students share is written first, here."""
    exams = HeldoutQuestions(config.student.prompt_template, config.evaluation.questions == "all")
    items = [q for document in documents for q in exams.exam(document).questions if q.split == "heldout"]
    items += [question for (kind, _), questions in extra.items() if kind == "benchmark" for question in questions]
    arm_texts = LessonTexts(config, documents, items)
    for arm in arms:
        if (arm.samples and not arm.own_to_student) or arm.kind == "best-of":
            say(f"texts: {arm.words()}")
            arm_texts.texts(arm, arms, next((c for (name, _), c in checkpoints.items() if name == arm.name), None))
    del arm_texts
    tasks = []
    for label, model in students.items():
        student = config.student.model_copy(update={"model": model, "models": ()})
        work = StudentTask(
            config=config.model_copy(update={"student": student}),
            label=label,
            documents=documents,
            arms=arms,
            extra=extra,
            items=items,
            checkpoints={name: path for (name, of), path in checkpoints.items() if of == label},
            make_pool=pools,
        )
        tasks.append(partial(measure_student, work))
    return dict(zip(students, run_tasks("evaluating", tasks, config.evaluation.workers), strict=True))


def _design(config: Config, arms: Sequence[ArmLine]) -> Design:
    repeated = repeated_arm(arms)
    return Design(
        arms=[arm.name for arm in arms],
        reference=config.evaluation.against,
        challengers=[arm.name for arm in arms if arm.kind == "trained"],
        seeds=config.evaluation.seeds,
        pairs=config.evaluation.false_positives,
        repeated_arm=repeated.name if repeated is not None and config.evaluation.false_positives else None,
        edits_arm=edits_line(config, arms).name,
        replay=config.evaluation.replay,
    )
