"""What `notewright evaluate` compares, and how; part of the config in `schema.py`."""

from typing import Literal

from pydantic import Field, model_validator

from configs.schema.section import Section


class Evaluation(Section):
    """Students taught with arms of texts, on `data.heldout` documents and their held-out questions."""

    arms: tuple[str, ...] = ("none", "raw", "repeated", "untrained", "trained")
    """What students are taught with. `none`: nothing. `raw`: the documents themselves, `student.epochs` times.
    `repeated`: the same for as many tokens and steps as all arms below. `untrained`: the teacher as it is.
    `strategy:NAME`: it writes in one way. `strategies`: one such arm for each of `teacher.strategies`. `ensemble`: the
    ways of `ensemble` in turn, without RL (SPA, arXiv 2603.22213). `trained`: the best checkpoint of `run.dir`, or
    `trained:RUN` of another run. `best-of:N`: of N lessons by the untrained teacher the one that gains most on the
    documents' `reward` questions. `file:PATH.jsonl`: rewrites that you bring, in the format of `notewright score`.
    `file:lab`: rewrites by the lab's world itself."""
    students: tuple[str, ...] = ()
    """Base models of the students that are taught, e.g. also one of another family and a larger one; empty takes those
    of `student`. All other settings are those of `student`."""
    against: str = "repeated"
    """The arm that all others are compared with. The trained teacher is compared with all others, too."""
    seeds: int = Field(default=2, ge=1)
    """Students of each arm and batch of documents."""
    steps: int | None = Field(default=None, ge=1)
    """Optimiser steps of every student; null takes `student.steps`."""
    tokens_per_step: int | None = Field(default=None, ge=8)
    """Tokens of a step, the same for all arms; null takes `student.tokens_per_step`."""
    questions: Literal["heldout", "all"] = "heldout"
    """`all` also asks the documents' reward questions. Only for arms that no reward has shaped: neither `trained` nor
    `best-of`."""
    ensemble: tuple[str, ...] = (
        "implications", "rewrite", "question-answer", "key-concepts", "case-study", "tutorial", "faq",
    )  # fmt: skip
    """Strategies of the arm `ensemble`, in turn."""
    teacher_for: Literal["run", "each"] = "run"
    """`run`: the arm `trained` is the teacher of `run.dir`, which must be there. `each`: every student has a teacher of
    its own in `run.dir/teachers`, trained by this config where it is missing."""
    single_documents: int = Field(default=0, ge=0)
    """Also one document a student (SEAL's table), on the first so many documents and one seed; 0 leaves it out."""
    scaling: tuple[int, ...] = ()
    """Rewrites a document, e.g. [1, 2, 4, 8]: the gain at each number, at equal tokens and steps, one seed."""
    scaling_arms: tuple[str, ...] = ()
    """Arms with such a curve; empty takes all that can write more."""
    benchmarks: tuple[str, ...] = ()
    """Benchmarks that were never rewarded, asked of every student: `file:PATH.jsonl`, `text:PATH.jsonl`,
    `lm-eval:TASK`, `olmo:TASK`, all their items. `lab`: people whom the lab's students have read of and were never
    asked about."""
    benchmark_limit: int | None = Field(default=200, ge=1)
    """Use the first items of each benchmark."""
    retention_texts: str | None = None
    """JSONL of texts (`text`) whose loss shows what a lesson made students forget; null takes
    `reward.retention_texts`."""
    retention_questions: str | None = None
    """A benchmark of what students knew before, see `benchmarks`. `lab`: people that both of the lab's students have
    been asked about."""
    edits: int = Field(default=0, ge=0)
    """Teach so many batches of documents one after the other, each merged into the student before the next; 0 does
    not."""
    edits_arm: str = ""
    """The arm whose lessons these are; empty takes `trained`, or else the last arm."""
    replay: float = Field(default=0.5, ge=0, lt=1)
    """Share of the documents of a lesson that come from earlier edits, in a second sequence; 0 makes none."""
    false_positives: int = Field(default=0, ge=0)
    """Pairs of equal arms that the verdict is tried on, with different students on the two sides; 0 tries none."""
    false_positive_seeds: int = Field(default=8, ge=2)
    """Students a batch to draw these from: at least two for each of `seeds`."""
    lab: bool = False
    """Build the lab where it is missing, and hold the result against what is known of it."""
    workers: int = Field(default=1, ge=1)
    """Processes, each for one student model (and one teacher that is trained). On a CPU two processes of one thread are
    faster than one of two."""

    @model_validator(mode="after")
    def _possible(self) -> "Evaluation":
        if self.false_positives and self.false_positive_seeds < 2 * self.seeds:
            raise ValueError("evaluation.false_positive_seeds: two sides of `seeds` students need twice as many")
        if any(number < 1 for number in self.scaling):
            raise ValueError("evaluation.scaling are numbers of rewrites, from 1 on")
        return self
