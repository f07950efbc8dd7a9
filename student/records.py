"""Records of a student run: the lesson, the exam, and the outcome.

All are frozen. A failed student is an `Outcome` with `error`, never an exception.
"""

import statistics
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, get_args

from configs.schema.reward import Measure

Split = Literal["reward", "heldout"]

MEASURES: tuple[Measure, ...] = get_args(Measure)
SHARES: frozenset[Measure] = frozenset({"choice", "recall"})
"""Measures of which a question is a hit or none, so that a gain is a difference of shares."""
UNITS: dict[Measure, str] = {m: "share of questions" if m in SHARES else "nats a token" for m in MEASURES} | {
    "bits": "bits a byte", "majority": "share of answers",
}  # fmt: skip
"""Of a measure and of its rise, which is a gain."""


def in_measure(measure: Measure) -> str:
    """`in contrast (nats a token)`: what a gain is in, for tables, axes and sentences."""
    return f"in {measure} ({UNITS[measure]})"


class Document(Protocol):
    """The fields of a document that are used; datatrove's `Document` has them."""

    text: str
    id: str
    metadata: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """The part of a document that another document is: `metadata["passage"]` of a passage of a longer one."""

    number: int
    """1 is the first."""
    of: int
    """Passages of the document."""
    start_index: int
    end_index: int
    """The passage is `text[start_index:end_index]` of the document's text, as the filters leave it."""
    headings: tuple[str, ...]
    """Those under which the passage begins, the outermost first, without one that it begins with itself."""
    document_id: str
    document_hash: str
    """Of the document's words: equal in all its passages, and in those of a copy."""


def passage_of(document: Document) -> Passage | None:
    """Which passage of a longer document this is; None where it is a whole document. A field `passage` that the row
    itself has is none."""
    passage = document.metadata.get("passage")
    return passage if isinstance(passage, Passage) else None


def whole_id(document: Document) -> str:
    """The id of the whole document of which this is a passage, or which it is."""
    passage = passage_of(document)
    return document.id if passage is None else passage.document_id


def group_of(document: Document) -> Hashable:
    """What keeps documents together: the title, in any case and spacing, or where there is none the text, for passages
    the one of their whole document."""
    title = document.metadata.get("title")
    title = " ".join(title.split()).casefold() if isinstance(title, str) else ""
    if title:
        return "title", title
    passage = passage_of(document)
    return "text", words_of(document) if passage is None else passage.document_hash


def words_of(document: Document) -> str:
    """The text in single spaces."""
    return " ".join(document.text.split())


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One benchmark item."""

    prompt: str
    """As the student reads it: templates are applied by the benchmark."""
    answer: str
    distractors: tuple[str, ...] = ()
    """Wrong answers, such as the other choices of a multiple-choice item. By them `contrast` and `choice` are told."""
    split: Split = "reward"
    document_id: str = ""
    """The document that it asks about; empty if there is none."""
    text: bool = False
    """It asks for running text: it tells `bits` and nothing else, which all other questions do not."""


class Segment(NamedTuple):
    """A part of a lesson text. `Lesson.loss_on` selects parts by `kind`, e.g. `prompt`, `output`, `answer`."""

    kind: str
    text: str


LessonText = str | tuple[Segment, ...]
"""A plain string is one segment of kind `output`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """The texts that one student is trained on, and how. `None` takes the config's value."""

    texts: tuple[LessonText, ...]
    document_ids: tuple[str, ...] = ()
    """The document that each text teaches, aligned with `texts`; empty if all texts are one document's. Documents get
    equal shares of every update."""
    contexts: tuple[str, ...] = ()
    """For each text the document that the base has before it: the student learns to predict the text's tokens as the
    base does then (context distillation, see `student.engine.loss`). Empty: the student learns the texts."""
    learning_rate: float | None = None
    epochs: int | None = None
    steps: int | None = None
    """Optimiser steps; overrides `epochs`."""
    warmup_steps: int | None = None
    schedule: Literal["constant", "linear", "cosine"] | None = None
    loss_on: str | None = None
    seed: int = 0
    """Adapter initialisation and data order. Equal seeds are common random numbers, whatever else is in the batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exam:
    """The questions that a student answers before and after its lesson, and texts that it should not forget."""

    questions: tuple[Question, ...] = ()
    retention_texts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One student run."""

    lesson: Lesson
    exam: Exam


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How one question was answered before and after the lesson, by the same student."""

    loglik_before: float
    """Mean log-likelihood of a gold answer's token, in nats."""
    loglik_after: float
    correct_before: bool
    """Greedy decoding would give the gold answer and end it: each gold token is the likeliest after the gold ones
    before it, and after the last one an end token, a line break or punctuation is likeliest."""
    correct_after: bool
    extra: dict[str, float] = field(default_factory=dict)
    """As `NAME_before` and `NAME_after`: sums, bits per byte, `greedy` (as correct, but the answer may go on); of a
    question with distractors `contrast`, `choice` and `choice_sum`; of a decoded answer `recall` and `exact_match`; of
    sampled ones `self_certainty` and `majority`; of running text `bits`, the bits per byte that it takes, below 0."""

    def told(self, measure: Measure) -> tuple[float, float] | None:
        """A measure before and after, in its unit (`UNITS`); None where the exam did not tell it: it needs distractors
        for `contrast` and `choice`, decoded answers for `recall`, sampled ones for `self_certainty` and `majority`,
        running text for `bits`."""
        if measure == "loglik" and not self.of_text:
            return self.loglik_before, self.loglik_after
        before, after = self.extra.get(f"{measure}_before"), self.extra.get(f"{measure}_after")
        return None if before is None or after is None else (before, after)

    @property
    def of_text(self) -> bool:
        """Whether running text was asked for."""
        return "bits_before" in self.extra

    def gain_of(self, measure: Measure) -> float | None:
        """The rise of a measure; None where it is not told."""
        told = self.told(measure)
        return None if told is None else told[1] - told[0]


