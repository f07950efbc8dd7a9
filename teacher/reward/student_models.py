"""What the students start from: the models of the config, the teacher as it is (SEAL's single-model mode, arXiv
2506.10943), or students promoted on the way (SOAR, arXiv 2601.18778). Models made here are whole folders under
`run.dir/student`."""

import gc
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from configs.errors import UserError, check_known
from configs.files import read_own
from configs.schema import Config
from configs.schema import Student as StudentSettings
from configs.schema.student import TEACHER
from configs.seeds import stable_seed
from student.engine.lora import Coverage, adapter_coverage
from student.engine.models import empty_model, load_model
from student.records import Job, Outcome, StudentPool
from teacher.records import Rewrite
from teacher.reward.shuffled import ShuffledPool
from teacher.reward.signs import SIGNS
from teacher.reward.student_runs import StudentRuns, lesson_steps
from teacher.run.checkpoints import is_adapter, latest_numbered, save_folder

PROMOTION_FILE = "promotion.json"

MakePool = Callable[[StudentSettings], StudentPool]
"""A pool of students of one base model: gets `config.student` with `model` set to its path."""


class StudentFailed(Exception):
    """A student failed while it was trained to be saved."""


def check_students(config: Config) -> None:
    """Raises UserError for settings of students that exclude each other, and for signs that do not exist."""
    check_known("sign in reward.screen.signs", config.reward.screen.signs, list(SIGNS))
    if TEACHER in config.student.names and config.rl.promotion_threshold is not None:
        raise UserError("rl.promotion_threshold promotes students of their own: student.model cannot be 'teacher'")


def starting_bases(config: Config) -> dict[str, str]:
    """The model that each of `student.names` starts the run from."""
    return {name: config.teacher.model if name == TEACHER else name for name in config.student.names}


def adapter_coverages(config: Config) -> Iterator[tuple[str, Coverage]]:
    """Each model of students, and what of it carries their adapters. By its config alone; a model whose config is not
    at hand, or without a layer of `lora.target`, is left out: it is refused elsewhere."""
    for name in starting_bases(config).values() if config.student.mode == "lora" else ():
        with suppress(UserError, OSError, ValueError):
            yield name, adapter_coverage(empty_model(name), config.student.lora)


def round_bases(config: Config, checkpoint: Path | None) -> dict[str, str]:
    """The model of each student in the round that starts from the teacher's `checkpoint`. Raises RunError."""
    bases = starting_bases(config)
    if (promoted := latest_numbered(config.run.dir / "student", "promoted")) is not None:
        bases = {name: str(promoted / str(number)) for number, name in enumerate(bases)}
    if TEACHER in bases and checkpoint is not None:
        bases[TEACHER] = str(merged_teacher(config.teacher.model, checkpoint, config.run.dir))
    return bases


class StudentPools:
    """The pools of the present bases; one set of models is in memory at a time."""

    def __init__(self, config: Config, make_pool: MakePool) -> None:
        self.config, self.make_pool = config, make_pool
        self.bases: dict[str, str] = {}
        self.pools: dict[str, StudentPool] = {}
        self.use(starting_bases(config))

    def use(self, bases: Mapping[str, str]) -> dict[str, StudentPool]:
        """The pools of these bases, by student, valid until others are used. Raises UserError where a model cannot be
        loaded."""
        if dict(bases) != self.bases:
            self.close()
            for name, path in bases.items():
                student = self.config.student.model_copy(update={"model": path, "models": ()})
                pool = self.make_pool(student)
                self.pools[name] = ShuffledPool(pool) if self.config.reward.shuffled else pool
            self.bases = dict(bases)
        return self.pools

    def close(self) -> None:
        """Lets go of the pools, of their models and their actors."""
        for pool in self.pools.values():
            pool.close()
        self.bases = {}
        self.pools.clear()  # a reward that still holds these pools lets go of their models, too
        self.pools = {}
        gc.collect()


