"""The trained teachers of an evaluation: left by a run, or trained first."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from datatrove.data import Document

from configs.errors import UserError
from configs.load import load_config
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
    """The checkpoint of each `trained` arm for each student (label: model); with `evaluation.teacher_for: each` what is
    missing is trained, on lessons that hold none of `secret_items`. Raises UserError where a run has no finished round,
    and RunError."""
    checkpoints: Checkpoints = {}
    for arm in arms:
        if arm.kind != "trained":
            continue
        if not trains_teachers(config.evaluation, arm):
            checkpoints |= dict.fromkeys(((arm.name, label) for label in students), teacher_of_run(config, arm))
            continue
        # The training run of each student's own teacher: this config's, with that student.
        runs = {}
        for label, model in students.items():
            folder = config.run.dir / "teachers" / (label.replace("/", "-") + (f"-{arm.run}" if arm.run else ""))
            sections = {
                "run": config.run.model_copy(update={"dir": folder, "seed": config.run.seed + max(0, arm.run - 1)}),
                "student": config.student.model_copy(update={"model": model, "models": ()}),
                "evaluation": Evaluation(),
            }
            runs[label] = config.model_copy(update=sections)
        say(f"{arm.words} for {', '.join(students)}: {config.rl.rounds} rounds each, where they are not trained yet")
        tasks = {label: partial(_train, run, train, make_pool, secret_items, label) for label, run in runs.items()}
        run_side_by_side(tasks, config.evaluation.workers, kept="finished rounds are kept")
        checkpoints |= {(arm.name, label): best_checkpoint(run.run.dir) for label, run in runs.items()}
    return checkpoints


def _train(
    config: Config,
    train: Sequence[Document],
    make_pool: MakePool,
    secret_items: Sequence[Question],
    label: str,
) -> None:
    # Without held-out documents: the evaluation itself measures the teacher on them.
    train_teacher(config, train, (), make_pool, lambda line: say(f"{label}: {line}"), exam_items=secret_items)


def trains_teachers(settings: Evaluation, arm: Arm) -> bool:
    """Whether the arm's teachers are trained here where they are missing."""
    return arm.kind == "trained" and not arm.value and settings.teacher_for == "each"


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
