"""The tasks of a curation as a Slurm job array, by datatrove's executor, which writes the batch script.

Nothing of ours runs while the jobs wait: a call submits them and ends, and the next call sees how they stand. The queue
itself says whether they are alive, by the name of the run's jobs, so a call that was killed while it submitted is known
too. What is done is known by the marks of complete tasks, which all executors share.
"""

import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from datatrove.executor import SlurmPipelineExecutor
from datatrove.pipeline.base import PipelineStep

from configs.errors import RunError, UserError
from configs.files import write_whole
from configs.schema.executor import Slurm
from curation.console.progress import say
from curation.pipeline.executors.local import quiet_datatrove

# On the nodes too, which import this module.
quiet_datatrove()

LAUNCHER = "launch_pickled_pipeline"
"""datatrove's command that a job runs."""


class Queued(Exception):
    """Nothing is wrong: the tasks are in Slurm's queue. Its text says how they stand and what to do next."""

    def __init__(self, line: str, name: str, done: int, total: int):
        super().__init__(line)
        self.name, self.done, self.total = name, done, total


class SlurmTasks(SlurmPipelineExecutor):
    """datatrove's Slurm executor without its second job, which adds up figures that our manifest has; it keeps the
    ids of all its arrays, and why a task failed."""

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
            env_command=settings.env_command or _environment(settings.venv),
            sbatch_args=dict(settings.sbatch),
            max_array_size=settings.max_array_size,
            # The limit holds for one array at a time.
            max_array_launch_parallel=settings.most_at_once is None,
            job_id_retriever=self._note,
            logging_dir=str(logs.absolute()),
            with_srun=settings.srun,
        )

    def _note(self, said: str) -> str:
        self.jobs.append(said.split()[-1])
        return self.jobs[-1]

    def launch_merge_stats(self) -> None:
        pass

    def get_sbatch_args(self, max_array: int = 1) -> dict[str, Any]:
        args = super().get_sbatch_args(max_array)
        return {key: value for key, value in args.items() if key != "partition" or value}

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> Any:
        path = _error_path(Path(self.logging_dir.path), rank)
        path.unlink(missing_ok=True)
        try:
            return super()._run_for_rank(rank, local_rank, node_rank)
        except Exception as error:
            # It may well be the full disk that this is written to.
            with suppress(OSError):
                write_whole(path, f"{type(error).__name__}: {error}")
            raise


def run_on_slurm(
    steps: list[PipelineStep], tasks: int, settings: Slurm, logs: Path, name: str, done: int, total: int, again: bool
) -> None:
    """Returns if all tasks are complete; else submits those that are not, unless they are in the queue, and raises
    Queued.

    `done` of `total` documents are finished. Tasks that ended without being complete are submitted again only if
    `again`. Raises UserError where there is no Slurm, RunError if it refuses, or if tasks failed and not `again`.
    """
    executor = SlurmTasks(steps, tasks, settings, logs, name)
    waiting = in_queue(name)
    left = executor.get_incomplete_ranks()
    if not left:
        return
    if not waiting:
        if why := _ended(logs, left):
            if not again:
                raise RunError(f"{why}; finished batches are kept, the same command submits these tasks again")
            say(f"{why}; submitting them again")
        _submit(executor)
        waiting = in_queue(name) or Counter({"submitted": len(left)})
    states = ", ".join(f"{count} {state.lower()}" for state, count in sorted(waiting.items()))
    line = (
        f"{tasks - len(left)} of {tasks} tasks and {done} of {total} documents are finished; tasks in Slurm's queue: "
        f"{states} (follow with `squeue --name={name}`, logs in {executor.slurm_logs_folder}). The same command says "
        "how they stand, and finishes the dataset once they are through"
    )
    raise Queued(line, name, done, total)


def job_name(output: Path, fingerprint: str) -> str:
    """The name of a run's jobs: no other run has it, nor the same run into another folder."""
    return "notewright-" + hashlib.sha256(f"{output.absolute()}\n{fingerprint}".encode()).hexdigest()[:12]


def in_queue(name: str) -> Counter[str]:
    """How many of the tasks of that name are in the queue, by their state (RUNNING, PENDING, ...)."""
    return Counter(_ask("squeue", "--array", "--noheader", f"--name={name}", "--format=%T"))


def wait_for_jobs(name: str, poll_seconds: float) -> None:
    """Returns once no job of that name is in the queue."""
    while True:
        time.sleep(poll_seconds)
        try:
            if not in_queue(name):
                return
        except RunError as error:
            # A busy controller does not answer at times; the jobs live on.
            say(f"{error}; asking again")


def refuse_queued(logs: Path) -> None:
    """Raises UserError if the tasks that `logs` is about are in Slurm's queue: another executor would run them too.

    On a machine without Slurm nobody can say; there the tasks' own locks keep two from being one task at once.
    """
    name = _submitted(logs).get("name")
    if name and shutil.which("squeue") and in_queue(name):
        raise UserError(f"this run's tasks are in Slurm's queue: wait for them, or `scancel --name={name}` first")


def _submit(executor: SlurmTasks) -> None:
    logs = Path(executor.logging_dir.path)
    # Left by earlier jobs, of which `_ended` must not speak again.
    for rank in executor.get_incomplete_ranks():
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
            state = {"name": executor.job_name, "jobs": executor.jobs}
            write_whole(logs / "slurm.json", json.dumps(state))


def _ended(logs: Path, left: list[int]) -> str:
    """Why the jobs submitted last ended with `left` incomplete; nothing where none were submitted."""
    submitted = _submitted(logs)
    if not submitted:
        return ""
    errors = [path.read_text(encoding="utf-8") for rank in left if (path := _error_path(logs, rank)).is_file()]
    said = [f"{error[:300]}" + f" ({count} times)" * (count > 1) for error, count in Counter(errors).most_common(2)]
    states = Counter(state.split()[0] for state in _accounted(submitted["jobs"]) if state and state != "COMPLETED")
    said += [f"{count} {state}" for state, count in states.items()]
    return f"{len(left)} tasks ended before they were complete ({'; '.join(said) or 'their logs may say why'})"


def _accounted(jobs: Iterable[str]) -> list[str]:
    """The final states of jobs, where the cluster keeps account of them."""
    given = f"--jobs={','.join(jobs)}"
    try:
        return _ask("sacct", "--allocations", "--noheader", "--parsable2", "--format=State", given)
    except (UserError, RunError):
        return []


def _submitted(logs: Path) -> dict[str, Any]:
    path = logs / "slurm.json"
    return dict(json.loads(path.read_bytes())) if path.is_file() else {}


def _error_path(logs: Path, rank: int) -> Path:
    return logs / "errors" / f"{rank:05d}"


def _environment(venv: Path | None) -> str:
    """The shell line that makes datatrove's command known on a node."""
    if venv is not None:
        return f"source {venv.absolute() / 'bin/activate'}"
    folder = Path(sys.executable).parent
    if not (folder / LAUNCHER).is_file():
        raise UserError(f"{LAUNCHER} is not in {folder}: name the environment of the nodes in curation.slurm.venv")
    return f'export PATH="{folder}:$PATH"'


def _ask(*command: str) -> list[str]:
    """The lines that a command of Slurm's prints."""
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