def merged_teacher(model: str, checkpoint: Path, run_dir: Path) -> Path:
    """A model folder of the teacher at `checkpoint`. An adapter is merged into the float32 weights of `model`, under
    `run_dir/student`, where it takes the place of an earlier one. Raises RunError."""
    if not is_adapter(checkpoint):
        return checkpoint
    folder = run_dir / "student" / f"teacher-{checkpoint.name.removeprefix('checkpoint-')}"
    if not folder.is_dir():
        save_folder(folder, lambda partial: merge(model, checkpoint, partial), "the same command resumes")
    _remove_others(folder, "teacher-*")
    return folder


def merge(base: str, adapter: Path, folder: Path) -> None:
    """Saves `base` with `adapter` merged into its float32 weights, and its tokenizer."""
    from peft import PeftModel

    model, tokenizer = load_model(base, device="cpu", dtype="float32")
    with torch.random.fork_rng():
        merged = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()  # type: ignore[operator]
    merged.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def train_and_save(pool: StudentPool, job: Job, student: StudentSettings, base: str, folder: Path) -> Outcome:
    """Trains a student of the model `base` and saves it as a whole model in `folder`; where it failed, as the outcome
    says, nothing of use is there."""
    adapter = folder if student.mode == "full" else folder.with_name(f".adapter-{folder.name}")
    try:
        with torch.random.fork_rng(), torch.enable_grad():
            outcome = pool.keep(job, adapter)
        if outcome.error is None and adapter != folder:
            merge(base, adapter, folder)
    finally:
        if adapter != folder:
            shutil.rmtree(adapter, ignore_errors=True)
    return outcome


def promote(round: int, lessons: Sequence[Rewrite], students: StudentPools, runs: StudentRuns) -> dict[str, Any]:
    """Trains one student of each present base on all `lessons` and saves it as a whole model under
    `run.dir/student/promoted-NNNN`: the bases of the next rounds. Returns what each gained on the documents' reward
    questions, `gain/<student>`. Nobody is promoted, and `error` says why, where a student fails. Raises RunError."""
    config = students.config
    folder = config.run.dir / "student" / f"promoted-{round:04d}"
    bases = round_bases(config, None)
    figures: dict[str, Any] = {"lessons": len(lessons), "students": len(bases)}
    if not lessons:
        return figures | {"students": 0, "error": "no lesson was accepted"}
    # One student on everything: as many steps a document as the rewarded students had, and their exam.
    names = list(dict.fromkeys(rewrite.document_id for rewrite in lessons))
    taught = [(rewrite.document_id, rewrite.taught) for rewrite in lessons]
    job = runs.job(names, taught, stable_seed(config.run.seed, "promotion", round), "reward")
    together = min(config.reward.documents_together, len(names))
    steps = lesson_steps(config.student, config.rl.rewrites_per_lesson, together)
    if steps is not None:
        steps *= math.ceil(len(names) / together)
    job = replace(job, lesson=replace(job.lesson, steps=steps))

    def save(partial: Path) -> None:
        pools = students.use(bases)
        for number, (name, label) in enumerate(labels(list(bases)).items()):
            outcome = train_and_save(pools[name], job, config.student, bases[name], partial / str(number))
            figures[f"gain/{label}"] = outcome.gain
            if outcome.error is not None:
                raise StudentFailed(f"{label}: {outcome.error}")
        (partial / PROMOTION_FILE).write_text(json.dumps(figures), encoding="utf-8")

    if not folder.is_dir():
        try:
            save_folder(folder, save, f"the same command resumes after round {round}")
        except StudentFailed as failed:
            return figures | {"error": str(failed)}
    _remove_others(folder, "promoted-*")
    return read_own(folder / PROMOTION_FILE, dict)


def _remove_others(folder: Path, pattern: str) -> None:
    for other in folder.parent.glob(pattern):
        if other != folder:
            shutil.rmtree(other)


def labels(names: Sequence[str]) -> dict[str, str]:
    """A short name for each student: the last part of its path, or the path where two would be called the same."""
    short = [Path(name).name for name in names]
    return {name: last if short.count(last) == 1 else name for name, last in zip(names, short, strict=True)}
