"""What a run cost, what it was set to, and what it ran on."""

import importlib.metadata
import json
import platform
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from configs.format import duration
from configs.load import config_difference
from configs.schema import Config
from curation.evaluation.records import EvaluationResult
from curation.report.parts import Table, count
from curation.report.training import Training
from teacher.run.history import COSTS

PACKAGES = ("notewright", "torch", "transformers", "trl", "peft", "datasets", "datatrove")


class Taught(NamedTuple):
    """What the students of the reward cache were taught."""

    students: int
    tokens: int
    steps: int


def cost_table(trainings: Sequence[Training], evaluation: EvaluationResult | None) -> Table:
    """Student runs, tokens and seconds."""
    rows = [row for run in trainings for row in _training(run)]
    if evaluation is not None:
        rows.append(["student runs of the evaluation", count(evaluation.student_runs), "over all calls"])
        rows.append(["seconds of the evaluation", duration(evaluation.seconds), "of its last call"])
    return Table(["", "", "of which"], rows, "lrw")


def _training(run: Training) -> list[list[str]]:
    about = f", {run.label}" if run.label else ""
    by_kind = {kind: sum(line.get("students", 0) for line in run.kind(kind)) for kind in COSTS}
    parts = ", ".join(f"{count(n)} {WHAT_FOR[kind]}" for kind, n in by_kind.items() if n)
    total = max((line.get("students_total", 0) for line in run.metrics), default=0)
    rows = [[f"student runs of training{about}", count(total), parts]]
    held = sum(line.get("students", 0) for line in run.heldout.values())
    if held:
        rows.append([f"student runs of the held-out arms{about}", count(held), ""])
    taught = taught_tokens(run.folder / "journal" / "outcomes.sqlite")
    if taught is not None and taught.students:
        words = f"{count(taught.students)} students in the reward cache, {count(taught.steps)} optimiser steps"
        rows.append([f"lesson tokens of all students{about}", count(taught.tokens), words])
    return [*rows, *_seconds(run, about)]


def _seconds(run: Training, about: str) -> list[list[str]]:
    updates = run.kind("update")
    scoring = sum(line.get("seconds", 0.0) for line in run.kind("step"))
    updating = sum(line.get("seconds", 0.0) for line in updates)
    times = [line["time"] for line in run.metrics if "time" in line]
    rows = [
        [f"scoring rewards{about}", duration(scoring), ""],
        [f"updating the teacher{about}", duration(updating), ""],
    ]
    whole = sum(line.get("seconds/round", 0.0) for line in updates)
    if whole:
        spent = {phase: sum(line.get(f"seconds/{phase}", 0.0) for line in updates) / whole for phase in PHASES}
        split = ", ".join(f"{PHASES[phase]} {share:.0%}" for phase, share in spent.items())
        rows.append([f"rounds, wall clock{about}", duration(whole), split])
    if times:
        whole = max(times) - min(times)
        rows.append([f"first to last line of the journal{about}", duration(whole), "with interruptions"])
    return rows


PHASES = {"sample": "sampling", "students": "students", "update": "update", "idle": "idle"}
WHAT_FOR = {"pilot": "for the pilot", "step": "for rewards", "validation": "for validation", "promotion": "promoted"}


def taught_tokens(path: Path) -> Taught | None:
    """Sums over the reward cache; None where there is none, or it cannot be read."""
    if not path.is_file():
        return None
    metric = "coalesce(sum(json_extract(outcome, '$.metrics.{}')), 0)"
    query = f"SELECT count(*), {metric.format('lesson_tokens')}, {metric.format('steps')} FROM outcomes"
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10) as db:
            students, tokens, steps = db.execute(query).fetchone()
    except sqlite3.Error:
        return None
    return Taught(students, round(tokens), round(steps))


def settings_table(config: Config) -> Table:
    """What the config sets otherwise than the defaults."""
    rows = []
    for line in config_difference(Config(), config):
        name, _, values = line.partition(": ")
        default, _, value = values.partition(" -> ")
        rows.append([name, value, default])
    return Table(["setting", "here", "default"], rows, "lww")


def versions() -> dict[str, str]:
    """Of the machine that wrote the page."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def manifest(config: Config) -> dict[str, Any] | None:
    """The curated dataset's counts, where there is one."""
    path = config.curation.output / "manifest.json"
    if not path.is_file():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    files = found["files"]
    names = ("documents_in", "documents_out", "filtered", "quarantined", "failed")
    counts = {name: sum(file[name] for file in files) for name in names}
    return {"folder": str(config.curation.output), "files": len(files), **counts, "shards": found["shards"]}
