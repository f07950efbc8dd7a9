"""What is read from shards, and what a broken one costs."""

import gzip
import io
import json
from pathlib import Path
from random import Random

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from datatrove.data import Document
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from configs.errors import UserError
from configs.seeds import item_hash
from curation.corpus.finding import Shard, find_shards
from curation.corpus.shards import BadRow, read_shard
from curation.corpus.training_data import read_documents, training_id
from tests.curation.datasets import rows, write_jsonl


def read(path: Path) -> tuple[list[Document], list[BadRow]]:
    items = list(read_shard(Shard(str(path), path.name)))
    return [i for i in items if isinstance(i, Document)], [i for i in items if isinstance(i, BadRow)]


def lines(count: int) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows(count))


def test_same_documents_from_every_format(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet")]
    paths[0].write_bytes(lines(300))
    # Two members one after the other, as `cat a.gz b.gz` makes them.
    paths[1].write_bytes(gzip.compress(lines(300)[:1000]) + gzip.compress(lines(300)[1000:]))
    paths[2].write_bytes(zstandard.compress(lines(300)))
    pq.write_table(pa.Table.from_pylist(rows(300)), paths[3], row_group_size=70)
    for path in paths:
        documents, bad = read(path)
        assert not bad
        assert [d.text for d in documents] == [row["text"] for row in rows(300)]
        assert [d.id for d in documents] == [f"{path.name}#{i}" for i in range(300)]
        assert documents[7].metadata == {
            "title": "title 7",
            "source_id": "person-7",
            "source_file": path.name,
            "source_row": 7,
        }


def test_a_bad_row_costs_that_row(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    good = lines(2).splitlines()
    bad = [b'{"text": "caf\xe9 is Latin-1"}', b'{"text": "torn', b"[1, 2]", b'{"title": "no text"}', b'{"text": " "}']
    path.write_bytes(b"\n".join([good[0], *bad, b"", b'{"content": "another name", "id": 7}', good[1]]))
    documents, found = read(path)
    assert [d.id for d in documents] == ["a.jsonl#0", "a.jsonl#7", "a.jsonl#8"]
    assert documents[1].text == "another name" and documents[1].metadata["source_id"] == "7"
    assert [b.row for b in found] == [1, 2, 3, 4, 5]
    assert [b.reason.split(":")[0] for b in found] == [
        "not UTF-8",
        "not JSON",
        "not an object but list",
        "no text",
        "empty text",
    ]
    assert "Latin-1" in found[0].text


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_truncated_archive_keeps_the_rows_before_the_break(tmp_path: Path, suffix: str) -> None:
    random = Random(0)  # an archive that breaks off between two rows has no torn one
    data = b"".join(json.dumps(row | {"noise": random.getrandbits(300)}).encode() + b"\n" for row in rows(20000))
    packed = gzip.compress(data) if suffix == ".gz" else zstandard.compress(data)
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(packed[: len(packed) // 2])
    documents, bad = read(path)
    assert 5000 < len(documents) < 15000
    assert [d.metadata["source_row"] for d in documents] == list(range(len(documents)))
    assert [b.row for b in bad] == [len(documents), None]
    assert "torn" in bad[0].reason
    assert bad[1].reason == f"breaks off after row {len(documents) - 1}: truncated archive"


def test_damaged_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(rows(300)), path, row_group_size=100, compression="zstd")
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    documents, bad = read(path)
    assert not documents and [b.row for b in bad] == [None] and "unreadable footer" in bad[0].reason

    path.write_bytes(whole)
    start = pq.read_metadata(path).row_group(1).column(1).data_page_offset
    path.write_bytes(whole[:start] + bytes(200) + whole[start + 200 :])
    documents, bad = read(path)
    assert [d.metadata["source_row"] for d in documents] == [*range(100), *range(200, 300)]
    assert [b.row for b in bad] == list(range(100, 200))


def test_parquet_row_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    texts = pa.array([b"good one", b"caf\xe9", b"good two"]).view(pa.string())
    pq.write_table(pa.table({"text": texts}), path)
    documents, bad = read(path)
    assert [d.text for d in documents] == ["good one", "good two"]
    assert [(b.row, b.reason[:9]) for b in bad] == [(1, "not UTF-8")]


def test_limit_counts_documents(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"no json\n" + lines(10))
    items = list(read_shard(Shard(str(path), "a.jsonl"), limit=3))
    assert [type(i).__name__ for i in items] == ["BadRow", "Document", "Document", "Document"]


def test_find_shards(tmp_path: Path) -> None:
    for name in ("x/part-0.jsonl", "x/part-1.jsonl.gz", "y/part-0.jsonl", "y/notes.md", "y/_hidden.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    names = [s.name for s in find_shards((f"{tmp_path}/y/*", f"{tmp_path}/x/part-0.jsonl", f"{tmp_path}/*/part*"))]
    assert names == ["y/part-0.jsonl", "x/part-0.jsonl", "x/part-1.jsonl.gz"]
    assert [s.name for s in find_shards((str(tmp_path / "x"),))] == ["part-0.jsonl", "part-1.jsonl.gz"]
    with pytest.raises(UserError, match=r"no such file: .*part-O.jsonl: did you mean 'part-0.jsonl'"):
        find_shards((f"{tmp_path}/x/part-O.jsonl",))
    with pytest.raises(UserError, match="no shards"):
        find_shards((f"{tmp_path}/x/*.parquet",))
    with pytest.raises(UserError, match=r"notes.md: not a kind of file we read \(.jsonl"):
        find_shards((f"{tmp_path}/y/notes.md",))


def test_documents_of_the_first_titles(tmp_path: Path) -> None:
    """Titles are mixed in the file; one in another spelling is the same, and a document without one is its own."""
    titles = ["Rhine", None, "Oxygen", " rhine", "Kenya", "Oxygen", None]
    asked = [
        {"text": f"text {number}", "questions": [{"question": "Who?", "answer": "She"}]}
        | ({"title": title} if title else {})
        for number, title in enumerate(titles)
    ]
    path = (str(write_jsonl(tmp_path / "a.jsonl", asked)),)

    def numbers(**options: int) -> list[int]:
        return [int(document.text.removeprefix("text ")) for document in read_documents(path, **options)]

    assert numbers(titles=1) == [0, 3]
    assert numbers(titles=3) == [0, 1, 2, 3, 5]
    assert numbers(titles=3, limit=4) == [0, 1, 2, 3]
    assert numbers(titles=9) == list(range(7))


def test_read_documents_wants_questions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = [row | {"questions": [{"question": "Who?", "answer": "She"}]} for row in rows(4)]
    path = write_jsonl(tmp_path / "a.jsonl", [*asked[:2], *rows(1, start=9), {"title": "no text"}, *asked[2:]])
    documents = read_documents((str(path),))
    assert [d.metadata["source_id"] for d in documents] == ["person-0", "person-1", "person-2", "person-3"]
    said = capsys.readouterr().err
    assert "1 documents without questions" in said and "1 unreadable" in said and "a.jsonl row 3: no text" in said
    assert len(read_documents((str(path),), limit=3)) == 3
    with pytest.raises(UserError, match=r"no documents with questions in .*: 5 without questions"):
        read_documents((str(write_jsonl(tmp_path / "b.jsonl", rows(5))),))
    with pytest.raises(UserError, match="no such file"):
        read_documents((str(tmp_path / "c.jsonl"),))


def test_a_document_without_questions_gets_known_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own, written = [[{"question": "Who?", "answer": name}] for name in ("Ann", "Bea")]
    bad = rows(1, start=2)[0] | {"questions": "none"}
    path = write_jsonl(tmp_path / "a.jsonl", [rows(1)[0] | {"questions": own}, *rows(1, start=1), bad])
    keys = [
        (training_id(Shard(str(path), path.name), row, text), item_hash(text))
        for row, text in enumerate(made["text"] for made in rows(3))
    ]
    known = {keys[0]: written, keys[1]: written, (keys[2][0], "of another text"): written}
    asked = [document.metadata["questions"] for document in read_documents((str(path),), known=known)]
    assert asked == [own, [written[0] | {"split": "reward"}]], "what was written has its side"
    assert "1 documents without questions" in capsys.readouterr().err
    held = read_documents((str(path),), known=known, heldout_share=1.0)[1].metadata["questions"]
    assert held == [written[0] | {"split": "heldout"}]
    capsys.readouterr()
    bare = write_jsonl(tmp_path / "b.jsonl", rows(5))
    assert read_documents((str(bare),), optional=True) == []
    assert "5 documents without questions" in capsys.readouterr().err


def test_read_documents_drops_parquet_nulls_in_questions(tmp_path: Path) -> None:
    questions = [
        {"question": "Who?", "answer": "She", "split": None},
        {"question": "What?", "answer": "It", "split": "heldout"},
    ]
    pq.write_table(pa.Table.from_pylist([rows(1)[0] | {"questions": questions}]), tmp_path / "a.parquet")
    [document] = read_documents((str(tmp_path / "a.parquet"),))
    assert document.metadata["questions"] == [{"question": "Who?", "answer": "She"}, questions[1]]


def test_ids_name_file_row_and_text_wherever_the_file_lies(tmp_path: Path) -> None:
    asked = [row | {"questions": [{"question": "Who?", "answer": "She"}]} for row in rows(1)]
    other = [asked[0] | {"text": "Another text in the same place of a file of the same name."}]
    for folder, content in (("train", asked), ("copy", asked), ("heldout", other)):
        write_jsonl(tmp_path / folder / "part-0.jsonl", content)
    folders = ("train", "copy", "heldout")
    train, copy, heldout = (read_documents((f"{tmp_path / folder}/*.jsonl",))[0].id for folder in folders)
    assert train == copy != heldout
    assert train.startswith("part-0.jsonl#0@")


def warc(path: Path, pages: list[bytes], gz: bool) -> Path:
    """A WARC with a request, a picture and a page for each of `pages`."""
    buffer = io.BytesIO()
    writer = WARCWriter(buffer, gzip=gz)
    for number, page in enumerate(pages):
        for kind, content_type, payload in (("request", "", b""), ("response", "image/png", b"\x89PNG\r\n\x1a\n"),
                                            ("response", "text/html", page)):  # fmt: skip
            headers = StatusAndHeaders("200 OK", [("Content-Type", content_type)], protocol="HTTP/1.0")
            body = io.BytesIO(payload)
            uri = f"http://example.com/{number}"
            writer.write_record(writer.create_warc_record(uri, kind, payload=body, http_headers=headers))
    path.write_bytes(buffer.getvalue())
    return path


PAGES = [f"<html><body><p>Page {i}: caf\u00e9 {'and more ' * 40}</p></body></html>".encode() for i in range(4)]


@pytest.mark.parametrize("name", ["crawl.warc", "crawl.warc.gz"])
def test_warc_pages_and_their_places(tmp_path: Path, name: str) -> None:
    # Bytes of no encoding cost their page.
    path = warc(tmp_path / name, [PAGES[0], bytes(range(128, 256)) * 30, *PAGES[1:]], gz=name.endswith("gz"))
    documents, bad = read(path)
    assert [d.id for d in documents] == [f"{name}#{row}" for row in (2, 8, 11, 14)]
    assert [d.text.encode() for d in documents] == PAGES
    assert documents[0].metadata["html"] and documents[0].metadata["url"] == "http://example.com/0"
    assert str(documents[0].metadata["source_id"]).startswith("<urn:uuid:")
    assert [(b.row, b.reason) for b in bad] == [(5, "undecodable: text of no known encoding")]


@pytest.mark.parametrize("name", ["crawl.warc", "crawl.warc.gz"])
def test_truncated_warc_keeps_the_pages_before_the_break(tmp_path: Path, name: str) -> None:
    path = warc(tmp_path / name, PAGES, gz=name.endswith("gz"))
    whole = path.read_bytes()
    # warcio takes both for whole files, and the first for a page that is shorter.
    for cut in (len(whole) - 30, len(whole) * 3 // 4 - 50):
        path.write_bytes(whole[:cut])
        documents, bad = read(path)
        assert 1 <= len(documents) < 4 and [d.text.encode() for d in documents] == PAGES[: len(documents)]
        assert bad[-1].row is None and "breaks off" in bad[-1].reason
    path.write_bytes(b"not a warc at all")
    documents, bad = read(path)
    assert not documents and bad[-1].row is None


def test_a_warc_that_ends_anywhere(tmp_path: Path) -> None:
    whole = warc(tmp_path / "crawl.warc", PAGES, gz=False).read_bytes()
    # The last request, picture and page: headers mostly.
    for cut in range(whole.rindex(b"WARC/1.0\r\nWARC-Type: request"), len(whole), 7):
        (tmp_path / "crawl.warc").write_bytes(whole[:cut])
        documents, bad = read(tmp_path / "crawl.warc")
        assert [d.text.encode() for d in documents[:3]] == PAGES[:3]
        # Two empty lines stand between records.
        rest = whole[cut:].lstrip(b"\r\n")
        if (not rest or rest.startswith(b"WARC/1.0")) and len(whole) - cut - len(rest) <= 4:
            assert not bad
        else:
            assert len(documents) == 3 and [b.row is None for b in bad] == [False, True] and bad[0].row in (9, 10, 11)


def test_any_fsspec_url(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    for name in ("one", "two"):
        memory.pipe(f"/corpus/{name}/part.jsonl", lines(3))
    try:
        shards = find_shards(("memory://corpus",))
        assert [shard.name for shard in shards] == ["one/part.jsonl", "two/part.jsonl"]
        assert [item.text for item in read_shard(shards[1]) if isinstance(item, Document)] == [
            row["text"] for row in rows(3)
        ]
    finally:
        memory.rm("/corpus", recursive=True)
    write_jsonl(tmp_path / "a.jsonl", rows(2))
    [shard] = find_shards((f"file://{tmp_path}/*.jsonl",))
    assert shard.name == "a.jsonl" and len(list(read_shard(shard))) == 2


def test_what_cannot_be_reached_is_one_line() -> None:
    # The Hub's own file system, which is told not to go online here.
    with pytest.raises(UserError, match=r"^hf://datasets/org/name: .*offline"):
        find_shards(("hf://datasets/org/name",))
    with pytest.raises(UserError, match=r"^nowhere://bucket/a.jsonl: Protocol not known"):
        find_shards(("nowhere://bucket/a.jsonl",))
