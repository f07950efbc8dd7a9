"""What a run cost, what it was set to, and what it ran on."""

import importlib.metadata
import json
import platform
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from configs.files import Record, written_by_us
from configs.format import duration
from configs.load import differences, inline_yaml
from configs.schema import Config
from curation.console.tables import Table
from curation.evaluation.records import EvaluationResult
from curation.report.parts import count
from curation.report.training import Training
from teacher.run.history import COSTS

PACKAGES = ("notewright", "torch", "transformers", "trl", "peft", "datasets", "datatrove")
PHASES = {"sample": "sampling", "students": "students", "update": "update", "idle": "idle"}
PURPOSES = {"pilot": "for the pilot", "step": "for rewards", "validation": "for validation", "promotion": "promoted"}
"""What student runs are for, by the kind of metrics that counts them."""


def cost_table(trainings: Sequence[Training], evaluation: EvaluationResult | None) -> Table:
    """Student runs, tokens and seconds."""
    rows = [
        [f"{what}, {run.label}" if run.label else what, amount, details]
        for run in trainings
        for what, amount, details in _training_costs(run)
    ]
    if evaluation is not None:
        rows.append(["student runs of the evaluation", count(evaluation.student_runs), "over all calls"])
        rows.append(["seconds of the evaluation", duration(evaluation.seconds), "of its last call"])
    return Table(["", "", "of which"], rows, "lrw")


def _training_costs(run: Training) -> list[tuple[str, str, str]]:
    """What was spent, how much, and on what."""

    def total(lines: Iterable[Record], metric: str) -> float:
        return sum(line.get(metric, 0) for line in lines)

    updates = run.kind("update")
    runs = max((line.get("students_total", 0) for line in run.metrics), default=0)
    by_kind = {kind: total(run.kind(kind), "students") for kind in COSTS}
    purposes = ", ".join(f"{count(students)} {PURPOSES[kind]}" for kind, students in by_kind.items() if students)
    costs = [("student runs of training", count(runs), purposes)]
    if heldout := total(run.heldout.values(), "students"):
        costs.append(("student runs of the held-out arms", count(heldout), ""))
    students, tokens, steps = taught_students(run.folder / "journal" / "outcomes.sqlite")
    if students:
        details = f"{count(students)} students in the reward cache, {count(steps)} optimiser steps"
        costs.append(("lesson tokens of all students", count(tokens), details))
    costs.append(("scoring rewards", duration(total(run.kind("step"), "seconds")), ""))
    costs.append(("updating the teacher", duration(total(updates, "seconds")), ""))
    if rounds := total(updates, "seconds/round"):
        shares = {name: total(updates, f"seconds/{phase}") / rounds for phase, name in PHASES.items()}
        details = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
        costs.append(("rounds, wall clock", duration(rounds), details))
    if times := [line["time"] for line in run.metrics if "time" in line]:
        costs.append(("first to last line of the journal", duration(max(times) - min(times)), "with interruptions"))
    return costs


def taught_students(path: Path) -> tuple[int, float, float]:
    """Students, lesson tokens and optimiser steps of the whole reward cache; zeros where it cannot be read."""
    metric = "coalesce(sum(json_extract(outcome, '$.metrics.{}')), 0)"
    query = f"SELECT count(*), {metric.format('lesson_tokens')}, {metric.format('steps')} FROM outcomes"
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10) as db:
            return db.execute(query).fetchone()
    except sqlite3.Error:
        return 0, 0.0, 0.0


def settings_table(config: Config) -> Table:
    """What the config sets otherwise than the defaults."""
    changes = differences(Config().model_dump(mode="json"), config.model_dump(mode="json"))
    rows = [[name, inline_yaml(value), inline_yaml(default)] for name, default, value in changes]
    return Table(["setting", "here", "default"], rows, "lww")


def versions() -> dict[str, str]:
    """Versions of Python and of `PACKAGES` on the machine that writes the page."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def manifest(folder: Path) -> dict[str, Any] | None:
    """The curated dataset's counts, where there is one."""
    path = folder / "manifest.json"
    if not path.is_file():
        return None
    names = ("documents_in", "documents_out", "filtered", "quarantined", "failed")
    with written_by_us(path):
        content = json.loads(path.read_bytes())
        counts = {name: sum(file[name] for file in content["files"]) for name in names}
        return {"folder": str(folder), "files": len(content["files"]), **counts, "shards": content["shards"]}
