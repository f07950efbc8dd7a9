"""Runs the tasks of a datatrove pipeline in processes that are watched, and that die with the run."""

import os
from concurrent.futures import as_completed
from functools import partial
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from loguru import logger

from configs.processes import die_with_parent, worker_pool

# datatrove logs every task to stderr and a file, and on a failure also the values of local variables, document texts
# among them. Its logs end in every process that imports an executor; errors reach the user as exceptions.
logger.disable("datatrove")

_running = False
# A process forked while tasks run (the sandbox of an extraction) would outlive a killed run.
os.register_at_fork(after_in_child=lambda: die_with_parent() if _running else None)


def run_tasks(steps: list[PipelineStep], tasks: int, workers: int, logs: Path) -> None:
    """Runs `steps` as `tasks` tasks, except those that `logs` marks as complete. No worker is left when this returns.

    Raises what a task raises, and RunError within a second of the death of a worker (datatrove's own pool waits for
    ever for a worker that was killed).
    """
    global _running
    executor = LocalPipelineExecutor(pipeline=steps, tasks=tasks, logging_dir=str(logs))
    ranks = executor.get_incomplete_ranks(range(tasks))
    workers = min(workers, len(ranks))
    _running = True
    try:
        if workers <= 1:
            for rank in ranks:
                executor._run_for_rank(rank)
            return
        killed = (
            "a worker process died (killed, or out of memory); finished batches are kept, the same command goes on from"
            " there"
        )
        of_ranks = [partial(executor._run_for_rank, rank) for rank in ranks]
        with worker_pool(workers, of_ranks, _start_worker, (workers,), if_killed=killed) as futures:
            for future in as_completed(futures):
                future.result()
    finally:
        _running = False


def _start_worker(workers: int) -> None:
    global _running
    import torch

    _running = True
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
