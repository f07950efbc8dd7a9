"""`notewright bench lab`: which lessons the lab's students learn more from, and what that depends on.

The students of `curation.lab.models` differ in one thing, the wordings in which they read each biography. Here they
stand as declared, and with one thing changed at a time. In every cell students learn 96 people whom no setting was
chosen on, from the world's own rewrites and not a teacher's, and are asked their held-out questions.

The analysis was fixed before the first run. A cell's figure is the gain by `permuted` lessons minus the gain by
`question-answer` lessons, paired by person. Its 95% interval draws the batches of people that share students and,
where there are several, the students' initial weights. P-values are corrected by Holm over all cells, and a verdict for
either lesson needs an adjusted one below 0.05.
"""

import dataclasses
import hashlib
import json
import os
import random
import shutil
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datatrove.data import Document

import configs
from configs.errors import UserError
from configs.files import write_whole
from configs.format import interval, without_nan
from configs.load import load_config
from configs.processes import worker_pool
from configs.schema import Config
from curation.bench.teacher import start_worker
from curation.bench.teacher_controls import arm_values, new_rewards
from curation.console.progress import say
from curation.lab import world
from curation.lab.build import VERSION
from curation.lab.models import STUDENTS, StudentRecipe, train_student
from student.pools.inline import ENGINE_VERSION
from student.statistics.intervals import Estimate, holm
from teacher.reward.evaluation import crossed_estimate, crossed_share, crossed_test
from teacher.training.context import evaluation_seeds

CONFIG = Path(configs.__file__).parent / "lab-sets.yaml"

ARMS = ("raw", "permuted", "question-answer")
"""What students learn from: biographies as they stand, repeated to the same tokens, and the two kinds of lessons."""

PEOPLE = slice(32, 128)
"""Of the training people. The settings of the lab were chosen on the first 32."""

LESSONS = 1
"""Lessons of each person and arm. Every batch of people has students with a seed of its own, so that what a seed does
is part of the spread between batches."""

INITIAL_WEIGHTS = 3
"""Students that are trained by each recipe as declared; by the changed ones a single student."""

CURVE = (2, 4, 8)
"""Wordings between those of the two students."""

RECIPES: dict[str, dict[str, Any]] = {
    "no practice phrasings": {"questions": ("reward", "heldout")},
    "lesson phrasings practised too": {"questions": ("reward", "heldout", "practice", "lesson")},
    "200 pretraining steps": {"steps": 200},
    "800 pretraining steps": {"steps": 800},
    "width 64": {"width": 64},
    "width 96": {"width": 96},
}
"""What is changed of how a student was trained."""

SETTINGS: dict[str, tuple[str, ...]] = {
    "rank 8": ("student.lora.rank=8", "student.lora.alpha=8"),
    "rank 64": ("student.lora.rank=64", "student.lora.alpha=64"),
    "10 lesson steps": ("student.steps=10",),
    "40 lesson steps": ("student.steps=40",),
    "one rewrite a lesson": ("rl.rewrites_per_lesson=1",),
}
"""What is changed of how lessons are taught."""

DECLARED = "as declared"


@dataclass(frozen=True, slots=True)
class Cell:
    """A comparison of two kinds of lessons."""

    change: str
    """What differs from the declared students and the preset."""
    recipe: StudentRecipe
    settings: tuple[str, ...] = ()
    initial_weights: int = 1

    @property
    def recipes(self) -> list[StudentRecipe]:
        """One for each student, which differ in their initial weights."""
        return [replace(self.recipe, seed=seed) for seed in range(self.initial_weights)]


def cells(quick: bool) -> list[Cell]:
    """The cells of the bench; with `quick` the declared students alone, a single one of each."""
    both = list(STUDENTS.values())
    found = [Cell(DECLARED, recipe, (), 1 if quick else INITIAL_WEIGHTS) for recipe in both]
    if quick:
        return found
    found += [Cell(f"{wordings} wordings", replace(both[0], wordings=wordings)) for wordings in CURVE]
    found += [Cell(name, replace(recipe, **change)) for name, change in RECIPES.items() for recipe in both]
    found += [Cell(name, recipe, settings) for name, settings in SETTINGS.items() for recipe in both]
    return found


