"""One task for each student model, in processes of their own, with the progress of all of them together."""

import multiprocessing
import os
import queue
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from configs.processes import worker_pool
from curation.console.progress import StudentProgress, say


class StudentCounts(NamedTuple):
    """Expected and finished students since the last report."""

    expected: int = 0
    finished: int = 0


Report = Callable[[str | StudentCounts], None]
"""Takes a line for the user, or how far the students are."""
Task = Callable[[Report], Any]
"""A picklable function: does its work and returns the result."""

_messages: Any = None
"""In a worker: the queue of its reports."""


def run_tasks(what: str, tasks: Sequence[Task], workers: int) -> list[Any]:
    """Results in the order of `tasks`, at most `workers` at a time; with one worker they run in this process. The first
    error ends all of them. Raises RunError where a worker is killed."""
    workers = min(workers, len(tasks))
    with StudentProgress(what, 0) as progress:

        def show(message: str | StudentCounts) -> None:
            if isinstance(message, str):
                say(message)
            else:
                progress.expect(message.expected)
                progress.advance(message.finished)

        if workers <= 1:
            return [task(show) for task in tasks]
        messages = multiprocessing.get_context("spawn").Queue()
        killed = (
            f"{what}: a process was killed, perhaps for want of memory; finished students are kept, and the same"
            " command goes on: with evaluation.workers=1 it takes less memory"
        )
        with worker_pool(workers, _start_worker, (messages, workers), if_killed=killed) as pool:
            futures = [pool.submit(_run_in_worker, task) for task in tasks]
            while not all(future.done() for future in futures):
                _show_messages(messages, show, wait_seconds=0.5)
                for future in futures:
                    if future.done():
                        future.result()  # raises what the task raised
            _show_messages(messages, show, wait_seconds=0.0)
            return [future.result() for future in futures]


def _show_messages(messages: Any, show: Report, wait_seconds: float) -> None:
    with suppress(queue.Empty):
        while True:
            show(messages.get(wait_seconds > 0, wait_seconds))


def _start_worker(messages: Any, workers: int) -> None:
    """A worker has its share of the cores."""
    import torch
    from transformers.utils.logging import disable_progress_bar

    global _messages
    _messages = messages
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // workers))
    disable_progress_bar()


def _run_in_worker(task: Task) -> Any:
    return task(_messages.put)
