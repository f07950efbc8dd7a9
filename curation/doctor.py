"""`notewright doctor`: whether this machine can run a config, and what to change where it cannot.

    notewright doctor CONFIG.yaml

Nothing is trained, downloaded or written. A check that does not apply to the config is left out; one that fails has a
line that says what to do.
"""

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal
from urllib.parse import urlparse

import torch
from packaging.requirements import Requirement
from rich.console import Console
from rich.table import Table
from rich.text import Text

from configs.errors import UserError
from configs.schema import Config
from curation.doctor_models import check_memory, check_models, checkpoint_gb
from curation.documents import find_shards
from curation.settings import shards_of
from student.models import pick_device
from teacher.vllm_server import find_vllm
from teacher.writers import check_writer

State = Literal["ok", "warn", "fail"]
COLOURS: dict[State, str] = {"ok": "green", "warn": "yellow", "fail": "red"}

VLLM_SECONDS = 180.0
"""Importing vLLM for the first time compiles a lot."""
COMPILER_SECONDS = 60.0
CONNECT_SECONDS = 3.0
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
    for look in (_versions, _devices, _settings, _data, check_models, check_memory, _disk, _hub, _vllm, _ray, _slurm,
                 _compiler, _tracking):  # fmt: skip
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


Found = Iterator[tuple[str, State, str] | tuple[str, State, str, str]]


def _versions(_config: Config) -> Found:
    """Installed packages against what this package asks for, and torch against the GPU's driver."""
    wrong = []
    for line in metadata.requires("notewright") or ():
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
    """What `train` would refuse by itself."""
    if not config.data.train:
        return
    try:
        if not {config.student.device, config.teacher.device} & {"cuda"} or torch.cuda.is_available():
            check_writer(config)
    except UserError as error:
        if config.teacher.writer == "vllm" and config.rl.algorithm != "grpo":
            return  # that vLLM is missing is said below
        yield "settings", "fail", str(error), "as it says"


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


def _vllm(config: Config) -> Found:
    if config.teacher.writer != "vllm":
        return
    try:
        python = find_vllm()
    except UserError as error:
        yield "vllm", "fail", str(error).partition(":")[0], "`make vllm`, or teacher.writer=transformers"
        return
    code = "import vllm, vllm.entrypoints.openai.api_server; print(vllm.__version__)"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=VLLM_SECONDS)
    except subprocess.TimeoutExpired:
        yield "vllm", "fail", f"importing it took more than {VLLM_SECONDS:.0f} s", "try `make vllm` again"
        return
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        yield "vllm", "fail", f"it cannot be imported: {last}", "`make vllm` again: its versions do not fit"
        return
    found = f"vLLM {done.stdout.split()[-1]} in {Path(python).parents[1]}"
    if pick_device("auto").type == "cpu":
        fix = "teacher.writer=transformers is often as fast for small batches on a CPU"
        yield "vllm", "warn", f"{found}, on a CPU", fix
    else:
        yield "vllm", "ok", found


def _ray(config: Config) -> Found:
    """Whether the cluster can be reached and has what the config asks for. Starts none."""
    if config.student.pool != "ray" and not (config.curation.input and config.curation.executor == "ray"):
        return
    if importlib.util.find_spec("ray") is None:
        yield "ray", "fail", "Ray is not installed", "`pip install -e .[ray]`"
        return
    settings = config.student
    address = os.environ.get("RAY_ADDRESS", "")
    if not address:
        yield "ray", "ok", f"RAY_ADDRESS is not set: a cluster of this machine, {os.cpu_count()} CPUs, starts and ends"
        return
    where = urlparse(address if "//" in address else f"ray://{address}")
    if where.hostname not in (None, "auto", "local") and where.scheme in ("ray", "http", "https"):
        try:
            socket.create_connection((where.hostname, where.port or 6379), CONNECT_SECONDS).close()
        except OSError as error:
            fix = "start it (`ray start --head`), set RAY_ADDRESS to its head, or unset it for this machine alone"
            yield "ray", "fail", f"RAY_ADDRESS {address}: {error.strerror or error}", fix
            return
    # In a process of its own: connecting takes hold of this one, and prints.
    code = (
        "import json, ray; ray.init(log_to_driver=False, logging_level=50); print(json.dumps(ray.cluster_resources()))"
    )
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        resources = json.loads(done.stdout.strip().splitlines()[-1])
    except (subprocess.TimeoutExpired, ValueError, IndexError):
        fix = "the same Ray and Python versions on all nodes; `ray status` on the head says more"
        yield "ray", "fail", f"RAY_ADDRESS {address}: no connection", fix
        return
    gpus, cpus = resources.get("GPU", 0.0), resources.get("CPU", 0.0)
    found = f"RAY_ADDRESS {address}: {cpus:.0f} CPUs, {gpus:.0f} GPUs"
    wanted = settings.actors or 1
    short = gpus < wanted * settings.num_gpus_per_actor if gpus else cpus < wanted * settings.cpus_per_actor
    if config.student.pool == "ray" and short:
        yield "ray", "fail", f"{found}, too few for {wanted} actors", "lower student.actors, or add nodes"
    else:
        yield "ray", "ok", found


def _slurm(config: Config) -> Found:
    if not config.curation.input or config.curation.executor != "slurm":
        return
    missing = [name for name in ("sbatch", "squeue", "sacct") if shutil.which(name) is None]
    if missing:
        fix = "submit from a login node of the cluster, or curation.executor=local"
        yield "slurm", "fail", f"{', '.join(missing)} not found", fix
    elif not config.curation.slurm.partition:
        yield "slurm", "fail", "curation.slurm.partition is not set", "name one: `sinfo` lists them"
    else:
        yield "slurm", "ok", f"sbatch at {shutil.which('sbatch')}, partition {config.curation.slurm.partition}"


def _compiler(config: Config) -> Found:
    """torch.compile builds C++ (CPU) or Triton launchers (GPU)."""
    if not config.student.compile:
        return
    name = os.environ.get("CXX") or next((n for n in ("g++", "clang++", "c++") if shutil.which(n)), None)
    fix = "install g++ (`apt install g++`), name one in CXX, or student.compile=false"
    if name is None:
        yield "compiler", "fail", "student.compile needs a C++ compiler, and there is none", fix
        return
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "probe.cpp"
        source.write_text("#include <vector>\nint main() { return int(std::vector<int>(1)[0]); }\n")
        command = [name, "-O2", "-fopenmp", "-shared", "-fPIC", str(source), "-o", str(source.with_suffix(".so"))]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILER_SECONDS)
            why = "" if not done.returncode else (done.stderr.strip().splitlines() or ["it failed"])[0]
        except (OSError, subprocess.TimeoutExpired) as error:
            why = str(error)
    if why:
        yield "compiler", "fail", f"{name} builds nothing: {why}", fix
    else:
        yield "compiler", "ok", f"{name} at {shutil.which(name)}"


def _tracking(config: Config) -> Found:
    if config.tracking.wandb == "disabled":
        return
    if importlib.util.find_spec("wandb") is None:
        yield "wandb", "fail", "tracking.wandb is set and wandb is not installed", "`pip install -e .[wandb]`"
    elif config.tracking.wandb == "online" and not (os.environ.get("WANDB_API_KEY") or "api.wandb.ai" in _netrc()):
        yield "wandb", "warn", "no key was found", "`wandb login`, or tracking.wandb=offline"
    else:
        yield "wandb", "ok", f"wandb {metadata.version('wandb')}, {config.tracking.wandb}"


def _netrc() -> str:
    path = Path.home() / ".netrc"
    return path.read_text(errors="replace") if path.is_file() else ""
