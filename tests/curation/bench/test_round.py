"""The bench of a round, at a size that a CPU does in seconds: tiny random models, both ways of printing."""

import json
from pathlib import Path

import pytest

from configs.errors import UserError
from curation.bench.round import run_bench, table
from curation.cli import main
from tests.teacher.conftest import student_folder, teacher_folder

assert student_folder and teacher_folder  # fixtures


@pytest.fixture
def small(teacher_folder, student_folder, tmp_path):
    """Overrides that make the preset one for two random layers and a dozen passages."""
    lines = [
        {
            "text": f"in the shop {i} gold iron salt {i} wood rope",
            "questions": [
                {"question": f"what is in shop {i} ?", "answer": "gold", "split": "reward"},
                {"question": f"what else is in shop {i} ?", "answer": "iron", "split": "heldout"},
            ],
        }
        for i in range(12)
    ]
    path = tmp_path / "passages.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return [
        f"teacher.model={teacher_folder}", f"student.model={student_folder}", "teacher.writer=transformers",
        "teacher.prompting=policy", "teacher.strategies=[copy,permuted,question-answer]", "teacher.max_new_tokens=10",
        "teacher.lora={rank: 2, alpha: 4}", "student.lora={rank: 2, alpha: 4}", "student.steps=2",
        "student.tokens_per_step=32", "student.warmup_steps=0", f"data.train=[{path}]", f"curation.input=[{path}]",
        "reward.documents_per_student=4", "rl.documents_per_round=8", "rl.documents_per_batch=4", "rl.group_size=3",
        "gates.min_words=1", "gates.max_repetition=1.0", "gates.min_shared=0", "gates.truncated=false",
        "student.device=cpu", "teacher.device=cpu",
    ]  # fmt: skip


def test_a_round_and_a_curation_are_timed(small, tmp_path, capsys):
    folder = tmp_path / "bench"
    found = run_bench(folder, small, progress=lambda _: None)
    train = found["train"]
    parts = sum(train[f"seconds/{name}"] for name in ("sample", "students", "update", "idle"))
    assert parts - train["seconds/overlap"] == pytest.approx(train["seconds/round"])
    assert 0 < train["seconds/round"] < train["seconds"]
    assert train["rewrites"] == 8 * 3
    assert found["curate"]["documents"] == 12 and found["curate"]["rows"] > 0
    assert (folder / "run/teacher/checkpoint-0001").is_dir() and (folder / "dataset/manifest.json").is_file()
    text = table(found)
    assert f"| **the round** | {train['seconds/round']:.1f} | |" in text and "`curate` of 12 passages" in text
    with pytest.raises(UserError, match="measures nothing"):
        run_bench(folder, small)
    assert main(["bench", "round", "--dir", str(tmp_path / "again"), "--json", *small]) == 0
    assert json.loads(capsys.readouterr().out.strip().splitlines()[-1])["setting"]["writer"] == "transformers"
    assert not Path("runs/bench-round").exists()
