"""What the journal says about finished rounds: what they cost, and which was best."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.files import Record, read_json_lines
from teacher.run.checkpoints import finished_rounds, write_best
from teacher.run.journal import Journal

COSTS = ("pilot", "step", "validation", "promotion")
"""Kinds of metrics whose `students` are the price of the training; held-out arms only report on it."""


class History:
    """A run's metrics so far. Unfinished rounds are left out: they run again."""

    def __init__(self, run_dir: Path, journal: Journal) -> None:
        self.run_dir = run_dir
        self.lines: dict[tuple[str, int], Mapping[str, Any]] = {}
        """By kind and round."""
        self.first_step: Record | None = None
        self._costs: dict[tuple[str, int, int | None], int] = {}
        finished = finished_rounds(run_dir)
        for line in read_json_lines(journal.metrics.path, "kind", "round"):
            if line["round"] <= finished:
                self.add(line["kind"], line["round"], line, step=line.get("step"))

    def add(self, kind: str, round: int, figures: Mapping[str, Any], step: int | None = None) -> None:
        """Adds a line; after a validation writes which validated round is best by its reward, of equal ones the
        earliest."""
        self.lines[kind, round] = figures
        if kind in COSTS:
            self._costs[kind, round, step] = figures["students"]
        if kind == "step" and self.first_step is None:
            self.first_step = dict(figures)
        if kind == "validation":
            rewards = {
                number: line["reward/mean"] for (kind, number), line in self.lines.items() if kind == "validation"
            }
            worth = {n: -math.inf if r is None or math.isnan(r) else r for n, r in rewards.items()}
            best = max(worth, key=lambda number: (worth[number], -number))
            write_best(self.run_dir, best, rewards[best])

    @property
    def student_runs(self) -> int:
        """What training has cost so far."""
        return sum(self._costs.values())
