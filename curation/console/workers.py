"""Work of a verb that is done side by side, in processes of this machine."""

import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import as_completed
from typing import TypeVar

from configs.processes import worker_pool

T = TypeVar("T")


def run_side_by_side(
    tasks: Mapping[str, Callable[[], T]],
    workers: int | None = None,
    *,
    kept: str,
    on_done: Callable[[str, T, str], None] | None = None,
) -> dict[str, T]:
    """The result of each task (a picklable function) by its name, at most `workers` at a time.

    Each process has its share of the cores; one worker is this process. `workers` None: a process for each core, of one
    thread. `on_done` gets the name and the result of each task as it ends, and how far all are: `[3/8, 5 min left]`.
    The first error ends all of them. Raises RunError where a process is killed, with what is `kept` then.
    """
    at_once = max(1, min(workers or len(os.sched_getaffinity(0)), len(tasks)))
    if workers is not None and at_once == 1:
        return {name: task() for name, task in tasks.items()}
    threads = 1 if workers is None else max(1, len(os.sched_getaffinity(0)) // at_once)
    results, started = {}, time.monotonic()
    killed = f"a process was killed, perhaps for want of memory; {kept}, and the same command goes on"
    with worker_pool(at_once, list(tasks.values()), _start, (threads,), if_killed=killed) as futures:
        names = dict(zip(futures, tasks, strict=True))
        for future in as_completed(futures):
            name = names[future]
            results[name] = future.result()
            minutes = (len(tasks) - len(results)) * (time.monotonic() - started) / len(results) / 60
            if on_done is not None:
                on_done(name, results[name], f"[{len(results)}/{len(tasks)}, {minutes:.0f} min left]")
    return {name: results[name] for name in tasks}


def _start(threads: int) -> None:
    import torch
    from transformers.utils.logging import disable_progress_bar

    torch.set_num_threads(threads)
    disable_progress_bar()
