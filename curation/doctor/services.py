"""The doctor's checks of what a run starts or calls: vLLM, Ray, Slurm, a compiler, tracking."""

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
from configs.schema import Config, Curation, Student, Tracking
from curation.doctor.checks import Check, Checks
from student.engine.models import pick_device
from teacher.algorithms.table import algorithm_of
from teacher.writers.vllm_server import find_vllm

VLLM_SECONDS = 180.0
"""Importing vLLM for the first time compiles a lot."""


def check_vllm(config: Config) -> Checks:
    """Whether the vLLM that would be started can be imported, and fits TRL where it runs inside its trainer."""
    if config.teacher.writer != "vllm":
        return []
    try:
        python = find_vllm()
    except UserError:
        fix = "`make vllm`, or teacher.writer=transformers"
        return [Check("vllm", "fail", "teacher.writer 'vllm' needs vLLM", fix)]
    code = "import vllm, vllm.entrypoints.openai.api_server; print(vllm.__version__)"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=VLLM_SECONDS)
    except subprocess.TimeoutExpired:
        return [Check("vllm", "fail", f"importing it took more than {VLLM_SECONDS:.0f} s", "try `make vllm` again")]
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return [Check("vllm", "fail", f"it cannot be imported: {last}", "`make vllm` again: its versions do not fit")]
    version = done.stdout.split()[-1]
    installation = f"vLLM {version} in {Path(python).parents[1]}"
    # An algorithm that samples by itself has vLLM inside TRL's trainer, which is made for certain versions of it.
    requirements = map(Requirement, metadata.requires("trl") or ())
    supported = all(r.specifier.contains(version.partition("+")[0]) for r in requirements if r.name == "vllm")
    if algorithm_of(config.rl).samples_itself and config.data.train and not supported:
        fix = "the vLLM of our extra, `pip install -e .[vllm]`, or teacher.writer=transformers"
        return [Check("vllm", "fail", f"{installation}: TRL {metadata.version('trl')} is made for others", fix)]
    if pick_device("auto").type == "cpu":
        fix = "teacher.writer=transformers is often as fast for small batches on a CPU"
        return [Check("vllm", "warn", f"{installation}, on a CPU", fix)]
    return [Check("vllm", "ok", installation)]


def check_ray(student: Student, curation: Curation) -> Checks:
    """Whether the cluster can be reached and has what the config asks for. Starts none."""
    if student.pool != "ray" and not (curation.input and curation.executor == "ray"):
        return []
    if importlib.util.find_spec("ray") is None:
        return [Check("ray", "fail", "Ray is not installed", "`pip install -e .[ray]`")]
    address = os.environ.get("RAY_ADDRESS", "")
    if not address:
        cluster = f"RAY_ADDRESS is not set: a cluster of this machine, {os.cpu_count()} CPUs, starts and ends"
        return [Check("ray", "ok", cluster)]
    url = urlparse(address if "//" in address else f"ray://{address}")
    # Without this look, Ray itself waits for minutes on an address where nobody answers.
    if url.hostname not in (None, "auto", "local") and url.scheme in ("ray", "http", "https"):
        try:
            socket.create_connection((url.hostname, url.port or 6379), timeout=3).close()
        except OSError as error:
            fix = "start it (`ray start --head`), set RAY_ADDRESS to its head, or unset it for this machine alone"
            return [Check("ray", "fail", f"RAY_ADDRESS {address}: {error.strerror or error}", fix)]
    # In another process: Ray would keep this one connected, and print to it.
    setup = "import json, ray; ray.init(log_to_driver=False, logging_level=50)"
    code = f"{setup}; print(json.dumps(ray.cluster_resources()))"
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
        resources = json.loads(done.stdout.strip().splitlines()[-1])
    except (subprocess.TimeoutExpired, ValueError, IndexError):
        fix = "the same Ray and Python versions on all nodes; `ray status` on the head says more"
        return [Check("ray", "fail", f"RAY_ADDRESS {address}: no connection", fix)]
    gpus, cpus = resources.get("GPU", 0.0), resources.get("CPU", 0.0)
    cluster = f"RAY_ADDRESS {address}: {cpus:.0f} CPUs, {gpus:.0f} GPUs"
    actors = student.actors or 1
    too_few = gpus < actors * student.num_gpus_per_actor if gpus else cpus < actors * student.cpus_per_actor
    if student.pool == "ray" and too_few:
        return [Check("ray", "fail", f"{cluster}, too few for {actors} actors", "lower student.actors, or add nodes")]
    return [Check("ray", "ok", cluster)]


def check_slurm(curation: Curation) -> Checks:
    """Whether a job array can be submitted from here."""
    if not curation.input or curation.executor != "slurm":
        return []
    partition = curation.slurm.partition
    if missing := [name for name in ("sbatch", "squeue", "sacct") if shutil.which(name) is None]:
        fix = "submit from a login node of the cluster, or curation.executor=local"
        return [Check("slurm", "fail", f"{', '.join(missing)} not found", fix)]
    if not partition:
        return [Check("slurm", "fail", "curation.slurm.partition is not set", "name one: `sinfo` lists them")]
    return [Check("slurm", "ok", f"sbatch at {shutil.which('sbatch')}, partition {partition}")]


def check_compiler(student: Student) -> Checks:
    """torch.compile builds C++ (CPU) or Triton launchers (GPU)."""
    if not student.compile:
        return []
    name = os.environ.get("CXX") or next((n for n in ("g++", "clang++", "c++") if shutil.which(n)), None)
    fix = "install g++ (`apt install g++`), name one in CXX, or student.compile=false"
    if name is None:
        return [Check("compiler", "fail", "student.compile needs a C++ compiler, and there is none", fix)]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "probe.cpp"
        source.write_text("#include <vector>\nint main() { return int(std::vector<int>(1)[0]); }\n")
        command = [name, "-O2", "-fopenmp", "-shared", "-fPIC", str(source), "-o", str(source.with_suffix(".so"))]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=300)
            problem = (done.stderr.strip().splitlines() or ["it failed"])[0] if done.returncode else ""
        except (OSError, subprocess.TimeoutExpired) as error:
            problem = str(error)
    if problem:
        return [Check("compiler", "fail", f"{name} builds nothing: {problem}", fix)]
    return [Check("compiler", "ok", f"{name} at {shutil.which(name)}")]


def check_tracking(tracking: Tracking) -> Checks:
    """Whether wandb is installed, and has a key."""
    if tracking.wandb == "disabled":
        return []
    netrc = Path.home() / ".netrc"
    in_netrc = netrc.is_file() and "api.wandb.ai" in netrc.read_text(errors="replace")
    if importlib.util.find_spec("wandb") is None:
        return [Check("wandb", "fail", "tracking.wandb is set and wandb is not installed", "`pip install -e .[wandb]`")]
    if tracking.wandb == "online" and not (os.environ.get("WANDB_API_KEY") or in_netrc):
        return [Check("wandb", "warn", "no key was found", "`wandb login`, or tracking.wandb=offline")]
    return [Check("wandb", "ok", f"wandb {metadata.version('wandb')}, {tracking.wandb}")]
