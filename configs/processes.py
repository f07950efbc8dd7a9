"""Worker processes that never outlive the run that started them, and the memory that a process keeps."""

import ctypes
import multiprocessing
import os
import pickle
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from configs.errors import RunError

T = TypeVar("T")
_tasks: Sequence[Callable[[], Any]] = ()
"""In a worker: what its pool is to do."""


def die_with_parent() -> None:
    """Asks the kernel to kill this process when its parent dies, so that a killed run leaves no worker writing on."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)


@contextmanager
def worker_pool(
    workers: int,
    tasks: Sequence[Callable[[], T]],
    start: Callable[..., None],
    arguments: tuple[Any, ...] = (),
    *,
    if_killed: str,
) -> Iterator[list[Future[T]]]:
    """The futures of picklable tasks, done by spawned processes, each of which first calls `start(*arguments)`, and
    which end with this process.

    An error inside the block, Ctrl-C among them, kills all workers before it goes on. Raises RunError with the message
    `if_killed` within a second of the death of a worker.
    """
    # Spawned: a fork would copy the locks of torch's threads. What the pool itself sends are numbers: where a worker
    # dies while more is on its way than a pipe holds, the pools of some Pythons wait for ever (gh-94777).
    context = multiprocessing.get_context("spawn")
    with (
        tempfile.NamedTemporaryFile(prefix="notewright-") as file,
        ProcessPoolExecutor(
            workers, context, initializer=_start_worker, initargs=(Path(file.name), start, arguments)
        ) as pool,
    ):
        file.write(pickle.dumps(list(tasks)))
        file.flush()
        try:
            yield [pool.submit(_run_task, number) for number in range(len(tasks))]
        except BaseException as error:
            # Before the shutdown, which waits for what is running and then forgets its processes.
            for process in list((pool._processes or {}).values()):
                process.kill()
            pool.shutdown(cancel_futures=True)
            if isinstance(error, BrokenProcessPool):
                raise RunError(if_killed) from None
            raise


def _start_worker(tasks: Path, start: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    global _tasks
    parent = multiprocessing.parent_process()
    assert parent is not None, "runs in a worker"
    die_with_parent()
    if os.getppid() != parent.pid:
        # The parent died before the line above.
        os._exit(1)
    # Ctrl-C is for the parent, which ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    start(*arguments)
    _tasks = pickle.loads(tasks.read_bytes())


def _run_task(number: int) -> Any:
    return _tasks[number]()


def cpu_seconds() -> float:
    """User and system time of this process and of those below it that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


KEPT_BYTES = 2**30
"""Freed memory that a process keeps for its next step."""


class _Mallinfo2(ctypes.Structure):
    """What glibc's malloc says of itself (malloc.h, from 2.33 on)."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    ]  # fmt: skip


def keep_freed_memory() -> None:
    """Has glibc's malloc keep up to `KEPT_BYTES` of freed memory, in this process and those that are forked from it.

    A training step frees what the next one needs, and on the lab's student fresh pages from the system cost a core a
    twentieth of its time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        m_trim_threshold, m_mmap_threshold = -1, -3  # of glibc's malloc.h
        mallopt(m_mmap_threshold, 32 * 2**20)  # the most it takes
        mallopt(m_trim_threshold, KEPT_BYTES)


def return_freed_memory() -> None:
    """Gives the system back what glibc's malloc keeps where that is more than `KEPT_BYTES`.

    malloc's own threshold counts the end of its heap alone, and texts of other lengths leave holes in it. Five batches
    of eight SmolLM2 students left 2.7 GB in a process, and 1.5 GB where each batch gave back.
    """
    libc = ctypes.CDLL(None)
    if not (hasattr(libc, "mallinfo2") and hasattr(libc, "malloc_trim")):
        return
    libc.mallinfo2.restype = _Mallinfo2
    if libc.mallinfo2().fordblks > KEPT_BYTES:
        libc.malloc_trim(ctypes.c_size_t(0))
