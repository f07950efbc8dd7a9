"""Whether the documents and models that a config names are there, from their names alone: torch is not imported."""

from pathlib import Path

from configs.errors import UserError
from configs.schema import Config
from configs.schema.plans import PLAN
from configs.schema.student import TEACHER
from curation.corpus.finding import Shard, Skipped, find_shards
from student.engine.model_names import check_available
from teacher.prompting.strategies import (
    asks_for_plan,
    check_answered_once,
    check_chosen,
    check_strategy,
    is_ready,
    needs_model,
    planned_names,
)
from teacher.questions.kinds import kinds_of


def model_writes(config: Config) -> bool:
    """Whether a curation loads a model: neither the echo nor ready texts need one."""
    curation, teacher = config.curation, config.teacher
    if curation.writer == "echo":
        return False
    # Where the config gives strategies their shares, nobody has to choose one.
    return not all(map(is_ready, curation.strategies)) if curation.strategies else needs_model(teacher)


def models_of(config: Config) -> dict[str, str]:
    """The models that the config names, by the setting that names each first; empty where one is missing."""
    only_curates = bool(config.curation.input) and not config.data.train
    student_key = "student.models" if config.student.models else "student.model"
    without_teacher = not (model_writes(config) if only_curates else needs_model(config.teacher))
    named = [("teacher.model", config.teacher.model, without_teacher)] * (not config.teacher.chooses_only)
    named += [(student_key, name, only_curates) for name in config.student.names]
    named += [("questions.model", config.questions.model, True)]
    keys: dict[str, str] = {}
    for key, name, optional in named:
        if name != TEACHER and (name or not optional):
            keys.setdefault(name, key)
    return {key: name for name, key in keys.items()}


def find_curation_input(config: Config, skipped: Skipped | None = None) -> list[Shard]:
    """The files of `curation.input`; `skipped` is filled with what is not read. Raises UserError if none is named or
    there, for an unknown strategy, or if the teacher is not named."""
    if not config.curation.input:
        raise UserError("curation.input names no shards: name JSONL or Parquet files, e.g. curation.input=[a.jsonl]")
    curation, teacher = config.curation, config.teacher
    if curation.writer == "teacher" and (planned := planned_names(curation.strategies or teacher.strategies)):
        raise UserError(f"{PLAN}{planned[0]} is how a student learns, and no text that a dataset could hold")
    if curation.writer == "teacher" and teacher.prompting == "strategy":
        key = "curation.strategies" if curation.strategies else "teacher.strategies"
        for strategy in curation.strategies or teacher.strategies:
            check_strategy(strategy, key)
            if asks_for_plan(strategy):
                raise UserError(f"{key}: {strategy!r} asks for a plan, and for no text that a dataset could hold")
        if teacher.plans:
            check_answered_once(tuple(curation.strategies or teacher.strategies))
    elif curation.writer == "teacher":
        check_answered_once(tuple(curation.strategies or teacher.strategies))
        check_chosen(teacher, tuple(curation.strategies), "curation.strategies")
    if not teacher.model and model_writes(config):
        raise UserError("teacher.model is not set: a folder or a Hub id of a causal language model")
    return find_shards(config.curation.input, skipped, own=(config.curation.output, config.run.dir))


def check_inputs(config: Config) -> None:
    """Raises UserError if `data.train` is not set, or a file of documents or a model is not there."""
    if not config.data.train:
        raise UserError("data.train is not set: name JSONL or Parquet files with `text` and `questions`")
    kinds_of(config.questions)
    for pattern in (*config.data.train, *config.data.heldout):
        try:
            find_shards((pattern,))
        except UserError as error:
            lab = Path(pattern).is_relative_to(config.lab.dir) and not config.lab.dir.exists()
            raise UserError(f"{error}; `notewright lab CONFIG.yaml` builds it") if lab else error from None
    for key, name in models_of(config).items():
        try:
            check_available(name, config.lab.dir)
        except UserError as error:
            raise UserError(f"{key} {name!r} cannot be loaded: {error}") from None
