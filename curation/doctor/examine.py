"""`notewright doctor CONFIG.yaml`: whether this machine can run a config, and what to change where it cannot.

Nothing is trained, downloaded or written. A check that does not apply to the config is left out; one that fails has a
line that says what to do.
"""

import torch

from configs.errors import UserError
from configs.format import amount
from configs.schema import Config
from curation.corpus.finding import find_shards
from curation.doctor.checks import Check, Checks
from curation.doctor.machine import check_devices, check_disk, check_hub, check_versions
from curation.doctor.models import check_adapters, check_dtypes, check_engine, check_memory, check_models
from curation.doctor.services import check_compiler, check_ray, check_slurm, check_tracking, check_vllm
from curation.pipeline.inputs import find_input
from teacher.algorithms.distributed import Ranks
from teacher.algorithms.table import check_algorithm
from teacher.reward.student_models import check_students
from teacher.writers.by_round import check_writer


def examine(config: Config) -> list[Check]:
    """All checks that the config calls for, in the order in which a run would meet what is wrong."""
    groups = (
        check_versions(), check_devices(config.student, config.teacher), check_settings(config), check_data(config),
        check_models(config), check_adapters(config), check_dtypes(config), check_engine(config), check_memory(config),
        check_disk(config), check_hub(), check_vllm(config),
        check_ray(config.student, config.curation), check_slurm(config.curation), check_compiler(config.student),
        check_tracking(config.tracking),
    )  # fmt: skip
    return [check for group in groups for check in group]


def check_settings(config: Config) -> Checks:
    """The settings that `train` would refuse by itself; devices and vLLM have checks of their own."""
    absent_gpu = "cuda" in (config.student.device, config.teacher.device) and not torch.cuda.is_available()
    if not config.data.train or absent_gpu:
        return
    try:
        check_students(config)
        check_writer(config.teacher, on_server=False)
        check_algorithm(config, Ranks())
    except UserError as error:
        # These errors read "what is wrong: what to do about it".
        problem, _, fix = str(error).partition(": ")
        yield Check("settings", "fail", problem, fix)


def check_data(config: Config) -> Checks:
    """Whether the input files are there."""
    data = config.data
    named = {"data.train": data.train, "data.heldout": data.heldout, "curation.input": config.curation.input}
    for key, patterns in named.items():
        if not patterns:
            continue
        try:
            count = len(find_input(config) if key == "curation.input" else find_shards(patterns))
            yield Check(key, "ok", amount(count, "file"))
        except UserError as error:
            of_lab = any(pattern.startswith(str(config.lab.dir)) for pattern in patterns)
            fix = f"`notewright lab CONFIG` builds {config.lab.dir}" if of_lab else f"name files that exist in {key}"
            yield Check(key, "fail", str(error), fix)
    if not (config.data.train or config.curation.input):
        fix = "set data.train to train, curation.input to curate"
        yield Check("data", "warn", "the config names no documents", fix)
