"""Reads shards (JSONL and WARC, plain, .gz, .zst; Parquet) into datatrove documents, and reports each row that it could
not read.

datatrove's readers drop the rest of a JSONL file at its first bad byte, end the other tasks at a truncated archive, and
take ids as they are. This reader loses only a bad row, or what lies behind the place where a file breaks off, and gives
each document the id `file#row`, rows counted from 0.
"""

import glob
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any

import fsspec
import httpx
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from datatrove.data import Document
from fsspec.core import url_to_fs

from configs.errors import UserError, nearest
from curation.corpus.warc import TornRecord, read_warc

COMPRESSIBLE = (".jsonl", ".ndjson", ".warc", ".wet")
SUFFIXES = (*(f"{kind}{compression}" for kind in COMPRESSIBLE for compression in ("", ".gz", ".zst")), ".parquet")
SNIPPET_CHARACTERS = 200
"""Length of the beginning of a text that the record of a refused row shows."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One input file: its URL, and the name that ids and the manifest give it."""

    url: str
    name: str


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that is no document. With `row` None the file itself could not be read from some point on."""

    row: int | None
    reason: str
    text: str = ""


class _Broken(Exception):
    """The file cannot be read beyond this point."""


def find_shards(patterns: tuple[str, ...]) -> list[Shard]:
    """The files that the patterns (files, globs, folders; local or fsspec URLs) name, each once, in their order; the
    files of a glob or folder are sorted. A shard's name is its path below the folder that all have in common. Raises
    UserError that names a pattern without files, or of a file of another kind."""
    urls = list(dict.fromkeys(url for pattern in patterns for url in _expand(pattern)))
    if not urls:
        raise UserError("no input files are named")
    parents = [PurePosixPath(url).parent for url in urls]
    common = os.path.commonpath(parents) if len({p.parts[:1] for p in parents}) == 1 else ""
    return [Shard(url, str(PurePosixPath(url).relative_to(common))) for url in urls]


def _expand(pattern: str) -> list[str]:
    try:
        fs, path = url_to_fs(os.path.expanduser(pattern))
        if fs.isdir(path):
            paths = sorted(p for p in fs.find(path) if _is_readable(p))
        elif fs.exists(path):
            if not _is_readable(path):
                raise UserError(f"{pattern}: not a kind of file we read ({', '.join(SUFFIXES)})")
            paths = [path]
        elif glob.has_magic(path):
            paths = sorted(p for p in fs.glob(path) if _is_readable(p))
        else:
            if "file" not in fs.protocol:
                # Raises the cause: a host that cannot be reached is not a file that does not exist.
                fs.info(path)
            parent = fs._parent(path)
            names = [p.rsplit("/", 1)[-1] for p in fs.find(parent, maxdepth=1)] if fs.isdir(parent) else []
            hint = f": {nearest(path.rsplit('/', 1)[-1], names)}" if 0 < len(names) <= 20 else ""
            raise UserError(f"no such file: {pattern}{hint}")
        if not paths:
            raise UserError(f"no shards ({', '.join(SUFFIXES)}) in {pattern}")
        return [p if "file" in fs.protocol else fs.unstrip_protocol(p) for p in paths]
    except UserError:
        raise
    except (OSError, httpx.HTTPError, ImportError, ValueError) as error:
        # A host that does not answer, a missing driver (`s3://` without s3fs), an unknown protocol.
        raise UserError(f"{pattern}: {_one_line(error)}") from None


def _is_readable(path: str) -> bool:
    return path.lower().endswith(SUFFIXES) and not PurePosixPath(path).name.startswith((".", "_"))


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
        with fsspec.open(shard.url, "rb").open() as file:
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
        yield BadRow(None, f"cannot be read: {_one_line(error)}")


def _document(shard: Shard, row: int, value: Any) -> Document | BadRow:
    if not isinstance(value, dict):
        return BadRow(row, f"not an object but {type(value).__name__}", str(value)[:SNIPPET_CHARACTERS])
    key = "text" if value.get("text") is not None else "content"
    text = value.get(key)
    if not isinstance(text, str):
        return BadRow(row, "no text: neither `text` nor `content` is a string", f"fields: {', '.join(map(str, value))}")
    if not text.strip():
        return BadRow(row, "empty text")
    metadata = {k: v for k, v in value.items() if k not in (key, "id")}
    if isinstance(value.get("metadata"), dict):
        metadata = metadata.pop("metadata") | metadata
    source_id = None if value.get("id") is None else str(value["id"])
    metadata |= {"source_id": source_id, "source_file": shard.name, "source_row": row}
    return Document(text=text, id=f"{shard.name}#{row}", metadata=metadata)


def _jsonl_rows(chunks: Iterator[bytes]) -> Iterator[tuple[int, Any]]:
    row, tail = 0, b""
    try:
        for chunk in chunks:
            *lines, tail = (tail + chunk).split(b"\n")
            for line in lines:
                if line.strip():
                    yield row, _parse(row, line)
                row += 1
    except (_Broken, OSError) as error:
        if tail.strip():
            yield row, BadRow(row, "torn: the file breaks off inside this row", _snippet(tail))
        raise _Broken(f"breaks off after row {row - 1}: {error}" if row else f"unreadable: {error}") from None
    if tail.strip():
        yield row, _parse(row, tail)


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
    decoder = None
    while chunk := file.read(1 << 16):
        if not url.endswith((".gz", ".zst")):
            yield chunk
            continue
        while chunk:
            if decoder is None or decoder.eof:
                gzipped = url.endswith(".gz")
                decoder = zlib.decompressobj(wbits=31) if gzipped else zstandard.ZstdDecompressor().decompressobj()
            try:
                yield decoder.decompress(chunk)
            except (zlib.error, zstandard.ZstdError) as error:
                raise _Broken(f"damaged archive ({error})") from None
            chunk = decoder.unused_data
    if decoder is not None and not decoder.eof:
        raise _Broken("truncated archive")


def _parse(row: int, line: bytes) -> Any:
    try:
        return orjson.loads(line.removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError as error:
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as bad:
            return BadRow(row, f"not UTF-8: byte {line[bad.start]:#04x} at {bad.start}", _snippet(line))
        return BadRow(row, f"not JSON: {error}", _snippet(line))


def _parquet_rows(file: IO[bytes]) -> Iterator[tuple[int, Any]]:
    try:
        parquet = pq.ParquetFile(file)
    except (OSError, pa.ArrowException) as error:
        raise _Broken(f"unreadable footer: {_one_line(error)}") from None
    row = 0
    for group in range(parquet.num_row_groups):
        end = row + parquet.metadata.row_group(group).num_rows
        try:
            for batch in parquet.iter_batches(batch_size=1024, row_groups=[group]):
                yield from enumerate(_batch_rows(batch, row), start=row)
                row += batch.num_rows
        except (OSError, pa.ArrowException) as error:
            # Other row groups can still be read.
            reason = f"damaged row group {group}: {_one_line(error)}"
            yield from ((lost, BadRow(lost, reason)) for lost in range(row, end))
        row = end


def _batch_rows(batch: pa.RecordBatch, start: int) -> Iterator[Any]:
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        # Arrow does not check strings while it reads, and one bad row fails the whole batch here.
        for offset in range(batch.num_rows):
            try:
                yield batch.slice(offset, 1).to_pylist()[0]
            except UnicodeDecodeError as error:
                yield BadRow(start + offset, f"not UTF-8: {error.reason}", _snippet(error.object))


def _snippet(data: bytes) -> str:
    return data[: 4 * SNIPPET_CHARACTERS].decode("utf-8", errors="replace")[:SNIPPET_CHARACTERS]


def _one_line(error: BaseException) -> str:
    # The system's message names a path of this machine; the manifest names the file already.
    text = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
    return " ".join(text.split())
