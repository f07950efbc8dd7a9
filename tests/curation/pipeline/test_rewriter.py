"""The strategies of a curated corpus, and rewrites that are alike."""

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from datatrove.data import Document

from configs.errors import RunError, UserError
from configs.load import load_config
from configs.schema import Config
from curation.corpus.decontaminate import BenchmarkIndex
from curation.corpus.passages import window
from curation.pipeline.curate import curate
from curation.pipeline.fingerprint import run_settings
from curation.pipeline.inputs import sampling_config
from curation.pipeline.rewriter import (
    Rewriter,
    RewriteRequest,
    deal_rewrites,
    rewrite_requests,
    strategies_by_share,
    write,
)
from teacher.records import Completion
from teacher.writers.local import TransformersWriter, load_teacher
from tests.curation.datasets import curation_config, data_rows, lines, manifest_of, rows, write_jsonl


def test_shares_hold_over_rows_and_within_a_document() -> None:
    shares = {"table": 5.0, "rewrite": 3.0, "faq": 2.0}
    for start in (0, 137):
        counts = Counter(name for row in range(start, start + 100) for name in strategies_by_share(shares, 1, row))
        assert all(abs(counts[name] - 10 * share) <= 3 for name, share in shares.items())
    for row in range(50):
        four = Counter(strategies_by_share(shares, 4, row))
        assert four["table"] == 2 and four["rewrite"] in (1, 2) and four["faq"] in (0, 1)
    assert strategies_by_share({"table": 1.0}, 3, 7) == ["table"] * 3


def test_rewrites_are_dealt_evenly_over_temperatures_and_parts() -> None:
    temperatures, windows = (0.5, 0.8, 1.0, 1.2), ("whole", "halves", "thirds")
    cells = 4 * 6
    first = set()
    for row in range(40):
        deals = deal_rewrites(["a", "b"] * (3 * cells), temperatures, windows, 0, row)
        assert deals == deal_rewrites(["a", "b"] * (3 * cells), temperatures, windows, 0, row)
        for of_one in (deals[::2], deals[1::2]):
            assert set(Counter(of_one).values()) == {3} and len(set(of_one[:cells])) == cells
            for n in range(1, cells):
                counts = Counter(deal.temperature for deal in of_one[:n])
                assert max(counts.values()) - min(counts[t] for t in temperatures) <= 1
                parts = Counter(deal[1:] for deal in of_one[:n])
                assert max(parts.values()) <= -(-n // 6) + 1
        first.add(deals[0])
    assert len(first) > cells / 2, "with one rewrite a document all that can be dealt is"
    assert deal_rewrites(["a"] * 3, (0.7,), ("whole",)) == [(0.7, 1, 1)] * 3


def test_every_part_of_a_passage_is_read_and_the_row_says_which(tmp_path: Path, teacher: Path) -> None:
    texts = [" ".join(f"s{n}w{i}" for i in range(3 + n)) + "." for n in range(6)]
    records = [{"id": "long", "text": " ".join(texts)}, {"id": "short", "text": "one single sentence"}]
    config = curation_config(
        tmp_path, teacher, write_jsonl(tmp_path / "a.jsonl", records), writer="echo", rewrites_per_document=6,
        windows=["whole", "halves", "thirds"],
    )  # fmt: skip
    curate(config)
    table = [row for row in data_rows(config) if row["source_id"] == "long"]
    assert all(row["passage"] is None or row["passage"] == 1 for row in table)
    refused = [record for record in lines(config, "quarantine") if record["source_id"] == "long"]
    # Whatever is in an earlier rewrite of the passage is a repeat, which comes first is dealt.
    assert {record["reason"] for record in refused} <= {"overlap"} and len(table) + len(refused) == 6
    for row in table:
        [source] = row["sources"]
        assert source["id"] == "a.jsonl#0"
        assert row["text"] == records[0]["text"][source["start_index"] : source["end_index"]].strip()
        assert (row["window"] is None) == (row["text"] == records[0]["text"])
        assert (row["start_index"], row["end_index"]) == (0, len(records[0]["text"]))
    short = [row for row in data_rows(config) if row["source_id"] == "short"]
    assert [row["window"] for row in short] == [None], "it has no parts"


def test_parts_of_a_text_are_in_order_and_end_with_sentences() -> None:
    text = "One is here. Two is longer than that one. Three.\nFour stands alone\nFive and six. Seven is the last one"
    for of in (1, 2, 3, 4):
        spans = [window(text, number, of) for number in range(1, of + 1)]
        assert spans[0][0] == 0 and spans[-1][1] == len(text)
        assert all(before[1] == after[0] for before, after in itertools.pairwise(spans))
        assert all(text[start - 1] in ".\n" for start, _ in spans[1:])
    assert window("no end at all", 2, 3) == (0, 13)


def test_a_deal_that_cannot_be_is_refused() -> None:
    for wrong, message in (
        ("curation.temperature=[]", "a number, or a list"), ("curation.temperature=[1, 1]", "a number, or a list"),
        ("curation.windows=[sixths]", "windows"), ("curation.temperature=[-1, 1]", "temperature"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            load_config("configs/curate-echo.yaml", [wrong])
    with pytest.raises(UserError, match=r"curation\.rows 'document' needs all of it"):
        load_config("configs/curate-echo.yaml", ["curation.windows=[halves]", "curation.rows=document"])


def test_rows_hold_what_they_were_dealt_and_how_often_they_went_on(tmp_path: Path, teacher: Path) -> None:
    shard = write_jsonl(tmp_path / "a.jsonl", rows(6))
    config = curation_config(
        tmp_path, teacher, shard, temperature=[0.7, 1.0], rewrites_per_document=4, strategies={"copy": 1.0}
    )
    settings = config.teacher.model_copy(update={"continuations": 2})
    config = config.model_copy(update={"teacher": settings})
    curate(config)
    table = data_rows(config)
    dealt = Counter((row["source_row"], row["temperature"]) for row in table)
    assert set(dealt.values()) <= {1, 2} and {at for _, at in dealt} == {0.7, 1.0} and len(table) > 10
    assert max(row["continuations"] for row in table) == 2, "most never end"
    assert all(row["tokens"] <= 12 * (1 + row["continuations"]) for row in table)
    assert manifest_of(config)["settings"]["teacher"]["temperature"] == [0.7, 1.0]
    one = curation_config(tmp_path, teacher, shard, output="one", temperature=[0.7], rewrites_per_document=4)
    assert manifest_settings(one) == manifest_settings(
        curation_config(tmp_path, teacher, shard, output="one", temperature=0.7, rewrites_per_document=4)
    )


def manifest_settings(config: Config) -> dict[str, Any]:
    return run_settings(sampling_config(config), None, {}, [], BenchmarkIndex({}, 8, "{question}", None, 1.0))


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
    assert requests[0] == RewriteRequest(document, 0, None, 0.0)
    with pytest.raises(RunError, match="the server died"):
        write(Rewriter(load_teacher(config.teacher), ()), config.teacher, requests, 0)
