"""The supervisor: nothing that a command starts outlives the process that asked for it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from teacher.writers.vllm_server import SUPERVISOR
from tests.processes import PATIENCE, gone, happens

# A server that leaves an engine in a session of its own; both write their pids, and neither ends when told to.
FAMILY = """
import os, signal, subprocess, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if sys.argv[2] == "server":
    subprocess.Popen([sys.executable, *sys.argv[:2], "engine"], start_new_session=True)
(folder / sys.argv[2]).write_text(str(os.getpid()))
time.sleep(3600)
"""
# What asked for it.
PARENT = """
import os, subprocess, sys, time
subprocess.Popen([sys.executable, "-P", sys.argv[1], str(os.getpid()), sys.executable, *sys.argv[2:]])
time.sleep(3600)
"""


@pytest.fixture
def family(tmp_path: Path) -> list[str]:
    """The command of a server with an engine."""
    script = tmp_path / "family.py"
    script.write_text(FAMILY)
    return [str(script), str(tmp_path), "server"]


def pids(folder: Path) -> list[int]:
    files = [folder / name for name in ("server", "engine")]
    assert happens(lambda: all(file.exists() and file.read_text() for file in files)), "the family does not start"
    return [int(file.read_text()) for file in files]


def test_the_supervisor_returns_the_status_of_its_command() -> None:
    command = [sys.executable, "-P", str(SUPERVISOR), str(os.getpid()), sys.executable, "-c", "import sys; sys.exit(7)"]
    assert subprocess.run(command).returncode == 7


def test_nothing_is_started_for_a_parent_that_is_gone(tmp_path: Path) -> None:
    mark, ended = tmp_path / "started", subprocess.Popen(["true"])
    ended.wait()
    command = [sys.executable, "-P", str(SUPERVISOR), str(ended.pid), "touch", str(mark)]
    assert subprocess.run(command).returncode == 1 and not mark.exists()


def test_a_supervisor_that_is_terminated_ends_all_processes(tmp_path: Path, family: list[str]) -> None:
    supervisor = subprocess.Popen([sys.executable, "-P", str(SUPERVISOR), str(os.getpid()), sys.executable, *family])
    started = pids(tmp_path)
    supervisor.terminate()
    assert supervisor.wait(PATIENCE) == 0 and gone(started)


def test_an_engine_whose_server_was_killed_ends_too(tmp_path: Path, family: list[str]) -> None:
    supervisor = subprocess.Popen([sys.executable, "-P", str(SUPERVISOR), str(os.getpid()), sys.executable, *family])
    started = pids(tmp_path)
    os.kill(started[0], signal.SIGKILL)
    assert supervisor.wait(PATIENCE) != 0 and gone(started)


def test_all_processes_end_with_a_killed_parent(tmp_path: Path, family: list[str]) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(SUPERVISOR), *family])
    started = pids(tmp_path)
    parent.kill()
    parent.wait()
    assert gone(started)
