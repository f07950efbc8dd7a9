"""What a rewrite is worth: the gain of the students that learnt it.

A document's rewrites form a group (D documents, G rewrites each). Under `shared` and `shard` credit slot j's student
learns the j-th rewrite of every document in a batch; under `document` credit a batch is one document. All students of
a batch have the same seed within a repeat (common random numbers) and the same number of steps.
"""

import hashlib
import json
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import torch

from configs.errors import UserError
from configs.schema import Config
from configs.schema import Student as StudentSettings
from student.benchmarks import Combined, DocumentQuestions, make_benchmark
from student.models import pick_device
from student.noise import bootstrap_interval
from student.records import Benchmark, Document, Exam, Job, Lesson, Outcome, Question, Split, StudentPool
from teacher.journal import Journal, outcome_key
from teacher.records import Reward, Rewrite

STUDENTS_AT_ONCE = {"cpu": 32, "cuda": 256}
"""Students between two writes of the cache: what `kill -9` can cost. More at once gains no speed."""


class Estimate(NamedTuple):
    """A mean with its 95% bootstrap interval; the bounds are nan where one value alone makes none possible."""

    mean: float
    low: float
    high: float


def estimate(values: Sequence[float], clusters: Sequence[int] | None = None) -> Estimate:
    """Mean and interval over `values`, one a document. `clusters` names the batch of each: documents that share their
    students are not independent, and are drawn together."""
    if not values:
        return Estimate(math.nan, math.nan, math.nan)
    return Estimate(statistics.fmean(values), *bootstrap_interval(values, clusters))


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What students gained from one text a document, asked questions of one split."""

    gain: Estimate
    """Nats a token, over documents."""
    accuracy: Estimate
    """Share of answers right after the lesson."""
    gains: dict[str, float] = field(default_factory=dict)
    """Mean over seeds, by document."""
    accuracies: dict[str, float] = field(default_factory=dict)
    batches: dict[str, int] = field(default_factory=dict)
    """The batch of each document: those of one batch share students."""
    failed: int = 0
    """Students that failed; their documents count with the other seeds."""


class RewardModel:
    """Turns rewrites into rewards through the student pool, each student trained once and cached in the journal."""

    def __init__(
        self,
        config: Config,
        pool: StudentPool,
        benchmark: Benchmark,
        documents: Sequence[Document],
        journal: Journal,
        count_tokens: Callable[[str], int] = lambda text: len(text.split()),
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.config = config
        self.pool = pool
        self.benchmark = benchmark
        self.documents = {document.id: document for document in documents}
        self.journal = journal
        self.count_tokens = count_tokens
        self.on_progress = on_progress
        self.students = 0
        """Students asked for so far."""
        self.trained = 0
        """Of these, students that were trained now and not found in the cache."""
        self._exams: dict[tuple[str, Split], Exam] = {}
        self.external = tuple(question for question in external_questions(config) if question.split == "reward")
        """Items of `reward.benchmarks`, asked of every student that is rewarded."""

    def score(self, groups: Sequence[Sequence[Rewrite]]) -> list[list[Reward]]:
        """Rewards of D groups of G rewrites, aligned with them.

        A rejected rewrite trains nobody and leaves its place in the shared student empty.
        """
        jobs: dict[tuple[int, int, int], Job] = {}
        batches = list(self._batches(groups))
        for b, batch in enumerate(batches):
            for repeat in range(self.config.reward.repeats):
                for slot in range(len(batch[0])):
                    learnt = [group[slot] for group in batch if group[slot].rejected is None]
                    if learnt:
                        documents = [group[0].document_id for group in batch]
                        jobs[b, slot, repeat] = self._job(documents, learnt, repeat, "reward")
        outcomes = dict(zip(jobs, self.examine(list(jobs.values())), strict=True))
        rewards = []
        for b, batch in enumerate(batches):
            for group in batch:
                parts = [
                    self._reward(rewrite, [
                        (jobs[key], outcomes[key])
                        for repeat in range(self.config.reward.repeats)
                        if (key := (b, slot, repeat)) in jobs
                    ])
                    for slot, rewrite in enumerate(group)
                ]  # fmt: skip
                rewards.append(place_worst(parts, self.config.reward.rejected))
        return rewards

    def examine(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Outcomes in the order of `jobs`: from the cache where they are there, equal jobs once."""
        fingerprint = self.pool.fingerprint
        keys = [outcome_key(fingerprint, job) for job in jobs]
        unique = dict(zip(keys, jobs, strict=True))
        order = list(unique)
        known = self.journal.outcomes.get_many(order)
        chunk = self.config.student.max_slots or STUDENTS_AT_ONCE[pick_device(self.config.student.device).type]
        # Cut before the cached ones are left out: a resumed run then trains the same students in the same batches.
        for start in range(0, len(order), chunk):
            missing = [key for key in order[start : start + chunk] if key not in known]
            if missing:
                fresh = dict(zip(missing, self._train([unique[key] for key in missing]), strict=True))
                self.journal.outcomes.put_many(fresh)
                known |= fresh
                self.trained += len(missing)
            if self.on_progress is not None:
                self.on_progress(min(start + chunk, len(order)), len(order))
        self.students += len(jobs)
        return [known[key] for key in keys]

    def evaluate(
        self,
        documents: Sequence[Document],
        texts_by_document: Mapping[str, str | None],
        seeds: Sequence[int],
        split: Split = "heldout",
    ) -> Evaluation:
        """Gain and accuracy on the `split` questions of `documents`, taught one text each at equal steps.

        A document whose text is None (rejected) keeps its place in the exam but teaches nothing.
        """
        jobs = []
        batches: dict[str, int] = {}
        for number, batch in enumerate(chunked(list(documents), self._documents_per_student())):
            ids = [document.id for document in batch]
            batches |= dict.fromkeys(ids, number)
            taught = [(name, text) for name in ids if (text := texts_by_document[name]) is not None]
            # Every batch has seeds of its own, so that what a seed does is part of the spread between batches.
            jobs += [self._lesson_job(ids, taught, stable_seed(seed, number), split) for seed in seeds]
        gains: dict[str, list[float]] = {document.id: [] for document in documents}
        accuracies: dict[str, list[float]] = {document.id: [] for document in documents}
        failed = 0
        for job, outcome in zip(jobs, self.examine(jobs), strict=True):
            failed += outcome.gain is None
            for name in {question.document_id for question in job.exam.questions} if outcome.gain is not None else ():
                own = narrow(job, outcome, name)
                assert own.gain is not None
                gains[name].append(own.gain)
                accuracies[name].append(own.metrics["accuracy_after"])
        gain_by = {name: statistics.fmean(values) for name, values in gains.items() if values}
        accuracy_by = {name: statistics.fmean(values) for name, values in accuracies.items() if values}
        return Evaluation(
            gain=estimate(list(gain_by.values()), [batches[name] for name in gain_by]),
            accuracy=estimate(list(accuracy_by.values()), [batches[name] for name in accuracy_by]),
            gains=gain_by,
            accuracies=accuracy_by,
            batches=batches,
            failed=failed,
        )

    def exam(self, document: Document, split: Split) -> Exam:
        """The document's questions of one split. Raises UserError where it has none."""
        key = document.id, split
        if key not in self._exams:
            questions = tuple(q for q in self.benchmark.exam(document).questions if q.split == split)
            if not questions:
                raise UserError(f"document {document.id!r} has no {split} questions: no student can be asked")
            self._exams[key] = Exam(questions=questions)
        return self._exams[key]

    def _documents_per_student(self) -> int:
        return 1 if self.config.reward.credit == "document" else self.config.reward.documents_per_student

    def _batches(self, groups: Sequence[Sequence[Rewrite]]) -> Iterator[list[Sequence[Rewrite]]]:
        assert len({len(group) for group in groups}) <= 1, "groups are of one size"
        return chunked(list(groups), self._documents_per_student())

    def _job(self, documents: list[str], rewrites: list[Rewrite], repeat: int, split: Split) -> Job:
        seed = stable_seed(self.config.run.seed, *documents, repeat)
        return self._lesson_job(documents, [(rewrite.document_id, rewrite.text) for rewrite in rewrites], seed, split)

    def _lesson_job(self, documents: list[str], taught: list[tuple[str, str]], seed: int, split: Split) -> Job:
        exams = [self.exam(self.documents[name], split) for name in documents]
        external = self.external if split == "reward" else ()
        return Job(
            lesson=Lesson(
                texts=tuple(text for _, text in taught),
                document_ids=tuple(name for name, _ in taught),
                steps=planned_steps(self.config.student, len(documents)),
                seed=seed,
            ),
            exam=Exam(
                questions=(*(question for exam in exams for question in exam.questions), *external),
                retention_texts=self._retention_texts,
            ),
        )

    def _train(self, jobs: list[Job]) -> list[Outcome]:
        # The pool may draw from the global generator; sampling after it must not depend on what was cached.
        with torch.random.fork_rng(), torch.enable_grad():
            return self.pool.examine(jobs)

    def _reward(self, rewrite: Rewrite, results: list[tuple[Job, Outcome]]) -> Reward | None:
        """None for a rejected rewrite, or one whose students all failed."""
        ran = [(job, outcome) for job, outcome in results if outcome.gain is not None]
        if rewrite.rejected is not None or not ran:
            return None
        own = [narrow(job, outcome, rewrite.document_id) for job, outcome in ran]
        credited = [outcome for _, outcome in ran] if self.config.reward.credit == "shard" else own
        gains = tuple(outcome.gain for outcome in credited if outcome.gain is not None)
        penalties = self._penalties(rewrite, [outcome for _, outcome in ran])
        return Reward(
            value=statistics.fmean(gains) - sum(penalties.values()),
            outcome=own[-1],
            gains=gains,
            noise=statistics.stdev(gains) if len(gains) > 1 else None,
            penalties=penalties,
        )

    def _penalties(self, rewrite: Rewrite, outcomes: list[Outcome]) -> dict[str, float]:
        settings, penalties = self.config.reward, {}
        if settings.length_weight:
            source = max(1, self.count_tokens(self.documents[rewrite.document_id].text))
            penalties["length"] = settings.length_weight * max(0.0, self.count_tokens(rewrite.text) / source - 1)
        if settings.retention_weight and self._retention_texts:
            forgotten = [o.metrics["retention_after"] - o.metrics["retention_before"] for o in outcomes]
            penalties["retention"] = settings.retention_weight * max(0.0, statistics.fmean(forgotten))
        return penalties

    @cached_property
    def _retention_texts(self) -> tuple[str, ...]:
        return read_texts(self.config.reward.retention_texts) if self.config.reward.retention_texts else ()


