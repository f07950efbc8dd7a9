"""Runs a command so that nothing which it starts outlives the process that asked for it, however that one ends.

    python -P teacher/writers/supervisor.py PARENT_PID COMMAND...

A vLLM server that is killed leaves its engine and its workers behind, with the memory that they hold: they are children
of the server and do not notice. Here they become children of this process instead, and end with it. It imports nothing
of ours, so that it starts in an instant.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys

import psutil

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


def main() -> int:
    """The command's exit status."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    system = ctypes.CDLL(None)
    system.prctl(PR_SET_CHILD_SUBREAPER, 1)
    system.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        return 1  # the parent died before it could be watched
    try:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL).wait()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        me = psutil.Process()
        descendants = me.children(recursive=True)
        _send(descendants, signal.SIGTERM)
        # Time to remove their files in /tmp and /dev/shm.
        _, descendants = psutil.wait_procs(descendants, timeout=3)
        # Again and again: a process may have started another just before it was killed.
        while descendants:
            _send(descendants, signal.SIGKILL)
            psutil.wait_procs(descendants, timeout=1)
            descendants = [p for p in me.children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE]


def _send(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


if __name__ == "__main__":
    sys.exit(main())
