"""Long documents through the pipeline: rows of passages, rows of whole documents, and exact accounts after kills."""

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from configs.errors import RunError
from configs.schema import Config
from curation.pipeline import steps as pipeline_steps
from curation.pipeline.accounts import FileCounts, Merged, count_outcomes
from curation.pipeline.curate import curate
from curation.pipeline.dataset import part_numbers
from curation.pipeline.document_rows import document_rows
from curation.pipeline.preview import preview
from curation.pipeline.rewriter import Written
from teacher.records import Completion
from tests.curation.datasets import WORDS, data_bytes, data_rows, lines, manifest_of, write_jsonl
from tests.curation.pipeline.test_echo import consistent, curate_with_faults, echo_config, terminal_records


def corpus(folder: Path, poison: int = 0) -> list[dict[str, Any]]:
    """Documents of 1, 9, 1 and 60 sections; the words of section `poison` of the second are poison."""
    rng = random.Random(3)
    rows = []
    for number, sections in enumerate((1, 9, 1, 60)):
        texts = [" ".join(rng.choices(WORDS, k=25)) + "." for _ in range(sections)]
        if number == 1 and poison:
            texts[poison] = f"poison {texts[poison]}"
        text = "# Title\n\n" * (sections > 1) + "\n\n".join(f"## Part {i}\n\n{text}" for i, text in enumerate(texts))
        rows.append({"id": f"d{number}", "text": text, "title": "A title"})
    rows.insert(2, {"id": "secret", "text": "key AKIAIOSFODNN7EXAMPLE"})
    write_jsonl(folder / "a.jsonl", rows)
    return rows


def cut_config(folder: Path, output: str, *overrides: str, batch_size: int = 4) -> Config:
    more = ("data.passage_tokens=64", "curation.filters.secrets=true", *overrides)
    return echo_config(folder / "in", folder / output, *more, batch_size=batch_size)


def test_rows_are_passages_and_hold_the_whole_text(tmp_path: Path) -> None:
    rows = corpus(tmp_path / "in")
    config = cut_config(tmp_path, "out", "curation.keep_raw=1")
    summary = curate(config)
    assert (summary.documents_in, summary.documents_out, summary.filtered) == (5, 4, 1)
    written = [row for row in data_rows(config) if row["strategy"] == "echo"]
    for number in (0, 1, 3, 4):
        own = [row for row in written if row["source_row"] == number]
        raw = [row for row in data_rows(config) if row["source_row"] == number and row["strategy"] == "raw"]
        text = rows[number]["text"]
        assert "".join(row["text"] for row in raw) == text
        assert [text[r["start_index"] : r["end_index"]] for r in own] == [r["text"] for r in own]
        assert [r["passage"] for r in own] == list(range(1, len(own) + 1)) and {r["passages"] for r in own} == {
            len(own)
        }
        cut = len(own) > 1
        assert [r["id"] for r in own] == [f"a.jsonl#{number}" + f"/{r['passage']}" * cut for r in own]
        assert all(r["headings"] == ["Title"] for r in own[1:])
    assert len(written) > 25 and max(row["source_tokens"] for row in written) <= 64
    manifest = manifest_of(config)
    assert consistent(manifest) and set(terminal_records(config).values()) == {1}
    [file] = manifest["files"]
    assert file["passages"]["in"] == len(written) + 1 and file["passages"]["reached"] == len(written)
    assert file["source_tokens"]["filtered"] == 2 == file["source_tokens"]["in"] - file["source_tokens"]["reached"]
    card = (tmp_path / "out/README.md").read_text()
    assert "cut into passages" in card and f"| passages | {len(written) + 1} | {len(written)} | 1 | 0 | 0 |" in card
    assert all(example["source"] == example["text"] for example in manifest["examples"])


def test_null_cuts_nothing(tmp_path: Path) -> None:
    rows = corpus(tmp_path / "in")
    config = cut_config(tmp_path, "out", "data.passage_tokens=null")
    curate(config)
    assert [row["text"] for row in data_rows(config)] == [row["text"].strip() for row in rows if row["id"] != "secret"]
    assert {row["passages"] for row in data_rows(config)} == {1} and consistent(manifest_of(config))
    assert "cut into passages" not in (tmp_path / "out/README.md").read_text()


