"""Settings of the reward: the unit of credit, repeats, and penalties."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from configs.schema.section import Named, Section

Credit = Literal["document", "shared", "shard"]
Measure = Literal["loglik", "contrast", "choice", "recall", "bits", "self_certainty", "majority"]


class Screen(Section):
    """Only lessons that may be a document's best are taught in full (teacher/reward/screen.py). It is off without
    `signs` and `steps`, and turns itself off where they do not tell a document's better lessons. The few lessons that
    are taught of a document are mostly of one strategy and seldom stand out of each other; under
    `reward.pool_strategies` they stand out of all, by what the strategies of the others are worth. `notewright
    validity` replays a screen on lessons that were all taught. Needs `reward.credit` `document` or `shared`, and
    `rl.algorithm` `rest_em` or `dpo`."""

    signs: tuple[str, ...] = ()
    """Cheap signs by which lessons are ranked, by their names in teacher/reward/signs.py, such as [contained, length]
    (beside each lesson's strategy)."""
    steps: int | None = Field(default=None, ge=1)
    """The lessons that are left are first taught with so many steps, and this gain is one more sign."""
    share: float = Field(default=0.25, gt=0, le=1)
    """Share of the documents whose lessons are all taught, drawn at random: by them it is fitted and judged."""
    floor: float = Field(default=0.1, ge=0, lt=1)
    """Lessons are left out only where the 95% interval of the rank correlation of predicted and measured gains, on
    documents that were not fitted on, lies above it."""
    regret: float = Field(default=0.1, gt=0, lt=1)
    """So much of the best lesson's lead over its document's mean may be lost by what is left out; it says how many are
    taught."""
    rounds: int = Field(default=4, ge=1)
    """Rounds that it is fitted on: the last ones, since the teacher changes."""

    @property
    def wanted(self) -> bool:
        """Whether there is anything to screen by."""
        return bool(self.signs or self.steps)


class Reward(Section):
    measure: Measure = "loglik"
    """The measure whose rise is the gain. `loglik`: mean log-likelihood of a gold answer's token, in nats. `contrast`:
    that minus the mean of the question's distractors, in nats. `choice`: whether the gold answer beats every distractor
    by log-likelihood a character (lm-eval's acc_norm). `recall`: whether the decoded answer has 60% of the gold words
    (needs `student.decode`). `bits`: the bits per byte that the student spares on the end of the document, which the
    teacher does not see (needs `data.continuation`, and no questions). Two need no answer key, but
    `student.sampled_answers`, and drift from the truth: `self_certainty`, how far the student's expectations at its own
    answers' tokens are from uniform, in nats (arXiv 2505.19590); `majority`, the share of its answers that agree (arXiv
    2504.16084). The other measures stand beside it where the exam tells them: see `rl.judged_by`."""
    distractors: int | None = Field(default=None, ge=0)
    """Wrong answers to each question that brings none: answers of its document's other questions, then of other
    documents. null takes 4 where the measure needs them, else 0."""
    credit: Credit = "shared"
    """`document`: one student a rewrite. `shared`: one student learns the j-th rewrite of every document of a batch,
    and each rewrite is rewarded with its own document's gain. `shard`: that student's gain over everything, for all."""
    documents_per_student: int = Field(default=8, ge=1)
    """Documents that share a student, for `credit: shared` and `shard`."""
    benchmarks: tuple[Named, ...] = ()
    """Only under `shard` credit: `file:PATH.jsonl`, `text:PATH.jsonl`, `lm-eval:TASK`, `olmo:TASK`
    (student/benchmarks/sources.py). Their `reward` items are asked beside the documents' own questions; their
    `heldout` items are kept out of lessons."""
    repeats: int = Field(default=1, ge=1)
    """Students per lesson with different seeds and, where documents share students, in different company; their mean is
    the reward. With one, the lessons of eight documents of each round are taught twice, so that the reward's noise is
    known."""
    adaptive: bool = False
    """Give the students of later repeats to the lessons where they are most likely to change which is best."""
    pool_strategies: bool = False
    """Estimate a lesson's gain also from what its strategies gained on all documents of the step (a mixed model,
    teacher/reward/pooling.py). The same ranking then needs fewer students, if a strategy's worth hardly depends on
    the document."""
    screen: Screen = Screen()
    shuffled: bool = False
    """A control of a training run: answers are dealt at random to the students of an exam, document by document, so
    that the reward has its size and spread and says nothing about the lesson (teacher/reward/shuffled.py)."""
    set_credit: Literal["whole", "marginal"] = "whole"
    """With `rl.rewrites_per_lesson` above 1. `whole`: each rewrite of a set earns the set's gain. `marginal`: the set's
    gain minus the gain of the set without it, which costs one more student a rewrite of the set."""
    across_students: Literal["mean", "worst"] = "mean"
    """With several `student.models`: a lesson's gain is the mean over students, or that of the one it helps least."""
    minimum_reliability: float = Field(default=0.0, ge=0, lt=1)
    """Before the first round some lessons are taught repeatedly to measure the reward's reliability. If it is below
    this number or cannot be told, RL would fit noise, and no round is run. 0 skips the measurement."""
    retention_texts: Path | None = None
    """JSONL of texts (`text`) that students should not forget."""
    retention_weight: float = Field(default=0.0, ge=0)
    """Penalty for each nat by which the loss on the retention texts rises."""
    length_weight: float = Field(default=0.0, ge=0)
    """Penalty on lesson tokens / document tokens - 1, where above 0."""
    overlap_weight: float = Field(default=0.0, ge=0)
    """Penalty for the share of a rewrite's word 4-grams that others of its set also have: it rewards diversity."""
    rejected: float = Field(default=-1.0, le=0)
    """Reward of a rewrite that a gate refused or whose student failed, added to the worst of its group."""

    @property
    def needs_distractors(self) -> bool:
        """Whether questions without distractors do not tell the measure."""
        return self.measure in ("contrast", "choice")

    @property
    def distractors_drawn(self) -> int:
        """Distractors of a question."""
        return (4 if self.needs_distractors else 0) if self.distractors is None else self.distractors

    @property
    def documents_together(self) -> int:
        """Documents that share a student."""
        return 1 if self.credit == "document" else self.documents_per_student

    @property
    def full_repeats(self) -> int:
        """Repeats that teach every lesson; under `adaptive` the other ones choose theirs."""
        return 1 if self.adaptive else self.repeats

    def credit_size(self, rewrites_per_lesson: int) -> int:
        """Rewrites of a lesson that earn one credit together: all of them, or each its own under `marginal` credit."""
        return 1 if self.set_credit == "marginal" else rewrites_per_lesson

    def students_per_lesson(self, rewrites_per_lesson: int) -> int:
        """Students that teach a lesson once: one, and under `marginal` credit one more without each rewrite of it."""
        return 1 + (rewrites_per_lesson if self.set_credit == "marginal" else 0)
