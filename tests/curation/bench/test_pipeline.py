"""The bench of curation: its corpus, the count of every row, and its figures."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.errors import RunError
from curation.bench import pipeline as curation_bench
from curation.bench import vllm as vllm_bench
from curation.bench.pipeline import check_rows, run_bench, table
from curation.bench.pipeline_corpus import Corpus, row_places, write_corpus
from curation.cli import main
from curation.corpus.finding import find_shards
from curation.corpus.shards import read_shard
from curation.pipeline.curate import curate
from curation.pipeline.manifest import read_manifest, write_manifest
from tests.curation.pipeline.test_echo import echo_config


def curated(folder: Path, rows: int) -> tuple[Corpus, Path]:
    corpus = write_corpus(folder, rows)
    config = echo_config(corpus.folder, folder / "out", f"curation.benchmarks=[file:{corpus.quiz}]",
                         "curation.dedup=exact", "curation.filters.secrets=true", batch_size=64)  # fmt: skip
    curate(config)
    return corpus, config.curation.output


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Corpus, Path]:
    return curated(tmp_path_factory.mktemp("bench"), 300)


def test_the_corpus_has_the_counts_and_lengths_that_it_states(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "one", 250)
    assert (corpus.rows, corpus.filtered, corpus.quarantined) == (250, 7, 6)
    shards = find_shards((str(corpus.folder),))
    assert len(shards) == 8 and len({shard.name.partition(".")[2] for shard in shards}) == 4
    texts = [[getattr(item, "text", None) for item in read_shard(shard)] for shard in shards]
    assert sum(map(len, texts)) == 250
    again = write_corpus(tmp_path / "two", 250)
    assert [[getattr(i, "text", None) for i in read_shard(s)] for s in find_shards((str(again.folder),))] == texts
    lengths = sorted(len(text.split()) for file in texts for text in file if text and not text.startswith("row "))
    assert 200 < lengths[len(lengths) // 2] < 300, "half of the documents have 250 words or fewer"


def test_every_row_is_found_once(finished: tuple[Corpus, Path]) -> None:
    corpus, output = finished
    assert check_rows(output, corpus) == {
        "rows_in": 300, "rows_out": 300 - corpus.filtered - corpus.quarantined, "rows_filtered": corpus.filtered,
        "rows_quarantined": corpus.quarantined, "rows_failed": 0,
    }  # fmt: skip
    assert len(set(row_places(output, read_manifest(output)))) == 300


def lose_a_row(output: Path) -> None:
    path = output / read_manifest(output)["shards"][0]["path"]
    pq.write_table(pq.read_table(path).slice(1), path)


def double_a_row(output: Path) -> None:
    path = output / read_manifest(output)["shards"][0]["path"]
    table = pq.read_table(path)
    pq.write_table(pa.concat_tables([table.slice(1), table.slice(5, 1)]), path)


def lose_a_refusal(output: Path) -> None:
    lines = (output / "quarantine.jsonl").read_bytes().splitlines(keepends=True)
    (output / "quarantine.jsonl").write_bytes(b"".join(lines[1:]))


def miscount(output: Path) -> None:
    manifest = read_manifest(output)
    manifest["files"][0]["documents_in"] += 1
    write_manifest(output, manifest)


@pytest.mark.parametrize("harm", [lose_a_row, double_a_row, lose_a_refusal, miscount])
def test_a_row_that_is_not_exact_is_an_error(tmp_path: Path, harm) -> None:
    corpus, output = curated(tmp_path, 100)
    check_rows(output, corpus)
    harm(output)
    with pytest.raises(RunError, match="the curated rows are not exact"):
        check_rows(output, corpus)


def test_linearity_of_a_straight_and_a_square_cost() -> None:
    def point(rows: int, seconds: float) -> dict[str, float]:
        return {"rows_in": rows, "cpu_seconds": seconds, "ms_per_document": 1000 * seconds / rows}

    straight = curation_bench._linearity([point(1000, 4.0), point(4000, 13.0), point(16_000, 49.0)])
    assert straight["slope_ms"] == pytest.approx(3.0) and straight["fixed_seconds"] == pytest.approx(1.0)
    assert straight["worst_residual"] == pytest.approx(0.0, abs=1e-9) and straight["ratio"] < 1
    square = curation_bench._linearity([point(1000, 1.0), point(4000, 16.0), point(16_000, 256.0)])
    assert square["ratio"] == 16 and square["worst_residual"] > 0.5


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_small_bench_measures_and_counts() -> None:
    """The real thing on three small corpora, each in a process of its own."""
    found = run_bench(400, vllm=False, progress=lambda _: None)
    keys = ("rows_in", "rows_out", "rows_quarantined", "ms_per_document", "peak_memory_mb", "vllm_ratio")
    assert set(keys) <= set(found) and found["rows_exact"]
    assert (found["rows_in"], found["rows_out"], found["rows_quarantined"]) == (400, 380, 8)
    assert [point["rows_in"] for point in found["sizes"]] == [100, 400]
    # A thousand times the target would be a mistake in the measurement.
    assert 0.1 < found["ms_per_document"] < 5000 and 50 < found["peak_memory_mb"] < 1500
    assert "every row once: 400 in = 380 out + 12 filtered + 8 quarantined + 0 failed" in table(found)
    assert "vLLM: not measured: --no-vllm" in table(found)
    json.dumps(found, allow_nan=False)


def test_the_bench_fails_where_its_curation_fails(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(curation_bench, "SETTINGS", ("curation.nonsense=1",))
    assert main(["bench", "curate", "--rows", "800", "--no-vllm"]) == 1
    assert "the curation that was measured ended with code" in capsys.readouterr().err


def test_the_note_says_what_is_missing_for_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_bench, "find_vllm", lambda: "python")
    monkeypatch.setattr(vllm_bench, "FOLDER", tmp_path)
    assert vllm_bench.missing_requirement() == f"{tmp_path} is not there: `make smollm2`"
    assert curation_bench._measure_vllm(None, print)["vllm_note"].startswith("not measured: ")
    (tmp_path / "config.json").write_text("{}")
    assert vllm_bench.missing_requirement() is None


def test_each_turn_has_documents_of_its_own() -> None:
    texts = list(vllm_bench._texts(1, 4))
    assert len(set(texts)) == 4 and all(100 < len(text.split()) < 260 for text in texts)
    assert not set(texts) & set(vllm_bench._texts(2, 4)) and list(vllm_bench._texts(1, 4)) == texts