def place_worst(rewards: Sequence[Reward | None], rejected: float) -> list[Reward]:
    """The group with a reward below its worst (by |`rejected`|) for each None: refused, or its student failed."""
    worst = min((reward.value for reward in rewards if reward is not None), default=0.0)
    return [reward or Reward(value=worst - abs(rejected), outcome=None) for reward in rewards]


def narrow(job: Job, outcome: Outcome, document_id: str) -> Outcome:
    """A student's outcome on the questions about one document alone."""
    answers = tuple(
        answer
        for question, answer in zip(job.exam.questions, outcome.answers, strict=True)
        if question.document_id == document_id
    )
    assert answers, f"the exam asks nothing about {document_id!r}"
    metrics = {
        "accuracy_before": statistics.fmean(answer.correct_before for answer in answers),
        "accuracy_after": statistics.fmean(answer.correct_after for answer in answers),
    }
    return Outcome(gain=statistics.fmean(a.gain for a in answers), metrics=outcome.metrics | metrics, answers=answers)


def planned_steps(settings: StudentSettings, documents: int) -> int:
    """Optimiser steps of a lesson with one text for each of `documents`, whichever of them are missing."""
    if settings.steps is not None:
        return settings.steps
    return settings.epochs * math.ceil(documents / min(documents, settings.texts_per_step or documents))


def stable_seed(*parts: object) -> int:
    """A 31-bit seed that is the same in every process."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big") >> 1


def chunked(items: list, size: int) -> Iterator[list]:
    """Consecutive pieces of `size`; the last may be shorter."""
    return (items[start : start + size] for start in range(0, len(items), size))


def read_texts(path: str) -> tuple[str, ...]:
    """The `text` of each line of a JSONL file. Raises UserError."""

    if not Path(path).is_file():
        raise UserError(f"reward.retention_texts: no file {path!r}")
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
        return tuple(json.loads(line)["text"] for line in lines if line.strip())
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"reward.retention_texts: {path}: every line is a JSON object with `text` ({error})") from None


def external_questions(config: Config) -> tuple[Question, ...]:
    """All items of `reward.benchmarks`, of both splits. Raises UserError."""
    nothing = SimpleNamespace(text="", id="", metadata={})
    benchmarks = [make_benchmark(spec, config.student.prompt_template) for spec in config.reward.benchmarks]
    return Combined(benchmarks).exam(nothing).questions


def document_questions(config: Config) -> DocumentQuestions:
    """The benchmark of a config: each document's own questions."""
    return DocumentQuestions(config.student.prompt_template)
