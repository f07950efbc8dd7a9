"""The dataset's Parquet files: what lets the Hub store little of a new version, and show single rows of a large one."""

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curation.pipeline.curate import curate
from curation.pipeline.dataset import COLUMNS, ROW_GROUP_ROWS, _write_shards
from tests.curation.datasets import rows, write_jsonl
from tests.curation.pipeline.test_echo import echo_config


def table(texts: list[str]) -> pa.Table:
    """Rows with these texts; other columns are null."""
    records: list[dict[str, Any]] = [{"text": text, "id": f"a#{i}"} for i, text in enumerate(texts)]
    return pa.Table.from_pylist(records, schema=COLUMNS)


def test_pages_are_indexed_and_packed(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in/a.jsonl", rows(30))
    config = echo_config(tmp_path / "in", tmp_path / "out")
    curate(config)
    [path] = (config.curation.output / "data").iterdir()
    group = pq.read_metadata(path).row_group(0)
    columns = [group.column(i) for i in range(group.num_columns)]
    assert all(column.has_offset_index and column.compression == "ZSTD" for column in columns)
    assert any(column.has_column_index for column in columns)


def test_a_row_more_leaves_most_bytes_as_they_were(tmp_path: Path) -> None:
    rng = random.Random(0)
    texts = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOP0123456789", k=1200)) for _ in range(8000)]
    written = []
    for name, version in (("one", texts), ("two", ["a new text in front of all others", *texts])):
        (tmp_path / name).mkdir()
        [(path, count)] = _write_shards(iter([table(version)]), tmp_path / name, 1 << 30)
        assert count == len(version)
        written.append(path.read_bytes())
    # Stretches of 64 bytes that are found in the other version, wherever they lie.
    places = range(0, len(written[1]) - 64, len(written[1]) // 200)
    found = sum(written[1][place : place + 64] in written[0] for place in places)
    assert found / len(places) > 0.6


def test_row_groups_and_with_them_the_bytes_depend_on_the_rows_alone(tmp_path: Path) -> None:
    whole = table([f"text {i}" for i in range(ROW_GROUP_ROWS + 50)])
    pieces = [whole.slice(start, 333) for start in range(0, whole.num_rows, 333)]
    contents = []
    for name, tables in (("whole", [whole]), ("pieces", pieces)):
        (tmp_path / name).mkdir()
        [(path, _)] = _write_shards(iter(tables), tmp_path / name, 1 << 30)
        contents.append(path.read_bytes())
    assert contents[0] == contents[1]
    assert pq.read_metadata(path).num_row_groups == 2
