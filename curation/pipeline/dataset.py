"""The dataset's columns, the durable parts that a run writes, and their merger into the final Parquet files."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import compute

from configs.errors import RunError
from configs.files import write_whole
from curation.pipeline.accounts import Begun, FileCounts, Merged, count_outcomes, count_passages
from curation.pipeline.document_rows import document_rows

WORK = ".notewright"
"""Folder inside the output folder for the state of an unfinished run. A finished dataset keeps the part of it that
lets a rerun skip work."""

COLUMNS = pa.schema(
    [
        pa.field("text", pa.string(), metadata={"about": "the rewrite"}),
        pa.field(
            "id",
            pa.string(),
            metadata={"about": "`file#row`, `/passage` if cut, `/rewrite` if several, `/raw`"},
        ),
        pa.field("source_id", pa.string(), metadata={"about": "the source row's own id, where it has one"}),
        pa.field("source_file", pa.string(), metadata={"about": "the shard it comes from"}),
        pa.field("source_row", pa.int64(), metadata={"about": "row in that shard, counted from 0"}),
        pa.field("passage", pa.int32(), metadata={"about": "number of the source's passage, from 1; null: all of it"}),
        pa.field("passages", pa.int32(), metadata={"about": "passages into which the source is cut, 1 if it is whole"}),
        pa.field(
            "start_index",
            pa.int64(),
            metadata={"about": "the source's character with which it begins"},
        ),
        pa.field("end_index", pa.int64(), metadata={"about": "the one behind its last"}),
        pa.field("headings", pa.list_(pa.string()), metadata={"about": "headings above the passage, outermost first"}),
        pa.field("rewrite", pa.int32(), metadata={"about": "number of the rewrite, from 0; null for `raw`"}),
        pa.field("strategy", pa.string(), metadata={"about": "way of rewriting, prompted or chosen; `raw`: none"}),
        pa.field("teacher", pa.string(), metadata={"about": "the model that wrote it"}),
        pa.field("teacher_hash", pa.string(), metadata={"about": "SHA-256 of the teacher's weights, adapter included"}),
        pa.field("adapter_hash", pa.string(), metadata={"about": "SHA-256 of the teacher's adapter, where it has one"}),
        pa.field(
            "sources",
            pa.list_(
                pa.struct(
                    [
                        pa.field("id", pa.string()),
                        pa.field("start_index", pa.int64()),
                        pa.field("end_index", pa.int64()),
                        pa.field("licence", pa.string()),
                    ]
                )
            ),
            metadata={"about": "what the teacher read: the passage or a part of it, and one related to it"},
        ),
        pa.field("window", pa.string(), metadata={"about": "`2/3`: it read the second third; null: all"}),
        pa.field("temperature", pa.float64(), metadata={"about": "sampling temperature, 0 is greedy"}),
        pa.field("top_p", pa.float64(), metadata={"about": "nucleus sampling: the share of probability sampled from"}),
        pa.field("max_new_tokens", pa.int32(), metadata={"about": "most tokens the teacher could write in a call"}),
        pa.field("continuations", pa.int32(), metadata={"about": "calls beyond the first that it took"}),
        pa.field("seed", pa.int64(), metadata={"about": "seed of the batch it was sampled in"}),
        pa.field("gates", pa.list_(pa.string()), metadata={"about": "the gates it passed"}),
        pa.field("licence", pa.string(), metadata={"about": "licence of its source, of several the strictest"}),
        pa.field("tokens", pa.int32(), metadata={"about": "length of `text` in the teacher's tokens"}),
        pa.field("source_tokens", pa.int32(), metadata={"about": "length of the passage in the teacher's tokens"}),
        pa.field(
            "raw_share",
            pa.float64(),
            metadata={"about": "with `rows: document`: source tokens that stand as they are"},
        ),
        pa.field("predicted_gain", pa.float64(), metadata={"about": "with `best_of`: gain above the row's samples"}),
        pa.field("predicted_low", pa.float64(), metadata={"about": "lower end of its 95% interval for one student"}),
        pa.field("predicted_high", pa.float64(), metadata={"about": "upper end of that interval"}),
    ]
)
PART = pa.schema(
    [*COLUMNS, *(pa.field(name, pa.string()) for name in ("stage", "reason", "detail", "source_text", "stands_in"))]
)
"""A part holds one terminal record per passage and rewrite: a row (`reason` null), or why there is none. `stage` is
then `gate` or `leak_check`, which refused the rewrite, `prompt`, which has no room for the passage, or `teacher`, which
failed on it. A document that never reached the teacher is not cut and has one record without a rewrite: a `filter`
refused it, or a `step` failed on it. Records of documents that diversity is measured on have the beginning of their
source in `source_text`; `stands_in` is the passage, where it is to stand in the place of its refused rewrite."""
RAW = "raw"
"""The strategy of a row that is the source's own text."""
NO_TEACHER = "none"
"""The teacher of a text that was ready without one."""

