"""Files as the wild has them in the place of a file of documents: what each holds, by what is wrong with it."""

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

ROW: dict[str, Any] = {
    "id": "a",
    "title": "shop",
    "text": "in the shop 1 gold 2 iron salt wood rope sand milk corn silk glass clay wool",
    "questions": [
        {"question": "what is in shop 1 ?", "answer": "gold", "split": "reward"},
        {"question": "what would shop 1 hold ?", "answer": "iron", "split": "heldout"},
    ],
    "rewrites": ["gold in the shop", "iron in the shop"],
}


def _lines(*rows: Any) -> bytes:
    return b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows)


def _row(**changes: Any) -> bytes:
    return _lines(*({**ROW, "id": f"{ROW['id']}{i}", "text": f"{ROW['text']} {i}", **changes} for i in range(3)))


def _parquet(path: Path, table: pa.Table, cut: int | None = None) -> None:
    pq.write_table(table, path)
    if cut is not None:
        path.write_bytes(path.read_bytes()[:cut])


NO_ROWS: dict[str, tuple[str, bytes]] = {
    "empty": ("x.jsonl", b""),
    "blank lines": ("x.jsonl", b"\n \r\n\xef\xbb\xbf\n"),
    "zeros": ("x.jsonl", bytes(4096)),
    "binary": ("x.jsonl", bytes(range(256)) * 8),
    "lists": ("x.jsonl", _lines([1], [ROW])),
    "numbers": ("x.jsonl", _lines(1, 2.5, -0.0)),
    "nulls": ("x.jsonl", _lines(None, None)),
    "strings": ("x.jsonl", _lines("text", "\ud83d")),
    "NaN": ("x.jsonl", b"NaN\nInfinity\n"),
    "deep lists": ("x.jsonl", b"[" * 10_000 + b"]" * 10_000),
    "deep objects": ("x.jsonl", b'{"text":' * 10_000 + b"1" + b"}" * 10_000),
    "deep inside a row": ("x.jsonl", b'{"text": "a b c", "rewrites": ' + b"[" * 10_000 + b"]" * 10_000 + b"}"),
    "long number": ("x.jsonl", b"1" * 5000),
    "one array": ("x.jsonl", json.dumps([ROW, ROW], indent=1).encode()),
    "torn": ("x.jsonl", _row()[:40]),
    "not UTF-8": ("x.jsonl", b'{"text": "caf\xe9"}\n'),
    "UTF-16": ("x.jsonl", _row().decode().encode("utf-16")),
    "web page": ("x.jsonl", b"<!DOCTYPE html><html><body>404</body></html>"),
    "LFS pointer": ("x.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"),
    "CSV": ("x.jsonl", b"id,text\n1,a\n"),
    "no fields": ("x.jsonl", _lines({}, {})),
    "no text": ("x.jsonl", _lines({"id": "1", "body": "x", "questions": ROW["questions"], "rewrites": ["a"]})),
    "null text": ("x.jsonl", _row(text=None)),
    "number text": ("x.jsonl", _row(text=5)),
    "list text": ("x.jsonl", _row(text=["a"])),
    "object text": ("x.jsonl", _row(text={"a": "b"})),
    "empty text": ("x.jsonl", _row(text=" \n")),
    "half pair in text": ("x.jsonl", _row(text="half \ud83d")),
    "gz of garbage": ("x.jsonl.gz", b"\x1f\x8b garbage"),
    "gz truncated": ("x.jsonl.gz", gzip.compress(_row())[:30]),
    "gz empty": ("x.jsonl.gz", b""),
    "zst of garbage": ("x.jsonl.zst", b"\x28\xb5\x2f\xfd garbage"),
    "zst truncated": ("x.jsonl.zst", zstandard.compress(_row())[:20]),
    "Parquet of garbage": ("x.parquet", b"PAR1 garbage PAR1"),
    "Parquet empty": ("x.parquet", b""),
    "WARC of garbage": ("x.warc", b"WARC/1.0\r\nContent-Length: 99999\r\n\r\n"),
}
"""No line of these is a document."""

