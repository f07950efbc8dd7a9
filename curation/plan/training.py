"""What `notewright train` will ask for: student runs and rewrites by arithmetic, a student's cost by a measurement."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from datatrove.data import Document

from configs.errors import UserError
from configs.schema import Config
from curation.corpus.training_data import read_documents
from curation.plan.models import model_size, token_counter, why_not_loadable
from curation.plan.quantity import Quantity, exact
from student.pools.inline import InlinePool
from student.records import Exam, Job, Lesson
from teacher.algorithms.grpo import step_sizes
from teacher.questions.writer import TEACHER
from teacher.reward.exams import document_questions
from teacher.reward.gain import PROBE_DOCUMENTS
from teacher.reward.student_runs import planned_steps
from teacher.training.pilot import PILOT_DOCUMENTS, PILOT_REPEATS

STUDENT_SECONDS = 20.0
ARMS = 3
"""Held-out: raw text, untrained teacher, trained teacher."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentRunCounts:
    """Students that a run trains, at most: what gates refuse altogether, and equal lessons, are not taught."""

    a_round: int
    """Those that the first round's rewards need; later ones the same."""
    validation: int
    """Of all rounds and the untrained teacher."""
    pilot: int
    heldout: int
    total: int
    rewrites: int
    """Sampled by the teacher for all of that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentCost:
    """Of one student run."""

    model: str
    parameters: Quantity | None
    steps: int | None
    """None: as many as the rewrites have lines."""
    tokens: Quantity
    """Trained on, repeats counted."""
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
    steps = step_sizes(config, documents) if rl.algorithm == "grpo" else [documents]
    members = reward.students_per_lesson(rl.rewrites_per_lesson)

    def batches(count: int) -> int:
        return -(-count // together)

    def scored(count: int, repeats: int) -> int:
        return batches(count) * rl.group_size * members * repeats

    a_round = sum(scored(size, reward.repeats) for size in steps)
    if reward.repeats == 1:
        # Some lessons of the round's first step are taught once more, for the reward's reliability.
        a_round += scored(min(steps[0], max(PROBE_DOCUMENTS, together)), 1)
    validated = batches(validation) * rl.evaluation_lessons * (rl.rounds + 1)
    piloted = min(PILOT_DOCUMENTS, documents) if reward.minimum_reliability else 0
    pilot = scored(piloted, PILOT_REPEATS)
    measured = batches(heldout) * rl.evaluation_lessons * ARMS
    models = len(config.student.names)
    measured_on = validation * (rl.rounds + 1) + 2 * heldout
    lessons = rl.group_size * (rl.rounds * documents + piloted) + rl.evaluation_lessons * measured_on
    return StudentRunCounts(
        a_round=a_round * models,
        validation=validated * models,
        pilot=pilot * models,
        heldout=measured * models,
        total=models * (rl.rounds * a_round + validated + pilot + measured),
        rewrites=lessons * rl.rewrites_per_lesson,
    )


def training_documents(config: Config, notes: list[str]) -> tuple[list[Document], int, int]:
    """Documents to train on, and how many there are for training and held out; where the config names no files, as many
    as its limits say."""
    data, found = config.data, list[Document]()
    if data.train:
        if config.questions.model:
            notes.append("documents without questions get theirs before training: they and the cost are not counted")
        found = read_documents(data.train, data.limit, optional=bool(config.questions.model))
    train = len(found) or data.limit or 0
    if not train:
        raise UserError("data.train is not set: name JSONL or Parquet files with `text` and `questions`")
    if not data.train:
        notes.append(f"data.train names no files: {train} documents are taken, as data.limit says")
    heldout = data.heldout_limit or 0
    if data.heldout:
        heldout = len(read_documents(data.heldout, data.heldout_limit, optional=True))
    elif heldout:
        notes.append(f"data.heldout names no files: {heldout} documents are taken, as data.heldout_limit says")
    return found, train, heldout


def student_cost(
    config: Config, name: str, documents: Sequence[Document], rewrite_tokens: Quantity, tell: Callable[[str], None]
) -> StudentCost:
    """Of a student of the base `name`. Timed on this machine where its weights are here: raw documents are the lessons,
    one and three optimiser steps tell what a step and what all else costs."""
    settings, notes = config.student, list[str]()
    together = config.reward.documents_together
    texts = config.rl.rewrites_per_lesson + settings.with_document
    by_lines = settings.split_lines and settings.steps is None
    steps = None if by_lines else planned_steps(settings, together, texts)
    model = config.teacher.model if name == TEACHER else name
    size = model_size(model, None, notes)
    tokens = _trained_tokens(config, together * texts, steps, rewrite_tokens)
    seconds, at_once = None, 1
    if (why := why_not_loadable(model, size, settings.device, settings.dtype)) is not None:
        notes.append(f"no student was trained ({why})")
    elif not documents:
        notes.append("no student was trained: there are no documents to train one on")
    else:
        tell(f"training a few students of {model} for a few steps")
        seconds, at_once = _time_students(config, model, documents[:together], tokens, notes)
    return StudentCost(
        model=model, parameters=size, steps=steps, tokens=tokens, seconds_here=seconds, at_once=at_once,
        notes=tuple(notes),
    )  # fmt: skip


def _trained_tokens(config: Config, texts: int, steps: int | None, rewrite: Quantity) -> Quantity:
    settings = config.student
    if steps is not None and settings.tokens_per_step:
        return exact(float(steps * settings.tokens_per_step))
    met = settings.epochs * texts
    if steps is not None:
        met = steps * (min(texts, settings.texts_per_step) if settings.texts_per_step else texts)
    longest = float(settings.max_text_tokens)
    value, low, high = (met * min(length, longest) for length in rewrite[:3])
    return Quantity(value, low, high, rewrite.how)


def _time_students(
    config: Config, model: str, documents: Sequence[Document], tokens: Quantity, notes: list[str]
) -> tuple[Quantity, int]:
    settings = config.student
    pool = InlinePool(settings.model_copy(update={"model": model, "models": ()}))
    benchmark = document_questions(config)
    asked = tuple(question for document in documents for question in benchmark.exam(document).questions)
    count, _ = token_counter(model)
    texts = tuple(document.text for document in documents)
    # The tokens of one step, as it will be timed.
    lesson_tokens = sum(min(count(text), settings.max_text_tokens) for text in texts)
    a_step = settings.tokens_per_step or lesson_tokens * min(1.0, (settings.texts_per_step or len(texts)) / len(texts))
    exam = Exam(questions=asked)

    def timed(students: int, steps: int) -> float:
        lessons = (
            Lesson(texts=texts, document_ids=tuple(d.id for d in documents), steps=steps, seed=seed)
            for seed in range(students)
        )
        began = time.perf_counter()
        outcomes = pool.examine([Job(lesson=lesson, exam=exam) for lesson in lessons])
        if any(outcome.gain is None for outcome in outcomes):
            notes.append(f"a student failed while it was timed: {outcomes[0].error}")
        return (time.perf_counter() - began) / students

    timed(1, 1)  # measures memory, and warms up
    one = timed(1, 1)
    # Two batches, of one and of three steps: as if students gained nothing from being trained at once.
    at_once = max(1, min(32, int(STUDENT_SECONDS / (4 * one)), settings.max_slots or 32))
    if settings.mode == "full":
        at_once = 1
    short, long = timed(at_once, 1), timed(at_once, 3)
    a_token = max(long - short, 0.0) / (2 * a_step)
    fixed = max(0.0, short - a_token * a_step)
    value, low, high = (fixed + a_token * t for t in tokens[:3])
    return Quantity(value, low, high, "measured" if tokens.how != "assumed" else "assumed"), at_once