REFUSED = (
    "source_file",
    "source_row",
    "source_id",
    "passage",
    "rewrite",
    "stage",
    "reason",
    "detail",
    "strategy",
    "text",
)
"""Fields of quarantine.jsonl and filtered.jsonl."""
ROW_GROUP_ROWS = 10_000


def part_path(parts: Path, task: int, batch: int) -> Path:
    """Where the terminal records of a task's batch are; names sort in the order of the documents."""
    return parts / f"{task:05d}" / f"{batch:06d}.parquet"


def parts_of(parts: Path, task: int) -> list[Path]:
    """The parts of a task that exist, in order: the task writes them one after the other."""
    paths = sorted((parts / f"{task:05d}").glob("*.parquet"))
    assert paths == [part_path(parts, task, batch) for batch in range(len(paths))], f"a part of task {task} is missing"
    return paths


def write_part(path: Path, records: list[dict[str, Any]], **numbers: int) -> None:
    """Makes a batch durable: the file appears whole, and survives a power cut. `numbers` go into its footer:
    `documents` that end in the batch, passages `begun` of one that ends later, `passages` and `source_tokens` in it."""
    sink = pa.BufferOutputStream()
    schema = PART.with_metadata({name: str(number) for name, number in numbers.items()})
    pq.write_table(pa.Table.from_pylist(records, schema=schema), sink, compression="zstd")
    write_whole(path, sink.getvalue())


def part_numbers(path: Path) -> dict[str, int]:
    """The numbers of `write_part`, from the footer alone."""
    return {name.decode(): int(number) for name, number in pq.read_schema(path).metadata.items() if number.isdigit()}


def documents_done(parts: Path) -> int:
    """In all parts."""
    return sum(part_numbers(path)["documents"] for path in parts.glob("*/*.parquet"))


def merge(
    work: Path, files: list[FileCounts], output: Path, shard_bytes: int, *, whole_documents: bool = False
) -> Merged:
    """Turns the parts of all tasks in `work` into `data/train-*.parquet`, `quarantine.jsonl` and `filtered.jsonl` below
    `output`, and fills in `files`, one a task. With `whole_documents` a row is of a whole document.

    Rows keep the order of the input, and the same rows give the same bytes. Everything is written in `work/merged` and
    moved when all of it is complete. Raises RunError if the parts do not hold exactly the documents that preflight
    counted.
    """
    parts, scratch = work / "parts", work / "merged"
    scratch.mkdir(parents=True, exist_ok=True)
    merged = Merged()
    quarantine_path, filtered_path = scratch / "quarantine.jsonl", scratch / "filtered.jsonl"
    with quarantine_path.open("wb") as quarantine, filtered_path.open("wb") as filtered:
        quarantine.write((work / "bad_rows.jsonl").read_bytes())
        rows = _kept_rows(parts, files, merged, (quarantine, filtered), whole_documents)
        written = _write_shards(rows, scratch, shard_bytes)
        for sink in (quarantine, filtered):
            sink.flush()
            os.fsync(sink.fileno())
    if not merged.rows:
        reasons = (merged.reasons + merged.filter_reasons).most_common()
        raise RunError(
            f"nothing is left of {sum(file.documents_in for file in files)} documents: "
            f"{', '.join(f'{reason} {count}' for reason, count in reasons)}; the work is kept in {parts}"
        )
    (output / "data").mkdir(exist_ok=True)
    # A run that died between two of the moves below left some.
    for stale in (output / "data").glob("train-*.parquet"):
        stale.unlink()
    for index, (path, count) in enumerate(written):
        final = output / "data" / f"train-{index:05d}-of-{len(written):05d}.parquet"
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        os.replace(path, final)
        shard = {"path": f"data/{final.name}", "rows": count, "bytes": final.stat().st_size, "sha256": sha256}
        merged.shards.append(shard)
    for path in (quarantine_path, filtered_path):
        os.replace(path, output / path.name)
    return merged


