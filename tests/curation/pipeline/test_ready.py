"""Curation of ready texts: no teacher is loaded, and rows say what they are."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from configs.errors import RunError, UserError
from configs.schema import Config
from curation.pipeline.curate import curate
from curation.pipeline.preview import preview
from curation.plan.plan import figures, make_plan
from teacher.ready import rules
from teacher.run.checkpoints import save_checkpoint
from teacher.writers import local
from teacher.writers.head import load_head
from tests.curation.datasets import curation_config, data_rows, lines, manifest_of, write_jsonl


def documents(count: int) -> list[dict[str, Any]]:
    return [
        {
            "id": f"town-{i}",
            "text": f"The town of Ansa lies on river number {i}. It has {100 + i} houses. Many live there today.",
            "rewrites": [{"prompt": "facts", "text": f"Ansa on river {i} counts {100 + i} houses."}] * (i % 2),
        }
        for i in range(count)
    ]


@pytest.fixture
def ready_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`ready_config(strategies, shares, **curation)`: no teacher is named, and loading one fails."""

    def never(*given: Any, **named: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(local, "load_model", never)
    shard = write_jsonl(tmp_path / "a.jsonl", documents(6))

    def make(strategies: tuple[str, ...], shares: dict[str, float] | None = None, **curation: Any) -> Config:
        config = curation_config(tmp_path, Path("unused"), shard, strategies=shares or {}, **curation)
        teacher = {"strategies": strategies, "batch_size": 4}
        return Config.model_validate(config.model_dump() | {"teacher": teacher, "gates": {}})

    return make


def test_rules_and_brought_texts_make_a_dataset_without_a_teacher(ready_config) -> None:
    config = ready_config(("sentences", "brought:facts"), rewrites_per_document=2)
    summary = curate(config)
    assert summary.teacher == "none" and not summary.trained and summary.documents_out == 6
    rows = data_rows(config)
    assert Counter(row["strategy"] for row in rows) == {"sentences": 6, "brought:facts": 3}
    by_strategy = {row["strategy"]: row for row in rows if row["source_id"] == "town-1"}
    assert by_strategy["sentences"]["text"].split("\n") == [
        "The town of Ansa lies on river number 1.", "It has 101 houses.", "Many live there today.",
    ]  # fmt: skip
    assert by_strategy["brought:facts"]["text"] == "Ansa on river 1 counts 101 houses."
    for row in rows:
        assert (row["teacher"], row["teacher_hash"], row["temperature"]) == ("none", None, None)
        assert row["tokens"] == len(row["text"].split())
    # What judges a model's text judges a brought one, and no rule's.
    assert "obeyed" in by_strategy["brought:facts"]["gates"] and "obeyed" not in by_strategy["sentences"]["gates"]
    assert "over_length" not in by_strategy["sentences"]["gates"]
    refused = [(r["source_id"], r["stage"], r["reason"]) for r in lines(config, "quarantine")]
    assert refused == [(f"town-{i}", "gate", "absent") for i in (0, 2, 4)]
    manifest = manifest_of(config)
    assert manifest["reasons"] == {"absent": 3} and manifest["settings"]["teacher_name"] == "none"
    card = (config.curation.output / "README.md").read_text()
    assert "base model as it is" not in card and "teacher language model wrote" not in card and "| absent | 3 |" in card


def test_equal_calls_find_the_dataset_and_another_rule_is_another_run(ready_config, monkeypatch) -> None:
    config = ready_config(("cloze",))
    curate(config)
    assert curate(config).resumed == 6
    monkeypatch.setattr("teacher.prompting.strategies.RULES_VERSION", rules.VERSION + 1)
    with pytest.raises(UserError, match=r"holds a dataset of another run \(strategies\.cloze"):
        curate(config)


def test_shares_of_ready_strategies_need_no_policy_to_choose(ready_config) -> None:
    config = ready_config(("copy",), shares={"sentences": 1, "permutation": 1}, rewrites_per_document=2)
    config = config.model_copy(update={"teacher": config.teacher.model_copy(update={"prompting": "policy"})})
    curate(config)
    assert Counter(row["strategy"] for row in data_rows(config)) == {"sentences": 6, "permutation": 6}


def test_what_can_only_repeat_itself_or_is_misspelt_is_refused_before_anything_runs(ready_config) -> None:
    with pytest.raises(UserError, match="would write the same text again: at most 1, or add strategies"):
        curate(ready_config(("sentences",), rewrites_per_document=2))
    with pytest.raises(UserError, match="unknown strategy 'sentences2': did you mean 'sentences'"):
        curate(ready_config(("sentences", "sentences2"), output="other"))
    with pytest.raises(UserError, match="names nothing where a part should stand"):
        curate(ready_config(("brought:",), output="third"))
    with pytest.raises(UserError, match=r"teacher\.model is not set"):
        curate(ready_config(("sentences", "faq"), output="fourth"))
    with pytest.raises(RunError, match="absent"):
        curate(ready_config(("brought:nothing",), output="fifth"))


def test_preview_and_plan_need_no_teacher_either(ready_config) -> None:
    config = ready_config(("sentences+brought:facts", "densest"))
    shown = list(preview(config, 2))
    assert [[r["strategy"] for r in row.records] for row in shown] == [["sentences+brought:facts"], ["densest"]]
    assert [[r["reason"] for r in row.records] for row in shown] == [["absent"], [None]]
    planned = figures(make_plan(config, progress=lambda line: None).curate or ())
    assert planned["teacher"].parameters is None and planned["gpu_hours"] is None
    assert planned["tokens_written"].value == 0 and planned["tokens_out"].value > 0
    assert planned["hours_here"] is not None and "no model writes: tokens are words" in planned["teacher"].notes


def test_a_teacher_that_writes_some_says_of_the_others_that_it_did_not(tmp_path: Path, teacher: Path) -> None:
    own = tmp_path / "own.txt"
    own.write_text("{document}")
    shard = write_jsonl(tmp_path / "a.jsonl", documents(4))
    config = curation_config(tmp_path, teacher, shard, rewrites_per_document=2)
    mixed = {"prompting": "strategy", "strategies": (str(own), "sentences")}
    config = config.model_copy(update={"teacher": config.teacher.model_copy(update=mixed)})
    curate(config)
    rows = {row["strategy"]: row for row in data_rows(config)}
    assert rows["sentences"]["teacher"] == "none" and rows["sentences"]["teacher_hash"] is None
    assert rows["own"]["teacher"] == teacher.name and rows["own"]["teacher_hash"] is not None
    assert json.loads((config.curation.output / "manifest.json").read_text())["settings"]["teacher_hash"]


def test_a_trained_head_chooses_each_documents_text(ready_config) -> None:
    """No model is loaded, plan and preview run it, and nothing is chosen that a document does not bring."""
    base = ready_config(("sentences", "brought:facts"), rewrites_per_document=2)
    teacher = {"model": "head", "strategies": ("sentences", "brought:facts")}
    settings = base.model_dump(exclude={"teacher", "rl"}) | {"teacher": teacher}
    config = Config.model_validate(settings)
    head, tokenizer = load_head(config.teacher, None)
    with torch.no_grad():  # all prefer the brought text
        head.scores.weights[:, tokenizer.convert_tokens_to_ids("<brought:facts>")] = 20.0
    checkpoint = save_checkpoint(config.run.dir, 1, head, tokenizer, config.teacher, None)
    assert all(record["strategy"] != "none" for row in preview(config, 2) for record in row.records)
    planned = figures(make_plan(config, progress=lambda line: None).curate or ())
    assert planned["teacher"].sampled_tokens.value == 0.0
    summary = curate(config)
    assert summary.trained and summary.documents_out == 6
    chosen = Counter((row["source_id"], row["strategy"]) for row in data_rows(config))
    assert {id for id, name in chosen if name == "brought:facts"} == {"town-1", "town-3", "town-5"}
    assert {id for id, name in chosen if name == "sentences"} == {"town-0", "town-2", "town-4"}
    assert manifest_of(config)["settings"]["teacher_name"] == f"head+{checkpoint.name}"
