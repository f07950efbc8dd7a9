"""What exams ask is known to every verb that writes lessons."""

from types import SimpleNamespace

import pytest

from configs.errors import UserError
from configs.schema import Config
from curation import train
from curation.corpus.exam_items import all_evaluation_items
from tests.curation.datasets import rows, write_jsonl


def asked(config: Config) -> set[str]:
    return {question.prompt for question in all_evaluation_items(config)}


def test_items_of_every_source(tmp_path):
    items = [{"question": f"Who is {name}?", "answer": "she", "split": "reward"} for name in ("Ann", "Bea", "Cy")]
    path = write_jsonl(tmp_path / "quiz.jsonl", items)
    old = write_jsonl(tmp_path / "old.jsonl", [{"question": "Who was it?", "answer": "he"}])
    settings = {"benchmarks": [f"file:{path}"], "benchmark_limit": 2, "retention_questions": f"file:{old}"}
    assert asked(Config.model_validate({"evaluation": settings})) == {"Who is Ann?", "Who is Bea?", "Who was it?"}
    of_lab = asked(Config.model_validate({"evaluation": {"benchmarks": ["lab"], "benchmark_limit": 5}}))
    assert len(of_lab) == 5 and not asked(Config())
    with pytest.raises(UserError, match="gone"):
        asked(Config.model_validate({"evaluation": {"benchmarks": ["file:gone.jsonl"]}}))


def test_training_is_told_what_evaluate_asks(tmp_path, teacher, monkeypatch):
    quiz = write_jsonl(tmp_path / "quiz.jsonl", [{"question": "Who won?", "answer": "she"}])
    questions = [{"question": "Who?", "answer": "she", "split": "reward"}]
    shard = write_jsonl(tmp_path / "a.jsonl", [row | {"questions": questions} for row in rows(2)])
    config = {
        "run": {"dir": tmp_path / "run"}, "data": {"train": [str(shard)]},
        "evaluation": {"benchmarks": [f"file:{quiz}"]},
        "teacher": {"model": str(teacher)}, "student": {"model": str(teacher)},
    }  # fmt: skip
    given = SimpleNamespace()
    monkeypatch.setattr(train, "train_teacher", lambda *_, **named: vars(given).update(named))
    train.train_from_config(Config.model_validate(config))
    assert [question.prompt for question in given.exam_items] == ["Who won?"]
