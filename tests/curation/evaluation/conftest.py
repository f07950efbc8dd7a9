"""A small evaluation on real students of two random layers."""

import json
from pathlib import Path

import pytest

from configs.schema import Config
from curation.evaluation.run import run_evaluate
from tests.teacher.conftest import WORDS, student_folder, teacher_folder  # noqa: F401  (fixtures)

TAGS = ("copy", "question-answer", "permuted")


def write_shops(folder: Path) -> Path:
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
    path = folder / "shops.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def shop_config(teacher: Path, student_model: Path, shops: Path, /, **sections: dict) -> Config:
    """An evaluation of the shops; sections update its defaults by key."""
    base: dict[str, dict] = {
        "run": {"dir": shops.with_name("run")},
        "data": {"heldout": [str(shops)]},
        "student": {
            "model": str(student_model), "steps": 10, "tokens_per_step": 24, "lora": {"rank": 2, "alpha": 4},
            "learning_rate": 0.03, "device": "cpu",
        },
        "teacher": {
            "model": str(teacher), "prompting": "policy", "strategies": TAGS, "max_new_tokens": 10, "lora": None,
            "batch_size": 32, "device": "cpu",
        },
        "gates": {"min_words": 1, "max_repetition": 1.0},
        "reward": {"documents_per_student": 2},
        "rl": {"rewrites_per_lesson": 2},
        "evaluation": {"arms": ["none", "raw", "repeated", f"file:{shops}"]},
    }  # fmt: skip
    return Config.model_validate({name: base.get(name, {}) | sections.get(name, {}) for name in base | sections})


@pytest.fixture
def shop_file(tmp_path: Path) -> Path:
    """See `write_shops`."""
    return write_shops(tmp_path)


@pytest.fixture
def make_config(teacher_folder, student_folder, shop_file):  # noqa: F811
    """`make_config(evaluation={...})`, see `shop_config`."""
    return lambda **sections: shop_config(teacher_folder, student_folder, shop_file, **sections)


@pytest.fixture(scope="session")
def evaluated(teacher_folder, student_folder, tmp_path_factory):  # noqa: F811
    """The config and the result of one evaluation with every kind of arm but a trained teacher, and every setting."""
    shops = write_shops(tmp_path_factory.mktemp("evaluated"))
    benchmark, old = shops.with_name("benchmark.jsonl"), shops.with_name("old.jsonl")
    items = [{"question": f"the shop in {i}", "answer": "gold"} for i in range(3)]
    benchmark.write_text("".join(json.dumps(item) + "\n" for item in items))
    old.write_text(json.dumps({"text": "the shop in 9"}) + "\n")
    settings = {
        "arms": ["none", "raw", "repeated", "untrained", "strategies", "ensemble", "best-of:2", f"file:{shops}"],
        "ensemble": ["copy", "permuted"], "single_documents": 3, "scaling": [1, 2, 4],
        "scaling_arms": ["untrained", "ensemble"], "benchmarks": [f"file:{benchmark}"], "retention_texts": str(old),
        "retention_questions": f"file:{benchmark}", "edits": 3, "sequences": 3,
    }  # fmt: skip
    config = shop_config(teacher_folder, student_folder, shops, evaluation=settings)
    return config, run_evaluate(config)
