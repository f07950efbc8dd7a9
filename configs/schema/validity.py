"""Settings of `notewright validity`: which cheap signals are held against which target, and on what."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from configs.schema.reward import Measure
from configs.schema.section import Section


class Validity(Section):
    """The documents are those of `data.train`. All their questions are asked: nothing is trained by the answers."""

    documents: int = Field(default=24, ge=2)
    """Documents, each with its rewrites: the first ones that bring enough of them."""
    rewrites: int | None = Field(default=None, ge=2)
    """Rewrites of each document. Of a longer list evenly spaced ones are taken, and documents that bring fewer are left
    out. null: all that they bring, or `rl.group_size` where the teacher writes them."""
    measures: tuple[Measure, ...] = ("loglik", "contrast", "choice", "recall")
    """Measures of gain that are held against the target."""
    credits: tuple[Literal["document", "shared"], ...] = ("document", "shared")
    """Units of credit in which students are trained; `shared` takes `reward.documents_per_student`."""
    steps: tuple[int, ...] = ()
    """Optimiser steps of the students, each number a signal of its own, e.g. [2, 8]; empty takes `student.steps`."""
    repeated_documents: int = Field(default=8, ge=0)
    """On so many documents each rewrite is taught once more than `reward.repeats` says, so that the noise of the
    signals is known, and their correlation with the target can be corrected for it. 0: it is not."""
    signs: tuple[str, ...] = ()
    """Signs that need no student of the rewrite, by their names (teacher/reward/signs.py); empty takes all."""
    target: Literal["file", "student"] = "file"
    """`file`: numbers beside the rewrites. `student`: the gain of other students than those of the signals."""
    target_file: Path | None = None
    """JSONL with `id` and `rewrites`, which are in the order of the documents' own and hold `target_field`; null: the
    documents' own `rewrites` hold it."""
    target_field: str = "accuracies"
    """Key of a rewrite's outcome: a number, or a list with one of each run."""
    most_unmatched: float = Field(default=0.1, ge=0, lt=1)
    """The call is refused where a larger share of the rewrites has no outcome in the file."""
    target_student: dict[str, Any] = Field(default_factory=dict)
    """For `target: student`: settings that replace those of `student`, e.g. {steps: 64} or {model: PATH}; empty: the
    same students with other seeds."""
    target_measure: Measure = "recall"
    """For `target: student`: the measure whose rise is the target; `recall` decodes answers."""
    target_repeats: int = Field(default=2, ge=1)
    """For `target: student`: students of each rewrite, one document each; from 2 on their noise is known."""

    @model_validator(mode="after")
    def _once(self) -> "Validity":
        if list(self.steps) != sorted(set(self.steps)) or any(steps < 1 for steps in self.steps):
            raise ValueError("validity.steps are numbers from 1 on, each once, the cheapest first")
        for key in ("measures", "credits", "signs"):
            if len(set(getattr(self, key))) < len(getattr(self, key)):
                raise ValueError(f"validity.{key} names one twice")
        return self
