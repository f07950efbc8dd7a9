"""A small evaluation on real students of two random layers."""

import json
from pathlib import Path

import pytest

from configs.schema import Config
from tests.teacher.conftest import WORDS, student_folder, teacher_folder  # noqa: F401  (fixtures)

TAGS = ("copy", "question-answer", "permuted")


@pytest.fixture
def shop_file(tmp_path: Path) -> Path:
    """Eight documents with a question of each split, and three rewrites: one file for `data` and for `file:`."""
    lines = [
        {
            "id": f"shop-{i}",
            "text": f"in the shop {i} {WORDS[i]} {WORDS[i + 8]}",
            "questions": [
                {"question": f"in the shop {i}", "answer": WORDS[i], "split": "heldout"},
                {"question": f"the shop {i}", "answer": WORDS[i + 8], "split": "reward"},
            ],
            "rewrites": [f"in the shop {i} {word}" for word in (WORDS[i], WORDS[i + 8], "gold")],
        }
        for i in range(8)
    ]
    path = tmp_path / "shops.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def make_config(teacher_folder, student_folder, shop_file, tmp_path):  # noqa: F811
    """`make_config(evaluation={...})`: an evaluation of the shops; sections update its defaults by key."""

    def make(**sections: dict) -> Config:
        base: dict[str, dict] = {
            "run": {"dir": tmp_path / "run"},
            "data": {"heldout": [str(shop_file)]},
            "student": {
                "model": str(student_folder), "steps": 10, "tokens_per_step": 24, "lora": {"rank": 2, "alpha": 4},
                "learning_rate": 0.03, "device": "cpu",
            },
            "teacher": {
                "model": str(teacher_folder), "prompting": "policy", "strategies": TAGS, "max_new_tokens": 10,
                "lora": None, "batch_size": 32, "device": "cpu",
            },
            "gates": {"min_words": 1, "max_repetition": 1.0},
            "reward": {"documents_per_student": 2},
            "rl": {"rewrites_per_lesson": 2},
            "evaluation": {"arms": ["none", "raw", "repeated", f"file:{shop_file}"]},
        }  # fmt: skip
        return Config.model_validate({name: base.get(name, {}) | sections.get(name, {}) for name in base | sections})

    return make
