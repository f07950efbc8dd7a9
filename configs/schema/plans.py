"""Bounds of plans: lessons that say how a student learns (student/plans.py)."""

from pydantic import Field, model_validator

from configs.schema.section import Section

PLAN = "plan:"
"""Begins the strategies that are plans."""


class Plans(Section):
    """What a plan may ask for. One that asks for more is a rejected lesson, whose reason is in the journal. The most
    tokens that a student is trained on are `student.max_lesson_tokens`."""

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
            raise ValueError(f"plans.learning_rates are the lowest and the highest, above 0: [{low:g}, {high:g}]")
        return self
