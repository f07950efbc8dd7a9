"""Runs a command so that nothing which it starts outlives the process that asked for it, however that one ends.

    python -P teacher/writers/supervisor.py PARENT_PID COMMAND...

A server that is killed leaves its engine and its workers behind, with the memory that they hold: vLLM's are children of
the server and do not notice. They become children of this process instead, and end with it. It imports nothing of ours,
so that it starts in an instant.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys

import psutil

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
GRACE_SECONDS = 3.0
"""What is told to end has this long to remove its files in /tmp and /dev/shm."""


def main() -> int:
    """The command's exit status."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    system = ctypes.CDLL(None)
    system.prctl(PR_SET_CHILD_SUBREAPER, 1)
    system.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        return 1  # it died before the line above
    try:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL).wait()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _end_all()


def _end_all() -> None:
    me = psutil.Process()
    below = me.children(recursive=True)
    for process in below:
        _send(process, signal.SIGTERM)
    _, below = psutil.wait_procs(below, timeout=GRACE_SECONDS)
    # Again and again: what is killed may just have started another.
    while below:
        for process in below:
            _send(process, signal.SIGKILL)
        psutil.wait_procs(below, timeout=1)
        below = [p for p in me.children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE]


def _send(process: psutil.Process, what: signal.Signals) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(what)


if __name__ == "__main__":
    sys.exit(main())
