"""The doctor's look at what a run starts or calls: vLLM, Ray, Slurm, a compiler, tracking."""

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from urllib.parse import urlparse

from packaging.requirements import Requirement

from configs.errors import UserError
from configs.schema import Config
from curation.doctor.models import Found
from student.engine.models import pick_device
from teacher.writers.vllm_server import find_vllm

VLLM_SECONDS = 180.0
"""Importing vLLM for the first time compiles a lot."""
COMPILER_SECONDS = 60.0
CONNECT_SECONDS = 3.0


def check_vllm(config: Config) -> Found:
    """Whether the vLLM that would be started can be imported, and fits TRL where it runs inside its trainer."""
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
    version = done.stdout.split()[-1]
    found = f"vLLM {version} in {Path(python).parents[1]}"
    if config.rl.algorithm == "grpo" and config.data.train and not _trl_takes(version):
        fix = "the vLLM of our extra, `pip install -e .[vllm]`, or teacher.writer=transformers"
        yield "vllm", "fail", f"{found}: TRL {metadata.version('trl')} is made for others", fix
        return
    if pick_device("auto").type == "cpu":
        fix = "teacher.writer=transformers is often as fast for small batches on a CPU"
        yield "vllm", "warn", f"{found}, on a CPU", fix
    else:
        yield "vllm", "ok", found


def _trl_takes(version: str) -> bool:
    """Whether TRL, which has vLLM inside its trainer, is made for this one."""
    needs = [Requirement(line) for line in metadata.requires("trl") or ()]
    specifiers = [needed.specifier for needed in needs if needed.name == "vllm"]
    return all(specifier.contains(version.partition("+")[0]) for specifier in specifiers)


def check_ray(config: Config) -> Found:
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


def check_slurm(config: Config) -> Found:
    """Whether a job array can be submitted from here."""
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


def check_compiler(config: Config) -> Found:
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


def check_tracking(config: Config) -> Found:
    """Whether wandb is here, and knows its key."""
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
