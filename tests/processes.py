"""What tests of processes have in common."""

import time

import psutil


def gone(found: list[int], seconds: float = 30) -> bool:
    """Whether these processes end within so long."""
    end = time.monotonic() + seconds
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in found):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
