"""`notewright bench teacher`: does the teacher learn what its students need? On the lab, with controls.

Every unit is a training run or a measurement in a process of its own, kept as `DIR/<unit>/result.json`; a bench that
was interrupted goes on with what is missing. `curation.bench.teacher_report` puts the units' results together.
"""

import hashlib
import json
import math
import os
import sqlite3
import statistics
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import as_completed
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import configs
from configs.errors import UserError
from configs.files import write_whole
from configs.load import load_config
from configs.processes import worker_pool
from configs.schema import Config, Student
from curation.bench.teacher_controls import (
    ShuffledPool,
    arm_values,
    measure_strategies,
    old_knowledge,
    planted_questions,
)
from curation.bench.teacher_report import FIRST
from curation.console.progress import say
from curation.lab.build import MARK, MODELS, build_lab
from teacher.algorithms.table import ALGORITHMS
from teacher.run.journal import OUTCOMES

CONFIG = Path(configs.__file__).parent / "lab-sets.yaml"
STUDENTS = ("student-fixed", "student-augmented")

TUNED: dict[str, tuple[str, ...]] = {
    "grpo": ("rl.learning_rate=3e-4", "rl.grpo.kl=0.03"),
    "dpo": ("rl.learning_rate=1e-4", "rl.dpo.beta=0.1"),
}
"""Settings of each algorithm, found on training people of the lab."""

REPEATS = ("reward.repeats=2", "rl.documents_per_round=24", "reward.pool_strategies=false")
"""Half the documents, each lesson taught to two students."""

FORGETFUL = ("student.steps=20", "student.tokens_per_step=400", "student.learning_rate=3e-3", "student.lora.rank=8",
             "student.lora.alpha=16")  # fmt: skip
"""Lessons that cost little old knowledge, so that the retention penalty has a choice: at the usual learning rate every
lesson costs the student more of what it knew."""

RETENTION_WEIGHT = 30
"""Nats of gain that a nat of forgetting costs: at 25 the teacher writes question-answer lessons, which leave old
knowledge at 0.75, and at 40 next to none (teacher/RESULTS.md)."""


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


def units(seeds: int, quick: bool, overrides: Sequence[str]) -> list[Unit]:
    """The units of the bench, the longest first."""

    def train(student: str, name: str, *settings: str, shuffle: bool = False, old: bool = False) -> Unit:
        return Unit(f"{student}/{name}", "train", student, settings, shuffle, old)

    each = [(seed, student) for seed in range(seeds) for student in STUDENTS]
    work = []
    for algorithm in [FIRST] if quick else ALGORITHMS:
        settings = f"rl.algorithm={algorithm}", *TUNED.get(algorithm, ())
        work += [train(student, f"{algorithm}-{seed}", f"run.seed={seed}", *settings) for seed, student in each]
    # The last round is kept: validation would choose a round by its gains, and those are not shuffled.
    last = "rl.validation_documents=0"
    work += [train(student, f"shuffled-{seed}", f"run.seed={seed}", last, shuffle=True) for seed, student in each]
    if not quick:
        work += [train(student, "repeats-fixed-0", *REPEATS) for student in STUDENTS]
        work += [train(student, "repeats-adaptive-0", *REPEATS, "reward.adaptive=true") for student in STUDENTS]
        penalty = (f"reward.retention_weight={RETENTION_WEIGHT}", "reward.retention_texts={lab}/shards/retention.jsonl")
        work.append(train(STUDENTS[0], "retention-without", *FORGETFUL, old=True))
        work.append(train(STUDENTS[0], "retention-with", *FORGETFUL, *penalty, old=True))
    work += [Unit(f"{student}/strategies", "strategies", student) for student in STUDENTS]
    work.append(Unit("planted", "planted", STUDENTS[0]))
    if quick:  # one run decides nothing, however well it is measured
        overrides = ("rl.evaluation_lessons=2", *overrides)
    return [replace(unit, overrides=(*unit.overrides, *overrides)) for unit in work]


def run_bench(folder: Path, *, quick: bool, seeds: int, overrides: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Runs what is missing of the bench in `folder`, one unit a core; returns the units' results by name.

    Raises RunError or UserError of the first unit that fails, and UserError for a finished one of other settings;
    finished ones are kept.
    """
    build_lab(load_config(CONFIG, overrides).lab, progress=say)
    work = units(1 if quick else seeds, quick, overrides)
    results: dict[str, dict[str, Any]] = {}
    for unit in work:
        path = folder / unit.name / "result.json"
        if path.is_file():
            results[unit.name] = json.loads(path.read_text())
            if results[unit.name]["settings"] != _fingerprint(unit_config(unit, folder)):
                raise UserError(f"{path} is of other settings, another lab or engine: give the bench another --dir")
    missing = [unit for unit in work if unit.name not in results]
    finished_before, start = len(results), time.monotonic()
    workers = max(1, min(len(os.sched_getaffinity(0)), len(missing)))
    killed = "a unit's process died (killed, or out of memory); finished units are kept, the same command goes on"
    with worker_pool(workers, _start_worker, if_killed=killed) as pool:
        futures = {pool.submit(run_unit, unit, folder): unit.name for unit in missing}
        for future in as_completed(futures):
            name = futures[future]
            results[name] = future.result()
            seconds_a_unit = (time.monotonic() - start) / (len(results) - finished_before)
            minutes_left = (len(work) - len(results)) * seconds_a_unit / 60
            say(f"{name}: {headline(results[name])}  [{len(results)}/{len(work)}, {minutes_left:.0f} min left]")
    return {unit.name: results[unit.name] for unit in work}


def _start_worker() -> None:
    import torch
    from transformers.utils.logging import disable_progress_bar

    torch.set_num_threads(1)
    disable_progress_bar()


def unit_config(unit: Unit, folder: Path) -> Config:
    """The experiment of a unit."""
    lab = load_config(CONFIG, [line for line in unit.overrides if line.startswith("lab.")]).lab.dir
    overrides = [line.replace("{lab}", str(lab)) for line in unit.overrides]
    return load_config(CONFIG, [f"student.model={lab / unit.student}", f"run.dir={folder / unit.name}", *overrides])


def run_unit(unit: Unit, folder: Path) -> dict[str, Any]:
    """Does one unit's work and keeps its result."""
    settings = unit_config(unit, folder)
    start = time.perf_counter()
    if unit.kind == "train":
        _copy_outcomes(unit, folder, settings)
        result = _train(unit, settings)
    else:
        result = measure_strategies(settings) if unit.kind == "strategies" else planted_questions(settings)
    result |= {"seconds": round(time.perf_counter() - start, 1), "settings": _fingerprint(settings)}
    write_whole(folder / unit.name / "result.json", json.dumps(result).encode() + b"\n")
    return result


def _copy_outcomes(unit: Unit, folder: Path, config: Config) -> None:
    """Starts a unit with the outcomes of the first algorithm's students of the same seed, where that unit is finished:
    students that all algorithms train (raw text, the untrained teacher, the first round's lessons) are trained once. An
    outcome is looked up by everything that it depends on, so other algorithms' outcomes do no harm."""
    finished = folder / unit.student / f"{FIRST}-{config.run.seed}"
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
