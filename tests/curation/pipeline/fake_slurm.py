"""A Slurm of one machine: commands that queue batch scripts and run them as local processes.

`install` puts them on a PATH. A script is run for each index of its array, as `sbatch` would: in the folder it was
submitted from, with the variables of a job, and what it prints in the file that it names.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = ("sbatch", "squeue", "sacct", "scontrol", "srun")


def install(folder: Path) -> Path:
    """Writes the commands into `folder`/bin, which is returned; their state is in `folder`/jobs."""
    (folder / "bin").mkdir(parents=True)
    (folder / "jobs").mkdir()
    for name in COMMANDS:
        path = folder / "bin" / name
        path.write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} {folder / "jobs"} {name} "$@"\n')
        path.chmod(0o755)
    return folder / "bin"


def jobs(folder: Path) -> list[dict]:
    """What was submitted: options, script and states of the tasks, in the order of submission."""
    return [json.loads(path.read_text()) for path in sorted((folder / "jobs").glob("*.json"))]


def cancel(folder: Path) -> None:
    """Ends the jobs that wait in the queue."""
    (folder / "jobs/cancel").touch()


def release(folder: Path) -> None:
    """Lets the jobs that wait in the queue start."""
    (folder / "jobs/hold").unlink()


def hold(folder: Path) -> None:
    """Keeps new jobs waiting in the queue."""
    (folder / "jobs/hold").touch()


def sbatch(state: Path, arguments: list[str]) -> None:
    script = Path(arguments[-1]).read_text()
    given = [*re.findall(r"^#SBATCH --(.*)$", script, re.M), *(a.removeprefix("--") for a in arguments[:-1])]
    options = dict(option.partition("=")[::2] for option in given)
    if (state / "refuse").exists():
        sys.exit("sbatch: error: Batch job submission failed: Invalid account")
    last, _, most = options["array"].removeprefix("0-").partition("%")
    number = str(4000 + len(list(state.glob("*.json"))))
    job = {"id": number, "options": options, "script": script, "states": ["PENDING"] * (int(last) + 1)}
    job |= {"most": int(most or 1000), "folder": os.getcwd()}
    (state / f"{number}.json").write_text(json.dumps(job))
    # It leads a session of its own, as a job outlives who submitted it.
    command = [sys.executable, __file__, str(state), "work", number]
    log = (state / f"{number}.log").open("w")
    subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    print(f"Submitted batch job {number}")


def work(state: Path, arguments: list[str]) -> None:
    """The controller of one job: starts its tasks, a bounded number at once, and notes how each ends."""
    path = state / f"{arguments[0]}.json"
    job = json.loads(path.read_text())
    signal.alarm(900)

    def note(index: int, how: str) -> None:
        job["states"][index] = how
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(job))
        os.replace(partial, path)

    while (state / "hold").exists():
        if (state / "cancel").exists():
            return
        time.sleep(0.05)
    exported = dict(item.split("=") for item in job["options"]["export"].split(",") if "=" in item)
    script = state / f"{job['id']}.sh"
    script.write_text(job["script"])
    running: dict[int, subprocess.Popen] = {}
    waiting = list(range(len(job["states"])))
    while waiting or running:
        while waiting and len(running) < job["most"]:
            index = waiting.pop(0)
            log = job["options"]["output"].replace("%A", job["id"]).replace("%a", str(index))
            environment = os.environ | exported | {
                "SLURM_ARRAY_TASK_ID": str(index), "SLURM_JOB_ID": job["id"], "SLURM_NODELIST": "localhost",
            }  # fmt: skip
            with open(log, "w") as sink:
                running[index] = subprocess.Popen(
                    ["bash", str(script)], env=environment, cwd=job["folder"], stdout=sink, stderr=sink,
                    start_new_session=True,
                )  # fmt: skip
            (state / f"{job['id']}_{index}.pid").write_text(str(running[index].pid))
            note(index, "RUNNING")
        for index, process in list(running.items()):
            if process.poll() is not None:
                note(index, "COMPLETED" if process.returncode == 0 else "FAILED")
                del running[index]
        time.sleep(0.05)


def squeue(state: Path, arguments: list[str]) -> None:
    assert "--array" in arguments and "--format=%T" in arguments
    [name] = [a.removeprefix("--name=") for a in arguments if a.startswith("--name=")]
    for path in sorted(state.glob("*.json")):
        job = json.loads(path.read_text())
        if job["options"]["job-name"] == name:
            print(*(s for s in job["states"] if s in ("PENDING", "RUNNING")), sep="\n")


def sacct(state: Path, arguments: list[str]) -> None:
    [wanted] = [a.removeprefix("--jobs=").split(",") for a in arguments if a.startswith("--jobs=")]
    for number in wanted:
        print(*json.loads((state / f"{number}.json").read_text())["states"], sep="\n")


if __name__ == "__main__":
    folder, command, *rest = Path(sys.argv[1]), *sys.argv[2:]
    match command:
        case "sbatch":
            sbatch(folder, rest)
        case "work":
            work(folder, rest)
        case "squeue":
            squeue(folder, rest)
        case "sacct":
            sacct(folder, rest)
        case "scontrol":
            assert rest[:2] == ["show", "hostnames"]
            print(rest[2])
        case "srun":
            plain = rest[rest.index("-n") + 2 :]
            os.execvp(plain[0], plain)
