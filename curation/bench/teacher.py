"""`notewright bench teacher`: does the teacher learn what its students need? On the lab, with controls.

Every unit is a training run or a measurement in a process of its own, kept as `DIR/<unit>/result.json`; a bench that
was interrupted goes on with what is missing. `curation.bench.teacher_report` puts the units' results together.
"""

import hashlib
import json
import math
import sqlite3
import statistics
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

import configs
from configs.errors import UserError
from configs.files import read_own, write_whole
from configs.load import load_config
from configs.schema import Config, Student
from configs.schema.section import Section
from curation.bench.teacher_controls import (
    ShuffledPool,
    arm_values,
    measure_strategies,
    old_knowledge,
    planted_questions,
)
from curation.console.progress import say
from curation.console.workers import run_side_by_side
from curation.lab.build import MARK, MODELS, build_lab
from teacher.run.journal import OUTCOMES


class Design(Section):
    """What the bench trains and measures; see teacher.yaml beside this file."""

    config: str
    """The preset of all training runs."""
    students: tuple[str, ...]
    runs: dict[str, int]
    """Training runs with each student: of each algorithm, and of `shuffled`."""
    algorithms: dict[str, tuple[str, ...]]
    """Settings by algorithm, as they are given on the command line."""
    shuffled: tuple[str, ...]
    """Settings of the runs whose rewards are shuffled."""
    retention_weights: tuple[float, ...]
    against: tuple[str, ...]
    """The arms that trained teachers are compared with, each difference by student, algorithm and measure."""
    level: float
    """Of a corrected p-value below which a difference is called one."""

    @property
    def first(self) -> str:
        """The algorithm that the controls train with. Taking the one that did best would be a choice by the test."""
        return next(iter(self.algorithms))


