"""Processes that train and examine students beside this one, a core each.

Threads do not serve: a pass over small students is hundreds of short operations, and each takes the interpreter's lock
from the other threads. The processes are forked, so that the base and its wrapped layers are there at once and its
weights lie in memory once.
"""

import multiprocessing
import os
import pickle
import signal
import sys
import traceback
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import torch

from configs.processes import return_freed_memory

Stopped = Callable[[], bool]
"""Whether the work is in vain, because another process has failed."""


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Within it torch uses so many threads for each operation."""
    threads = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def can_fork() -> bool:
    """Whether this process can have helpers. Beside an accelerator autograd refuses to work in a fork, on macOS a fork
    is not safe, and a daemonic process may have no children."""
    daemonic = multiprocessing.current_process().daemon
    return sys.platform == "linux" and not daemonic and not torch.accelerator.is_available()


class Helpers:
    """`count` processes that wait for tasks. They end when this object or this process does.

    Create it early, before there are many threads: a lock that another thread holds at the fork stays locked in the
    helper.
    """

    def __init__(self, work: Callable[[Any, Stopped], Any], count: int):
        context = multiprocessing.get_context("fork")
        self._stop = context.RawValue("b", 0)
        self._connections: list[Connection] = []
        self.processes = []
        for _ in range(count):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(work, there, self._stop), daemon=True, name="student-helper")
            with warnings.catch_warnings():  # Python 3.12 warns where there are threads, and torch has some
                warnings.simplefilter("ignore", DeprecationWarning)
                process.start()
            there.close()
            self._connections.append(here)
            self.processes.append(process)
        self._finalizer = weakref.finalize(self, _close_all, self._connections)

    def __len__(self) -> int:
        """Helpers that have not died."""
        return len(self._connections)

    def close(self) -> None:
        """Ends each helper as soon as its present task is done."""
        self._finalizer()

    def share(self, tasks: list[Any], work_here: Callable[[Stopped], Any]) -> list[Any]:
        """Calls `work_here` in this process while each helper does one of the `tasks`; its own result comes first.

        Raises MemoryError if a helper died, as happens where memory runs out (the others go on without it from now on),
        and whatever `work_here` or a task raises; the others stop then.
        """
        assert len(tasks) <= len(self)
        busy: list[Connection] = []
        try:
            for connection, task in zip(self._connections, map(pickle.dumps, tasks), strict=False):
                busy.append(connection)
                connection.send_bytes(task)
            results = [work_here(lambda: bool(self._stop.value))]
            while busy:
                message = busy[0].recv_bytes()
                del busy[0]  # before the message is read: if that fails, no second message is to be waited for
                result = pickle.loads(message)
                if isinstance(result, BaseException):
                    raise result
                results.append(result)
            return results
        except (EOFError, ConnectionError):
            self._stop_and_wait(busy)
            raise MemoryError("a process that was at work on students beside this one died") from None
        except BaseException:
            self._stop_and_wait(busy)
            raise

    def _stop_and_wait(self, busy: list[Connection]) -> None:
        """Has the busy helpers stop, throws their results away, and forgets those that died."""
        self._stop.value = 1
        try:
            for connection in busy:
                try:
                    connection.recv_bytes()
                except (EOFError, ConnectionError):
                    connection.close()
                    self._connections.remove(connection)
        except BaseException:  # a result that is still to come would be taken for that of the next task
            self.close()
            raise
        self._stop.value = 0


def _close_all(connections: list[Connection]) -> None:
    while connections:
        connections.pop().close()


def _serve(work: Callable[[Any, Stopped], Any], connection: Connection, stop: Any) -> None:
    """What a helper does until its parent closes the connection or dies."""
    _drop_inherited_files(connection.fileno())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    try:
        while True:
            result = _result_or_error(work, pickle.loads(connection.recv_bytes()), stop)
            connection.send_bytes(pickle.dumps(result))
            del result
            return_freed_memory()
    except (EOFError, ConnectionError):
        return


def _drop_inherited_files(kept: int) -> None:
    """Puts /dev/null in the place of every file that the parent had open, but for `kept` and the standard streams.

    A lock on such a file would outlive the parent, and the reader of a pipe (another helper, for one) would not learn
    that the parent is gone. They are replaced, not closed: Python's file objects still point to their numbers.
    """
    nothing = os.open(os.devnull, os.O_RDWR)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in (kept, nothing):
            os.dup2(nothing, int(name))


def _result_or_error(work: Callable[[Any, Stopped], Any], task: Any, stop: Any) -> Any:
    """The task's result, or the exception that it raises, in a form that can be sent."""
    try:
        return work(task, lambda: bool(stop.value))
    except BaseException as error:
        stop.value = 1
        error.add_note("in a process beside this one:\n" + traceback.format_exc())
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # some exceptions cannot be rebuilt from their arguments: only the message is sent
            return RuntimeError("".join(traceback.format_exception_only(error)).rstrip())
        return error.with_traceback(None)