def run_bench(folder: Path, *, quick: bool, overrides: Sequence[str]) -> dict[str, Any]:
    """Runs what is missing of the bench in `folder`, a student a core with all its cells; returns the summary.

    Students and results lie in folders named by all that they depend on, so that a bench goes on where it stopped.
    Raises UserError if the lab has too few training people, and whatever the first student that fails raises.
    """
    config = load_config(CONFIG, overrides)
    least = PEOPLE.start + 2 * config.reward.documents_per_student
    if config.lab.train_people < least:
        raise UserError(
            f"lab.train_people={config.lab.train_people}: the bench leaves out the first {PEOPLE.start} and needs two"
            f" batches of others, {least} in all"
        )
    all_cells = cells(quick)
    by_recipe: dict[StudentRecipe, list[Cell]] = {}
    for cell in all_cells:
        for recipe in cell.recipes:
            if not result_path(folder, cell, recipe, overrides).is_file():
                by_recipe.setdefault(recipe, []).append(cell)
    start = time.monotonic()
    workers = max(1, min(len(os.sched_getaffinity(0)), len(by_recipe)))
    killed = "a student's process died (killed, or out of memory); finished cells are kept, the same command goes on"
    with worker_pool(workers, start_worker, if_killed=killed) as pool:
        futures = {
            pool.submit(run_student, r, of_it, folder, tuple(overrides)): of_it for r, of_it in by_recipe.items()
        }
        for done, future in enumerate(as_completed(futures), 1):
            future.result()
            minutes_left = (len(by_recipe) - done) * (time.monotonic() - start) / done / 60
            changes = ", ".join(cell.change for cell in futures[future])
            wordings = futures[future][0].recipe.wordings
            say(f"student of {wordings} wordings: {changes}  [{done}/{len(by_recipe)}, {minutes_left:.0f} min left]")
    runs = {
        cell: [json.loads(result_path(folder, cell, recipe, overrides).read_text()) for recipe in cell.recipes]
        for cell in all_cells
    }
    return summarise(runs)


def student_folder(folder: Path, config: Config, recipe: StudentRecipe) -> Path:
    """Where the student of a recipe lies."""
    lab = config.lab.model_dump(mode="json", include={"seed", "base_people", "effort"})
    return folder / "students" / _digest(VERSION, lab, dataclasses.asdict(recipe))


def cell_config(folder: Path, cell: Cell, recipe: StudentRecipe, overrides: Sequence[str]) -> Config:
    """The experiment of one student in a cell."""
    config = load_config(CONFIG, [f"rl.evaluation_lessons={LESSONS}", *overrides, *cell.settings])
    model = str(student_folder(folder, config, recipe))
    return config.model_copy(update={"student": config.student.model_copy(update={"model": model})})


