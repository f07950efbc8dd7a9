"""A fingerprint covers everything that changes the rows, and nothing that only makes them faster."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from configs.errors import UserError
from configs.load import save_config
from configs.schema import Config
from configs.schema.curation import Curation
from curation.pipeline.fingerprint import SPEED, teacher_hash
from curation.pipeline.inputs import check_same_teacher, find_input, read_inputs, sampling_config
from tests.curation.datasets import curation_config, rows, write_jsonl


def name_of(config: Config) -> str:
    """The fingerprint of a run."""
    inputs, _ = read_inputs(config, find_input(config))
    return inputs.fingerprint


def changed(config: Config, section: str, **settings: Any) -> Config:
    given = config.model_dump()
    given[section] |= settings
    return Config.model_validate(given)


@pytest.fixture
def config(tmp_path: Path, teacher: Path) -> Config:
    return curation_config(tmp_path, teacher, write_jsonl(tmp_path / "a.jsonl", rows(3)))


def test_what_only_makes_it_faster_keeps_the_fingerprint(config: Config) -> None:
    faster = changed(
        config, "curation", workers=8, executor="slurm", wait=True, slurm={"partition": "gpu"}, ray={"retries": 9}
    )
    assert name_of(faster) == name_of(config) and set(SPEED) <= set(Curation.model_fields)
    assert name_of(changed(config, "serving", concurrency=3, timeout_seconds=9)) == name_of(config)


@pytest.mark.parametrize(
    ("section", "settings"),
    [
        ("run", {"seed": 5}),
        ("teacher", {"max_new_tokens": 13}),
        ("teacher", {"batch_size": 5}),
        ("teacher", {"writer": "vllm"}),
        ("teacher", {"top_p": 0.5}),
        ("gates", {"min_words": 4}),
        ("curation", {"temperature": 0.5}),
        ("curation", {"keep_raw": 0.5}),
        ("curation", {"filters": {"pii": True}}),
        ("curation", {"dedup": "exact"}),
        ("curation", {"licence": "mit"}),
        ("curation", {"limit": 2}),
    ],
)
def test_what_changes_the_rows_changes_the_fingerprint(config: Config, section: str, settings: dict[str, Any]) -> None:
    assert name_of(changed(config, section, **settings)) != name_of(config)


def test_benchmarks_are_named_by_their_items(tmp_path: Path, config: Config) -> None:
    quiz = write_jsonl(tmp_path / "quiz.jsonl", [{"question": "who founded Rome", "answer": "Romulus"}])
    held = changed(config, "curation", benchmarks=[f"file:{quiz}"])
    first = name_of(held)
    assert first != name_of(config)
    moved = tmp_path / "elsewhere/quiz.jsonl"
    moved.parent.mkdir()
    shutil.copy(quiz, moved)
    assert name_of(changed(config, "curation", benchmarks=[f"file:{moved}"])) == first
    write_jsonl(quiz, [{"question": "who founded Rome", "answer": "Remus"}])
    assert name_of(held) != first


def test_weights_are_named_by_their_bytes(tmp_path: Path, config: Config, teacher: Path) -> None:
    copy = tmp_path / teacher.name
    shutil.copytree(teacher, copy)
    moved = changed(config, "teacher", model=str(copy))
    assert teacher_hash(str(copy), None) == teacher_hash(str(teacher), None) and name_of(moved) == name_of(config)
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    assert teacher_hash(str(copy), None) != teacher_hash(str(teacher), None) and name_of(moved) != name_of(config)
    # An adapter is named with its base, a whole checkpoint by itself.
    adapter, whole = tmp_path / "adapter", tmp_path / "whole"
    for folder in (adapter, whole):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"weights")
    (adapter / "adapter_config.json").write_text("{}")
    assert teacher_hash(str(copy), adapter) != teacher_hash(str(teacher), adapter)
    assert teacher_hash(str(copy), whole) == teacher_hash(str(teacher), whole)


def test_the_temperature_of_curation_comes_before_that_of_evaluation(config: Config) -> None:
    both = changed(changed(config, "teacher", evaluation_temperature=0.4), "curation", temperature=0.2)
    assert sampling_config(both).teacher.temperature == 0.2
    assert sampling_config(changed(config, "teacher", evaluation_temperature=0.4)).teacher.temperature == 0.4
    shares = changed(config, "curation", strategies={"faq": 1, "table": 3})
    assert sampling_config(shares).teacher.strategies == ("faq", "table")


def test_another_teacher_than_the_runs_is_refused(config: Config) -> None:
    check_same_teacher(config)
    config.run.dir.mkdir()
    save_config(config, config.run.dir / "config.yaml")
    check_same_teacher(changed(config, "teacher", temperature=0.9))
    with pytest.raises(UserError, match=r"trained another teacher \(teacher\.prompting: policy -> strategy\)"):
        check_same_teacher(changed(config, "teacher", prompting="strategy"))


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        ({"rewrites_per_document": 2}, "at most 1"),
        ({"rewrites_per_document": 4, "strategies": {"faq": 2, "table": 1}}, "at most 1"),
        ({"rewrites_per_document": 3, "strategies": {"faq": 1, "table": 1}}, "at most 2"),
    ],
)
def test_greedy_rewrites_that_would_be_the_same(config: Config, settings: dict[str, Any], most: str) -> None:
    with pytest.raises(UserError, match=most):
        find_input(changed(config, "curation", **settings))
    assert find_input(changed(config, "curation", temperature=0.7, **settings))


def test_nothing_to_curate(config: Config) -> None:
    with pytest.raises(UserError, match=r"curation\.input names no shards"):
        find_input(changed(config, "curation", input=()))
    with pytest.raises(UserError, match=r"teacher\.model is not set"):
        find_input(changed(config, "teacher", model=""))


def test_rows_that_were_sampled_by_other_rules_are_of_another_run(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = name_of(config)
    monkeypatch.setattr("curation.pipeline.fingerprint.SAMPLING_VERSION", 1)
    assert name_of(config) != before
