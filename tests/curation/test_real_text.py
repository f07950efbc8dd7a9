"""The job that goes from a base model to the table of real text, at toy size with tiny models."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.teacher.conftest import WORDS, student_folder, teacher_folder  # noqa: F401  (fixtures)

ROOT = Path(__file__).parents[2]


def rows(first, count, answer=None):
    """Documents under a title each, with questions of both splits and three rewrites with their outcomes. With
    one `answer` to all, a warm-up learns what holds under other titles too."""
    for i in range(first, first + count):
        one, two = [answer or WORDS[(i + k) % len(WORDS)] for k in (0, 5)]
        yield {
            "title": f"street {i}",
            "text": f"in the shop {i} {one} {two} . the shop {i} {two} .",
            "questions": [
                {"question": f"in the shop {i}", "answer": one, "split": "heldout"},
                {"question": f"the shop {i}", "answer": two, "split": "reward"},
                {"question": f"shop {i}", "answer": one, "split": "reward"},
            ],
            "rewrites": [
                {"prompt": "plain", "text": f"in the shop {i} {word}", "accuracies": [0.2 * k, 0.1 * i]}
                for k, word in enumerate((one, two, "gold"))
            ],
        }


def write(path, documents):
    path.write_text("".join(json.dumps(row) + "\n" for row in documents))
    return path


@pytest.mark.slow
def test_the_job_of_a_gpu_runs_whole_and_then_finds_all_done(student_folder, tmp_path):  # noqa: F811
    train, other = write(tmp_path / "train.jsonl", rows(0, 12)), write(tmp_path / "other.jsonl", rows(20, 12, "gold"))
    student, run = tmp_path / "warmed", tmp_path / "run"
    settings = [
        f"run.dir={run}", f"data.train=[{train}]", f"data.heldout=[{train}]", "data.limit=6", "data.heldout_limit=4",
        f"student.model={student}", "student.steps=2", "student.tokens_per_step=16", "student.warmup_steps=1",
        "student.device=cpu", "gates.min_words=1", "gates.max_repetition=1",
        "rl.rounds=1", "rl.documents_per_round=4", "rl.group_size=2", "validity.documents=4", "validity.rewrites=2",
        "validity.steps=[1, 2]", "validity.repeated_documents=2", "reward.documents_per_student=2",
        "evaluation.arms=[none, repeated, strategy:sentences, untrained, best-of:2, trained]",
    ]  # fmt: skip
    environment = os.environ | {
        "PYTHON": sys.executable, "BASE": str(student_folder), "DATA": str(other), "PYTHONPATH": str(ROOT),
    }  # fmt: skip

    def job(*changes):
        command = ["bash", "configs/jobs/real-text.sh", "configs/real-text-gpu.yaml", *settings, *changes]
        return subprocess.run(command, env=environment, cwd=ROOT, text=True, capture_output=True, timeout=1200)

    first = job()
    assert first.returncode == 0, first.stderr[-3000:]
    assert (student / "warm_up.json").is_file() and (run / "validity.json").is_file()
    result = json.loads((run / "evaluation.json").read_text())
    (measured,) = result["students"].values()
    assert list(measured["arms"]) == ["none", "repeated", "strategy:sentences", "untrained", "best-of:2", "trained"]
    assert measured["arms"]["trained"]["training_runs"] == 2
    made = {path: path.stat().st_mtime_ns for path in (student / "model.safetensors",)}
    second = job()
    assert second.returncode == 0, second.stderr[-3000:]
    assert json.loads((run / "evaluation.json").read_text())["students"] == result["students"]
    assert {path: path.stat().st_mtime_ns for path in made} == made, "the warmed-up student was made once"
    wrong = job("rl.rouns=1")
    assert wrong.returncode == 2 and "rl.rouns" in wrong.stderr and "Traceback" not in wrong.stderr
