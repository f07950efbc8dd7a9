"""`notewright doctor`: whether this machine can run a config, and what to change where it cannot.

    notewright doctor CONFIG.yaml

Nothing is trained, downloaded or written. A check that does not apply to the config is left out; one that fails has a
line that says what to do.
"""

import os
import shutil
from dataclasses import dataclass
from importlib import metadata

import torch
from packaging.requirements import Requirement
from rich.console import Console
from rich.table import Table
from rich.text import Text

from configs.errors import UserError
from configs.schema import Config
from curation.corpus.shards import find_shards
from curation.doctor.models import Found, State, check_memory, check_models, checkpoint_gb
from curation.doctor.services import check_compiler, check_ray, check_slurm, check_tracking, check_vllm
from curation.pipeline.fingerprint import shards_of
from teacher.reward.student_models import check_students
from teacher.writers.by_round import check_writer

COLOURS: dict[State, str] = {"ok": "green", "warn": "yellow", "fail": "red"}

LEAST_FREE_GB = 5.0
"""Disk beside what checkpoints and dataset are known to need."""


@dataclass(frozen=True, slots=True)
class Check:
    """What one look found."""

    name: str
    state: State
    found: str
    fix: str = ""
    """What to change. Empty where all is well."""


def examine(config: Config) -> list[Check]:
    """All checks that the config calls for, in the order in which a run would meet what is wrong."""
    checks: list[Check] = []
    for look in (
        _versions, _devices, _settings, _data, check_models, check_memory, _disk, _hub, check_vllm, check_ray,
        check_slurm, check_compiler, check_tracking,
    ):  # fmt: skip
        checks += (Check(*found) for found in look(config))
    return checks


def exit_code(checks: list[Check]) -> int:
    """1 where a check failed; warnings are none."""
    return int(any(check.state == "fail" for check in checks))


def print_checks(checks: list[Check], console: Console) -> None:
    """A row a check, with what to change below its finding."""
    table = Table("", "", "")
    for check in checks:
        text = Text(check.found)
        if check.fix:
            text.append(f"\n-> {check.fix}", style="bold")
        table.add_row(Text(check.state, style=COLOURS[check.state]), check.name, text)
    console.print(table)
    count = {state: sum(check.state == state for check in checks) for state in COLOURS}
    console.print(f"{count['ok']} ok, {count['warn']} to know of, {count['fail']} to change")


