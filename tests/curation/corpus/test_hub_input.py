"""Curating a dataset of the Hub, read as a stream from a Hub on the loopback."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants as hub_constants
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import HfFileSystem

from curation.corpus.finding import find_shards
from curation.pipeline.curate import curate
from tests.curation.datasets import data_rows, manifest_of, rows
from tests.curation.export.hub_server import Blob, HubServer, Repo, running
from tests.curation.pipeline.test_echo import consistent, echo_config


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    with running() as found:
        monkeypatch.setattr(hub_constants, "ENDPOINT", found.url)
        monkeypatch.setattr(
            hub_constants, "HUGGINGFACE_CO_URL_TEMPLATE", found.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(hub_constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setenv("HF_TOKEN", "hf_writer")
        # File systems are kept for the life of a process; this one is of this server.
        HfFileSystem.clear_instance_cache()
        yield found
        HfFileSystem.clear_instance_cache()


def parquet(records: list[dict], folder: Path) -> bytes:
    path = folder / "made.parquet"
    pq.write_table(pa.Table.from_pylist(records), path)
    return path.read_bytes()


def test_a_dataset_of_the_hub_is_curated(tmp_path: Path, server: HubServer) -> None:
    packed = gzip.compress("".join(json.dumps(row) + "\n" for row in rows(5, 40)).encode(), mtime=0)
    repo = Repo(private=True)
    repo.commit(
        repo.files
        | {
            "README.md": Blob(b"---\nlicense: mit\n---\n# pages", False),
            "data/train-00000-of-00002.parquet": Blob(parquet(rows(20), tmp_path), True),
            "data/train-00001-of-00002.parquet": Blob(parquet(rows(10, 20), tmp_path), True),
            "more/extra.jsonl.gz": Blob(packed, False),
        }
    )
    server.repos["dataset", "me/pages"] = repo
    names = [shard.name for shard in find_shards(("hf://datasets/me/pages",))]
    assert names == ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "more/extra.jsonl.gz"]
    config = echo_config(tmp_path, tmp_path / "out")
    named = config.curation.model_copy(update={"input": ("hf://datasets/me/pages",)})
    config = config.model_copy(update={"curation": named})
    summary = curate(config)
    assert (summary.documents_in, summary.rows_out) == (35, 35) and consistent(manifest_of(config))
    expected = [row["text"] for row in [*rows(20), *rows(10, 20), *rows(5, 40)]]
    assert [row["text"] for row in data_rows(config)] == expected
    assert {row["source_file"] for row in data_rows(config)} == set(names)
    # A finished dataset is known again by what the Hub says of the files, and other content is another run's.
    assert curate(config).resumed == 35
    [only] = find_shards(("hf://datasets/me/pages/more/*.gz",))
    assert only.name == "extra.jsonl.gz" and only.url.startswith("hf://datasets/me/pages/more/")
