"""How many documents a corpus holds, from a part of it that takes seconds to read, and a fair sample of them."""

import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datatrove.data import Document

from configs.errors import UserError
from curation.corpus.finding import SUFFIXES, Shard, open_shard, shard_info
from curation.corpus.shards import BadRow, read_shard
from curation.plan.quantity import Quantity, exact

FILE_BYTES = 8 << 20
"""Only so much of a file's beginning is read."""
ALL_BYTES = 64 << 20
SECONDS = 10.0
KEPT_PER_FILE = 64


@dataclass(frozen=True, slots=True)
class CorpusSurvey:
    """What is known of a corpus that was read in part."""

    files: int
    files_read: int
    bytes: int
    """Size of all files as they lie on disk, compressed."""
    documents: Quantity
    """`counted` where every file was read to its end, else `extrapolated` by bytes."""
    sample: list[Document]
    """Drawn evenly from all documents read, in the order of the input."""


@dataclass(frozen=True, slots=True)
class _FilePart:
    """What was read of a file; `number` is its place in the input."""

    number: int
    suffix: str
    """Documents a byte differ between plain, packed and Parquet files."""
    size: int
    bytes_read: int
    documents: int
    """In the bytes read; the rows of a Parquet file are all known from its footer."""
    counted: bool
    """All documents of the file are known."""
    kept: list[Document]


def survey_corpus(shards: Sequence[Shard], limit: int | None, sample: int) -> CorpusSurvey:
    """Reads files in an order that spreads over the input, until 64 MB, 10 seconds or the end.

    `limit` is `curation.limit`: documents used of each file. Raises UserError if what was read has no document.
    """
    deadline = time.monotonic() + SECONDS
    sizes = [_size(shard) for shard in shards]
    order = list(range(len(shards)))
    random.Random(0).shuffle(order)
    parts: list[_FilePart] = []
    for number in order:
        enough = sum(part.bytes_read for part in parts) >= ALL_BYTES or time.monotonic() > deadline
        if enough and any(part.documents for part in parts):
            break
        parts.append(_read_part(shards[number], number, sizes[number], limit))
    if not any(part.documents for part in parts):
        first = shards[order[0]]
        why = next((item.reason for item in read_shard(first, 1) if isinstance(item, BadRow)), "empty")
        raise UserError(
            f"no documents in {len(parts)} of {len(shards)} input files, which were looked into ({first.name}: {why})"
        )
    documents = _count_documents(parts, [(_suffix(shards[i]), sizes[i]) for i in sorted(order[len(parts) :])], limit)
    return CorpusSurvey(len(shards), len(parts), sum(sizes), documents, _fair_sample(parts, sample, limit))


def _size(shard: Shard) -> int:
    try:
        return int(shard_info(shard).get("size") or 0)
    except OSError:  # a link to nothing, which holds no document
        return 0


def _suffix(shard: Shard) -> str:
    return next(suffix for suffix in sorted(SUFFIXES, key=len, reverse=True) if shard.url.lower().endswith(suffix))


def _read_part(shard: Shard, number: int, size: int, limit: int | None) -> _FilePart:
    suffix = _suffix(shard)
    if size <= FILE_BYTES:
        documents, kept = _reservoir(shard, limit, number)
        return _FilePart(number, suffix, size, size, documents, True, kept)
    if suffix == ".parquet":
        try:
            with open_shard(shard) as file:
                rows = pq.ParquetFile(file).metadata.num_rows
        except (OSError, pa.ArrowException):
            rows = 0
        _, kept = _reservoir(shard, min(KEPT_PER_FILE * 4, limit or rows), number) if rows else (0, [])
        return _FilePart(number, suffix, size, min(size, FILE_BYTES), min(rows, limit or rows), True, kept)
    with tempfile.TemporaryDirectory() as folder:
        # Our reader gives every row before a break, so the beginning of a file, packed or not, is read like a torn one.
        head = Path(folder) / f"head{suffix}"
        with open_shard(shard) as file:
            head.write_bytes(file.read(FILE_BYTES))
        documents, kept = _reservoir(Shard(str(head), shard.name), limit, number)
    return _FilePart(number, suffix, size, FILE_BYTES, documents, limit is not None and documents >= limit, kept)


def _reservoir(shard: Shard, limit: int | None, seed: int) -> tuple[int, list[Document]]:
    """The number of documents, and some of them, each with the same chance (Vitter's algorithm R)."""
    rng, documents = random.Random(seed), 0
    kept: list[Document] = []
    for item in read_shard(shard, limit):
        if not isinstance(item, Document):
            continue
        documents += 1
        if len(kept) < KEPT_PER_FILE:
            kept.append(item)
        elif (place := rng.randrange(documents)) < KEPT_PER_FILE:
            kept[place] = item
    return documents, kept


def _count_documents(parts: list[_FilePart], unread: list[tuple[str, int]], limit: int | None) -> Quantity:
    """The documents that were read, plus those of the bytes that were not, by the documents a byte. `unread`: suffix
    and bytes of the files that were not opened."""
    files = [(p.suffix, p.documents, 0 if p.counted else p.size - p.bytes_read) for p in parts]
    files += [(suffix, 0, size) for suffix, size in unread]

    def total_at(rates: dict[str, float]) -> float:
        # A suffix that was not read at all is taken for the average one.
        expected = (known + rates.get(suffix, rates[""]) * rest for suffix, known, rest in files)
        return sum(min(documents, limit) if limit else documents for documents in expected)

    value = total_at(_documents_per_byte(parts))
    if not any(rest for _, _, rest in files):
        return exact(value, "counted")
    if len(parts) >= 3:
        rng = random.Random(0)
        draws = sorted(total_at(_documents_per_byte(rng.choices(parts, k=len(parts)))) for _ in range(500))
        return Quantity(value, min(value, draws[12]), max(value, draws[487]), "extrapolated")
    # Fewer than 3 files do not show how files differ, so the spread of the documents' lengths stands for it.
    lengths = [len(document.text) for part in parts for document in part.kept]
    spread = statistics.pstdev(lengths) / statistics.fmean(lengths) / sum(p.documents for p in parts) ** 0.5
    return Quantity(value, value * max(0.0, 1 - 2 * spread), value * (1 + 2 * spread), "extrapolated")


def _documents_per_byte(parts: Sequence[_FilePart]) -> dict[str, float]:
    """Documents a byte by suffix, and under "" over all files."""
    documents, bytes_read = Counter[str](), Counter[str]()
    for part in parts:
        for suffix in (part.suffix, ""):
            documents[suffix] += part.documents
            bytes_read[suffix] += part.size if part.counted else part.bytes_read
    return {suffix: documents[suffix] / max(bytes_read[suffix], 1) for suffix in bytes_read}


def _fair_sample(parts: list[_FilePart], size: int, limit: int | None) -> list[Document]:
    """`size` documents without replacement, each in proportion to the documents it stands for (Efraimidis and
    Spirakis 2006)."""
    rng = random.Random(0)
    keyed: list[tuple[float, int, Document]] = []
    for part in parts:
        stands_for = part.documents if part.counted else part.documents * part.size / part.bytes_read
        weight = min(stands_for, limit or stands_for) / max(1, len(part.kept))
        keyed += [(rng.random() ** (1 / weight), part.number, document) for document in part.kept]
    chosen = sorted(keyed, key=lambda item: -item[0])[:size]
    chosen.sort(key=lambda item: (item[1], item[2].metadata["source_row"]))
    return [document for _, _, document in chosen]
