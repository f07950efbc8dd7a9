"""Values that the wild puts into JSON and Parquet cost their row at most, and nothing where nobody asked for them."""

import gzip
import json
import math
import os
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from datatrove.data import Document
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from configs.errors import UserError
from curation.cli import main
from curation.corpus.finding import Shard
from curation.corpus.shards import BadRow, read_shard
from curation.pipeline.curate import curate
from tests.curation.corpus.test_shards import lines, read
from tests.curation.datasets import rows, write_jsonl
from tests.curation.pipeline.test_echo import CONFIG, data_rows, echo_config, manifest_of
from tests.curation.pipeline.test_echo import lines as refused_rows

pytestmark = pytest.mark.wild
ANY_SIZE = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=2**60, max_value=2**200)
    | st.floats()
    | st.text()
    | st.just("\ud83d")
    | st.just("\0"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.just("\udc00"), inner, max_size=3),
    max_leaves=8,
)


def written(items: Iterator[Document | BadRow]) -> list[Document]:
    """The documents; that nothing of what was read stops orjson or UTF-8 is part of the claim."""
    items = list(items)
    for item in items:
        orjson.dumps([item.text, item.reason if isinstance(item, BadRow) else item.id])
    return [item for item in items if isinstance(item, Document)]


@ANY_SIZE
@given(
    st.lists(st.tuples(st.text(min_size=1), VALUES, VALUES), min_size=1, max_size=4), st.sampled_from(["\n", "\r\n"])
)
def test_json_as_python_writes_it(tmp_path: Path, values: list[tuple[str, Any, Any]], end: str) -> None:
    path = tmp_path / "a.jsonl"
    records = [{"text": f"text {text}", "id": id, "other": other, "n": 1} for text, id, other in values]
    for bom in ("", "\ufeff"):
        path.write_bytes((bom + end.join([*map(json.dumps, records), ""])).encode())
        documents = written(read_shard(Shard(str(path), path.name)))
        assert [d.text for d in documents] == [record["text"] for record in records]
        for document, record in zip(documents, records, strict=True):
            if isinstance(record["id"], int):
                assert document.metadata["source_id"] == str(record["id"])


@ANY_SIZE
@given(st.binary(max_size=60))
def test_any_bytes(tmp_path: Path, content: bytes) -> None:
    for name in ("a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet", "a.warc", "a.warc.gz"):
        (tmp_path / name).write_bytes(content)
        written(read_shard(Shard(str(tmp_path / name), name)))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "half \\ud83d"}', "not Unicode: half of a surrogate pair in `text`"),
        (b'{"body": "x"}', "no text: neither `text` nor `content` is a string; fields: body"),
        (b"{}", "no text: neither `text` nor `content` is a string; fields: none"),
        (b'{"text": "a"', "not JSON"),
        (b"\0\0\0\0", "not JSON"),
        ('{"text": "a"}'.encode("utf-16"), "not UTF-8 (UTF-16 or UTF-32): byte 0xff at 0"),
        (b'{"text": "caf\xe9"}', "not UTF-8: byte 0xe9 at 13"),
        (b'[{"text": "a"}]', "not an object but list"),
        (b"[" * 100_000, "not JSON"),
        (b"1" * 5000, "not JSON"),
        (b"NaN", "not an object but float"),
    ],
)
def test_the_reason_of_a_row(tmp_path: Path, line: bytes, reason: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(line)
    [bad] = read(tmp_path / "a.jsonl")[1]
    assert bad.row == 0 and bad.reason.startswith(reason)
    assert bad.reason.isprintable() and len(bad.reason) < 300


def test_a_byte_order_mark_alone_and_empty_lines(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf\r\n\r\n\n  \n")
    assert read(tmp_path / "a.jsonl") == ([], [])


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress])
@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_the_content_says_how_it_is_packed(tmp_path: Path, pack: Any, suffix: str) -> None:
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(pack(lines(20)))
    documents, bad = read(path)
    assert len(documents) == 20 and not bad


def test_padding_behind_an_archive_and_a_large_window(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(lines(20)) + bytes(3000))
    assert len(read(path)[0]) == 20 and not read(path)[1]
    path = tmp_path / "a.jsonl.zst"
    wide = zstandard.ZstdCompressionParameters(window_log=28, enable_ldm=True)
    packer = zstandard.ZstdCompressor(compression_params=wide).compressobj()
    path.write_bytes(packer.compress(lines(20)) + packer.flush())
    assert len(read(path)[0]) == 20 and not read(path)[1]


