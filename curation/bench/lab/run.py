"""Trains the students of `notewright bench lab` and teaches them the lessons of their cells."""

import dataclasses
import hashlib
import json
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from datatrove.data import Document

import configs
from configs.errors import UserError
from configs.files import write_whole
from configs.load import load_config
from configs.schema import Config
from curation.bench.lab.cells import ARMS, LESSONS, PEOPLE, Cell, cells
from curation.bench.lab.report import summarise
from curation.console.progress import say
from curation.console.workers import run_side_by_side
from curation.lab import world
from curation.lab.build import VERSION
from curation.lab.models import StudentRecipe, train_student
from student.pools import make_pool
from student.pools.inline import ENGINE_VERSION
from teacher.reward.evaluation import Evaluation
from teacher.reward.gain import GainReward
from teacher.reward.student_runs import StudentRuns
from teacher.run.journal import Journal
from teacher.training.context import evaluation_seeds

CONFIG = Path(configs.__file__).parent / "lab-sets.yaml"


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
    tasks = {
        f"student {number + 1}, of {recipe.wordings} wordings: {', '.join(cell.change for cell in of_it)}": partial(
            run_student, recipe, of_it, folder, tuple(overrides)
        )
        for number, (recipe, of_it) in enumerate(by_recipe.items())
    }
    run_side_by_side(tasks, kept="finished cells are kept", on_done=lambda name, _, place: say(f"{name}  {place}"))
    runs = {
        cell: [json.loads(result_path(folder, cell, recipe, overrides).read_text()) for recipe in cell.recipes]
        for cell in all_cells
    }
    return summarise(runs)


def student_folder(folder: Path, config: Config, recipe: StudentRecipe) -> Path:
    """Where the student of a recipe lies."""
    lab = config.lab.model_dump(mode="json", include={"seed", "base_people", "effort"})
    return folder / "students" / _digest(VERSION["people"], lab, dataclasses.asdict(recipe))


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


@contextmanager
def new_rewards(config: Config, documents: Sequence[Document]) -> Iterator[GainReward]:
    """The config's students, with a journal that is thrown away."""
    names = config.student.names
    pools = {name: make_pool(config.student.model_copy(update={"model": name}), sharing=len(names)) for name in names}
    with TemporaryDirectory() as folder, Journal(Path(folder)) as journal:
        yield GainReward(StudentRuns(config, documents, journal), pools)


def arm_values(evaluation: Evaluation) -> dict[str, Any]:
    """What a result keeps of an arm, by document."""
    return {"gains": evaluation.gains, "accuracies": evaluation.accuracies, "batches": evaluation.batches}


def texts(arm: str, person: world.Person, config: Config, seed: int) -> list[str]:
    """A person's part of a lesson; the same in every cell that has lessons of as many rewrites."""
    if arm == "raw":
        return [world.raw(person)]
    rng = random.Random(f"{arm} {seed} {person.name}")
    return [world.rewrite(arm, person, rng) for _ in range(config.rl.rewrites_per_lesson)]
