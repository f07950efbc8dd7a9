"""The doctor's checks of the machine: package versions, devices, disk, and the account on the Hub."""

import os
import shutil
from importlib import metadata

import torch
from packaging.requirements import Requirement

from configs.format import amount
from configs.schema import Config, Student, Teacher
from curation.doctor.checks import Check, Checks
from curation.plan.models import checkpoint_gb
from student.engine.model_names import hub_problem
from student.engine.models import has_bfloat16
from teacher.algorithms.table import algorithm_of

LEAST_FREE_GB = 5.0
"""Disk beside what checkpoints and dataset are known to need."""


def check_versions() -> Checks:
    """Installed packages against what this package asks for."""
    try:
        lines = metadata.requires("notewright") or ()
    except metadata.PackageNotFoundError:
        return [Check("versions", "fail", "notewright is not installed here", "`make setup`, or `pip install -e .`")]
    wrong = []
    for needed in map(Requirement, lines):
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(needed.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{needed.name} is missing")
            continue
        # A build's local suffix (2.9.0+cpu) is no part of what is asked for.
        if not needed.specifier.contains(version.partition("+")[0], prereleases=True):
            wrong.append(f"{needed.name} {version} instead of {needed.specifier}")
    if wrong:
        return [Check("versions", "fail", "; ".join(wrong), "`make setup`, or `pip install -e .` in this environment")]
    names = ("torch", "transformers", "trl", "peft", "datasets", "datatrove")
    return [Check("versions", "ok", ", ".join(f"{name} {metadata.version(name)}" for name in names))]


def check_devices(student: Student, teacher: Teacher) -> Checks:
    """Whether the GPUs, or the CPU, can do what `device` and `dtype` of student and teacher say."""
    sections: dict[str, Student | Teacher] = {"student": student, "teacher": teacher}
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(number)
            gpu = f"cuda:{number} {torch.cuda.get_device_name(number)}, {free / 1e9:.0f} of {total / 1e9:.0f} GB free"
            if free < 0.5 * total:
                yield Check("device", "warn", gpu, "another process holds the rest: `nvidia-smi` tells which")
            else:
                yield Check("device", "ok", gpu)
        if any(s.dtype == "bfloat16" for s in sections.values()) and not torch.cuda.is_bf16_supported(False):
            yield Check("dtype", "fail", "this GPU has no bfloat16", "student.dtype=float32 teacher.dtype=float32")
        return
    on_gpu = [f"{key}.device" for key, section in sections.items() if section.device == "cuda"]
    if shutil.which("nvidia-smi") is not None and torch.version.cuda is None:
        fix = "install the CUDA build: `make clean setup`, or `pip install torch` without +cpu"
        yield Check("device", "fail", "there is an NVIDIA driver, and torch is a CPU build", fix)
    elif on_gpu:
        problem = f"{' and '.join(on_gpu)} {'is' if len(on_gpu) == 1 else 'are'} cuda, and torch sees no GPU"
        yield Check("device", "fail", problem, " ".join(f"{key}=auto" for key in on_gpu))
    else:
        cpu = f"CPU, {os.cpu_count()} cores, {amount(torch.get_num_threads(), 'thread')}; no GPU"
        yield Check("device", "ok", cpu)
    slow = [f"{key}.dtype=auto" for key, section in sections.items() if section.dtype == "bfloat16"]
    if slow and not on_gpu and not has_bfloat16("cpu"):
        problem = "bfloat16 on a CPU without its units is about 8 times as slow as float32"
        yield Check("dtype", "warn", problem, " ".join(slow))


def check_disk(config: Config) -> Checks:
    """Whether the output folders can be written, and hold the checkpoints of all rounds."""
    checkpoint = checkpoint_gb(config.teacher, with_optimizer=algorithm_of(config.rl).keeps_optimizer) or 0.0
    rounds = config.rl.rounds if config.data.train else 0
    needs = {config.run.dir: LEAST_FREE_GB * 0.2 + checkpoint * rounds}
    if config.curation.input:
        needs.setdefault(config.curation.output, LEAST_FREE_GB * 0.2)
    for folder, needed in needs.items():
        key = "run.dir" if folder == config.run.dir else "curation.output"
        parent = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        if not (parent.is_dir() and os.access(parent, os.W_OK)):
            problem = "cannot be written" if parent.is_dir() else "is no folder"
            yield Check("disk", "fail", f"{key} {folder}: {parent} {problem}", f"another {key}")
            continue
        free = shutil.disk_usage(parent).free / 1e9
        space = f"{key} {folder}: {free:.0f} GB free"
        if rounds and checkpoint and key == "run.dir":
            space += f", {rounds} checkpoints of {checkpoint:.2g} GB"
        if free < needed:
            yield Check("disk", "fail", space, f"free {needed - free:.0f} GB, or name another {key}")
        elif free < needed + LEAST_FREE_GB:
            yield Check("disk", "warn", space, f"little is left beside what is known to be needed: another {key}")
        else:
            yield Check("disk", "ok", space)


def check_hub() -> Checks:
    """Which account of the Hub is used. One is needed to push, and for private or gated models."""
    from huggingface_hub import HfApi, get_token

    if problem := hub_problem():
        return [Check("hub", "ok", f"{problem}: nothing is fetched or pushed")]
    if (token := get_token()) is None:
        fix = "`hf auth login` or HF_TOKEN, before `notewright export` or a gated model"
        return [Check("hub", "warn", "not logged in", fix)]
    try:
        return [Check("hub", "ok", f"logged in as {HfApi(token=token).whoami()['name']}")]
    except Exception as error:  # whatever the network or the Hub says
        fix = "`hf auth login` again, or check the network; HF_HUB_OFFLINE=1 where there is none"
        return [Check("hub", "warn", f"the token could not be checked ({type(error).__name__})", fix)]