@pytest.mark.parametrize("stop", [1, 2, 5, 8])
def test_a_run_that_stops_within_a_document_goes_on_there(tmp_path: Path, stop: int) -> None:
    corpus(tmp_path / "in", poison=4)
    undisturbed = cut_config(tmp_path, "undisturbed", "curation.keep_raw=0.5")
    curate_with_faults(undisturbed)
    config = cut_config(tmp_path, "out", "curation.keep_raw=0.5")
    real, parts = pipeline_steps.write_part, config.curation.output / ".notewright/parts"

    def stopping(path: Path, *given: Any, **numbers: int) -> None:
        if path.stem == f"{stop:06d}":
            raise KeyboardInterrupt
        real(path, *given, **numbers)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline_steps, "write_part", stopping)
        with pytest.raises(KeyboardInterrupt):
            curate_with_faults(config)
    done = [part_numbers(path) for path in sorted(parts.glob("*/*.parquet"))]
    assert len(done) == stop and any(numbers["begun"] for numbers in done)
    curate_with_faults(config)
    assert data_bytes(config) == data_bytes(undisturbed) and manifest_of(config) == manifest_of(undisturbed)
    assert lines(config, "quarantine") == lines(undisturbed, "quarantine")
    manifest = manifest_of(config)
    assert consistent(manifest) and set(terminal_records(config).values()) == {1}
    [file] = manifest["files"]
    # One passage fails, its document is out all the same.
    assert (file["failed"], file["passages"]["failed"], file["documents_out"]) == (0, 1, 4)


