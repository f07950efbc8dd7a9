"""Student runs that are never made twice: lessons and exams to jobs, jobs to pools, outcomes kept in the journal as
batches finish, so that `kill -9` costs no more than the batches that were being trained."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property

import torch

from configs.errors import UserError
from configs.schema import Config
from configs.schema import Student as StudentSettings
from student.engine.models import pick_device
from student.pools.inline import most_slots
from student.records import Benchmark, Document, Exam, Job, Lesson, Outcome, Split, StudentPool
from teacher.reward.exams import external_questions, read_texts
from teacher.run.clock import Clock
from teacher.run.journal import Journal, outcome_key


class StudentRuns:
    """The students of a run: every lesson that is taught to one and every exam that it sits goes through here."""

    def __init__(
        self,
        config: Config,
        pools: Mapping[str, StudentPool],
        benchmark: Benchmark,
        documents: Sequence[Document],
        journal: Journal,
        count_tokens: Callable[[str], int] = lambda text: len(text.split()),
        on_progress: Callable[[int, int], None] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.config = config
        self.pools = pools
        """By student model; may be replaced between rounds, when the students' base has changed."""
        self.benchmark = benchmark
        self.documents = {document.id: document for document in documents}
        self.journal = journal
        self.count_tokens = count_tokens
        self.on_progress = on_progress
        self.clock = clock or Clock()
        self._asked: set[str] = set()
        self.trained = 0
        """Of these, students that were trained now and not found in the cache."""
        self._exams: dict[tuple[str, Split], Exam] = {}
        self.external = tuple(question for question in external_questions(config) if question.split == "reward")
        """Items of `reward.benchmarks`, asked of every student that is rewarded."""

    @property
    def students(self) -> int:
        """Different students asked for so far, found in the cache or not."""
        return len(self._asked)

    def examine_all(self, jobs: Sequence[Job]) -> dict[str, list[Outcome]]:
        """Outcomes in the order of `jobs`, by student model."""
        return {name: self.examine(jobs, pool) for name, pool in self.pools.items()}

    def examine(self, jobs: Sequence[Job], pool: StudentPool) -> list[Outcome]:
        """Outcomes in the order of `jobs`: from the cache where they are there, equal jobs once."""
        fingerprint = pool.fingerprint
        keys = [outcome_key(fingerprint, job) for job in jobs]
        unique = dict(zip(keys, jobs, strict=True))
        order = list(unique)
        known = self.journal.outcomes.get_many(order)
        # A pool cuts batches from what is missing. Since a batch is kept whole or not at all, a resumed run trains the
        # rest in the batches that they would have been in.
        missing = [key for key in order if key not in known]

        def keep(found: Mapping[int, Outcome]) -> None:
            fresh = {missing[place]: outcome for place, outcome in found.items()}
            self.journal.outcomes.put_many(fresh)
            known.update(fresh)
            self.trained += len(fresh)
            self._progress(len(known), len(order))

        if missing:
            with self.clock("students"), self._own_chance(), torch.enable_grad():
                outcomes = pool.examine([unique[key] for key in missing], keep)
            rest = {place: outcome for place, outcome in enumerate(outcomes) if missing[place] not in known}
            if rest:
                keep(rest)
        elif order:
            self._progress(len(order), len(order))
        self._asked.update(keys)
        return [known[key] for key in keys]

    def _own_chance(self) -> AbstractContextManager[None]:
        """Keeps the pool's draws out of the global random state. Students elsewhere draw none of it, and the thread
        that samples meanwhile must not find it moved."""
        return torch.random.fork_rng() if self.config.student.pool == "inline" else nullcontext()

    def _progress(self, done: int, total: int) -> None:
        if self.on_progress is not None:
            self.on_progress(done, total)

    def exam(self, document: Document, split: Split) -> Exam:
        """The document's questions of one split. Raises UserError where it has none."""
        key = document.id, split
        if key not in self._exams:
            questions = tuple(q for q in self.benchmark.exam(document).questions if q.split == split)
            if not questions:
                raise UserError(f"document {document.id!r} has no {split} questions: no student can be asked")
            self._exams[key] = Exam(questions=questions)
        return self._exams[key]

    def job(self, documents: list[str], taught: list[tuple[str, str]], seed: int, split: Split) -> Job:
        settings = self.config.student
        exams = [self.exam(self.documents[name], split) for name in documents]
        taught = self._training_texts(taught)
        # Lessons of one group take equal steps; lines are as many as they are, and each is met `epochs` times.
        steps = (
            None
            if settings.split_lines and settings.steps is None
            else planned_steps(settings, len(documents), self.config.rl.rewrites_per_lesson + settings.with_document)
        )
        external = self.external if split == "reward" else ()
        return Job(
            lesson=Lesson(
                texts=tuple(text for _, text in taught),
                document_ids=tuple(name for name, _ in taught),
                steps=steps,
                seed=seed,
            ),
            exam=Exam(
                questions=(*(question for exam in exams for question in exam.questions), *external),
                retention_texts=self.retention_texts,
            ),
        )

    def _training_texts(self, taught: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """Rewrites of documents as the texts that a student trains on, one document's after another's."""
        settings = self.config.student
        texts: dict[str, list[str]] = {}
        for name, text in taught:
            lines = [line.strip() for line in text.splitlines()] if settings.split_lines else [text]
            texts.setdefault(name, []).extend(line for line in lines if line)
        if settings.with_document:
            for name, own in texts.items():
                own.extend({self.documents[name].text} - set(own))
        return [(name, text) for name, own in texts.items() for text in own]

    @cached_property
    def retention_texts(self) -> tuple[str, ...]:
        return read_texts(self.config.reward.retention_texts) if self.config.reward.retention_texts else ()


def at_once(config: Config) -> int:
    """Students that keep a pool busy: a batch, or one for each of `student.actors`."""
    device, actors = config.student.device, config.student.actors if config.student.pool == "ray" else None
    return most_slots(config.student, pick_device(device).type if device == "auto" else device) * (actors or 1)


def planned_steps(settings: StudentSettings, documents: int, texts_a_document: int = 1) -> int:
    """Optimiser steps of a lesson with that many texts for each of `documents`, whichever of them are missing."""
    if settings.steps is not None:
        return settings.steps
    documents_a_step = min(documents, settings.texts_per_step or documents)
    at_once = max(1, settings.texts_per_step // documents_a_step) if settings.texts_per_step else texts_a_document
    return settings.epochs * math.ceil(documents / documents_a_step) * math.ceil(texts_a_document / at_once)


def chunked(items: list, size: int) -> Iterator[list]:
    """Consecutive pieces of `size`; the last may be shorter."""
    return (items[start : start + size] for start in range(0, len(items), size))
