"""Work in processes of their own, whose progress is shown by this one."""

import multiprocessing
import queue
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from configs.processes import worker_pool
from curation.console.progress import say
from curation.console.student_progress import StudentProgress


class Message(NamedTuple):
    """What a task tells while it is at work."""

    kind: str
    """`line` to show, or students: `expect` so many more, `done` so many."""
    value: Any


Tell = Callable[[Message], None]
Task = Callable[[Tell], Any]
"""A picklable function: does its work and returns what came of it."""

_messages: Any = None
"""In a worker: where its messages go."""


def run_tasks(what: str, tasks: Sequence[Task], workers: int) -> list[Any]:
    """Results in the order of `tasks`, at most `workers` at a time; with one they run in this process. The first error
    ends all of them. Progress counts the students of all tasks together."""
    with StudentProgress(what, 0) as progress:

        def show(message: Message) -> None:
            match message.kind:
                case "line":
                    say(message.value)
                case "expect":
                    progress.expect(message.value)
                case "done":
                    progress.advance(message.value)

        if min(workers, len(tasks)) <= 1:
            return [task(show) for task in tasks]
        messages = multiprocessing.get_context("spawn").Queue()
        workers = min(workers, len(tasks))
        killed = (
            f"{what}: a process was killed, perhaps for want of memory; finished students are kept, and the same"
            " command goes on: with evaluation.workers=1 it takes less memory"
        )
        with worker_pool(workers, _start, (messages, workers), if_killed=killed) as pool:
            futures = [pool.submit(_run, task) for task in tasks]
            while not all(future.done() for future in futures):
                _drain(messages, show, 0.5)
                if failed := next((f for f in futures if f.done() and f.exception()), None):
                    failed.result()
            _drain(messages, show, 0.0)
            return [future.result() for future in futures]


def _drain(messages: Any, show: Callable[[Message], None], wait_seconds: float) -> None:
    try:
        while True:
            show(messages.get(timeout=wait_seconds) if wait_seconds else messages.get_nowait())
    except queue.Empty:
        pass


def _start(messages: Any, workers: int) -> None:
    """A worker has its share of the cores."""
    import os

    import torch
    from transformers.utils.logging import disable_progress_bar

    global _messages
    _messages = messages
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // workers))
    disable_progress_bar()


def _run(task: Task) -> Any:
    return task(_messages.put)
