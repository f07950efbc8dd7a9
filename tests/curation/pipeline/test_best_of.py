"""`curation.best_of`: of several samples the one that a fitted screen predicts best is kept."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from configs.errors import RunError, UserError
from configs.schema import Config
from curation.pipeline.curate import curate
from student.pools import make_pool
from student.statistics.intervals import Estimate
from student.text.words import count_words
from teacher.records import Completion
from teacher.reward.best_of import FittedScreen, read_screen, write_screen
from teacher.writers.local import TransformersWriter
from tests.curation.datasets import curation_config, data_rows, lines, manifest_of, rows, write_jsonl

SCREEN = FittedScreen(
    signs=("length", "overlap"), names=("length", "overlap", "strategy none"), weights=(0.5, 0.0, 0.0),
    correlation=Estimate(0.6, 0.5, 0.7), documents=40, spread=2.0, measure="loglik", student=None,
)  # fmt: skip


@pytest.fixture
def sampled(tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Four documents, two rewrites of each as the best of three samples, of 5 to 10 words that are all different."""

    def write(self: TransformersWriter, prompts: list[str], *given: Any, **named: Any) -> list[list[Completion]]:
        texts = (" ".join(f"w{i}x{j}" for j in range(5 + i % 6)) for i in range(len(prompts)))
        return [[Completion(text, True)] for text in texts]

    monkeypatch.setattr(TransformersWriter, "write", write)
    shard = write_jsonl(tmp_path / "a.jsonl", rows(4))
    return curation_config(tmp_path, teacher, shard, rewrites_per_document=2, best_of=3, temperature=1.0)


def test_of_the_samples_the_one_predicted_best_is_kept_with_what_is_predicted(sampled: Config) -> None:
    write_screen(sampled.run.dir, SCREEN)
    summary = curate(sampled)
    table = data_rows(sampled)
    assert summary.rows_out == len(table) == 8 and not lines(sampled, "quarantine")
    # Samples 0, 1, 2 have 5, 6, 7 words, samples 3, 4, 5 have 8, 9, 10.
    assert [count_words(row["text"]) for row in table] == [7, 10] * 4
    for row in table:
        half = 2.0 * (2 / 3) ** 0.5
        assert row["predicted_gain"] == pytest.approx(0.5)
        assert [row["predicted_low"], row["predicted_high"]] == pytest.approx([0.5 - half, 0.5 + half])
    assert manifest_of(sampled)["rewrites"] == 8, "a rewrite is counted once, however many texts it is chosen from"
    write_screen(sampled.run.dir, dataclasses.replace(SCREEN, weights=(-0.5, 0.0, 0.0)))
    with pytest.raises(UserError, match=r"holds a dataset of another run \(screen"):
        curate(sampled)


def test_a_sample_that_fails_a_gate_is_not_kept_however_well_it_is_predicted(sampled: Config) -> None:
    write_screen(sampled.run.dir, SCREEN)
    gates = sampled.gates.model_copy(update={"max_tokens": 9})
    curate(sampled.model_copy(update={"gates": gates}))
    assert [count_words(row["text"]) for row in data_rows(sampled)] == [7, 9] * 4


def test_of_one_sample_that_passes_nothing_is_predicted_and_without_any_the_rewrite_is_refused(
    sampled: Config,
) -> None:
    write_screen(sampled.run.dir, SCREEN)
    curate(sampled.model_copy(update={"gates": sampled.gates.model_copy(update={"max_tokens": 5})}))
    assert [(count_words(row["text"]), row["predicted_gain"]) for row in data_rows(sampled)] == [(5, None)] * 4
    assert [record["rewrite"] for record in lines(sampled, "quarantine")] == [1] * 4


def test_without_a_screen_that_tells_nothing_is_sampled(sampled: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TransformersWriter, "write", lambda *_, **__: pytest.fail("sampled"))
    with pytest.raises(UserError, match=r"best_of=3 chooses by what a training run learnt.* no .*screen\.json"):
        curate(sampled)
    write_screen(sampled.run.dir, dataclasses.replace(SCREEN, correlation=Estimate(0.2, 0.05, 0.35)))
    with pytest.raises(UserError, match=r"is off, with a rank correlation .* 0\.20 \[0\.05, 0\.35\] on 40 documents"):
        curate(sampled)
    write_screen(sampled.run.dir, SCREEN)
    teacher = sampled.teacher.model_copy(update={"prompting": "strategy"})
    with pytest.raises(UserError, match="seen no lesson of strategy 'copy'"):
        curate(sampled.model_copy(update={"teacher": teacher}))
    greedy = sampled.curation.model_copy(update={"temperature": 0.0, "rewrites_per_document": 1})
    with pytest.raises(UserError, match=r"rewrites_per_document=1, curation\.best_of=3 would write the same text"):
        curate(sampled.model_copy(update={"curation": greedy}))


def test_a_sign_may_ask_the_untouched_student_but_no_other(sampled: Config, teacher: Path) -> None:
    student = sampled.student.model_copy(update={"model": str(teacher), "device": "cpu"})
    config = sampled.model_copy(update={"student": student})
    pool = make_pool(student)
    names = ("likelihood", "supported", "strategy none")
    asks = dataclasses.replace(SCREEN, signs=names[:2], names=names, weights=(1.0, 1.0, 0.0), student=pool.fingerprint)
    write_screen(config.run.dir, asks)
    curate(config)
    for row in data_rows(config):
        assert row["predicted_gain"] > 0  # every text of six words has another likelihood
    other = student.model_copy(update={"steps": 3})
    elsewhere = config.curation.model_copy(update={"output": config.run.dir / "other"})
    with pytest.raises(RunError, match="was fitted on other students"):
        curate(config.model_copy(update={"student": other, "curation": elsewhere}))
    assert not (elsewhere.output / "manifest.json").exists()


def test_a_screen_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_screen(tmp_path, SCREEN)
    assert read_screen(tmp_path / "teacher" / "screen.json") == SCREEN
    unknown = dataclasses.replace(SCREEN, correlation=Estimate(*[float("nan")] * 3), spread=float("nan"))
    write_screen(tmp_path, unknown)
    assert repr(read_screen(tmp_path / "teacher" / "screen.json")) == repr(unknown)
