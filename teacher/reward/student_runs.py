"""Student runs that are never made twice: lessons and exams become jobs, jobs go to pools, and outcomes are kept in the
journal as batches finish, so that `kill -9` costs no more than the batches that were being trained. Also what an
outcome says about one document."""

import math
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import torch

from configs.errors import UserError
from configs.files import parse_lines
from configs.schema import Config
from configs.schema import Reward as RewardSettings
from configs.schema import Student as StudentSettings
from configs.schema.reward import Measure
from student.benchmarks.items import WrittenQuestions
from student.benchmarks.sources import DocumentQuestions, make_benchmark, text_of
from student.engine.models import pick_device
from student.plans import Planned, TaughtText, plain, read_plan
from student.pools.inline import most_slots
from student.records import (
    MEASURES,
    Benchmark,
    Document,
    Exam,
    Job,
    Lesson,
    Outcome,
    Question,
    Split,
    StudentPool,
    mean_gain,
)
from teacher.ready.plans import NOT_DISTILLED, UNBOUNDED
from teacher.reward.distractors import Drawn, ask_documents, tells
from teacher.run.clock import Clock
from teacher.run.journal import Journal, outcome_key


class StudentRuns:
    """Plans, trains and counts the students of a run. They are asked each document's own questions, or those of
    `benchmark`. Raises UserError for files of `reward` that cannot be read."""

    def __init__(
        self,
        config: Config,
        documents: Sequence[Document],
        journal: Journal,
        *,
        benchmark: Benchmark | None = None,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
        clock: Clock | None = None,
        heldout_ids: Collection[str] = (),
    ) -> None:
        """Answers of the documents in `heldout_ids` are distractors of each other's questions alone."""
        self.config, self.journal = config, journal
        self.benchmark = benchmark or DocumentQuestions(config.student.prompt_template)
        self.documents = {document.id: document for document in documents}
        self.on_progress, self.clock = on_progress, clock or Clock()
        self.external = external_questions(config.reward, config.student.prompt_template, "reward")
        """Items of `reward.benchmarks`, asked of every student that is rewarded."""
        self.retention_texts = retention_texts(config.reward)
        self.trained = 0
        """Students that were trained now; the others were in the journal."""
        self._requested: set[str] = set()
        self._heldout_ids = frozenset(heldout_ids)
        self._drawn: dict[tuple[Split, bool], Drawn] = {}

    @property
    def students(self) -> int:
        """Different students requested so far, whether they were in the journal or not."""
        return len(self._requested)

    def examine(self, jobs: Sequence[Job], pool: StudentPool) -> list[Outcome]:
        """Outcomes in the order of `jobs`, from the journal where they are there; equal jobs are one student."""
        fingerprint = pool.fingerprint
        keys = [outcome_key(fingerprint, job) for job in jobs]
        job_by_key = dict(zip(keys, jobs, strict=True))
        known = self.journal.outcomes.get_many(job_by_key)
        # A pool cuts batches from what is missing. Since a batch is kept whole or not at all, a resumed run trains the
        # rest in the batches that they would have been in.
        missing = [key for key in job_by_key if key not in known]

        def keep(finished: Mapping[int, Outcome]) -> None:
            fresh = {missing[number]: outcome for number, outcome in finished.items()}
            self.journal.outcomes.put_many(fresh)
            known.update(fresh)
            self.trained += len(fresh)
            self.on_progress(len(known), len(job_by_key))

        if missing:
            # Students in this process must not move its random state. Those elsewhere draw nothing from it, and to
            # restore it after them would turn it back under the thread that samples meanwhile.
            own_draws = torch.random.fork_rng() if self.config.student.pool == "inline" else nullcontext()
            with self.clock("students"), own_draws, torch.enable_grad():
                outcomes = pool.examine([job_by_key[key] for key in missing], keep)
            # A pool may report batches as they finish, or only return them all.
            rest = {number: outcome for number, outcome in enumerate(outcomes) if missing[number] not in known}
            if rest:
                keep(rest)
        elif job_by_key:
            self.on_progress(len(job_by_key), len(job_by_key))
        self._requested.update(keys)
        return [known[key] for key in keys]

    def questions(self, document: Document, split: Split) -> list[Question]:
        """The document's questions of one split. Raises UserError where it has none."""
        reward = self.config.reward
        questions = self.drawn(split, document.id in self._heldout_ids).questions[document.id]
        if not questions:
            raise UserError(f"document {document.id!r} has no {split} questions: no student can be asked")
        if not any(tells(question, reward) for question in questions):
            raise UserError(f"document {document.id!r}: its {split} questions do not tell {reward.measure!r}")
        return questions

    def drawn(self, split: Split, heldout: bool = False) -> Drawn:
        """The questions of one split with their distractors, of documents that are held out or of the others."""
        key = split, heldout
        if key not in self._drawn:
            documents = [d for name, d in self.documents.items() if (name in self._heldout_ids) == heldout]
            self._drawn[key] = ask_documents(documents, self.benchmark, split, self.config.reward)
        return self._drawn[key]

    def job(
        self,
        documents: Sequence[str],
        taught: Sequence[tuple[str, TaughtText]],
        seed: int,
        split: Split,
        steps: int | None = None,
        *,
        distill: bool = False,
    ) -> Job:
        """A student that learns `taught` (a document's id and a text each) and is asked about all of `documents`. It
        trains on all texts of one document after those of another. `steps` takes the place of the config's number of
        optimiser steps, or of a plan's, with a warm-up in proportion. With `distill`, or where the config says so, it
        learns what its base expects at each text's tokens with the text's document before it; not by a plan."""
        student = self.config.student
        plans = [read_plan(one.plan, UNBOUNDED) for _, one in taught if isinstance(one, Planned)]
        distill = distill or student.objective == "distill"
        if plans and distill:
            raise UserError(f"a lesson of document {taught[0][0]!r} is a plan, {NOT_DISTILLED}")
        by_document: dict[str, list[str]] = {}
        for (name, _), text in zip(taught, plain([one for _, one in taught]), strict=True):
            lines = [line.strip() for line in text.splitlines()] if student.split_lines else [text]
            by_document.setdefault(name, []).extend(line for line in lines if line)
        if student.with_document:
            for name, texts in by_document.items():
                if self.documents[name].text not in texts:
                    texts.append(self.documents[name].text)
        if plans:
            [(name, texts)], [plan] = by_document.items(), plans  # a plan is a student's only lesson
            full = student.steps if plan.steps is None else plan.steps
            ramp = round(student.warmup_steps * (steps or full) / (student.steps or full)) if full else None
            # An end-of-text token and an opening one are not of the text.
            most = student.max_text_tokens - 2
            lesson = plan.lesson(
                name, self.documents[name].text, texts, seed, most, steps, ramp if student.warmup_steps else None
            )
            return Job(lesson=lesson, exam=self._exam(documents, split))
        # Equal for all lessons of a group, whichever of their texts were refused.
        planned = lesson_steps(student, self.config.rl.rewrites_per_lesson, len(documents))
        # Of fewer steps than the warm-up has, none would be at the full rate.
        warmup = None if steps is None else round(student.warmup_steps * steps / (planned or steps))
        return Job(
            lesson=Lesson(
                texts=tuple(text for texts in by_document.values() for text in texts),
                document_ids=tuple(name for name, texts in by_document.items() for _ in texts),
                contexts=tuple(self.documents[name].text for name in by_document if distill for _ in by_document[name]),
                steps=steps or planned,
                warmup_steps=warmup,
                seed=seed,
            ),
            exam=self._exam(documents, split),
        )

    def _exam(self, documents: Sequence[str], split: Split) -> Exam:
        questions = [question for name in documents for question in self.questions(self.documents[name], split)]
        if split == "reward":
            questions += self.external
        return Exam(questions=tuple(questions), retention_texts=self.retention_texts)


