"""Signs of a rewrite's worth that need no student of it. A sign is a function and its row in `SIGNS`.

Some read the text alone. Others share what is costly (`SignWork`), which is done once for all rewrites and kept in the
journal: the untouched student reads each rewrite, alone and before the questions; a probe is tuned once a document;
gradients are taken at a fresh adapter. Those that need no questions (`TextWork`) can be read while curating.
"""

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple

from student.engine.schedule import plan_schedule
from student.pools.inline import InlinePool
from student.records import Answer, Document, Exam, Job, Lesson, Outcome, Question, Segment, StudentPool
from student.text.words import length_in_words, ngrams, word_line, words
from teacher.reward.costs import Costs
from teacher.reward.student_runs import StudentRuns
from teacher.run.journal import JsonLines, outcome_key

Values = list[list[float | None]]
"""Documents x rewrites; None where the sign cannot be told."""

Signs = dict[str, float | None]
"""Of one rewrite, by name."""

OVERLAP_WORDS = 4
"""Words in a row that count as taken from the document."""


class Texts(NamedTuple):
    """A document and the texts that students may learn of it."""

    document: Document
    texts: tuple[str, ...]


class TextWork:
    """What signs read that need no questions."""

    def __init__(self, groups: Sequence[Texts], pool: StudentPool | None = None) -> None:
        """Signs with `work` ask the untouched student of `pool`."""
        self.groups, self._pool = groups, pool
        self.rewrites = sum(len(group.texts) for group in groups)

    @cached_property
    def likelihood(self) -> list[list[Outcome]]:
        """The untouched student's log-likelihood of each rewrite: after its own first word, and after its document. A
        rewrite of one word is asked for after the document alone."""
        jobs = []
        for group in self.groups:
            for text in group.texts:
                after_document = Question(prompt=f"{group.document.text}\n\n", answer=text)
                asked = [question for question in (_continued(text), after_document) if question is not None]
                jobs.append(Job(lesson=Lesson(texts=()), exam=Exam(questions=tuple(asked))))
        return self._by_document(self._examine("likelihood", jobs))

    def _examine(self, work: str, jobs: list[Job]) -> list[Outcome]:
        assert self._pool is not None, f"{work} asks a student"
        return self._pool.examine(jobs)

    def _by_document(self, of_rewrites: list) -> list[list]:
        """A list of all rewrites as one a document."""
        items = iter(of_rewrites)
        return [[next(items) for _ in group.texts] for group in self.groups]


