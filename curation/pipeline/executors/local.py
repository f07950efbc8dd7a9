"""Runs the tasks of a datatrove pipeline in processes that are watched, and that die with the run."""

import os
from concurrent.futures import as_completed
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from loguru import logger

from configs.processes import die_with_parent, worker_pool


def quiet_datatrove() -> None:
    """Ends datatrove's logs in this process.

    It logs every task to stderr and a file, and on a failure also the values of local variables: document texts among
    them. What a user needs to know is said by us, and an error reaches them as the exception it is.
    """
    logger.disable("datatrove")


quiet_datatrove()

_running = False
# A process forked while tasks run (the sandbox of an extraction) would outlive a killed run.
os.register_at_fork(after_in_child=lambda: die_with_parent() if _running else None)


class WatchedExecutor(LocalPipelineExecutor):
    """datatrove's local executor with another pool: its own waits for ever for a worker that was killed."""

    def run(self) -> None:
        """Runs the tasks that are not complete.

        Raises RunError within a second of the death of a worker; what a task raises comes out as it is. No worker is
        left when this returns.
        """
        ranks = self.get_incomplete_ranks(range(self.tasks))
        if self.workers > 1 and len(ranks) > 1:
            self._run_pool(ranks)
            return
        for rank in ranks:
            self._run_for_rank(rank)

    def _run_pool(self, ranks: list[int]) -> None:
        workers = min(self.workers, len(ranks))
        killed = (
            "a worker process died (killed, or out of memory); finished batches are kept, the same command goes on from"
            " there"
        )
        with worker_pool(workers, _start_worker, (workers,), if_killed=killed) as pool:
            for future in as_completed([pool.submit(self._run_for_rank, rank) for rank in ranks]):
                future.result()


def run_tasks(steps: list[PipelineStep], tasks: int, workers: int, logs: Path) -> None:
    """Runs `steps` as `tasks` tasks; `logs` remembers which of them are complete. Raises what a task raises."""
    global _running
    executor = WatchedExecutor(pipeline=steps, tasks=tasks, workers=min(workers, tasks), logging_dir=str(logs))
    _running = True
    try:
        executor.run()
    finally:
        _running = False


def _start_worker(workers: int) -> None:
    global _running
    import torch

    _running = True
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
