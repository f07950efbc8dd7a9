"""What the journal says about finished rounds: what they cost, and which was best."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.files import Record, read_json_lines
from configs.schema.reward import Measure
from teacher.run.checkpoints import finished_rounds, write_best
from teacher.run.journal import Journal

COSTS = ("pilot", "step", "validation", "promotion")
"""Kinds of metrics whose `students` are the price of the training; held-out arms only report on it."""


def worth(validated: Mapping[str, Any], judged_by: Measure | None) -> float | None:
    """What a round's teacher is judged by on the validation documents: the mean gain in this measure, or the mean
    reward; None where it could not be measured."""
    value = (
        validated.get(f"gain/{judged_by}/mean")
        if judged_by
        else validated.get("reward/mean", validated.get("gain/mean"))
    )
    return None if value is None or math.isnan(value) else float(value)


class History:
    """A run's metrics so far. Unfinished rounds are left out: they run again."""

    def __init__(self, run_dir: Path, journal: Journal, judged_by: Measure | None = None) -> None:
        self.run_dir, self.judged_by = run_dir, judged_by
        self.lines: dict[tuple[str, int], Mapping[str, Any]] = {}
        """By kind and round."""
        self.first_step: Record | None = None
        self._costs: dict[tuple[str, int, int | None], int] = {}
        finished = finished_rounds(run_dir)
        for line in read_json_lines(journal.metrics.path, "kind", "round"):
            if line["round"] <= finished:
                self.add(line["kind"], line["round"], line, step=line.get("step"))

    def add(self, kind: str, round: int, figures: Mapping[str, Any], step: int | None = None) -> None:
        """Adds a line; after a validation writes which validated round is best (`worth`), of equal ones the
        earliest."""
        self.lines[kind, round] = figures
        if kind in COSTS:
            self._costs[kind, round, step] = figures["students"]
        if kind == "step" and self.first_step is None:
            self.first_step = dict(figures)
        if kind == "validation":
            validated = {number: line for (kind, number), line in self.lines.items() if kind == "validation"}
            values = {number: worth(line, self.judged_by) for number, line in validated.items()}
            known = {number: value for number, value in values.items() if value is not None}
            best = max(known, key=lambda number: (known[number], -number), default=min(validated))
            write_best(self.run_dir, best, validated[best]["reward/mean"])

    @property
    def student_runs(self) -> int:
        """What training has cost so far."""
        return sum(self._costs.values())