def test_a_document_that_is_refused_after_its_beginning_was_written_ends_the_run(tmp_path: Path) -> None:
    corpus(tmp_path / "in")
    config = cut_config(tmp_path, "out")
    real_write, real_clean = pipeline_steps.write_part, pipeline_steps.Cleaner.clean

    def stopping(path: Path, *given: Any, **numbers: int) -> None:
        real_write(path, *given, **numbers)
        if numbers["begun"]:
            raise KeyboardInterrupt

    def slow(self: Any, document: Any, **more: Any) -> Any:
        late = document.metadata["source_row"] == 1
        return pipeline_steps.Refusal("filter", "extract_timeout") if late else real_clean(self, document, **more)

    for name, broken, expected in (("write_part", stopping, KeyboardInterrupt), ("Cleaner.clean", slow, RunError)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(f"curation.pipeline.steps.{name}", broken)
            with pytest.raises(expected) as error:
                curate(config)
    assert "a.jsonl#1 is refused now (extract_timeout)" in str(error.value)
    curate(config)
    assert consistent(manifest_of(config)) and manifest_of(config)["files"][0]["documents_out"] == 4


def part_record(passage: int, text: str, reason: str | None, rewrite: int | None = 0) -> dict[str, Any]:
    own = {"id": f"a#1/{passage}/{rewrite}", "source_file": "a", "source_row": 1, "passage": passage, "passages": 4}
    own |= {"rewrite": rewrite, "text": None if reason else text, "reason": reason, "stands_in": reason and text}
    own |= {"temperature": passage / 4, "continuations": 1, "licence": "mit"}
    return own | {"tokens": 1, "source_tokens": 1, "end_index": 9, "strategy": "s", "gates": []}


def test_own_texts_stay_as_they_are_in_rows_of_whole_documents() -> None:
    records = [part_record(1, " One. ", None), part_record(2, "    if x:\n        lo", "g"),
               part_record(3, "ng()\n", "g"), part_record(4, "Four.", None)]  # fmt: skip
    [row] = document_rows(records)
    assert row["text"] == "One.\n\n    if x:\n        long()\n\nFour." and row["raw_share"] == 0.5
    assert row["temperature"] is None and row["continuations"] == 2
    assert row["sources"] == [{"id": "a#1", "start_index": 0, "end_index": 9, "licence": "mit"}]
    # With a passage refused the own text would have a hole.
    raw = [part_record(i, f"{i} ", None, rewrite=None) for i in (1, 2, 3)]
    assert [row["text"] for row in document_rows(raw)] == ["1 2 3 "]
    raw[1] |= {"reason": "leak_check", "stands_in": None}
    assert not list(document_rows(raw))
    # So a document whose rewrites all failed is no row, and counted as none: not as its passages that passed.
    failed = [
        part_record(i, "", "RuntimeError", rewrite=0) | {"stage": "teacher", "stands_in": None} for i in (1, 2, 3)
    ]
    both = [record | {"detail": None, "stage": record.get("stage") or record["reason"]} for record in (*failed, *raw)]
    assert not list(document_rows(both))
    for whole, out in ((True, 0), (False, 1)):
        file = FileCounts("a", 1)
        table = pa.Table.from_pylist(both)
        assert count_outcomes(table, file, Merged(), {}, ends_within=False, whole_documents=whole) == 1
        assert (file.documents_out, file.quarantined) == (out, 1 - out)


def test_rows_of_whole_documents(tmp_path: Path) -> None:
    rows = corpus(tmp_path / "in", poison=4)
    more = ("teacher.strategies=[sentences,echo]", "curation.writer=teacher", "curation.rows=document",
            "curation.rewrites_per_document=2", "curation.max_overlap=1", "curation.keep_raw=1")  # fmt: skip
    config = cut_config(tmp_path, "out", *more, batch_size=3)

    def numbered(rewriter: Any, teacher: Any, requests: list[Any], seed: int, **more: Any) -> list[Written]:
        failed = Written([""], [Completion("", False, RuntimeError("out of memory"))])
        texts = [f"rewrite {r.number} of {r.document.text.strip()}" for r in requests]
        poisoned = ["poison" in request.document.text and request.number == 0 for request in requests]
        written = [Written([""], [Completion(text, True)]) for text in texts]
        return [failed if bad else one for bad, one in zip(poisoned, written, strict=True)]

    def rewritten(*given: Any) -> SimpleNamespace:
        return SimpleNamespace(text=given[3][0].text, strategy=given[4], rejected=None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline_steps, "write", numbered)
        patch.setattr(pipeline_steps, "make_rewrite", rewritten)
        curate(config)
    written = {row["id"]: row for row in data_rows(config)}
    assert set(written) == {f"a.jsonl#{row}/{name}" for row in (0, 1, 3, 4) for name in ("0", "1", "raw")}
    for number in (1, 4):
        assert written[f"a.jsonl#{number}/raw"]["text"] == rows[number]["text"]
        both = [written[f"a.jsonl#{number}/{i}"] for i in (0, 1)]
        for i, row in enumerate(both):
            assert row["passage"] is None and row["passages"] > 3
            assert (row["start_index"], row["end_index"]) == (0, len(rows[number]["text"]))
            raw = number == 1 and i == 0
            assert row["text"].count(f"rewrite {i} of") == row["passages"] - raw
            assert (0.05 < row["raw_share"] < 0.5) if raw else row["raw_share"] == 0
            # Without what the rewrites add, all of the document is there in its order.
            assert row["text"].replace(f"rewrite {i} of ", "").split() == rows[number]["text"].split()
    manifest = manifest_of(config)
    assert written["a.jsonl#0/0"]["raw_share"] is None and consistent(manifest)
    # Both count passages, though a row is of a document.
    assert manifest["passed"] == manifest["rewrites"] - 1 and 2 * manifest["own_texts"] == manifest["rewrites"]
    assert f"Of {manifest['rewrites']} rewrites {manifest['passed']} passed" in (tmp_path / "out/README.md").read_text()


def test_passages_for_which_a_prompt_has_no_room_are_quarantined(tmp_path: Path, teacher: Path) -> None:
    rows = [{"text": " ".join(random.Random(i).choices(WORDS, k=20 if i else 400))} for i in range(3)]
    write_jsonl(tmp_path / "in/a.jsonl", rows)
    for passages, refused in (("2000", 1), ("null", None)):
        config = echo_config(
            tmp_path / "in", tmp_path / passages, "curation.writer=teacher", f"teacher.model={teacher}",
            "teacher.prompting=policy", "teacher.strategies=[copy]", "teacher.max_new_tokens=12", "teacher.device=cpu",
            "gates.truncated=false", "gates.min_words=1", f"data.passage_tokens={passages}",
        )  # fmt: skip
        curate(config)
        manifest = manifest_of(config)
        assert manifest["reasons"].get("prompt_too_long") == refused
        assert consistent(manifest)
    quarantined = lines(echo_config(tmp_path / "in", tmp_path / "2000"), "quarantine")
    assert [row["source_row"] for row in quarantined if row["stage"] == "prompt"] == [0]


def test_preview_shows_passages(tmp_path: Path) -> None:
    corpus(tmp_path / "in")
    shown = list(preview(cut_config(tmp_path, "out"), 5))
    assert [row.id for row in shown[:4]] == ["a.jsonl#0", "a.jsonl#1/1", "a.jsonl#1/2", "a.jsonl#1/3"]
    assert shown[2].place.startswith("passage 2 of ") and shown[2].place.endswith("[A title > Title]")
    assert shown[0].place == "" and len(shown) == 1 + 3 + 1 + 1 + 3
