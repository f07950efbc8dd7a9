"""The strategies of a curated corpus, and rewrites that are alike."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from datatrove.data import Document

from configs.errors import RunError, UserError
from configs.load import load_config
from curation.pipeline.curate import curate
from curation.pipeline.rewriter import Rewriter, RewriteRequest, rewrite_requests, strategies_by_share, write
from teacher.records import Completion
from teacher.writers.local import TransformersWriter, load_teacher
from tests.curation.datasets import curation_config, data_rows, lines, rows, write_jsonl


def test_shares_hold_over_rows_and_within_a_document() -> None:
    shares = {"table": 5.0, "rewrite": 3.0, "faq": 2.0}
    for start in (0, 137):
        counts = Counter(name for row in range(start, start + 100) for name in strategies_by_share(shares, 1, row))
        assert all(abs(counts[name] - 10 * share) <= 3 for name, share in shares.items())
    for row in range(50):
        four = Counter(strategies_by_share(shares, 4, row))
        assert four["table"] == 2 and four["rewrite"] in (1, 2) and four["faq"] in (0, 1)
    assert strategies_by_share({"table": 1.0}, 3, 7) == ["table"] * 3


def test_a_policy_teacher_opens_with_the_tag_of_its_share(tmp_path: Path, teacher: Path) -> None:
    shard = write_jsonl(tmp_path / "a.jsonl", rows(6))
    config = curation_config(tmp_path, teacher, shard, strategies={"copy": 1.0})
    curate(config)
    # Left to itself this teacher opens with no tag.
    assert {row["strategy"] for row in [*data_rows(config), *lines(config, "quarantine")]} == {"copy"}
    free = curation_config(tmp_path, teacher, shard, output="free")
    curate(free)
    assert "copy" not in {row["strategy"] for row in data_rows(free)}


def test_more_rewrites_than_can_differ_are_refused(tmp_path: Path, teacher: Path) -> None:
    shard = write_jsonl(tmp_path / "a.jsonl", rows(2))
    config = curation_config(tmp_path, teacher, shard, strategies={"copy": 3.0, "other": 1.0}, rewrites_per_document=2)
    with pytest.raises(UserError, match="would write the same text again: at most 1, or set"):
        curate(config)
    assert load_config("configs/curate-echo.yaml", ["curation.input=x"]).curation.input == ("x",)
    with pytest.raises(UserError, match=r"curation\.strategies are shares above 0"):
        load_config("configs/curate-echo.yaml", ["curation.strategies={table: 0}"])


def test_a_rewrite_like_an_earlier_one_of_its_document_is_refused(
    tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["one two three four five six", "one two three four five six", "one two three four nine ten"]

    def alike(self: TransformersWriter, prompts: list[str], *given: Any, **named: Any) -> list[list[Completion]]:
        return [[Completion(texts[i % 3], True)] for i in range(len(prompts))]

    monkeypatch.setattr(TransformersWriter, "write", alike)
    config = curation_config(
        tmp_path, teacher, write_jsonl(tmp_path / "a.jsonl", rows(4)),
        rewrites_per_document=3, temperature=1.0, max_overlap=0.5,
    )  # fmt: skip
    curate(config)
    assert Counter(row["text"] for row in data_rows(config)) == {texts[0]: 4, texts[2]: 4}
    refused = [(r["rewrite"], r["stage"], r["reason"]) for r in lines(config, "quarantine")]
    assert refused == [(1, "gate", "overlap")] * 4


def test_an_error_of_the_run_is_no_error_of_a_document(
    tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*given: Any, **named: Any) -> list[list[Completion]]:
        raise RunError("the server died")

    monkeypatch.setattr(TransformersWriter, "write", gone)
    config = curation_config(tmp_path, teacher)
    document = Document("ban ber bas", "a#0", metadata={"source_row": 0})
    requests = rewrite_requests(config.curation, config.teacher, [document, document])
    assert requests[0] == RewriteRequest(document, 0, None)
    with pytest.raises(RunError, match="the server died"):
        write(Rewriter(load_teacher(config.teacher), ()), config.teacher, requests, 0)
