"""`notewright bench teacher`: does the teacher learn what its students need? On the lab, with controls.

Every unit is a training run or a measurement in a process of its own, kept as `DIR/<unit>/result.json`; a bench that
was interrupted goes on with what is missing. What the units say is put together in `curation.bench.teacher_report`.
"""

import hashlib
import json
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from contextlib import closing
from dataclasses import dataclass
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
    arm_figures,
    measure_strategies,
    old_knowledge,
    planted_questions,
)
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
"""What each algorithm needs of its own, found on training people of the lab."""

REPEATS = ("reward.repeats=2", "rl.documents_per_round=24", "reward.pool_strategies=false")
"""Half the documents, each lesson taught to two students."""

QUICK = ("rl.evaluation_lessons=2",)
"""One run decides nothing, however well it is measured."""

BLIND = ("rl.validation_documents=0",)
"""The last round is kept: validation would choose by gains that nobody shuffled."""

FORGETFUL = ("student.steps=20", "student.tokens_per_step=400", "student.learning_rate=3e-3", "student.lora.rank=8",
             "student.lora.alpha=16")  # fmt: skip
"""A lesson of little enough that the retention penalty has a choice: at the usual rate every lesson costs the student
more of what it knew."""

RETENTION_WEIGHT = 30
"""Nats of gain that a nat of forgetting costs: at 25 the teacher writes question-answer lessons, which leave old
knowledge at 0.75, and at 40 next to none (teacher/RESULTS.md)."""


@dataclass(frozen=True, slots=True)
class Unit:
    """One process's work."""

    name: str
    kind: str
    """`train`, `strategies`, `planted`."""
    student: str
    overrides: tuple[str, ...] = ()
    shuffle: bool = False
    """Deal the students' answers to the wrong lessons."""
    old: bool = False
    """Also measure what the students still know of old."""


def units(seeds: int, quick: bool, overrides: Sequence[str]) -> list[Unit]:
    """What the bench runs, the longest first."""
    algorithms = list(ALGORITHMS)[:1] if quick else list(ALGORITHMS)
    found = [
        Unit(
            f"{student}/{algorithm}-{seed}",
            "train",
            student,
            (f"rl.algorithm={algorithm}", f"run.seed={seed}", *TUNED.get(algorithm, ())),
        )
        for algorithm in algorithms
        for seed in range(seeds)
        for student in STUDENTS
    ]
    found += [
        Unit(f"{student}/shuffled-{seed}", "train", student, (f"run.seed={seed}", *BLIND), shuffle=True)
        for seed in range(seeds)
        for student in STUDENTS
    ]
    if not quick:
        for name, extra in (("fixed", ()), ("adaptive", ("reward.adaptive=true",))):
            found += [Unit(f"{student}/repeats-{name}-0", "train", student, (*REPEATS, *extra)) for student in STUDENTS]
        penalty = (f"reward.retention_weight={RETENTION_WEIGHT}", "reward.retention_texts={lab}/shards/retention.jsonl")
        found += [
            Unit(f"{STUDENTS[0]}/retention-{name}", "train", STUDENTS[0], (*FORGETFUL, *extra), old=True)
            for name, extra in (("without", ()), ("with", penalty))
        ]
    found += [Unit(f"{student}/strategies", "strategies", student) for student in STUDENTS]
    found.append(Unit("planted", "planted", STUDENTS[0]))
    overrides = (*QUICK, *overrides) if quick else overrides
    return [
        Unit(u.name, u.kind, u.student, (*u.overrides, *overrides), shuffle=u.shuffle, old=u.old) for u in found
    ]  # fmt: skip


def run_bench(
    folder: Path, *, quick: bool = False, seeds: int = 3, overrides: Sequence[str] = (), config: Path = CONFIG
) -> dict[str, dict[str, Any]]:
    """Runs what is missing of the bench in `folder`, one unit a core; returns the units' results by name.

    Raises RunError or UserError of the first unit that fails; finished ones are kept.
    """
    base = load_config(config, overrides)
    build_lab(base.lab, progress=say)
    todo = units(1 if quick else seeds, quick, overrides)
    results = {unit.name: found for unit in todo if (found := _read(folder, unit, config)) is not None}
    missing = [unit for unit in todo if unit.name not in results]
    started = time.monotonic()
    workers = max(1, min(len(os.sched_getaffinity(0)), len(missing)))
    killed = "a unit's process died (killed, or out of memory); finished units are kept, the same command goes on"
    with worker_pool(workers, _start_worker, if_killed=killed) as pool:
        futures = {pool.submit(run_unit, unit, folder, config): unit for unit in missing}
        for done in as_completed(futures):
            unit = futures[done]
            results[unit.name] = done.result()
            ready = len(results)
            pace = (time.monotonic() - started) / (ready - len(todo) + len(missing))
            place = f"[{ready}/{len(todo)}, {(len(todo) - ready) * pace / 60:.0f} min left]"
            say(f"{unit.name}: {headline(results[unit.name])}  {place}")
    return {unit.name: results[unit.name] for unit in todo}