def students_at_once(student: StudentSettings) -> int:
    """Students that keep a pool busy: a batch, or one for each of `student.actors`."""
    device = pick_device("auto").type if student.device == "auto" else student.device
    return most_slots(student, device) * (student.actors or 1 if student.pool == "ray" else 1)


def lesson_steps(student: StudentSettings, rewrites_per_lesson: int, documents: int) -> int | None:
    """Optimiser steps of a student of so many documents; None where it trains on single lines, each met `epochs` times,
    whose number is not known before they are written."""
    if student.split_lines and student.steps is None:
        return None
    return planned_steps(student, documents, rewrites_per_lesson + student.with_document)


def planned_steps(student: StudentSettings, documents: int, texts_per_document: int = 1) -> int:
    """Optimiser steps of a lesson with that many texts for each of `documents`, whichever of them are missing."""
    if student.steps is not None:
        return student.steps
    if not student.texts_per_step:  # one step takes all
        return student.epochs
    # A step takes texts of as many documents as it has room for, and with room left several of each.
    documents_per_step = min(documents, student.texts_per_step)
    texts_per_step = max(1, student.texts_per_step // documents_per_step)
    return student.epochs * math.ceil(documents / documents_per_step) * math.ceil(texts_per_document / texts_per_step)


def narrow(job: Job, outcome: Outcome, document_id: str | None, measure: Measure = "loglik") -> Outcome:
    """A student's outcome on the questions about one document (None: on all), whose gain is the rise of `measure`."""
    answers = tuple(
        answer
        for question, answer in zip(job.exam.questions, outcome.answers, strict=True)
        if document_id in (None, question.document_id)
    )
    assert answers, f"the exam asks nothing about {document_id!r}"
    graded = [answer for answer in answers if not answer.of_text] or answers
    accuracies = {
        "accuracy_before": statistics.fmean(answer.correct_before for answer in graded),
        "accuracy_after": statistics.fmean(answer.correct_after for answer in graded),
    }
    gain = mean_gain(answers, measure)
    assert gain is not None, f"no answer about {document_id!r} tells {measure}"
    return Outcome(gain=gain, metrics=outcome.metrics | accuracies, answers=answers)


def gains_of(outcome: Outcome) -> dict[str, float]:
    """The mean rise of each measure that an outcome's answers tell."""
    return {measure: gain for measure in MEASURES if (gain := mean_gain(outcome.answers, measure)) is not None}


def forgotten(outcome: Outcome) -> float:
    """Loss gained on the retention texts, in nats a token; 0 where the exam had none."""
    return outcome.metrics.get("retention_after", 0.0) - outcome.metrics.get("retention_before", 0.0)


def retention_texts(reward: RewardSettings) -> tuple[str, ...]:
    """The `text` of each line of `reward.retention_texts`, empty where it names no file. Raises UserError."""
    if reward.retention_texts is None:
        return ()
    texts = tuple(parse_lines("reward.retention_texts", reward.retention_texts, text_of))
    if not texts:
        raise UserError(f"reward.retention_texts: {reward.retention_texts} holds no texts")
    return texts


def heldout_items(config: Config, documents: Sequence[Document], unasked: Sequence[Document] = ()) -> list[Question]:
    """Items of held-out exams, which no lesson may hold: the documents' own, and those of `reward.benchmarks`. About
    the documents that are `unasked` no held-out exam is taken: what they brought may be a benchmark's, and counts; what
    was written about them is in no exam, and a teacher that wrote it itself quotes it in its lessons. Raises
    UserError."""
    benchmark = DocumentQuestions(config.student.prompt_template)
    brought = [d for d in unasked if not isinstance(d.metadata.get("questions"), WrittenQuestions)]
    own = [q for d in (*documents, *brought) for q in benchmark.exam(d).questions if q.split == "heldout"]
    return [*own, *external_questions(config.reward, config.student.prompt_template, "heldout")]


def external_questions(
    reward: RewardSettings, prompt_template: str, split: Split | None = None
) -> tuple[Question, ...]:
    """The items of `reward.benchmarks`, of one split or of both. Where text is rewarded, those of `text:` (other
    documents of the same source) tell it as the documents' own ends do. Raises UserError."""
    no_document = SimpleNamespace(text="", id="", metadata={})
    questions: dict[Question, None] = {}
    for spec in reward.benchmarks:
        of_text = reward.measure == "bits" and spec.startswith("text:")
        asked = make_benchmark(spec, prompt_template).exam(no_document).questions
        questions |= dict.fromkeys(replace(question, text=of_text) for question in asked)
    return tuple(question for question in questions if split in (None, question.split))
