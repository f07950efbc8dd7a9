"""What a corpus holds, from a part of it that takes seconds: documents, and a fair sample of them."""

import random
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from datatrove.data import Document
from fsspec.core import url_to_fs

from configs.errors import UserError
from curation.corpus.shards import SUFFIXES, Shard, read_shard
from curation.plan.quantity import Quantity, exact

PIECE_BYTES = 8 << 20
"""Of a larger file only the beginning is read."""
MOST_BYTES = 64 << 20
SECONDS = 10.0
KEPT_PER_PIECE = 64


@dataclass(frozen=True, slots=True)
class Corpus:
    """A corpus as far as it was looked at."""

    files: int
    files_read: int
    bytes: int
    """Of all files, as they lie (compressed)."""
    documents: Quantity
    """`counted` where every file was read to its end, else `extrapolated` by bytes."""
    sample: tuple[Document, ...]
    """Drawn evenly from all documents read, in the order of the input."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """What was read of a file."""

    order: int
    """The file's number in the input."""
    kind: str
    """Its suffix: documents a byte differ between plain, packed and Parquet."""
    size: int
    bytes_read: int
    documents: int
    """In the bytes read; the rows of a Parquet file are all known from its footer."""
    whole: bool
    kept: tuple[Document, ...]


def survey_corpus(shards: Sequence[Shard], limit: int | None, sample: int, seconds: float = SECONDS) -> Corpus:
    """Reads files in an order that spreads over the input, until 64 MB, `seconds` or the end.

    `limit` is `curation.limit`: documents used of each file. Raises UserError if what was read has no document.
    """
    deadline = time.monotonic() + seconds
    sizes = [_size(shard) for shard in shards]
    order = list(range(len(shards)))
    random.Random(0).shuffle(order)
    pieces: list[_Piece] = []
    for number in order:
        read = sum(piece.bytes_read for piece in pieces)
        enough = read >= MOST_BYTES or time.monotonic() > deadline
        if enough and any(piece.documents for piece in pieces):
            break
        pieces.append(_read(shards[number], number, sizes[number], limit))
    if not any(piece.documents for piece in pieces):
        raise UserError(f"no documents in {len(pieces)} of {len(shards)} input files, which were looked into")
    rest = [(_kind(shards[i]), sizes[i]) for i in set(order) - {piece.order for piece in pieces}]
    return Corpus(
        files=len(shards),
        files_read=len(pieces),
        bytes=sum(sizes),
        documents=_documents(pieces, rest, limit),
        sample=_fair_sample(pieces, sample, limit),
    )


def _size(shard: Shard) -> int:
    fs, path = url_to_fs(shard.url)
    return int(fs.size(path) or 0)


def _kind(shard: Shard) -> str:
    return next(suffix for suffix in sorted(SUFFIXES, key=len, reverse=True) if shard.url.lower().endswith(suffix))


def _read(shard: Shard, number: int, size: int, limit: int | None) -> _Piece:
    kind = _kind(shard)
    if size <= PIECE_BYTES:
        documents, kept = _reservoir(shard, limit, number)
        return _Piece(number, kind, size, size, documents, True, kept)
    if kind == ".parquet":
        try:
            with fsspec.open(shard.url, "rb").open() as file:
                rows = pq.ParquetFile(file).metadata.num_rows
        except (OSError, pa.ArrowException):
            rows = 0
        first = min(KEPT_PER_PIECE * 4, limit or rows) if rows else 0
        _, kept = _reservoir(shard, first, number) if first else (0, ())
        return _Piece(number, kind, size, min(size, PIECE_BYTES), min(rows, limit or rows), True, kept)
    with tempfile.TemporaryDirectory() as folder:
        # Our reader gives every row before a break, so the beginning of a file, packed or not, is read like a torn one.
        head = Path(folder) / f"head{kind}"
        with fsspec.open(shard.url, "rb").open() as file:
            head.write_bytes(file.read(PIECE_BYTES))
        documents, kept = _reservoir(Shard(str(head), shard.name), limit, number)
    return _Piece(number, kind, size, PIECE_BYTES, documents, limit is not None and documents >= limit, kept)


def _reservoir(shard: Shard, limit: int | None, seed: int) -> tuple[int, tuple[Document, ...]]:
    """The number of documents, and some of them, each with the same chance (Vitter's algorithm R)."""
    rng, seen = random.Random(seed), 0
    kept: list[Document] = []
    for item in read_shard(shard, limit):
        if not isinstance(item, Document):
            continue
        seen += 1
        if len(kept) < KEPT_PER_PIECE:
            kept.append(item)
        elif (place := rng.randrange(seen)) < KEPT_PER_PIECE:
            kept[place] = item
    return seen, tuple(kept)


def _documents(pieces: list[_Piece], rest: list[tuple[str, int]], limit: int | None) -> Quantity:
    """All documents: those that were read, and those of the bytes that were not, by the documents a byte."""
    files = [(p.kind, p.documents, 0 if p.whole else p.size - p.bytes_read) for p in pieces]
    files += [(kind, 0, size) for kind, size in rest]

    def at(rates: dict[str, float]) -> float:
        # A kind of file that was not read at all is taken for the average one.
        expected = (known + rates.get(kind, rates[""]) * unread for kind, known, unread in files)
        return sum(min(documents, limit) if limit else documents for documents in expected)

    value = at(_rates(pieces))
    if not any(unread for _, _, unread in files):
        return exact(value, "counted")
    if len(pieces) >= 3:
        rng = random.Random(0)
        draws = sorted(at(_rates(rng.choices(pieces, k=len(pieces)))) for _ in range(500))
        return Quantity(value, min(value, draws[12]), max(value, draws[487]), "extrapolated")
    # Too few files to tell how they differ: how much the documents' lengths do inside them.
    lengths = [len(document.text) for piece in pieces for document in piece.kept]
    spread = statistics.pstdev(lengths) / statistics.fmean(lengths) / sum(p.documents for p in pieces) ** 0.5
    return Quantity(value, value * max(0.0, 1 - 2 * spread), value * (1 + 2 * spread), "extrapolated")


def _rates(pieces: Sequence[_Piece]) -> dict[str, float]:
    """Documents a byte by kind of file, and under `` over all."""
    found: dict[str, float] = defaultdict(float)
    read: dict[str, float] = defaultdict(float)
    for piece in pieces:
        for kind in (piece.kind, ""):
            found[kind] += piece.documents
            read[kind] += piece.size if piece.whole else piece.bytes_read
    return {kind: found[kind] / max(read[kind], 1) for kind in read}


def _fair_sample(pieces: list[_Piece], size: int, limit: int | None) -> tuple[Document, ...]:
    """`size` documents without replacement, each in proportion to the documents it stands for (Efraimidis and
    Spirakis 2006)."""
    rng = random.Random(0)
    keyed: list[tuple[float, int, Document]] = []
    for piece in pieces:
        stands_for = piece.documents if piece.whole else piece.documents * piece.size / piece.bytes_read
        weight = min(stands_for, limit or stands_for) / max(1, len(piece.kept))
        keyed += [(rng.random() ** (1 / weight), piece.order, document) for document in piece.kept]
    chosen = sorted(keyed, key=lambda item: -item[0])[:size]
    chosen.sort(key=lambda item: (item[1], item[2].metadata["source_row"]))
    return tuple(document for _, _, document in chosen)