def mean_gain(answers: Sequence[Answer], measure: Measure) -> float | None:
    """Mean rise of a measure over the answers that tell it; None where none does."""
    gains = [gain for answer in answers if (gain := answer.gain_of(measure)) is not None]
    return statistics.fmean(gains) if gains else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The result of one student run. `answers` are in the order of the exam's questions, so that each document can be
    credited with the gain on its own questions."""

    gain: float | None
    """Mean rise of `loglik` over the exam's `reward` questions (over all, where none is marked so), or what
    `teacher.reward.student_runs.narrow` puts in its place: that of the rewarded measure. None if the student failed."""
    metrics: dict[str, float] = field(default_factory=dict)
    """`loglik_before/after`, `accuracy_before/after`, `heldout_gain`, `retention_before/after` (nats a token), `steps`,
    `train_loss_first/last`, `steps_cut` (left out for `student.max_lesson_tokens`),
    `lesson_tokens` (trained on in all steps), `longest_text` (its tokens), `label_fraction`
    (share of its batch's positions that carried a label)."""
    answers: tuple[Answer, ...] = ()
    error: str | None = None


class Proof(NamedTuple):
    """What the engine showed of itself on a base of students: see `student.engine.proof`."""

    dtype: str
    """Type of the base weights, such as `bfloat16`; `student.dtype: auto` leaves it open."""
    packed: bool
    """Texts share rows without seeing each other. Else a row holds one text."""
    shares_prompts: bool
    """Answers to a question share the computation of its prompt."""
    left_out: tuple[str, ...] = ()
    """Linear layers that the family's code cannot be given with an adapter: last parts of their names."""
    rounding: float | None = None
    """How far a step in bfloat16 is off one in float32: the difference of losses, or of gradients by their norms, as a
    share. None where all is float32, or does not fit in memory."""
    most_rounding: float = 0.0
    """The most that it may be."""

    @property
    def agrees(self) -> bool:
        """Whether bfloat16 is as good as float32 here, but for rounding."""
        return self.rounding is None or self.rounding <= self.most_rounding  # not so with NaN

    def __str__(self) -> str:
        words = [f"base weights in {self.dtype}"]
        if self.rounding is not None:
            words.append(f"a step in bfloat16 differs by {self.rounding:.1%} (at most {self.most_rounding:.0%})")
        words.append("packed rows are exact" if self.packed else "one text a row, since packed texts see each other")
        if not self.shares_prompts:
            words.append("answers share no prompt")
        if self.left_out:
            words.append(f"{', '.join(self.left_out)} cannot carry adapters")
        return "; ".join(words)


OnDone = Callable[[dict[int, Outcome]], None]
"""Is called with outcomes as soon as they are known, by their indices among the jobs."""


class StudentPool(Protocol):
    """Trains and examines students, in this process (`InlinePool`) or on Ray actors (`RayPool`)."""

    def examine(self, jobs: list[Job], on_done: OnDone | None = None) -> list[Outcome]:
        """Trains and examines one student for each job; the outcomes are in the order of `jobs`. Never raises for one
        student, but gives an outcome with `error`. `on_done` is called with those of each batch."""
        ...

    def keep(self, job: Job, folder: Path) -> Outcome:
        """Trains one student and saves it: a PEFT adapter folder, or (`mode: full`) a model folder."""
        ...

    def close(self) -> None:
        """Lets go of what is outside this process's memory: actors, with their GPUs."""
        ...

    @property
    def at_once(self) -> int:
        """Students in one call that keep the pool busy: with fewer part of it is idle, with more it is no faster."""
        ...

    @property
    def proof(self) -> Proof:
        """What the engine showed of itself on this base when the pool started."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hash of all that an outcome depends on beside the job: base weights, engine version, student settings."""
        ...


class Benchmark(Protocol):
    """Where exams come from."""

    def exam(self, document: Document) -> Exam: ...
