"""A run on text alone: `data.continuation` and `reward.measure: bits`."""

import json

import pytest
from pydantic import ValidationError

from configs.errors import UserError
from configs.files import read_json_lines
from configs.schema import Config
from curation.corpus.training_data import read_evaluated, read_splits
from curation.train import train_from_config
from teacher.reward.student_runs import external_questions
from tests.curation.datasets import WORDS, write_jsonl


def documents(start: int, count: int) -> list[dict[str, str]]:
    """Each has three words of its own, which it repeats to its end."""
    return [
        {"text": " ".join(f"{WORDS[i]} {WORDS[i + 1]} {WORDS[i + 2]} so ." for _ in range(8))}
        for i in range(start, start + count)
    ]


@pytest.fixture
def config(tmp_path, teacher) -> Config:
    train = write_jsonl(tmp_path / "train.jsonl", documents(0, 8))
    heldout = write_jsonl(tmp_path / "heldout.jsonl", documents(10, 8))
    return Config.model_validate(
        {
            "run": {"dir": tmp_path / "run"},
            "data": {"train": [str(train)], "heldout": [str(heldout)], "continuation": 0.25},
            "student": {
                "model": str(teacher), "device": "cpu", "steps": 6, "learning_rate": 0.02, "lora": {"rank": 8},
            },
            "teacher": {
                "model": str(teacher), "prompting": "policy", "strategies": ["copy"], "max_new_tokens": 8, "lora": None,
                "device": "cpu",
            },
            "gates": {"min_words": 1, "max_repetition": 1.0, "truncated": False},
            "reward": {"measure": "bits", "documents_per_student": 4},
            "rl": {"rounds": 1, "documents_per_round": 8, "group_size": 2, "evaluation_lessons": 1},
        }
    )  # fmt: skip


def test_from_bare_text_to_gains_in_bits_a_byte(config):
    summary = train_from_config(config)
    raw = summary.heldout["raw"]
    assert raw.measure == "bits" and raw.by_measure.keys() == {"bits"}
    assert raw.gain.low > 0.05, "who read the beginning finds the end likelier"
    step = next(
        line for line in read_json_lines(config.run.dir / "journal" / "metrics.jsonl") if line["kind"] == "step"
    )
    assert step["gain/mean"] == step["gain/bits"] and "gain/loglik" not in step
    samples = json.loads((config.run.dir / "journal" / "samples" / "heldout-untrained.json").read_text())
    assert len(samples) == 8


def test_only_the_beginning_is_read_wherever_texts_are_measured(config):
    for document in [*read_splits(config)[0], *read_evaluated(config)]:
        assert len(document.text.split()) == 30 and "questions" not in document.metadata


def test_a_document_gives_as_many_passages_as_are_asked_for(config, tmp_path):
    texts = ["\n\n".join(f"{f'{word}{i} ' * 9}. And {f'{word}{i} ' * 8}." for i in range(5)) for word in "ab"]
    path = write_jsonl(tmp_path / "long.jsonl", [{"text": text} for text in texts])

    def heldout(most: int | None) -> list[str]:
        given = {"heldout": (str(path),), "passage_tokens": 24, "passages_per_document": most}
        read = read_evaluated(config.model_copy(update={"data": config.data.model_copy(update=given)}))
        return [document.text.split()[0] for document in read]

    assert heldout(None) == heldout(9) == [f"{word}{i}" for word in "ab" for i in range(5)]
    assert heldout(1) == ["a2", "b2"] and heldout(2) == ["a1", "a3", "b1", "b3"]


def test_texts_of_other_documents_count_in_bits_where_these_are_rewarded(config, tmp_path):
    other = write_jsonl(tmp_path / "other.jsonl", documents(20, 8))
    reward = config.reward.model_copy(update={"credit": "shard", "benchmarks": (f"text:{other}",)})
    assert all(question.text for question in external_questions(reward, "{question}"))
    loglik = reward.model_copy(update={"measure": "loglik"})
    assert not any(question.text for question in external_questions(loglik, "{question}"))
    summary = train_from_config(config.model_copy(update={"reward": reward}))
    lines = read_json_lines(config.run.dir / "journal" / "rewrites.jsonl")
    gains = {line["gain"] for line in lines if line["arm"] == "train"}
    assert len(gains) == 4 and summary.heldout["raw"].measure == "bits", "two lessons of two students, one gain each"


def test_what_cannot_be_told_is_refused(config):
    with pytest.raises(ValidationError, match=r"'bits' is of text: set data\.continuation"):
        Config.model_validate(config.model_dump() | {"data": config.data.model_dump() | {"continuation": 0.0}})
    loglik = config.model_copy(update={"reward": config.reward.model_copy(update={"measure": "loglik"})})
    with pytest.raises(UserError, match=r"no reward question in 8 documents, so that reward\.measure 'loglik' cannot"):
        train_from_config(loglik)