def _versions(_config: Config) -> Found:
    """Installed packages against what this package asks for."""
    wrong = []
    try:
        lines = metadata.requires("notewright") or ()
    except metadata.PackageNotFoundError:
        yield "versions", "fail", "notewright is not installed here", "`make setup`, or `pip install -e .`"
        return
    for line in lines:
        needed = Requirement(line)
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        try:
            found = metadata.version(needed.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{needed.name} is missing")
            continue
        if not needed.specifier.contains(found.partition("+")[0], prereleases=True):
            wrong.append(f"{needed.name} {found} instead of {needed.specifier}")
    if wrong:
        yield "versions", "fail", "; ".join(wrong), "`make setup`, or `pip install -e .` in this environment"
    else:
        names = ("torch", "transformers", "trl", "peft", "datasets", "datatrove")
        yield "versions", "ok", ", ".join(f"{name} {metadata.version(name)}" for name in names)


def _devices(config: Config) -> Found:
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            of = torch.cuda.get_device_properties(number)
            free, total = torch.cuda.mem_get_info(number)
            found = f"cuda:{number} {of.name}, {free / 1e9:.0f} of {total / 1e9:.0f} GB free"
            if free < 0.5 * total:
                yield "device", "warn", found, "another process holds the rest: `nvidia-smi` tells which"
            else:
                yield "device", "ok", found
        if "bfloat16" in (config.student.dtype, config.teacher.dtype) and not torch.cuda.is_bf16_supported(False):
            yield "dtype", "fail", "this GPU has no bfloat16", "student.dtype=float32 teacher.dtype=float32"
        return
    asked = [key for key in ("student", "teacher") if getattr(config, key).device == "cuda"]
    if shutil.which("nvidia-smi") is not None and torch.version.cuda is None:
        fix = "install the CUDA build: `make clean setup`, or `pip install torch` without +cpu"
        yield "device", "fail", "there is an NVIDIA driver, and torch is a CPU build", fix
    elif asked:
        keys = " and ".join(f"{key}.device" for key in asked)
        fix = " ".join(f"{key}.device=auto" for key in asked)
        yield "device", "fail", f"{keys} {'is' if len(asked) == 1 else 'are'} cuda, and torch sees no GPU", fix
    else:
        threads = torch.get_num_threads()
        yield "device", "ok", f"CPU, {os.cpu_count()} cores, {threads} thread{'s' * (threads > 1)}; no GPU"
    slow = [key for key in ("student", "teacher") if getattr(config, key).dtype == "bfloat16"]
    if slow and not asked:
        fix = " ".join(f"{key}.dtype=auto" for key in slow)
        yield "dtype", "warn", "bfloat16 on a CPU without its units is about 8 times as slow as float32", fix


def _settings(config: Config) -> Found:
    """What `train` would refuse by itself; devices and vLLM have checks of their own."""
    on_server = config.teacher.writer == "vllm" and config.rl.algorithm != "grpo"
    absent = "cuda" in (config.student.device, config.teacher.device) and not torch.cuda.is_available()
    if not config.data.train or absent:
        return
    try:
        check_students(config)
        if not on_server:
            check_writer(config)
    except UserError as error:
        found, _, fix = str(error).partition(": ")
        yield "settings", "fail", found, fix


def _data(config: Config) -> Found:
    for key, patterns in (("data.train", config.data.train), ("data.heldout", config.data.heldout)):
        if patterns:
            try:
                shards = find_shards(patterns)
                yield key, "ok", f"{len(shards)} file{'s' * (len(shards) > 1)}"
            except UserError as error:
                yield key, "fail", str(error), _missing_data(config, str(error)) or f"name files that exist in {key}"
    if config.curation.input:
        try:
            yield "curation.input", "ok", f"{len(shards_of(config))} file(s)"
        except UserError as error:
            fix = _missing_data(config, str(error)) or "name files that exist in curation.input"
            yield "curation.input", "fail", str(error), fix
    if not (config.data.train or config.curation.input):
        fix = "set data.train to train, curation.input to curate"
        yield "data", "warn", "the config names no documents", fix


def _missing_data(config: Config, error: str) -> str:
    return f"`notewright lab CONFIG` builds {config.lab.dir}" if str(config.lab.dir) in error else ""


def _disk(config: Config) -> Found:
    known = checkpoint_gb(config)
    rounds = config.rl.rounds if config.data.train else 0
    needs = {config.run.dir: LEAST_FREE_GB * 0.2 + (known or 0.0) * rounds}
    if config.curation.input:
        needs.setdefault(config.curation.output, LEAST_FREE_GB * 0.2)
    for folder, gigabytes in needs.items():
        there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        name = "run.dir" if folder == config.run.dir else "curation.output"
        if not (there.is_dir() and os.access(there, os.W_OK)):
            why = "cannot be written" if there.is_dir() else "is no folder"
            yield "disk", "fail", f"{name} {folder}: {there} {why}", f"another {name}"
            continue
        free = shutil.disk_usage(there).free / 1e9
        what = f"{name} {folder}: {free:.0f} GB free"
        if rounds and name == "run.dir" and known:
            what += f", {rounds} checkpoints of {known:.2g} GB"
        if free < gigabytes:
            yield "disk", "fail", what, f"free {gigabytes - free:.0f} GB, or name another {name}"
        elif free < gigabytes + LEAST_FREE_GB:
            yield "disk", "warn", what, f"little is left beside what is known to be needed: another {name}"
        else:
            yield "disk", "ok", what


def _hub(_config: Config) -> Found:
    """Who we are on the Hub. Needed to push, and for private or gated models."""
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.constants import HF_HUB_OFFLINE

    if HF_HUB_OFFLINE:
        yield "hub", "ok", "HF_HUB_OFFLINE is set: nothing is fetched or pushed"
        return
    token = get_token()
    if token is None:
        fix = "`hf auth login` or HF_TOKEN, before `notewright export` or a gated model"
        yield "hub", "warn", "not logged in", fix
        return
    try:
        yield "hub", "ok", f"logged in as {HfApi(token=token).whoami()['name']}"
    except Exception as error:  # whatever the network or the Hub says
        fix = "`hf auth login` again, or check the network; HF_HUB_OFFLINE=1 where there is none"
        yield "hub", "warn", f"the token could not be checked ({type(error).__name__})", fix