def test_a_long_line_takes_the_time_of_its_length(tmp_path: Path) -> None:
    """64 MB took 49 s where each chunk was added to those before it: 16 times the time of 16 MB, not 4 times."""

    def seconds(megabytes: int) -> float:
        path, text = tmp_path / "a.jsonl", "The harbour froze. " * (megabytes * 2**20 // 19)
        path.write_text(json.dumps({"text": text}))
        took = []
        for _ in range(3):
            started = time.process_time()
            [document] = read(path)[0]
            took.append(time.process_time() - started)
            assert len(document.text) == len(text)
        return min(took)

    # Both are larger than a cache.
    assert seconds(64) < 11 * seconds(16)


def unholdable() -> dict[str, pa.Array]:
    struct = pa.StructArray.from_arrays([pa.array([1, 2, 3]), pa.array([4, 5, 6])], names=["x", "x"])
    return {
        "a date beyond year 9999": pa.array([2**31 - 1] * 3, pa.int32()).view(pa.date32()),
        "a time beyond year 9999": pa.array([2**61] * 3, pa.int64()).view(pa.timestamp("ms")),
        "nanoseconds": pa.array([1, 2, 3], pa.int64()).view(pa.timestamp("ns")),
        "an unknown time zone": pa.array([0, 1, 2], pa.timestamp("us", tz="Mars/Olympus")),
        "a duration": pa.array([2**62] * 3, pa.int64()).view(pa.duration("s")),
        "a struct with a name twice": struct,
        "texts that are no UTF-8": pa.array([b"\xff", b"fine", None]).view(pa.string()),
        "such texts in lists": pa.array([[b"\xff"], [], None]).view(pa.list_(pa.string())),
        "decimals": pa.array([Decimal("1" * 30), None, Decimal("0.1")]),
        "bytes": pa.array([b"\xff\0", None, b""]),
        "nested nulls": pa.array([{"a": [None]}, None, {"a": None}]),
        "nothing": pa.nulls(3),
        "dictionary": pa.array(["a", "b", "a"]).dictionary_encode(),
        "half floats": pa.array([math.nan, math.inf, 0.0], pa.float16()),
    }


@pytest.mark.parametrize("kind", unholdable())
def test_a_column_that_nobody_asked_for(tmp_path: Path, kind: str) -> None:
    texts, path = [row["text"] for row in rows(3)], tmp_path / "a.parquet"
    pq.write_table(pa.table({"when": unholdable()[kind], "text": pa.array(texts)}), path)
    documents, bad = read(path)
    assert [d.text for d in documents] == texts and not bad
    assert "when" in documents[0].metadata


@pytest.mark.parametrize("type", [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary()])
def test_texts_of_every_type(tmp_path: Path, type: pa.DataType) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": pa.array(["één", None, " "], pa.string()).cast(type)}), path)
    documents, bad = read(path)
    assert [d.text for d in documents] == ["één"] and [b.row for b in bad] == [1, 2]


def test_bytes_that_are_no_text_cost_their_row(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [b"one", b"\xff", None], "content": [b"\xff", b"x", b"three"]}), path)
    documents, bad = read(path)
    assert [d.text for d in documents] == ["one", "three"] and [(b.row, b.reason[:9]) for b in bad] == [
        (1, "not UTF-8")
    ]


def test_input_without_documents_says_why_and_leaves_its_rows(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in/a.jsonl", [{"body": "x"}, {"body": "y"}])
    config = echo_config(tmp_path / "in", tmp_path / "out")
    with pytest.raises(
        UserError, match=r"a\.jsonl: row 0: no text: .* fields: body\); every row's reason is in .*/out/q"
    ):
        curate(config)
    assert [record["source_row"] for record in refused_rows(config, "quarantine")] == [0, 1]
    # The same folder takes the run once the input is mended.
    write_jsonl(tmp_path / "in/a.jsonl", [{"body": "x"}, *rows(2)])
    assert curate(config).rows_out == 2 and len(refused_rows(config, "quarantine")) == 1


def test_a_run_over_a_wild_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Everything at once, into a folder inside the input, and again."""
    folder = tmp_path / "in # 1: [x]"
    write_jsonl(folder / "a#1.jsonl", rows(3))
    write_jsonl(folder / f"{os.fsdecode(bytes([255]))}.jsonl", [{"text": "no UTF-8 " + "word " * 5}, {"body": "x"}])
    write_jsonl(folder / ".ipynb_checkpoints/a.jsonl", rows(3))
    (folder / "gone.jsonl").symlink_to("/nowhere")
    (folder / "more.csv").write_text("text\n")
    config = echo_config(folder, folder / "out", "curation.dedup=exact")
    summary = curate(config)
    assert (summary.documents_in, summary.rows_out, summary.quarantined) == (5, 4, 1)
    said = capsys.readouterr().err
    assert "1 of another kind (more.csv)" in said and "1 hidden (.ipynb_checkpoints)" in said
    assert "gone.jsonl: cannot be read: No such file" in said and "row 1: no text" in said
    assert {row["source_file"] for row in data_rows(config)} == {"a#1.jsonl", r"\xff.jsonl"}
    assert manifest_of(config)["skipped"] == {
        "of another kind": {"count": 1, "first": ["more.csv"]},
        "hidden": {"count": 1, "first": [".ipynb_checkpoints"]},
    }
    # What is published names nothing of the machine that made it.
    for file in ("README.md", "manifest.json", "filtered.jsonl", "quarantine.jsonl"):
        assert str(tmp_path) not in (folder / "out" / file).read_text()
    assert curate(config).resumed == 5


def test_a_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jsonl(tmp_path / "a.jsonl", rows(1))
    (tmp_path / "file").write_text("")

    def denied(self: Path, *args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    arguments = ["curate", str(CONFIG), f"curation.input={tmp_path}/a.jsonl"]
    assert main([*arguments, f"curation.output={tmp_path}/file/out"]) == 1
    assert "cannot write" in capsys.readouterr().err
    monkeypatch.setattr(Path, "mkdir", denied)
    assert main([*arguments, f"curation.output={tmp_path}/out"]) == 1
    assert capsys.readouterr().err.startswith(f"error: cannot write {tmp_path}/out: Permission denied")
