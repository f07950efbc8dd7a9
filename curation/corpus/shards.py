"""Reads shards (JSONL and WARC, plain, .gz, .zst; Parquet) into datatrove documents, and reports each row that it could
not read.

datatrove's readers drop the rest of a JSONL file at its first bad byte, end the other tasks at a truncated archive, and
take ids as they are. This reader loses only a bad row, or what lies behind the place where a file breaks off, and gives
each document the id `file#row`, rows counted from 0.
"""

import itertools
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any

import httpx
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from datatrove.data import Document

from curation.corpus.finding import Shard, one_line, open_shard
from curation.corpus.warc import TornRecord, read_warc

SNIPPET_CHARACTERS = 200
"""Length of the beginning of a text that the record of a refused row shows."""

BOM, ZSTD = b"\xef\xbb\xbf", b"\x28\xb5\x2f\xfd"
UNREADABLE_PARQUET = (OSError, pa.ArrowException, ValueError, TypeError, LookupError, OverflowError)
UNHOLDABLE = (ValueError, OverflowError, LookupError, TypeError, AttributeError, ImportError, pa.ArrowException)
"""What Arrow raises for a value that it can read and Python cannot hold: no list of its documentation's."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that is no document. With `row` None the file itself could not be read from some point on."""

    row: int | None
    reason: str
    text: str = ""


class _Broken(Exception):
    """The file cannot be read beyond this point."""


def read_shard(shard: Shard, limit: int | None = None) -> Iterator[Document | BadRow]:
    """The shard's rows in order: documents (at most `limit`), and a BadRow with the reason for each row that is none.

    A document has its text from `text` or `content`, the id `NAME#ROW`, and in its metadata every other field of the
    row plus `source_id` (the row's own id as text, or None), `source_file` and `source_row`. Where the file breaks off,
    a BadRow without a row comes last. Never raises for what the file holds.
    """
    url = shard.url.lower()
    kind = url.removesuffix(".gz").removesuffix(".zst").rpartition(".")[2]
    documents = 0
    try:
        with open_shard(shard) as file:
            if kind == "parquet":
                rows = _parquet_rows(file)
            else:
                chunks = _chunks(file, url)
                rows = _warc_rows(chunks) if kind in ("warc", "wet") else _jsonl_rows(chunks)
            for row, value in rows:
                item = value if isinstance(value, BadRow) else _document(shard, row, value)
                yield item
                documents += isinstance(item, Document)
                if documents == limit:
                    return
    except _Broken as broken:
        yield BadRow(None, str(broken))
    except (OSError, httpx.HTTPError, pa.ArrowException) as error:
        yield BadRow(None, f"cannot be read: {one_line(error)}")


def _document(shard: Shard, row: int, value: Any) -> Document | BadRow:
    if not isinstance(value, dict):
        return BadRow(row, f"not an object but {type(value).__name__}", str(value)[:SNIPPET_CHARACTERS])
    key = "text" if value.get("text") is not None else "content"
    text = value.get(key)
    if not isinstance(text, str):
        fields = ", ".join(map(str, value))[:SNIPPET_CHARACTERS] or "none"
        return BadRow(row, f"no text: neither `text` nor `content` is a string; fields: {fields}")
    if not text.strip():
        return BadRow(row, "empty text")
    metadata = {k: v for k, v in value.items() if k not in (key, "id")}
    if isinstance(value.get("metadata"), dict):
        metadata = metadata.pop("metadata") | metadata
    source_id = None if value.get("id") is None else str(value["id"])
    metadata |= {"source_id": source_id, "source_file": shard.name, "source_row": row}
    return Document(text=text, id=f"{shard.name}#{row}", metadata=metadata)


def _jsonl_rows(chunks: Iterator[bytes]) -> Iterator[tuple[int, Any]]:
    row = 0
    # Joined once a line: to add each chunk to what is there takes the square of a long line's time.
    tail: list[bytes] = []
    try:
        for chunk in chunks:
            first, *lines = chunk.split(b"\n")
            tail.append(first)
            for start in lines:
                if not _is_blank(line := b"".join(tail)):
                    yield row, _parse(row, line)
                row += 1
                tail = [start]
    except (_Broken, OSError) as error:
        if not _is_blank(line := b"".join(tail)):
            yield row, BadRow(row, "torn: the file breaks off inside this row", _snippet(line))
        raise _Broken(f"breaks off after row {row - 1}: {error}" if row else f"unreadable: {error}") from None
    if not _is_blank(line := b"".join(tail)):
        yield row, _parse(row, line)


def _is_blank(line: bytes) -> bool:
    return not line.removeprefix(BOM).strip()


def _warc_rows(chunks: Iterator[bytes]) -> Iterator[tuple[int, Any]]:
    row = -1
    try:
        for row, record in read_warc(chunks):
            yield row, BadRow(row, "undecodable: text of no known encoding") if record is None else record
    except TornRecord as torn:
        yield torn.row, BadRow(torn.row, f"torn: {torn}")
        raise _Broken(f"breaks off in record {torn.row}: {torn}") from None
    except (_Broken, OSError) as error:
        raise _Broken(f"breaks off after record {row}: {error}" if row >= 0 else f"unreadable: {error}") from None


def _chunks(file: IO[bytes], url: str) -> Iterator[bytes]:
    """The file's bytes, decompressed. Raises _Broken behind the last byte that can be read of a broken archive."""
    # gzip.open and zstandard's stream_reader hide a truncation, or lose what they had buffered. A bare decoder gives
    # every byte before the break, and its `eof` says whether the last member was whole.
    decoder = make_decoder = None
    for number in itertools.count():
        if not (chunk := file.read(1 << 16)):
            break
        if number == 0:
            make_decoder = _compression(chunk, url)
        if make_decoder is None:
            yield chunk
            continue
        while chunk:
            if decoder is None or decoder.eof:
                if decoder is not None and not chunk.strip(b"\0"):
                    break  # gzip files on tapes are filled up with zeros
                decoder = make_decoder()
            try:
                yield decoder.decompress(chunk)
            except (zlib.error, zstandard.ZstdError) as error:
                raise _Broken(f"damaged archive ({error})") from None
            chunk = decoder.unused_data
    if decoder is not None and not decoder.eof:
        raise _Broken("truncated archive")


