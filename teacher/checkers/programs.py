"""Solutions that compute: a Python program in the solution prints the answer.

The program runs under bubblewrap, in namespaces of its own: the interpreter and the standard library can be read,
nothing but a small folder in memory can be written, there is no network, and time, memory, processes and output are
bounded.
"""

import functools
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from teacher.checkers.problem import Checker, Problem, Unproven

SECONDS = 5
MEMORY = 512 * 2**20
"""Bytes of address space."""
PROCESSES = 16
WRITTEN = 2**20
"""Bytes of a file, and of all that it prints."""
FOLDER = 16 * 2**20
"""Bytes of the folder that it may write in."""
NOBODY: dict[str, Any] = {"user": 65534, "group": 65534, "extra_groups": ()}
"""Whom root runs it as: the limit of processes does not hold for root."""
SYSTEM = ("/usr", "/bin", "/lib", "/lib64")


@functools.cache
def missing() -> str | None:
    """What has to be installed."""
    for program, package in (("bwrap", "bubblewrap"), ("prlimit", "util-linux")):
        if not shutil.which(program):
            return f"{program} (e.g. apt install {package})"
    try:
        run_program("print(1)")
    except Unproven as reason:
        return f"a bwrap that may make namespaces on this machine (a program that prints 1 {reason})"
    return None


def prove(problem: Problem) -> str:
    """The kind of a problem whose answer is right. Raises `Unproven`."""
    if len(programs := problem.programs) != 1:
        raise Unproven(f"{len(programs) or 'no'} programs in the solution")
    if (printed := run_program(programs[0]).strip()) != problem.answer.strip():
        raise Unproven(f"the program prints {printed!r:.40}, not the answer")
    return "program"


def run_program(code: str) -> str:
    """What a program prints. Raises `Unproven` where it fails or meets a limit."""
    process = subprocess.Popen(
        _command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={},
        **(NOBODY if os.geteuid() == 0 else {}),
    )  # fmt: skip
    late = threading.Event()

    def end() -> None:
        late.set()
        process.kill()  # all that it started dies with it: --die-with-parent, and a process namespace

    assert process.stdin and process.stdout
    timer = threading.Timer(SECONDS, end)
    timer.start()
    printed = b""
    try:
        try:
            process.stdin.write(code.encode(errors="replace"))
            process.stdin.close()
        except BrokenPipeError:
            pass
        printed = process.stdout.read(WRITTEN + 1)
    finally:
        timer.cancel()
        if len(printed) > WRITTEN:
            process.kill()
        status = process.wait()
        process.stdout.close()
    if late.is_set():
        raise Unproven(f"takes more than {SECONDS} seconds")
    if len(printed) > WRITTEN:
        raise Unproven("prints too much")
    if status:
        raise Unproven(f"ends with status {status}")
    return printed.decode(errors="replace")


@functools.cache
def _command() -> list[str]:
    interpreter = shutil.which("python3", path="/usr/bin:/usr/local/bin") or os.path.realpath(sys.executable)
    readable = [path for path in SYSTEM if Path(path).is_dir()]
    if not interpreter.startswith("/usr/"):
        readable.append(sys.base_prefix)
    mounts = [part for path in readable for part in ("--ro-bind", path, path)]
    return [
        "bwrap", "--unshare-all", "--unshare-user", "--uid", "65534", "--gid", "65534", "--die-with-parent",
        "--new-session", "--cap-drop", "ALL", "--clearenv", *mounts, "--proc", "/proc", "--dev", "/dev",
        "--size", str(FOLDER), "--tmpfs", "/tmp", "--chdir", "/tmp", "--hostname", "sandbox", "--",
        "prlimit", f"--as={MEMORY}", f"--nproc={PROCESSES}", f"--fsize={WRITTEN}", f"--cpu={SECONDS}", "--core=0",
        "--nofile=64", "--", interpreter, "-I", "-S", "-",
    ]  # fmt: skip


CHECKER = Checker(prove, missing)
