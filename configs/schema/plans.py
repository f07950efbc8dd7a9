"""Plans, which say how a student learns (student/plans.py): their bounds, and what a head chooses among."""

import json
from typing import Literal

from pydantic import Field, model_validator

from configs.schema.section import Section

PLAN = "plan:"
"""Begins the strategies that are plans."""


class Plans(Section):
    """What a plan may ask for. One that asks for more is a rejected lesson, whose reason is in the journal. The most
    tokens that a student is trained on are `student.max_lesson_tokens`; a step line says of how many students it cut
    the last steps."""

    learning_rates: tuple[float, float] = (1e-6, 3e-2)
    """The lowest and the highest learning rate."""
    max_steps: int = Field(default=1000, ge=1)
    """Most optimiser steps."""
    max_epochs: int = Field(default=50, ge=1)
    max_views: int = Field(default=64, ge=1)
    """Most views of a task, over all augmentations of a plan."""

    @model_validator(mode="after")
    def _possible(self) -> "Plans":
        low, high = self.learning_rates
        if not 0 < low <= high:
            raise ValueError(
                f"teacher.plan_bounds.learning_rates are the lowest and the highest, above 0: [{low:g}, {high:g}]"
            )
        return self


class PlanOptions(Section):
    """For `teacher.model: head` with `teacher.plans`: the values of each field of a plan that it chooses among, one
    field after another. Fields without values are those of the strategy's `plan:NAME`, or else are not in the plan."""

    augmentations: tuple[dict[str, int], ...] = ()
    """Of tasks of grids, e.g. [{identity: 8}, {identity: 4, flip-rows: 4}]."""
    leave_out: tuple[int, ...] = ()
    learning_rate: tuple[float, ...] = ()
    steps: tuple[int, ...] = ()
    epochs: tuple[int, ...] = ()
    loss_on: tuple[Literal["all", "outputs", "answer"], ...] = ()
    raw_share: tuple[float, ...] = ()
    """Of other documents: shares of the document itself beside the lesson's text."""

    @property
    def fields(self) -> list[list[str]]:
        """For each field that has values, these as they are written one after another: `{"steps": 20,`, then
        `"loss_on": "all"}`."""
        chosen = {name: values for name, values in self.model_dump(mode="json").items() if values}
        last = len(chosen) - 1
        return [
            [f"{'{' * (i == 0)}{json.dumps(name)}: {json.dumps(value)}{'}' if i == last else ','}" for value in values]
            for i, (name, values) in enumerate(chosen.items())
        ]

    @model_validator(mode="after")
    def _different(self) -> "PlanOptions":
        for field in self.fields:
            if len(set(field)) < len(field):
                raise ValueError(f"teacher.plan_options has a value twice: {field[0]}")
        return self