def read_design() -> Design:
    """The design as it was fixed."""
    return Design.model_validate(yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")))


def changed_design(*, quick: bool, runs: int | None) -> Design:
    """The design with the changes that a call may ask for. `quick`: one run of the first algorithm, no retention."""
    design = read_design()
    if quick:
        first = {design.first: design.algorithms[design.first]}
        design = design.model_copy(update={"algorithms": first, "retention_weights": ()})
        runs = runs or 1
    return design.model_copy(update={"runs": dict.fromkeys(design.runs, runs)}) if runs else design


def begun_design(folder: Path, design: Design) -> dict[str, Any]:
    """The design that the bench in `folder` began with, as JSON; `design` if it begins now. A design that changes while
    runs are made may have been changed by what they showed, which readers should know."""
    path = folder / "design.json"
    if not path.is_file():
        write_whole(path, json.dumps(design.model_dump(mode="json"), indent=2).encode() + b"\n")
    return read_own(path, dict)


@dataclass(frozen=True, slots=True)
class Unit:
    """One process's work, of kind `train`, `strategies` or `planted`."""

    name: str
    kind: str
    student: str
    overrides: tuple[str, ...] = ()
    shuffle: bool = False
    """Give the students' answers to the wrong lessons."""
    old: bool = False
    """Also measure what the students still know of what they knew before."""


def units(design: Design, overrides: Sequence[str]) -> list[Unit]:
    """The units of the bench. Those of the first algorithm come first, since others start with their outcomes."""

    def train(student: str, name: str, *settings: str, shuffle: bool = False, old: bool = False) -> Unit:
        return Unit(f"{student}/{name}", "train", student, settings, shuffle, old)

    kinds = {name: (f"rl.algorithm={name}", *settings) for name, settings in design.algorithms.items()}
    work = [
        train(student, f"{name}-{run}", f"run.seed={run}", *settings, shuffle=name == "shuffled")
        for name, settings in {**kinds, "shuffled": design.shuffled}.items()
        for run in range(design.runs[name])
        for student in design.students
    ]
    watched = "reward.retention_texts={lab}/shards/retention.jsonl"
    work += [
        train(design.students[0], f"retention-{weight:g}", f"reward.retention_weight={weight}", watched, old=True)
        for weight in design.retention_weights
    ]
    work += [Unit(f"{student}/strategies", "strategies", student) for student in design.students]
    work.append(Unit("planted", "planted", design.students[0]))
    return [replace(unit, overrides=(*unit.overrides, *overrides)) for unit in work]


def run_bench(folder: Path, design: Design, overrides: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Runs what is missing of the bench in `folder`, one unit a core; returns the units' results by name.

    Raises RunError or UserError of the first unit that fails, and UserError for a finished one of other settings;
    finished ones are kept.
    """
    build_lab(load_config(preset(design), overrides).lab, progress=say)
    work = units(design, overrides)
    results: dict[str, dict[str, Any]] = {}
    for unit in work:
        path = folder / unit.name / "result.json"
        if path.is_file():
            results[unit.name] = read_own(path, dict)
            if results[unit.name]["settings"] != _fingerprint(unit_config(unit, design, folder)):
                raise UserError(f"{path} is of other settings, another lab or engine: give the bench another --dir")
    begun_design(folder, design)  # nothing above starts anything
    missing = {unit.name: partial(run_unit, unit, design, folder) for unit in work if unit.name not in results}
    say_headline = lambda name, result, place: say(f"{name}: {headline(result)}  {place}")  # noqa: E731
    results |= run_side_by_side(missing, kept="finished units are kept", on_done=say_headline)
    return {unit.name: results[unit.name] for unit in work}


def preset(design: Design) -> Path:
    """The file of `design.config`."""
    return Path(configs.__file__).parent / design.config


def unit_config(unit: Unit, design: Design, folder: Path) -> Config:
    """The experiment of a unit."""
    lab = load_config(preset(design), [line for line in unit.overrides if line.startswith("lab.")]).lab.dir
    overrides = [line.replace("{lab}", str(lab)) for line in unit.overrides]
    of_unit = [f"student.model={lab / unit.student}", f"run.dir={folder / unit.name}"]
    return load_config(preset(design), [*of_unit, *overrides])


def run_unit(unit: Unit, design: Design, folder: Path) -> dict[str, Any]:
    """Does one unit's work and keeps its result."""
    settings = unit_config(unit, design, folder)
    start = time.perf_counter()
    if unit.kind == "train":
        _copy_outcomes(folder / unit.student / f"{design.first}-{settings.run.seed}", settings)
        result = _train(unit, settings)
    else:
        result = measure_strategies(settings) if unit.kind == "strategies" else planted_questions(settings)
    result |= {"seconds": round(time.perf_counter() - start, 1), "settings": _fingerprint(settings)}
    write_whole(folder / unit.name / "result.json", json.dumps(result).encode() + b"\n")
    return result


def _copy_outcomes(finished: Path, config: Config) -> None:
    """Starts a unit with the outcomes of the first algorithm's students of the same seed, where that unit is finished:
    students that all algorithms train (raw text, the untrained teacher, the first round's lessons) are trained once. An
    outcome is looked up by everything that it depends on, so other algorithms' outcomes do no harm."""
    journal = config.run.dir / "journal"
    if not (finished / "result.json").is_file() or (journal / OUTCOMES).exists():
        return
    journal.mkdir(parents=True, exist_ok=True)
    with (
        closing(sqlite3.connect(finished / "journal" / OUTCOMES)) as source,
        closing(sqlite3.connect(journal / OUTCOMES)) as target,
    ):
        source.backup(target)


def _train(unit: Unit, config: Config) -> dict[str, Any]:
    from curation.corpus.training_data import read_splits
    from student.pools import make_pool as make_student_pool
    from student.records import StudentPool
    from teacher.run.samples import read_rewrites
    from teacher.training.context import taught
    from teacher.training.loop import train_teacher

    train, heldout = read_splits(config)
    log = config.run.dir.with_name(config.run.dir.name + ".log")
    log.parent.mkdir(parents=True, exist_ok=True)

    def make_pool(settings: Student) -> StudentPool:
        pool = make_student_pool(settings)
        return ShuffledPool(pool) if unit.shuffle else pool

    with log.open("a") as file:
        summary = train_teacher(config, train, heldout, make_pool, lambda line: print(line, file=file, flush=True))
    written = {
        arm: read_rewrites(config.run.dir / "journal" / "samples" / f"heldout-{arm}.json")
        for arm in ("untrained", "trained")
    }
    result: dict[str, Any] = {
        "arms": {arm: arm_values(evaluation) for arm, evaluation in summary.heldout.items()},
        "strategies": {
            arm: {group[0].document_id: dict(Counter(rewrite.strategy for rewrite in group)) for group in groups}
            for arm, groups in written.items()
        },
        "student_runs": summary.student_runs,
        "rounds": summary.rounds,
        "best_round": summary.best_round,
        "train_seconds": summary.seconds,
    }
    if unit.old:
        result["retention_weight"] = config.reward.retention_weight
        result["old_accuracy"] = {
            arm: old_knowledge(config, heldout, taught(groups, config.rl.rewrites_per_lesson))
            for arm, groups in written.items()
        }
    return result


def headline(result: Mapping[str, Any]) -> str:
    """A unit's result in a few words."""
    if "gated" in result:
        return f"{result['gated']} of {result['carried']} rewrites with a planted question gated"
    arms = result["arms"] if "arms" in result else result["strategy_arms"]
    means = ", ".join(f"{name} {_mean(arm['accuracies'].values()):.2f}" for name, arm in arms.items())
    if "arms" not in result:
        return means
    if old := result.get("old_accuracy"):
        means += f" · old knowledge {_mean(old['trained']['after']):.2f}"
    return f"accuracy {means} · {result['student_runs']} students"


def _mean(values: Collection[float]) -> float:
    return statistics.fmean(values) if values else math.nan


def _fingerprint(config: Config) -> str:
    """Names all that a unit's numbers depend on: its config without the run directory, lab and engine."""
    from student.pools.inline import ENGINE_VERSION

    marks = [(config.lab.dir / part / MARK).read_text() for part in ("shards", *MODELS)]
    content = [config.model_dump(mode="json", exclude={"run": {"dir"}}), marks, ENGINE_VERSION]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