SHAPES: dict[str, tuple[str, bytes]] = {
    f"{key} {name}": ("x.jsonl", _row(**{key: value}))
    for key, values in {
        "questions": {
            "null": None, "number": 3, "text": "what?", "object": {"question": "q", "answer": "a"}, "empty": [],
            "of nulls": [None], "of texts": ["what?"], "of lists": [[["q"], "a"]],
            "without answer": [{"question": "q"}],
            "without question": [{"answer": "a"}], "number answer": [{"question": "q", "answer": 4}],
            "null answer": [{"question": "q", "answer": None}], "empty answer": [{"question": "q", "answer": " "}],
            "list question": [{"question": ["q"], "answer": "a"}], "odd split": [{**ROW["questions"][0], "split": "x"}],
            "list split": [{**ROW["questions"][0], "split": ["reward"]}],
            "unknown key": [{**ROW["questions"][0], "hint": "g"}],
            "SQuAD": [{"question": "q", "answers": {"text": ["a"]}}],
            "text distractors": [{**ROW["questions"][0], "distractors": "iron"}],
            "answer as distractor": [{**ROW["questions"][0], "distractors": ["gold"]}],
            "null distractors": [{**ROW["questions"][0], "distractors": [None]}],
            "choices without answer": [{**ROW["questions"][0], "choices": ["iron"]}],
            "number choices": [{**ROW["questions"][0], "choices": [1, 2]}],
            "half pair": [{"question": "half \ud83d", "answer": "a"}],
            "deep": [{"question": "q", "answer": [[[[[1]]]]]}],
        },
        "rewrites": {
            "null": None, "number": 3, "text": "a", "object": {"text": "a"}, "empty": [], "of nulls": [None, None],
            "of numbers": [1, 2], "of lists": [["a"], ["b"]], "of empty objects": [{}, {}],
            "of empty texts": ["", " "], "number text": [{"strategy": "s", "text": 4}],
            "number strategy": [{"strategy": 4, "text": "gold"}], "mixed": ["a", {"text": "b"}, None],
            "half pair": ["half \ud83d", "b"],
        },
        "id": {"null": None, "list": ["a"], "object": {"a": 1}, "number": 7, "empty": "", "half pair": "\ud83d",
               "huge": 10**400},
        "title": {"null": None, "number": 7, "list": ["a"], "object": {}},
        "metadata": {"list": [1], "number": 4, "text": "x", "deep": {"text": {"text": 1}, "questions": 5}},
        "license": {"list of null": [None], "number": 4, "deep": [[["mit"]]], "object": {"a": {"b": 1}}},
    }.items()
    for name, value in values.items()
}  # fmt: skip
"""Rows with text, of which one field has another shape than it should."""


PLACES: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "missing": ("x.jsonl", lambda path: None),
    "a folder": ("x.jsonl", lambda path: path.mkdir()),
    "a link to nothing": ("x.jsonl", lambda path: path.symlink_to("nowhere")),
    "a link to itself": ("x.jsonl", lambda path: path.symlink_to(path.name)),
    "a FIFO": ("x.jsonl", lambda path: os.mkfifo(path)),
    "a device": ("x.jsonl", lambda path: path.symlink_to("/dev/zero")),
    "what cannot be read": ("x.jsonl", lambda path: path.symlink_to("/proc/self/mem")),
    "below a file": ("y/x.jsonl", lambda path: path.parent.write_text("")),
    "a name that is too long": (f"{'x' * 300}.jsonl", lambda path: None),
    "a name with a line break": ("x\ny.jsonl", lambda path: None),
    "a glob without files": ("x*.jsonl", lambda path: None),
    "Parquet without text": ("x.parquet", lambda path: _parquet(path, pa.table({"a": [1]}))),
    "Parquet without rows": ("x.parquet", lambda path: _parquet(path, pa.table({"text": pa.array([], pa.string())}))),
    "Parquet truncated": ("x.parquet", lambda path: _parquet(path, pa.table({"text": ["a"]}), cut=60)),
    "Parquet with numbers": ("x.parquet", lambda path: _parquet(path, pa.table({"text": [1, 2]}))),
}
"""What stands at the path, or nothing."""


def put(folder: Path, kind: str) -> Path:
    """Puts a file of this kind into the folder, and returns its path."""
    name, content = (NO_ROWS | SHAPES | PLACES)[kind]
    path = folder / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content(path)
    return path
