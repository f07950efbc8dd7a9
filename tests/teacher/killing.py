"""Runs that are killed at a stage of theirs, and what is left of them beside one that was not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from configs.files import read_json_lines
from configs.load import save_config

FORKS = """
# Runs the training of each line `CONFIG place=count` of stdin in a fork that is killed there. Forked, since importing
# is most of the time, that of what a round alone imports too; nothing has used a thread before.
import importlib.util, os, signal, sys
from pathlib import Path
import datasets, peft, torch
from trl import DPOTrainer, GRPOTrainer, SFTTrainer
torch.set_num_threads(1)
spec = importlib.util.spec_from_file_location("doubles", sys.argv[1])
doubles = importlib.util.module_from_spec(spec); spec.loader.exec_module(doubles)
from configs.load import load_config
from student.pools.inline import InlinePool
from teacher.algorithms import dpo, grpo, rest_em
from teacher.reward import student_models as students
from teacher.training import loop as train
from teacher.writers import local as writer
from teacher.reward.gain import GainReward
from teacher.run.journal import OutcomeCache, outcome_key

def kill_at(owner, name, count):
    # kill -9 when the run comes to owner.name for the count-th time
    real, left = getattr(owner, name), [count]
    def killing(*args, **kwargs):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)
    setattr(owner, name, killing)

class Noting:
    # Notes whom it trained, once that is kept, beside the run.
    def examine(self, jobs, on_done):
        def note(found):
            on_done(found)
            with config.run.dir.with_suffix(".students").open("a") as file:
                file.write("".join(outcome_key(self.fingerprint, jobs[place]) + " " for place in found))
        return super().examine(jobs, note)

class Gold(Noting, doubles.GoldPool):
    def __init__(self, settings):
        super().__init__(noise=0.1)

class Real(Noting, InlinePool):
    pass

PLACES = {
    "sampling": (writer.TransformersWriter, "_generate"), "students": (Noting, "examine"),
    "cached": (train.Journal, "sync"), "lines": (train.Tracker, "log"), "scoring": (train.TeacherLoop, "_score"),
    "rest_em": (rest_em, "epoch_settings"), "grpo": (grpo, "_settings"), "dpo": (dpo, "epoch_settings"),
    "saving": (torch, "save"), "rename": (os, "rename"), "evaluate": (GainReward, "evaluate"),
    "keep": (students, "train_and_save"),
    "merge": (students, "merge"), "kept": (OutcomeCache, "put_many"), "log": (train.RunContext, "log"),
}
for line in sys.stdin:
    attempt = line.strip()
    path, place = attempt.split()
    config = load_config(path)
    child = os.fork()
    if child == 0:
        if place != "end":
            place, count = place.split("=")
            kill_at(*PLACES[place], int(count))
        pool = Real if config.student.model else Gold
        train.train_teacher(config, doubles._documents(12), doubles._documents(4, "heldout"), pool)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print(attempt, "->", os.waitstatus_to_exitcode(status), flush=True)
"""


def what_is_left(run_dir):
    """Metrics without times, rewrites, the weights of teacher and promoted students, and the students that were trained
    and kept."""
    timed = ("time", "seconds", "students_per_second", "idle_share")
    metrics = read_json_lines(run_dir / "journal" / "metrics.jsonl")
    lines = [{k: v for k, v in line.items() if not k.startswith(timed)} for line in metrics]
    weights = {
        str(path.parent.relative_to(run_dir)): path.read_bytes()
        for folder in ("teacher", "student")
        for path in (run_dir / folder).rglob("model.safetensors")
    }
    students = run_dir.with_suffix(".students").read_text().split()
    return lines, read_json_lines(run_dir / "journal" / "rewrites.jsonl"), weights, students


@pytest.fixture(scope="session")
def forks(tmp_path_factory):
    """`forks(attempts)`: the exit code of each; the process that forks, and its imports, are there once."""
    doubles = Path(__file__).parent / "conftest.py"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    errors = tmp_path_factory.mktemp("forks") / "stderr"
    with errors.open("wb") as file:
        command = [sys.executable, "-c", FORKS, doubles]
        parent = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, text=True, env=environment
        )

    def run(attempts):
        codes = []
        for attempt in attempts:
            print(attempt, file=parent.stdin, flush=True)
            for line in parent.stdout:
                if line.startswith(f"{attempt} -> "):
                    codes.append(int(line.split(" -> ")[1]))
                    break
        return codes, errors.read_text()[-3000:]

    yield run
    parent.stdin.close()
    assert parent.wait() == 0


@pytest.fixture
def run_and_kill(make_config, forks, tmp_path):
    """`run_and_kill(kills, **sections)`: what is left of a run that was not killed, and of one that was at each of
    `kills`; of configs that `make` makes."""

    def run(kills, make=make_config, **sections):
        attempts = []
        for name, places in (("whole", []), ("killed", kills)):
            path = tmp_path / f"{name}.yaml"
            save_config(make(tmp_path / name, **sections), path)
            attempts += [(f"{path} {place}", -9) for place in places] + [(f"{path} end", 0)]
        codes, errors = forks([attempt for attempt, _ in attempts])
        assert codes == [code for _, code in attempts], errors
        return what_is_left(tmp_path / "whole"), what_is_left(tmp_path / "killed")

    return run


def same(whole, killed):
    assert killed[0] == whole[0]
    assert killed[1] == whole[1]
    assert killed[2].keys() == whole[2].keys()
    assert killed[2] == whole[2], "to the bit"
    assert len(killed[3]) == len(set(killed[3])), "no student is trained twice"
    assert sorted(killed[3]) == sorted(whole[3])