class SignWork(TextWork):
    """The students and gradients that signs read, each made when the first sign asks for it."""

    def __init__(
        self, runs: StudentRuns, pool: StudentPool, groups: Sequence[Texts], costs: Costs, alignments: JsonLines,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:  # fmt: skip
        super().__init__(groups, pool)
        self.runs, self.pool, self.costs = runs, pool, costs
        self.alignments, self.on_progress = alignments, on_progress
        one_each = dict.fromkeys(("likelihood", "in_context", "alignment"), self.rewrites)
        self.units = {"": 0, "probe": len(groups), **one_each}
        """What each kind of work is done for: a rewrite each, or a document each."""

    @classmethod
    def of_run(cls, runs: StudentRuns, pool: StudentPool, groups: Sequence[Texts]) -> "SignWork":
        """Kept in the journal of a run."""
        folder = runs.journal.dir
        costs = Costs(JsonLines(folder / "costs.jsonl", ("work", "time")))
        return cls(runs, pool, groups, costs, JsonLines(folder / "alignments.jsonl", ("key",)))

    def questions(self, group: Texts) -> list[Question]:
        """What a student is asked about the document."""
        return self.runs.questions(group.document, "reward")

    @cached_property
    def in_context(self) -> list[list[Outcome]]:
        """Answers of the untouched student that reads each rewrite before every question."""
        jobs = [
            Job(
                lesson=Lesson(texts=()),
                exam=Exam(questions=tuple(replace(q, prompt=f"{text}\n\n{q.prompt}") for q in self.questions(group))),
            )
            for group in self.groups
            for text in group.texts
        ]
        return self._by_document(self._examine("in_context", jobs))

    @cached_property
    def probe(self) -> list[list[float | None]]:
        """How far a probe's loss on each rewrite lies below that of the untouched student, nats a token. The probe is a
        student that was taught the document's questions with their answers."""
        jobs, asked_for = [], []
        for group in self.groups:
            asked = self.questions(group)
            texts = tuple((Segment("prompt", q.prompt.rstrip(" ")), Segment("answer", f" {q.answer}")) for q in asked)
            lesson = Lesson(texts=texts, loss_on="answer", steps=self.runs.config.student.steps)
            # A rewrite is asked for as the answer to its own first word.
            rewrites = tuple(_continued(text) for text in group.texts)
            jobs.append(Job(lesson=lesson, exam=Exam(questions=tuple(q for q in rewrites if q is not None))))
            asked_for.append(rewrites)
        values = []
        for rewrites, outcome in zip(asked_for, self._examine("probe", jobs), strict=True):
            answers = iter(outcome.answers)
            told = [None if q is None else next(answers, None) for q in rewrites]
            values.append([None if answer is None else answer.gain_of("loglik") for answer in told])
        return values

    @cached_property
    def alignment(self) -> list[list[float | None]]:
        """Cosine between the gradients of each rewrite as a lesson and of the document's exam."""
        if not isinstance(self.pool, InlinePool):
            return [[None] * len(group.texts) for group in self.groups]
        jobs = [
            self.runs.job([group.document.id], [(group.document.id, text)], 0, "reward")
            for group in self.groups
            for text in group.texts
        ]
        schedules = [plan_schedule(self.pool.tokenizer, job.lesson, self.pool.settings) for job in jobs]
        tokens = sum(len(text) for schedule in schedules for text in schedule.texts)
        self.costs.tokens_per_rewrite["alignment"] = tokens / self.rewrites  # each passes through the model once
        keys = [outcome_key(self.pool.fingerprint, job) for job in jobs]
        known = {record["key"]: record["alignment"] for record in self.alignments.read()}
        missing = {key: job for key, job in zip(keys, jobs, strict=True) if key not in known}
        at_once = self.pool.at_once
        for start in range(0, len(missing), at_once):
            members, started = list(missing.items())[start : start + at_once], time.monotonic()
            found = self.pool.gradient_alignments([job for _, job in members])
            for (key, _), alignment in zip(members, found, strict=True):
                self.alignments.append({"key": key, "alignment": alignment})
                known[key] = alignment
            self.costs.add("alignment", len(members), time.monotonic() - started)
            self.on_progress(min(start + at_once, len(missing)), len(missing))
        return self._by_document([known[key] for key in keys])

    def _examine(self, work: str, jobs: list[Job]) -> list[Outcome]:
        with self.costs.of(work, self.runs):
            outcomes = self.runs.examine(jobs, self.pool)
        tokens = sum(outcome.metrics.get("lesson_tokens", 0.0) for outcome in outcomes)
        self.costs.tokens_per_rewrite[work] = tokens / self.rewrites
        return outcomes


def contained(work: SignWork) -> Values:
    """Share of the questions whose gold answer stands in the rewrite, word by word."""
    return _of_texts(work, lambda group, text: statistics.fmean(
        word_line(words(question.answer)) in word_line(words(text)) for question in work.questions(group)
    ))  # fmt: skip


def length(work: TextWork) -> Values:
    """Words of the rewrite."""
    return _of_texts(work, lambda group, text: float(length_in_words(words(text))))


def overlap(work: TextWork) -> Values:
    """Share of the rewrite's word 4-grams that its document has; 0 for a shorter one."""

    def share(group: Texts, text: str) -> float:
        own, source = list(ngrams(words(text), OVERLAP_WORDS)), set(ngrams(words(group.document.text), OVERLAP_WORDS))
        return sum(gram in source for gram in own) / len(own) if own else 0.0

    return _of_texts(work, share)


def likelihood(work: TextWork) -> Values:
    """Log-likelihood of the rewrite, nats a token: how much of it the untouched student could have written."""
    return [[o.answers[0].loglik_before if len(o.answers) > 1 else None for o in of_one] for of_one in work.likelihood]


def supported(work: TextWork) -> Values:
    """The same with the document before it: how much of the rewrite follows from its source."""
    return [[o.answers[-1].loglik_before if o.answers else None for o in of_one] for of_one in work.likelihood]


def in_context_loglik(work: SignWork) -> Values:
    """Log-likelihood of the gold answers, nats a token, with the rewrite before the question."""
    return _in_context(work, lambda answer: answer.loglik_before)


def in_context_contrast(work: SignWork) -> Values:
    """The same, minus the distractors' mean."""
    return _in_context(work, lambda answer: answer.extra.get("contrast_before"))


def in_context_choice(work: SignWork) -> Values:
    """Share of the questions at which the gold answer then beats all distractors."""
    return _in_context(work, lambda answer: answer.extra.get("choice_before"))


def probe(work: SignWork) -> Values:
    """Influence by a probe as in SynPro (arXiv 2605.17849): the loss on the rewrite before the probe was tuned on the
    reference task, minus that after. SynPro tunes one probe on one task; here the task is the document's own exam, so
    that there is one a document. Its reward subtracts the influence of the document, which is the same for all of a
    document's rewrites."""
    return work.probe


def alignment(work: SignWork) -> Values:
    """Cosine of the gradients of lesson and exam at a fresh adapter, after LESS (see `student.engine.influence`)."""
    return work.alignment


class Sign(NamedTuple):
    """A row of the table."""

    words: str
    value: Callable[[Any], Values]
    """Of a `SignWork`; without questions of a `TextWork`."""
    work: str = ""
    """What of the work it costs; empty: it reads the text alone."""
    needs: str = ""
    """Why it may not be told."""
    questions: bool = True
    """Whether it is about a document's questions."""


SIGNS = {
    "contained": Sign("gold answers in the rewrite", contained),
    "length": Sign("length", length, questions=False),
    "overlap": Sign("overlap with the document", overlap, questions=False),
    "likelihood": Sign("loglik of the rewrite", likelihood, "likelihood", questions=False),
    "supported": Sign("loglik of the rewrite, document in context", supported, "likelihood", questions=False),
    "in-context-loglik": Sign("loglik, rewrite in context", in_context_loglik, "in_context"),
    "in-context-contrast": Sign("contrast, rewrite in context", in_context_contrast, "in_context", "distractors"),
    "in-context-choice": Sign("choice, rewrite in context", in_context_choice, "in_context", "distractors"),
    "probe": Sign("influence on a probe (SynPro)", probe, "probe"),
    "alignment": Sign("gradient alignment (LESS)", alignment, "alignment", "student.pool inline, student.mode lora"),
}


def read_signs(work: TextWork, names: Iterable[str]) -> list[list[Signs]]:
    """The named signs of each rewrite of each document."""
    found: list[list[Signs]] = [[{} for _ in group.texts] for group in work.groups]
    for name in names if work.rewrites else ():
        for signs, values in zip(found, SIGNS[name].value(work), strict=True):
            for of_text, value in zip(signs, values, strict=True):
                of_text[name] = value
    return found


def _of_texts(work: TextWork, value: Callable[[Texts, str], float]) -> Values:
    return [[value(group, text) for text in group.texts] for group in work.groups]


def _in_context(work: SignWork, value: Callable[[Answer], float | None]) -> Values:
    return [[_mean(outcome, value) for outcome in outcomes] for outcomes in work.in_context]


def _continued(text: str) -> Question | None:
    """What follows a text's first word, as the answer to it; None where nothing does."""
    first, *rest = text.split(maxsplit=1)
    return Question(prompt=first, answer=rest[0].rstrip()) if rest else None


def _mean(outcome: Outcome, value: Callable[[Answer], float | None]) -> float | None:
    """Mean over the answers that tell it; None where none does, or the exam failed."""
    found = [number for answer in outcome.answers if (number := value(answer)) is not None]
    return statistics.fmean(found) if found else None
