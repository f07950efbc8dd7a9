"""Student runs that are never made twice: lessons and exams to jobs, jobs to pools, outcomes kept in the journal."""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property

import torch

from configs.errors import UserError
from configs.schema import Config
from configs.schema import Student as StudentSettings
from student.models import pick_device
from student.records import Benchmark, Document, Exam, Job, Lesson, Outcome, Split, StudentPool
from teacher.exams import external_questions, read_texts
from teacher.journal import Journal, outcome_key

STUDENTS_AT_ONCE = {"cpu": 32, "cuda": 256}
"""Students between two writes of the cache: what `kill -9` can cost. More at once gains no speed."""


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
    ) -> None:
        self.config = config
        self.pools = pools
        """By student model; may be replaced between rounds, when the students' base has changed."""
        self.benchmark = benchmark
        self.documents = {document.id: document for document in documents}
        self.journal = journal
        self.count_tokens = count_tokens
        self.on_progress = on_progress
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
        chunk = self.config.student.max_slots or STUDENTS_AT_ONCE[pick_device(self.config.student.device).type]
        # Cut before the cached ones are left out: a resumed run then trains the same students in the same batches.
        for start in range(0, len(order), chunk):
            missing = [key for key in order[start : start + chunk] if key not in known]
            if missing:
                # The pool may draw from the global generator; sampling after it must not depend on what was cached.
                with torch.random.fork_rng(), torch.enable_grad():
                    outcomes = pool.examine([unique[key] for key in missing])
                fresh = dict(zip(missing, outcomes, strict=True))
                self.journal.outcomes.put_many(fresh)
                known |= fresh
                self.trained += len(missing)
            if self.on_progress is not None:
                self.on_progress(min(start + chunk, len(order)), len(order))
        self._asked.update(keys)
        return [known[key] for key in keys]

    def exam(self, document: Document, split: Split) -> Exam:
        """The document's questions of one split. Raises UserError where it has none."""
        key = document.id, split
        if key not in self._exams:
            questions = tuple(q for q in self.benchmark.exam(document).questions if q.split == split)
            if not questions:
                raise UserError(f"document {document.id!r} has no {split} questions: no student can be asked")
            self._exams[key] = Exam(questions=questions)
        return self._exams[key]

    def documents_per_student(self) -> int:
        return 1 if self.config.reward.credit == "document" else self.config.reward.documents_per_student

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


def planned_steps(settings: StudentSettings, documents: int, texts_a_document: int = 1) -> int:
    """Optimiser steps of a lesson with that many texts for each of `documents`, whichever of them are missing."""
    if settings.steps is not None:
        return settings.steps
    documents_a_step = min(documents, settings.texts_per_step or documents)
    at_once = max(1, settings.texts_per_step // documents_a_step) if settings.texts_per_step else texts_a_document
    return settings.epochs * math.ceil(documents / documents_a_step) * math.ceil(texts_a_document / at_once)


def stable_seed(*parts: object) -> int:
    """A 31-bit seed that is the same in every process."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big") >> 1


def chunked(items: list, size: int) -> Iterator[list]:
    """Consecutive pieces of `size`; the last may be shorter."""
    return (items[start : start + size] for start in range(0, len(items), size))
