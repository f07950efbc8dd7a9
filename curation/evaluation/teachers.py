"""The trained teachers of an evaluation: left by a run, or trained first."""

import itertools
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from datatrove.data import Document

from configs.errors import UserError
from configs.format import amount
from configs.load import changed, load_config
from configs.schema import Config, Evaluation
from curation.console.progress import say
from curation.console.workers import run_side_by_side
from curation.evaluation.arms import Arm
from student.records import Question
from teacher.reward.student_models import MakePool
from teacher.run.checkpoints import best_checkpoint, finished_rounds
from teacher.training.loop import train_teacher

Checkpoints = dict[tuple[str, str], Path | None]
"""By arm and student label; None where no round was better than the untrained teacher."""


def trained_teachers(
    config: Config,
    arms: Sequence[Arm],
    students: dict[str, str],
    train: Sequence[Document],
    make_pool: MakePool,
    secret_items: Sequence[Question],
) -> Checkpoints:
    """The checkpoint of each `trained` arm for each student (label: model). Those that the evaluation trains itself are
    trained where they are missing, on lessons that hold none of `secret_items`. Raises UserError where a run has no
    finished round, and RunError."""
    trained = [arm for arm in arms if arm.kind == "trained"]
    checkpoints: Checkpoints = {}
    runs: dict[tuple[Arm, str], Config] = {}
    for arm, (label, model) in itertools.product(trained, students.items()):
        if arm.trained_here(config.evaluation):
            runs[arm, label] = training_config(config, arm, label, model)
        else:
            checkpoints[arm.name, label] = teacher_of_run(config, arm)
    if runs:
        number = len({run.run.dir for run in runs.values()})
        say(f"{amount(number, 'teacher')}, {config.rl.rounds} rounds each, are trained where they are missing")
    # An arm that distills another one's texts has the same teacher.
    tasks = {
        f"{arm.texts_of}, {label}": partial(_train, run, train, make_pool, secret_items, f"{arm.texts_of}, {label}")
        for (arm, label), run in runs.items()
    }
    run_side_by_side(tasks, config.evaluation.workers, kept="finished rounds are kept")
    return checkpoints | {(arm.name, label): best_checkpoint(run.run.dir) for (arm, label), run in runs.items()}


def training_config(config: Config, arm: Arm, label: str, model: str) -> Config:
    """The training run of an arm for one student: the config with that student and what the arm's teacher changes.
    Raises UserError for changes that are no settings, or that contradict the others."""
    parts = [label.replace("/", "-"), arm.value, str(arm.run or "")]
    folder = config.run.dir / "teachers" / "-".join(filter(None, parts))
    sections = {
        "run": config.run.model_copy(update={"dir": folder, "seed": config.run.seed + max(0, arm.run - 1)}),
        "student": config.student.model_copy(update={"model": model, "models": ()}),
        "evaluation": Evaluation(),
    }
    run = config.model_copy(update=sections)
    changes = config.evaluation.teachers.get(arm.value, {})
    return changed(run, changes, f"evaluation.teachers.{arm.value}") if changes else run


def _train(
    config: Config,
    train: Sequence[Document],
    make_pool: MakePool,
    secret_items: Sequence[Question],
    label: str,
) -> None:
    # Without held-out documents: the evaluation itself measures the teacher on them.
    train_teacher(config, train, (), make_pool, lambda line: say(f"{label}: {line}"), exam_items=secret_items)


def teacher_of_run(config: Config, arm: Arm) -> Path | None:
    """The best checkpoint of the run that a `trained` arm names. Raises UserError where there is none."""
    run_dir = Path(arm.value) if arm.value else config.run.dir
    if not finished_rounds(run_dir):
        raise UserError(
            f"evaluation.arms: no trained teacher in {run_dir}: `notewright train` makes one, evaluation.teacher_for"
            " 'each' trains one for every student"
        )
    run_config = run_dir / "config.yaml"
    start = load_config(run_config).teacher.model if run_config.is_file() else config.teacher.model
    if start != config.teacher.model:
        raise UserError(f"evaluation.arms: the teacher of {run_dir} began as {start}, this config's is another model")
    return best_checkpoint(run_dir)
