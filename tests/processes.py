"""What tests of processes have in common."""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

PATIENCE = 600.0
"""Seconds after which something stalls, and is not merely slow: tests share their machine with others."""


def happens(there: Callable[[], object], alive: Callable[[], bool] = lambda: True, pause: float = 0.005) -> bool:
    """Whether `there()` comes true while `alive()` is, within `PATIENCE`. Asks every `pause` seconds."""
    end = time.monotonic() + PATIENCE
    while not there():
        # What ends by itself may have got there at last.
        if not alive() or time.monotonic() > end:
            return bool(there())
        time.sleep(pause)
    return True


def gone(found: list[int]) -> bool:
    """Whether these processes end."""
    return happens(lambda: not any(map(runs, found)), pause=0.02)


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kill_when_there(path: Path) -> None:
    """Kills the process whose number is written into the file, once it is."""
    if happens(lambda: path.exists() and path.read_text()):
        os.kill(int(path.read_text()), signal.SIGKILL)


@contextmanager
def refusing_port() -> Iterator[int]:
    """A port at which nothing listens, and that no other process is given meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield int(bound.getsockname()[1])
