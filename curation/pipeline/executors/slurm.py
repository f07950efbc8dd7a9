"""Runs the tasks of a curation as a Slurm job array, by datatrove's executor, which writes the batch script.

No process of ours runs while the jobs wait: a call submits them and ends, and the next call asks how they stand. It
asks the queue by the name of the run's jobs, so jobs that a killed call submitted are found too. Complete tasks are
marked in `logs`, as with all executors.
"""

import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from datatrove.executor import SlurmPipelineExecutor
from datatrove.pipeline.base import PipelineStep

from configs.errors import RunError, UserError
from configs.files import read_own, write_whole
from configs.schema.executor import Slurm
from curation.console.progress import say
from curation.pipeline.executors import local  # noqa: F401  # ends datatrove's logs, on the nodes too


class Queued(Exception):
    """The tasks are in Slurm's queue, which is no error. The message says how they stand and what to do next."""

    def __init__(self, message: str, name: str, done: int, total: int):
        super().__init__(message)
        self.name, self.done, self.total = name, done, total


class SlurmTasks(SlurmPipelineExecutor):
    """datatrove's Slurm executor, without the second job that adds up counts. It also keeps the ids of all its arrays,
    and why a task failed."""

    def __init__(self, steps: list[PipelineStep], tasks: int, settings: Slurm, logs: Path, name: str):
        self.jobs: list[str] = []
        super().__init__(
            steps,
            tasks,
            settings.time,
            settings.partition,
            cpus_per_task=settings.cpus_per_task,
            mem_per_cpu_gb=settings.memory_gb_per_cpu,
            gpus_per_task=settings.gpus_per_task,
            workers=settings.most_at_once or -1,
            job_name=name,
            qos=settings.qos,
            env_command=settings.env_command or _activate(settings.venv),
            sbatch_args=dict(settings.sbatch),
            max_array_size=settings.max_array_size,
            # Slurm's limit holds within one array, so with a limit the arrays run one after the other.
            max_array_launch_parallel=settings.most_at_once is None,
            job_id_retriever=self._keep_id,
            logging_dir=str(logs.absolute()),
            with_srun=settings.srun,
        )

    def _keep_id(self, answer: str) -> str:
        self.jobs.append(answer.split()[-1])
        return self.jobs[-1]

    def launch_merge_stats(self) -> None:
        pass

    def get_sbatch_args(self, max_array: int = 1) -> dict[str, Any]:
        args = super().get_sbatch_args(max_array)
        # Without a partition Slurm takes the cluster's default one.
        return {key: value for key, value in args.items() if key != "partition" or value}

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> Any:
        path = _error_path(Path(self.logging_dir.path), rank)
        path.unlink(missing_ok=True)
        try:
            return super()._run_for_rank(rank, local_rank, node_rank)
        except Exception as error:
            # The error may be that the disk is full.
            with suppress(OSError):
                write_whole(path, f"{type(error).__name__}: {error}")
            raise


def run_on_slurm(
    steps: list[PipelineStep], tasks: int, settings: Slurm, logs: Path, name: str, done: int, total: int, again: bool
) -> None:
    """Returns if all tasks are complete. Otherwise submits those that are not, unless they are in the queue, and raises
    Queued.

    `done` of `total` documents are finished. Tasks that ended incomplete are submitted again only if `again`. Raises
    UserError where there is no Slurm, RunError if it refuses, or if tasks failed and not `again`.
    """
    executor = SlurmTasks(steps, tasks, settings, logs, name)
    queue = in_queue(name)
    incomplete = executor.get_incomplete_ranks()
    if not incomplete:
        return
    if not queue:
        if why := _why_ended(logs, incomplete):
            if not again:
                raise RunError(f"{why}; finished batches are kept, the same command submits these tasks again")
            say(f"{why}; submitting them again")
        _submit(executor, incomplete)
        queue = in_queue(name) or Counter({"submitted": len(incomplete)})
    states = ", ".join(f"{count} {state.lower()}" for state, count in sorted(queue.items()))
    message = (
        f"{tasks - len(incomplete)} of {tasks} tasks and {done} of {total} documents are finished; tasks in Slurm's "
        f"queue: {states} (follow with `squeue --name={name}`, logs in {executor.slurm_logs_folder}). The same command "
        "says how they stand, and finishes the dataset once they are through"
    )
    raise Queued(message, name, done, total)