def unit_config(unit: Unit, folder: Path, config: Path = CONFIG) -> Config:
    """The experiment of a unit."""
    lab = load_config(config, [o for o in unit.overrides if o.startswith("lab.")]).lab.dir
    overrides = [o.format(lab=lab) if "{lab}" in o else o for o in unit.overrides]
    run = folder / unit.name
    return load_config(config, [f"student.model={lab / unit.student}", f"run.dir={run}", *overrides])


def run_unit(unit: Unit, folder: Path, config: Path = CONFIG) -> dict[str, Any]:
    """Does one unit's work and keeps its result."""
    settings = unit_config(unit, folder, config)
    _take_over_outcomes(unit, folder, settings)
    started = time.perf_counter()
    work: dict[str, Callable[[], dict[str, Any]]] = {
        "train": lambda: _train(unit, settings),
        "strategies": lambda: measure_strategies(settings),
        "planted": lambda: planted_questions(settings),
    }
    result = work[unit.kind]() | {"seconds": round(time.perf_counter() - started, 1), "settings": _settings(settings)}
    write_whole(folder / unit.name / "result.json", json.dumps(result).encode() + b"\n")
    return result


def _take_over_outcomes(unit: Unit, folder: Path, config: Config) -> None:
    """Begins with what ReST-EM's students of the same seed gained, where that unit is finished: what all algorithms
    have in common (raw text, the untrained teacher, the first round's lessons) is not trained again. Outcomes are
    found by all that they depend on, so that others do no harm."""
    known = folder / unit.student / f"{next(iter(ALGORITHMS))}-{config.run.seed}"
    journal = config.run.dir / "journal"
    if unit.kind != "train" or not (known / "result.json").is_file() or (journal / OUTCOMES).exists():
        return
    journal.mkdir(parents=True, exist_ok=True)
    with (
        closing(sqlite3.connect(known / "journal" / OUTCOMES)) as source,
        closing(sqlite3.connect(journal / OUTCOMES)) as own,
    ):
        source.backup(own)


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
    with log.open("a") as file:

        def progress(line: str) -> None:
            print(line, file=file, flush=True)

        def make_pool(settings: Student) -> StudentPool:
            pool = make_student_pool(settings)
            return ShuffledPool(pool) if unit.shuffle else pool

        summary = train_teacher(config, train, heldout, make_pool, progress)
    written = {
        arm: read_rewrites(config.run.dir / "journal" / "samples" / f"heldout-{arm}.json")
        for arm in ("untrained", "trained")
    }
    result: dict[str, Any] = {
        "arms": {arm: arm_figures(found) for arm, found in summary.heldout.items()},
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
        n = config.rl.rewrites_per_lesson
        result["old_accuracy"] = {
            arm: old_knowledge(config, heldout, taught(groups, n)) for arm, groups in written.items()
        }  # fmt: skip
    return result


def headline(result: dict[str, Any]) -> str:
    """A unit's result in a few words."""
    if "arms" in result:
        means = {arm: _mean(found["accuracies"].values()) for arm, found in result["arms"].items()}
        old = result.get("old_accuracy")
        return (
            "accuracy " + ", ".join(f"{arm} {mean:.2f}" for arm, mean in means.items())
            + (f" · old knowledge {_mean(old['trained']['after']):.2f}" if old else "")
            + f" · {result['student_runs']} students"
        )  # fmt: skip
    if "gated" in result:
        return f"{result['gated']} of {result['carried']} rewrites with a planted question gated"
    arms = result["strategy_arms"].items()
    return ", ".join(f"{name} {_mean(found['accuracies'].values()):.2f}" for name, found in arms)


def _mean(values: Any) -> float:
    found = list(values)
    return sum(found) / len(found) if found else float("nan")


def _read(folder: Path, unit: Unit, config: Path) -> dict[str, Any] | None:
    """A finished unit's result; None where it is not finished. Raises UserError for one of other settings."""
    path = folder / unit.name / "result.json"
    if not path.is_file():
        return None
    found = json.loads(path.read_text())
    if found["settings"] != _settings(unit_config(unit, folder, config)):
        raise UserError(f"{path} is of other settings, another lab or engine: give the bench another --dir")
    return found


def _settings(config: Config) -> str:
    """Names all that a unit's figures depend on: its config without the run directory, lab and engine."""
    from student.pools.inline import ENGINE_VERSION

    marks = [(config.lab.dir / part / MARK).read_text() for part in ("shards", *MODELS)]
    content = [config.model_dump(mode="json", exclude={"run": {"dir"}}), marks, ENGINE_VERSION]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _start_worker() -> None:
    """A process of its own, on one core."""
    import torch
    from transformers.utils.logging import disable_progress_bar

    torch.set_num_threads(1)
    disable_progress_bar()
