"""Settings of `notewright evaluate`: which texts are compared, on which students, and how."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from configs.schema.section import Named, Section


class Evaluation(Section):
    """Students learn from arms of texts about the documents of `data.heldout`, and answer their held-out questions."""

    arms: tuple[Named, ...] = ("none", "raw", "repeated", "untrained", "trained")
    """What students are taught with. `none`: nothing. `raw`: the documents themselves, `student.epochs` times.
    `repeated`: the same for as many tokens and steps as all arms below. `untrained`: the teacher as it is.
    `strategy:NAME`: the untrained teacher with one strategy, or a ready one without it (see `teacher.strategies`):
    `strategy:sentences`, `strategy:brought:NAME`. `strategies`: one such arm for each of `teacher.strategies`.
    `ensemble`: the strategies of `ensemble` in turn, without RL (SPA, arXiv 2603.22213). `trained`: the best checkpoint
    of `run.dir`, `trained:RUN` of another run, or `trained:NAME` of `teachers`. `best-of:N`: of N lessons by the
    untrained teacher the one with the largest gain on the documents' `reward` questions. `oracle`: of one lesson by
    each of `teacher.strategies` the one with the largest gain on all questions of its document, which are the answers:
    a bound, no method. `file:PATH.jsonl`: your own rewrites, in the format of `notewright score`. `file:lab`: rewrites
    by the lab's world itself. `distilled:ARM`: the texts of such an arm, learnt as `student.objective: distill` says,
    and compared with that arm."""
    students: tuple[Named, ...] = ()
    """Base models of the students, e.g. one of another family; empty: that of `student`, as all other settings."""
    against: Named = "repeated"
    """The arm with which all others are compared. Trained teachers are also compared with the arms of `compared`."""
    compared: tuple[Named, ...] = ()
    """Arms that every trained teacher is compared with beside `against`; empty: all others. What is compared is
    corrected for together, so that a few questions that are fixed beforehand are answered sooner than all."""
    seeds: int = Field(default=2, ge=1)
    """Students of each arm and batch of documents."""
    steps: int | None = Field(default=None, ge=1)
    """Optimiser steps of every student; null takes `student.steps`."""
    tokens_per_step: int | None = Field(default=None, ge=8)
    """Tokens of a step, the same for all arms; null takes `student.tokens_per_step`."""
    questions: Literal["heldout", "all"] = "heldout"
    """`all` also asks the documents' reward questions. Not with `trained` and `best-of`, which they chose."""
    ensemble: tuple[Named, ...] = (
        "implications", "rewrite", "question-answer", "key-concepts", "case-study", "tutorial", "faq",
    )  # fmt: skip
    """Strategies that the arm `ensemble` takes in turn."""
    teacher_for: Literal["run", "each"] = "run"
    """`run`: the arm `trained` is the teacher of `run.dir`, which must exist. `each`: every student has a teacher of
    its own in `run.dir/teachers`, which is trained with this config if it is missing."""
    teachers: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Further teachers that are trained so, for the arms `trained:NAME`: by name what each changes of `student`,
    `reward` and `rl` in its training, e.g. {grpo: {rl: {algorithm: grpo}}, as-it-is: {}}."""
    training_runs: int = Field(default=1, ge=1)
    """Teachers that are trained for each student where `teacher_for: each` or `teachers` train them, with the seeds
    `run.seed`, `run.seed` + 1 and so on. Their arm is their mean, whose interval draws training runs as well as
    documents. Two such arms are compared run by run, of one seed each."""
    single_documents: int = Field(default=0, ge=0)
    """Also teach one document to each student (SEAL's table), for so many documents and one seed; 0 does not."""
    scaling: tuple[int, ...] = ()
    """Numbers of rewrites per document, e.g. [1, 2, 4, 8]: the gain at each, at equal tokens and steps, one seed."""
    scaling_arms: tuple[Named, ...] = ()
    """Arms with such a curve; empty takes all that can write several rewrites."""
    benchmarks: tuple[Named, ...] = ()
    """Benchmarks whose items every student is asked and which are never rewarded: `file:PATH.jsonl`, `text:PATH.jsonl`,
    `lm-eval:TASK`, `olmo:TASK`. `lab`: people of whom the lab's students have read and were never asked."""
    benchmark_limit: int | None = Field(default=200, ge=1)
    """Use the first items of each benchmark."""
    retention_texts: Path | None = None
    """JSONL of texts (`text`) whose loss shows what students forgot; null takes `reward.retention_texts`."""
    retention_questions: Named | None = None
    """A benchmark, as above, of what students knew before. `lab`: people about whom both its students were asked."""
    edits: int = Field(default=0, ge=0)
    """Teach so many batches of documents in turn, and merge each into the student before the next; 0 does not."""
    edits_arm: Named = ""
    """The arm that writes the lessons of `edits`; empty takes `trained`, or else the last arm."""
    replay: float = Field(default=0.5, ge=0, lt=1)
    """Share of a lesson's documents that come from earlier edits when a sequence is run again; 0: it is not."""
    sequences: int = Field(default=8, ge=1)
    """Students that are edited so, in other orders and groups of the documents: intervals are over them. With replay
    each costs `2 * edits - 1` trainings of a single student, one after another."""
    lab: bool = False
    """Build the lab if it is missing, and also compare the strategy that is known to be best for each of its students
    with every other one."""
    workers: int = Field(default=1, ge=1)
    """Processes, one for each student model or teacher's training. On a CPU two of one thread beat one of two."""

    @model_validator(mode="after")
    def _possible(self) -> "Evaluation":
        if any(number < 1 for number in self.scaling):
            raise ValueError("evaluation.scaling are numbers of rewrites, from 1 on")
        for name, changes in self.teachers.items():
            if not name.strip() or set("/:") & set(name):
                raise ValueError(f"evaluation.teachers: {name!r} is no name: it has a / or : in it, or nothing")
            if others := sorted(changes.keys() - {"student", "reward", "rl"}):
                raise ValueError(f"evaluation.teachers.{name}: only student, reward and rl differ, not {others[0]!r}")
        return self