def job_name(output: Path, fingerprint: str) -> str:
    """The name of a run's jobs; another run has another name, and so has the same run into another folder."""
    return "notewright-" + hashlib.sha256(f"{output.absolute()}\n{fingerprint}".encode()).hexdigest()[:12]


def in_queue(name: str) -> Counter[str]:
    """Number of the tasks of that name in the queue, by their state (RUNNING, PENDING, ...)."""
    return Counter(_ask("squeue", "--array", "--noheader", f"--name={name}", "--format=%T"))


def wait_for_jobs(name: str, poll_seconds: float) -> None:
    """Returns once no job of that name is in the queue."""
    queued = True
    while queued:
        time.sleep(poll_seconds)
        try:
            queued = bool(in_queue(name))
        except RunError as error:
            # At times a busy controller does not answer; the jobs go on.
            say(f"{error}; asking again")


def refuse_queued(logs: Path) -> None:
    """Raises UserError if the tasks of `logs` are in Slurm's queue: another executor would run them too.

    On a machine without Slurm that cannot be asked; there the tasks' locks keep a task from running twice at once.
    """
    name = _submitted(logs).get("name")
    if name and shutil.which("squeue") and in_queue(name):
        raise UserError(f"this run's tasks are in Slurm's queue: wait for them, or `scancel --name={name}` first")


def _submit(executor: SlurmTasks, incomplete: list[int]) -> None:
    logs = Path(executor.logging_dir.path)
    # Errors of earlier jobs, which `_why_ended` must not report again.
    for rank in incomplete:
        _error_path(logs, rank).unlink(missing_ok=True)
    try:
        executor.launch_job()
    except FileNotFoundError as error:
        raise _no_slurm(error) from None
    except subprocess.CalledProcessError as error:
        raise RunError(
            f"sbatch refused the jobs (exit {error.returncode}; its message is above): change curation.slurm and run "
            "the same command again"
        ) from None
    finally:
        if executor.jobs:
            write_whole(logs / "slurm.json", json.dumps({"name": executor.job_name, "jobs": executor.jobs}))


def _why_ended(logs: Path, incomplete: list[int]) -> str:
    """Why the jobs submitted last ended with these tasks incomplete; empty where none were submitted."""
    submitted = _submitted(logs)
    if not submitted:
        return ""
    errors = [path.read_text(encoding="utf-8") for rank in incomplete if (path := _error_path(logs, rank)).is_file()]
    reasons = [error[:300] + f" ({count} times)" * (count > 1) for error, count in Counter(errors).most_common(2)]
    # Many clusters keep no account of ended jobs.
    with suppress(UserError, RunError):
        jobs = f"--jobs={','.join(submitted['jobs'])}"
        states = _ask("sacct", "--allocations", "--noheader", "--parsable2", "--format=State", jobs)
        failed = Counter(state.split()[0] for state in states if state != "COMPLETED")
        reasons += [f"{count} {state}" for state, count in failed.items()]
    return f"{len(incomplete)} tasks ended before they were complete ({'; '.join(reasons) or 'their logs may say why'})"


def _submitted(logs: Path) -> dict[str, Any]:
    path = logs / "slurm.json"
    return read_own(path, dict) if path.is_file() else {}


def _error_path(logs: Path, rank: int) -> Path:
    return logs / "errors" / f"{rank:05d}"


def _activate(venv: Path | None) -> str:
    """The shell line that puts datatrove's command, which a job runs, on the PATH of a node."""
    if venv is not None:
        return f"source {venv.absolute() / 'bin/activate'}"
    folder, launcher = Path(sys.executable).parent, "launch_pickled_pipeline"
    if not (folder / launcher).is_file():
        raise UserError(f"{launcher} is not in {folder}: name the environment of the nodes in curation.slurm.venv")
    return f'export PATH="{folder}:$PATH"'


def _ask(*command: str) -> list[str]:
    """The non-empty lines that a Slurm command prints."""
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    except FileNotFoundError as error:
        raise _no_slurm(error) from None
    except subprocess.TimeoutExpired:
        raise RunError(f"{command[0]} does not answer") from None
    except subprocess.CalledProcessError as error:
        raise RunError(f"{command[0]} failed: {(error.stderr.strip() or 'without a word').splitlines()[-1]}") from None
    return [line.strip() for line in answer.stdout.splitlines() if line.strip()]


def _no_slurm(error: FileNotFoundError) -> UserError:
    return UserError(f"curation.executor=slurm needs {error.filename!r} on the PATH: run it where jobs are submitted")