def result_path(folder: Path, cell: Cell, recipe: StudentRecipe, overrides: Sequence[str]) -> Path:
    """Where the result of one student in a cell lies."""
    config = cell_config(folder, cell, recipe, overrides)
    settings = config.model_dump(mode="json", exclude={"run": {"dir"}, "lab": {"dir"}, "student": {"model"}})
    name = _digest(ENGINE_VERSION, settings, Path(config.student.model).name)
    return folder / "results" / f"{name}.json"


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def run_student(recipe: StudentRecipe, of_it: Sequence[Cell], folder: Path, overrides: Sequence[str]) -> None:
    """Trains a student where it is not there yet, teaches it the lessons of its cells, and keeps their results."""
    for cell in of_it:
        config = cell_config(folder, cell, recipe, overrides)
        model = Path(config.student.model)
        if not model.is_dir():
            partial = model.with_name(f".{model.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            train_student(recipe, config.lab, partial, lambda line: None)
            partial.rename(model)
        result = json.dumps(measure(config) | {"change": cell.change, "recipe": dataclasses.asdict(recipe)})
        write_whole(result_path(folder, cell, recipe, overrides), result + "\n")


def measure(config: Config, arms: Sequence[str] = ARMS) -> dict[str, Any]:
    """What the config's student learns from lessons of each kind: gain and accuracy by person, on held-out
    questions."""
    lab, seeds = config.lab, evaluation_seeds(config, "bench lab")
    people = world.make_people(lab.seed, lab.base_people, lab.train_people)[PEOPLE]
    rows = [world.document(person, person.name) for person in people]
    documents = [Document(row["text"], row["id"], metadata={"questions": row["questions"]}) for row in rows]
    start, measured = time.perf_counter(), {}
    with new_rewards(config, documents) as rewards:
        for arm in arms:
            lessons = [{person.name: texts(arm, person, config, seed) for person in people} for seed in seeds]
            evaluation = rewards.evaluate(documents, lessons, seeds)
            measured[arm] = arm_values(evaluation) | {"failed": evaluation.failed}
    return {"arms": measured, "seconds": round(time.perf_counter() - start, 1)}


def texts(arm: str, person: world.Person, config: Config, seed: int) -> list[str]:
    """A person's part of a lesson; the same in every cell that has lessons of as many rewrites."""
    if arm == "raw":
        return [world.raw(person)]
    rng = random.Random(f"{arm} {seed} {person.name}")
    return [world.rewrite(arm, person, rng) for _ in range(config.rl.rewrites_per_lesson)]


def summarise(runs: Mapping[Cell, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """The bench as one JSON object, from the results of each cell's students; see the module for the analysis."""
    rows, p_values = [], []
    for cell, results in runs.items():
        batches = results[0]["arms"]["raw"]["batches"]
        by_arm = {arm: [result["arms"][arm] for result in results] for arm in ARMS}
        pairs = [
            {name: restated["gains"][name] - asked["gains"][name] for name in restated["gains"].keys() & asked["gains"]}
            for restated, asked in zip(by_arm["permuted"], by_arm["question-answer"], strict=True)
        ]
        difference, p = crossed_test(pairs, batches)
        p_values.append(p)
        rows.append(
            {
                "change": cell.change,
                "recipe": {name: v for name, v in dataclasses.asdict(cell.recipe).items() if name != "seed"},
                "settings": list(cell.settings),
                "initial_weights": cell.initial_weights,
                "people": len(batches),
                "batches": len(set(batches.values())),
                "failed_students": sum(arm["failed"] for arms in by_arm.values() for arm in arms),
                **{
                    arm: {
                        "accuracy": _rounded(crossed_share([values["accuracies"] for values in of_arm], batches)),
                        "gain": _rounded(crossed_estimate([values["gains"] for values in of_arm], batches)),
                    }
                    for arm, of_arm in by_arm.items()
                },
                "permuted_minus_question_answer": {**_rounded(difference), "p": p},
            }
        )
    for row, p in zip(rows, holm(p_values), strict=True):
        row["permuted_minus_question_answer"]["p_adjusted"] = p
        row["verdict"] = _verdict(row["permuted_minus_question_answer"]["mean"], p)
    recipes = {name: dataclasses.asdict(recipe) for name, recipe in STUDENTS.items()}
    first, *others = recipes.values()
    differ = [key for key in first if any(other[key] != first[key] for other in others)]
    return {
        "students": recipes,
        "declared_difference": {key: {name: recipe[key] for name, recipe in recipes.items()} for key in differ},
        "cells": rows,
    }


def _verdict(difference: float, p: float | None) -> str:
    if p is None or p >= 0.05:
        return "no detectable difference"
    return "learns more from permuted" if difference > 0 else "learns more from question-answer"


def _rounded(values: Estimate) -> dict[str, float | None]:
    return dict(without_nan({name: round(value, 4) for name, value in values._asdict().items()}))


def table(summary: Mapping[str, Any]) -> str:
    """Markdown: a row for each cell, the students named by their wordings."""
    names = {recipe["wordings"]: name for name, recipe in summary["students"].items()}
    lines = []
    for key, values in summary["declared_difference"].items():
        lines.append(f"The students differ in `{key}`: {', '.join(f'{n} {value}' for n, value in values.items())}.")
    lines += [
        "",
        "| changed | wordings | raw | permuted | question-answer | permuted minus question-answer | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in summary["cells"]:
        wordings = row["recipe"]["wordings"]
        name = f"{wordings} ({names[wordings]})" if wordings in names else str(wordings)
        if row["initial_weights"] > 1:
            name += f", {row['initial_weights']} students"
        arms = (f"{row[arm]['accuracy']['mean']:.2f} ({row[arm]['gain']['mean']:.1f})" for arm in ARMS)
        difference = row["permuted_minus_question_answer"]
        shown = interval(difference["mean"], difference["low"], difference["high"], sign=True)
        lines.append(f"| {' | '.join([row['change'], name, *arms, shown, row['verdict']])} |")
    return "\n".join(lines)