def _compression(start: bytes, url: str) -> Callable[[], Any] | None:
    """What makes the decoder of a file that begins with `start`; None for a plain one. A download may unpack a file and
    keep its name, or pack it under a name that does not say so, so that the name decides only where the content does
    not."""
    plain = start.removeprefix(BOM).lstrip()[:1] in (b"{", b"[") or start.startswith(b"WARC/")
    if start.startswith(b"\x1f\x8b") or (url.endswith(".gz") and not start.startswith(ZSTD) and not plain):
        return lambda: zlib.decompressobj(wbits=31)
    if start.startswith(ZSTD) or (url.endswith(".zst") and not plain):
        # `zstd --long=31`, as large dumps are packed, needs a window of 2 GB at most.
        return lambda: zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
    return None


def _parse(row: int, line: bytes) -> Any:
    line = line.removeprefix(BOM)
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as bad:
            wide = " (UTF-16 or UTF-32)" if line[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in line[:4] else ""
            return BadRow(row, f"not UTF-8{wide}: byte {line[bad.start]:#04x} at {bad.start}", _snippet(line))
        return _parse_as_python_does(row, text, str(error))
    # orjson rounds integers above 64 bits.
    if isinstance(value, dict) and isinstance(value.get("id"), float) and abs(value["id"]) >= 2**63:
        return _parse_as_python_does(row, line.decode("utf-8"), "")
    return value


def _parse_as_python_does(row: int, text: str, error: str) -> Any:
    """Python writes and reads NaN, Infinity, integers of any length and halves of surrogate pairs, which orjson
    refuses. They cost a row only where its text is not Unicode; elsewhere such a half is a replacement character."""
    try:
        value = json.loads(text)
        # Escapes alone can make a half: `text` itself was UTF-8.
        if "\\u" not in text:
            return value
        key = "text" if isinstance(value, dict) and value.get("text") is not None else "content"
        if isinstance(value, dict) and isinstance(value.get(key), str) and value[key] != _whole_characters(value[key]):
            return BadRow(row, f"not Unicode: half of a surrogate pair in `{key}`", text[:SNIPPET_CHARACTERS])
        return _whole_characters(value)
    except (ValueError, RecursionError) as other:
        reason = error or str(other)
        return BadRow(row, f"not JSON: {reason}", text[:SNIPPET_CHARACTERS])


def _whole_characters(value: Any) -> Any:
    """The value with U+FFFD for each half of a surrogate pair."""
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, list):
        return [_whole_characters(item) for item in value]
    if isinstance(value, dict):
        return {_whole_characters(name): _whole_characters(item) for name, item in value.items()}
    return value


def _parquet_rows(file: IO[bytes]) -> Iterator[tuple[int, Any]]:
    try:
        parquet = pq.ParquetFile(file)
    except UNREADABLE_PARQUET as error:
        raise _Broken(f"unreadable footer: {one_line(error)}") from None
    row = 0
    for group in range(parquet.num_row_groups):
        end = row + parquet.metadata.row_group(group).num_rows
        try:
            for batch in parquet.iter_batches(batch_size=1024, row_groups=[group]):
                yield from enumerate(_batch_rows(batch, row), start=row)
                row += batch.num_rows
        except UNREADABLE_PARQUET as error:
            # Other row groups can still be read.
            reason = f"damaged row group {group}: {one_line(error)}"
            yield from ((lost, BadRow(lost, reason)) for lost in range(row, end))
        row = end


def _batch_rows(batch: pa.RecordBatch, start: int) -> list[Any]:
    """The rows as dicts. What Python cannot hold (a year above 9999, an unknown time zone, a struct with a name twice)
    is Arrow's text of it, or null where Arrow has none; a text that is not UTF-8 costs its row."""
    names = batch.schema.names
    columns = {name: _values(batch.column(i), is_text=name in ("text", "content")) for i, name in enumerate(names)}
    rows: list[Any] = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    for offset, row in enumerate(rows):
        bad = row["text"] if row.get("text") is not None else row.get("content")
        if isinstance(bad, UnicodeDecodeError):
            rows[offset] = BadRow(start + offset, f"not UTF-8: {bad.reason}", _snippet(bad.object))
        elif isinstance(row.get("content"), UnicodeDecodeError):
            row["content"] = None
    return rows


def _values(column: pa.Array, is_text: bool) -> list[Any]:
    """A column's values; in one of texts, the UnicodeDecodeError of a value that is no UTF-8."""
    try:
        values = column.to_pylist()
    except UNHOLDABLE:
        # One bad value fails the whole column here.
        values = [_value(scalar) for scalar in column]
    if is_text:
        # Hive and old Spark write texts as bytes.
        return [_decoded(value) if isinstance(value, bytes) else value for value in values]
    return [None if isinstance(value, UnicodeDecodeError) else value for value in values]


def _value(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError as error:
        return error
    except UNHOLDABLE:
        try:
            return scalar.cast(pa.string()).as_py()
        except UNHOLDABLE:
            return None


def _decoded(value: bytes) -> Any:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        return error


def _snippet(data: bytes) -> str:
    return data[: 4 * SNIPPET_CHARACTERS].decode("utf-8", errors="replace")[:SNIPPET_CHARACTERS]
