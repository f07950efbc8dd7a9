"""Settings of `notewright bench settings`: which settings of a student are tried, and on which texts."""

from typing import Any

from pydantic import Field, model_validator

from configs.schema.reward import Measure
from configs.schema.section import Section


class Search(Section):
    """The documents are the first of `data.train` that have a text of every arm. All their questions are asked."""

    documents: int = Field(default=12, ge=2)
    """Documents, each taught alone to a student of each arm."""
    arms: tuple[str, ...] = ("echo", "sentences", "cloze", "foreign:cloze")
    """What students learn: ways of rewriting as in `teacher.strategies`. `foreign:NAME` is the text that NAME makes of
    a document under another title, so that it has the lesson's form and none of its facts."""
    passage: str = "sentences"
    """The arm that a lesson has to beat beside the foreign texts: the passage itself at equal tokens and steps. What is
    neither this nor foreign nor in `controls` is a lesson."""
    controls: tuple[str, ...] = ("echo",)
    """Further arms that are shown and no lessons."""
    settings: tuple[dict[str, Any], ...] = Field(default=({},), min_length=1)
    """Settings that are tried, each by what it changes of `student`, e.g. [{}, {steps: 4}, {lora: {rank: 4}}]."""
    measures: tuple[Measure, ...] = ("loglik", "contrast", "choice", "recall")
    """Measures that are shown; with `recall` among them students decode."""
    judged_by: tuple[Measure, ...] = ("contrast", "recall")
    """Measures in which a lesson has to beat both; the first is the one whose reliability counts."""
    repeats: int = Field(default=1, ge=1)
    """Students of each document and arm."""
    repeated_documents: int = Field(default=4, ge=0)
    """On so many documents there is one student more, by which the reliability is known."""
    minimum_reliability: float = Field(default=0.5, ge=0, lt=1)
    """Least reliability of one run that a setting may have to be named."""

    @model_validator(mode="after")
    def _consistent(self) -> "Search":
        if self.passage not in self.arms:
            raise ValueError(f"search.passage: {self.passage!r} is none of search.arms")
        for key in ("arms", "measures"):
            if len(set(getattr(self, key))) < len(getattr(self, key)):
                raise ValueError(f"search.{key} names one twice")
        if any(changes in self.settings[:place] for place, changes in enumerate(self.settings)):
            raise ValueError("search.settings has one twice")
        if not self.judged_by or not set(self.judged_by) <= set(self.measures):
            raise ValueError("search.judged_by are some of search.measures")
        return self