def _kept_rows(
    parts: Path, files: list[FileCounts], merged: Merged, refused: tuple[IO[bytes], IO[bytes]], whole_documents: bool
) -> Iterator[pa.Table]:
    """The rows that passed, part by part. Counts all records, and writes those that did not pass to one of the files
    `refused`, for quarantined and for filtered ones."""
    for task, file in enumerate(files):
        expected, documents = file.documents_in - file.quarantined, 0
        begun: Begun = {}
        gathered: list[dict[str, Any]] = []
        for path in parts_of(parts, task):
            with pq.ParquetFile(path) as part:
                table = part.read()
            numbers = part_numbers(path)
            documents += count_outcomes(
                table, file, merged, begun, ends_within=bool(numbers["begun"]), whole_documents=whole_documents
            )
            count_passages(table, file, numbers)
            table = table.replace_schema_metadata(None)
            for record in table.filter(compute.is_valid(table["reason"])).to_pylist():
                line = orjson.dumps({name: record[name] for name in REFUSED}) + b"\n"
                refused[record["stage"] == "filter"].write(line)
                merged.samples.add_refused(record)
            kept = table.filter(compute.is_null(table["reason"]))
            merged.samples.add_rows(kept.filter(compute.is_valid(kept["source_text"])).to_pylist())
            kept = kept.select(COLUMNS.names)
            if whole_documents:
                gathered += [record for record in table.to_pylist() if record["stage"] not in ("filter", "step")]
                # The last document may go on in the next part.
                unfinished = gathered[-1]["source_row"] if numbers["begun"] else None
                finished = [record for record in gathered if record["source_row"] != unfinished]
                gathered = [record for record in gathered if record["source_row"] == unfinished]
                kept = pa.Table.from_pylist(list(document_rows(finished)), schema=COLUMNS)
            if kept.num_rows:
                merged.rows += kept.num_rows
                merged.bytes_in_memory += kept.nbytes
                merged.tokens += compute.sum(kept["tokens"]).as_py()
                merged.source_tokens += compute.sum(kept["source_tokens"]).as_py()
                merged.strategies.update(kept["strategy"].to_pylist())
                merged.licences.update(kept["licence"].to_pylist())
                several = compute.greater(compute.list_value_length(kept["sources"]), 1)
                merged.several_sources += compute.sum(several).as_py()
                yield kept
        if documents != expected:
            raise RunError(
                f"{file.path} held {expected} documents when it was checked and {documents} when it was read: it "
                "changed on the way; delete the output folder and run again"
            )


def _write_shards(tables: Iterable[pa.Table], scratch: Path, shard_bytes: int) -> list[tuple[Path, int]]:
    """Writes tables into files of about `shard_bytes`; returns each file with its rows."""
    written: list[tuple[Path, int]] = []
    groups = _regroup(tables, ROW_GROUP_ROWS)
    group = next(groups, None)
    while group is not None:
        path, rows = scratch / f"shard-{len(written):05d}.parquet", 0
        # Content-defined chunks let the Hub store only what changed between two versions of a dataset; the page index
        # lets its viewer read single rows.
        options = {"compression": "zstd", "use_content_defined_chunking": True, "write_page_index": True}
        with path.open("wb") as sink, pq.ParquetWriter(sink, COLUMNS, **options) as writer:
            while group is not None and (rows == 0 or sink.tell() < shard_bytes):
                writer.write_table(group, row_group_size=ROW_GROUP_ROWS)
                rows += group.num_rows
                group = next(groups, None)
        written.append((path, rows))
    return written


def _regroup(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of exactly `rows` (the last may be shorter), so that row groups, and with them the
    bytes of the file, depend on the rows alone."""
    pending: list[pa.Table] = []
    count = 0
    for table in tables:
        pending.append(table)
        count += table.num_rows
        while count >= rows:
            whole = pa.concat_tables(pending)
            yield whole.slice(0, rows)
            pending, count = [whole.slice(rows)], count - rows
    if count:
        yield pa.concat_tables(pending)
