"""What `notewright train` will need: student runs and rewrites by arithmetic, a student's cost by a measurement."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from datatrove.data import Document

from configs.errors import UserError
from configs.schema import Config, Student
from configs.schema.student import TEACHER
from curation.corpus.training_data import apart_from, read_documents
from curation.plan.models import model_size, planned_cutter, token_counter, why_not_loadable
from curation.plan.quantity import Quantity, exact
from student.benchmarks.sources import DocumentQuestions
from student.pools.inline import InlinePool
from student.records import Exam, Job, Lesson
from teacher.algorithms.table import algorithm_of
from teacher.reward.gain import PROBE_DOCUMENTS
from teacher.reward.student_runs import lesson_steps
from teacher.training.metrics import PILOT_DOCUMENTS, PILOT_REPEATS

STUDENT_SECONDS = 20.0
ARMS = 3
"""On held-out documents: raw text, untrained teacher, trained teacher."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentRunCounts:
    """Students that a run trains at most, and the `rewrites` that the teacher samples for them. Lessons that the gates
    refuse whole, and repeated lessons, are not taught."""

    a_round: int
    """For the rewards of one round."""
    validation: int
    """Students of all rounds and of the untrained teacher."""
    pilot: int
    heldout: int
    total: int
    rewrites: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentCost:
    """The cost of one student run."""

    model: str
    parameters: Quantity | None
    steps: int | None
    """None: as many as the rewrites have lines."""
    tokens: Quantity
    """Read in training, each pass counted."""
    seconds_here: Quantity | None
    """On this machine, as one of `at_once` in a batch."""
    at_once: int
    notes: tuple[str, ...]


