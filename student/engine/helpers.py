"""Processes that train students beside this one, a core each.

Threads do not serve: a pass over small students is hundreds of short operations, and each takes the interpreter's lock
from the other threads. The processes are forked, so that the base and its layers are there at once and its weights lie
in memory once.
"""

import multiprocessing
import os
import pickle
import signal
import sys
import traceback
import warnings
import weakref
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch

Stopped = Callable[[], bool]
"""Whether the work is in vain, because another process has failed."""


def can_fork() -> bool:
    """Whether helpers can be had: beside an accelerator autograd refuses to work in a fork, on macOS a fork is not
    safe, and a daemonic process may have no children."""
    daemonic = multiprocessing.current_process().daemon
    return sys.platform == "linux" and not daemonic and not torch.accelerator.is_available()


class Helpers:
    """`count` processes that wait for shares of work, and end when this object or this process does.

    They are forked here, early: a lock that another thread holds just then stays locked in a fork.
    """

    def __init__(self, work: Callable[[Any, Stopped], Any], count: int):
        context = multiprocessing.get_context("fork")
        self._stop = context.RawValue("b", 0)
        self._ends: list[Connection] = []
        self.processes = []
        for _ in range(count):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(work, there, self._stop), daemon=True, name="student-helper")
            with warnings.catch_warnings():  # Python 3.12 warns where there are threads, and torch has some
                warnings.simplefilter("ignore", DeprecationWarning)
                process.start()
            there.close()
            self._ends.append(here)
            self.processes.append(process)
        self._finalizer = weakref.finalize(self, _close, self._ends)

    def __len__(self) -> int:
        """Helpers that have not died."""
        return len(self._ends)

    def close(self) -> None:
        """Ends the helpers, once they are done with what they do."""
        self._finalizer()

    def share(self, shares: list[Any], own: Callable[[Stopped], Any]) -> list[Any]:
        """Does `own` here while each helper does one of the `shares`: what came of all, own first.

        Raises:
            MemoryError: a helper died, as where memory runs out. It is done without from now on.
            Whatever `own` or a share raises; the others stop then.
        """
        assert len(shares) <= len(self)
        busy: list[Connection] = []
        try:
            for end, share in zip(self._ends, map(pickle.dumps, shares), strict=False):
                busy.append(end)
                end.send_bytes(share)
            done = [own(self._stopped)]
            while busy:
                answer = busy[0].recv_bytes()
                del busy[0]  # whatever becomes of its answer, it owes none
                answer = pickle.loads(answer)
                if isinstance(answer, BaseException):
                    raise answer
                done.append(answer)
            return done
        except (EOFError, ConnectionError):
            self._settle(busy)
            raise MemoryError("a process that trained students beside this one died") from None
        except BaseException:
            self._settle(busy)
            raise

    def _stopped(self) -> bool:
        return bool(self._stop.value)

    def _settle(self, busy: list[Connection]) -> None:
        """Stops those that are busy, and lets go of those that are dead."""
        self._stop.value = 1
        try:
            for end in busy:
                try:
                    end.recv_bytes()
                except (EOFError, ConnectionError):
                    end.close()
                    self._ends.remove(end)
        except BaseException:  # an answer that is still to come would be taken for one to the next share
            self.close()
            raise
        self._stop.value = 0


def _close(ends: list[Connection]) -> None:
    while ends:
        ends.pop().close()


def _serve(work: Callable[[Any, Stopped], Any], end: Connection, stop: Any) -> None:
    """A helper's life."""
    _let_go_of_files(end.fileno())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C reaches all; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    try:
        while True:
            answer = _answer(work, pickle.loads(end.recv_bytes()), stop)
            end.send_bytes(pickle.dumps(answer))
            del answer
    except (EOFError, ConnectionError):
        return


def _let_go_of_files(kept: int) -> None:
    """Puts /dev/null in the place of every other file that the parent had open: a lock on one would outlive it, and the
    reader of a pipe, another helper among them, would not learn that it is gone."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in (kept, nothing):
            os.dup2(nothing, int(name))


def _answer(work: Callable[[Any, Stopped], Any], share: Any, stop: Any) -> Any:
    """What comes of a share, or the error that it ends in."""
    try:
        return work(share, lambda: bool(stop.value))
    except BaseException as error:
        stop.value = 1
        error.add_note("in a process beside this one:\n" + traceback.format_exc())
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # one that cannot be sent is told
            return RuntimeError("".join(traceback.format_exception_only(error)).rstrip())
        return error.with_traceback(None)