def count_students(config: Config, train: int, heldout: int) -> StudentRunCounts:
    """The runs of `rl.rounds` rounds on `train` documents with questions, and of all measurements around them.

    Raises UserError where `rl.validation_documents` leaves none to train on.
    """
    reward, rl = config.reward, config.rl
    together = reward.documents_together
    validation = -(-rl.validation_documents // together) * together
    if validation >= train:
        raise UserError(f"rl.validation_documents sets {validation} of {train} documents apart: none is left")
    documents = min(rl.documents_per_round, train - validation)
    steps = algorithm_of(rl).step_sizes(reward, documents)

    def students_of(documents: int, per_batch: int) -> int:
        return -(-documents // together) * per_batch

    students_per_batch = rl.group_size * reward.students_per_lesson(rl.rewrites_per_lesson)
    a_round = sum(students_of(size, students_per_batch * reward.repeats) for size in steps)
    if reward.repeats == 1:
        # Some lessons of the round's first step are taught once more, for the reward's reliability.
        a_round += students_of(min(steps[0], max(PROBE_DOCUMENTS, together)), students_per_batch)
    validated = students_of(validation, rl.evaluation_lessons * (rl.rounds + 1))
    piloted = min(PILOT_DOCUMENTS, documents) if reward.minimum_reliability else 0
    pilot = students_of(piloted, students_per_batch * PILOT_REPEATS)
    measured = students_of(heldout, rl.evaluation_lessons * ARMS)
    models = len(config.student.names)
    documents_measured = validation * (rl.rounds + 1) + 2 * heldout
    lessons = rl.group_size * (rl.rounds * documents + piloted) + rl.evaluation_lessons * documents_measured
    return StudentRunCounts(
        a_round=a_round * models, validation=validated * models, pilot=pilot * models, heldout=measured * models,
        total=models * (rl.rounds * a_round + validated + pilot + measured), rewrites=lessons * rl.rewrites_per_lesson,
    )  # fmt: skip


def training_documents(config: Config, notes: list[str]) -> tuple[list[Document], int, int]:
    """The documents to train on, and how many there are for training and held out. Where the config names no files,
    there are as many as its limits say. Raises UserError where nothing says how many to train on."""
    data, documents, cut = config.data, list[Document](), planned_cutter(config, notes, None).cut
    if data.train:
        if config.questions.asked_kinds:
            notes.append("documents without questions get theirs before training: they and the cost are not counted")
        optional = bool(config.questions.asked_kinds)
        documents = read_documents(data.train, data.limit, cut=cut, titles=data.titles, optional=optional)
    train = len(documents) or data.limit or 0
    if not train:
        raise UserError("data.train is not set: name JSONL or Parquet files with `text` and `questions`")
    if not data.train:
        notes.append(f"data.train names no files: {train} documents are taken, as data.limit says")
    heldout = data.heldout_limit or 0
    if data.heldout:
        limits = (None, None) if data.apart else (data.heldout_limit, data.heldout_titles)
        read = read_documents(data.heldout, limits[0], cut=cut, titles=limits[1], optional=True)
        heldout = len(apart_from(documents, read, data) if data.apart else read)
    elif heldout:
        notes.append(f"data.heldout names no files: {heldout} documents are taken, as data.heldout_limit says")
    return documents, train, heldout


def student_cost(
    config: Config, name: str, documents: Sequence[Document], rewrite_tokens: Quantity, progress: Callable[[str], None]
) -> StudentCost:
    """The cost of a student of the base `name`. It is timed where its weights are here, with raw documents as the
    lessons."""
    settings, notes = config.student, list[str]()
    together = config.reward.documents_together
    texts_a_document = config.rl.rewrites_per_lesson + settings.with_document
    steps = lesson_steps(settings, config.rl.rewrites_per_lesson, together)
    model = config.teacher.model if name == TEACHER else name
    size = model_size(model, None, notes)
    tokens = _trained_tokens(settings, together * texts_a_document, steps, rewrite_tokens)
    seconds, at_once = None, 1
    if (problem := why_not_loadable(model, size, settings.device, settings.dtype)) is not None:
        notes.append(f"no student was trained ({problem})")
    elif not documents:
        notes.append("no student was trained: there are no documents to train one on")
    else:
        progress(f"training a few students of {model} for a few steps")
        seconds, at_once = _time_students(settings, model, documents[:together], tokens, notes)
    return StudentCost(
        model=model, parameters=size, steps=steps, tokens=tokens, seconds_here=seconds, at_once=at_once,
        notes=tuple(notes),
    )  # fmt: skip


def _trained_tokens(settings: Student, texts: int, steps: int | None, rewrite_tokens: Quantity) -> Quantity:
    if steps is not None and settings.tokens_per_step:
        return exact(float(steps * settings.tokens_per_step))
    texts_read = settings.epochs * texts
    if steps is not None:
        texts_read = steps * min(texts, settings.texts_per_step or texts)
    return rewrite_tokens.map(lambda length: texts_read * length)


def _time_students(
    settings: Student, model: str, documents: Sequence[Document], tokens: Quantity, notes: list[str]
) -> tuple[Quantity, int]:
    """Seconds of a student that reads `tokens`, and how many students were trained at once. Lessons of one and of three
    optimiser steps tell what a step costs, and what everything else does."""
    pool = InlinePool(settings.model_copy(update={"model": model, "models": ()}))
    benchmark = DocumentQuestions(settings.prompt_template)
    exam = Exam(questions=tuple(chain.from_iterable(benchmark.exam(document).questions for document in documents)))
    texts, ids = tuple(document.text for document in documents), tuple(document.id for document in documents)
    count_tokens, _ = token_counter(model)
    contexts = texts if settings.objective == "distill" else ()
    lesson_tokens = sum(map(count_tokens, texts))
    share_a_step = min(1.0, (settings.texts_per_step or len(texts)) / len(texts))
    step_tokens = settings.tokens_per_step or lesson_tokens * share_a_step

    def seconds_each(students: int, steps: int) -> float:
        lesson = Lesson(texts=texts, document_ids=ids, contexts=contexts, steps=steps)
        lessons = [replace(lesson, seed=seed) for seed in range(students)]
        start = time.perf_counter()
        outcomes = pool.examine([Job(lesson=lesson, exam=exam) for lesson in lessons])
        if any(outcome.gain is None for outcome in outcomes):
            notes.append(f"a student failed while it was timed: {outcomes[0].error}")
        return (time.perf_counter() - start) / students

    seconds_each(1, 1)  # measures memory, and warms up
    alone = seconds_each(1, 1)
    # The two batches train 1 + 3 steps a student; this plans for students that gain nothing from being trained at once.
    at_once = min(32, int(STUDENT_SECONDS / (4 * alone)), settings.max_slots or 32)
    at_once = 1 if settings.mode == "full" else max(1, at_once)
    one_step, three_steps = seconds_each(at_once, 1), seconds_each(at_once, 3)
    seconds_a_token = max(three_steps - one_step, 0.0) / (2 * step_tokens)
    fixed = max(0.0, one_step - seconds_a_token * step_tokens)
    seconds = tokens.map(lambda count: fixed + seconds_a_token * count)
    return replace(seconds, how="measured" if tokens.how != "assumed" else "assumed"), at_once
