"""What datatrove 0.10 by itself does to a corpus, with exit code 0, and the test that shows that a curation does not:

a row of other types than the first     -> lost            | test_rows_of_any_type, here
equal ids, then a resume                -> lost, doubled   | test_echo.test_random_kills_change_nothing, test_chaos
the same folder with another config     -> rows mixed      | test_curate.test_another_config_is_refused_...
parent killed, started again at once    -> lost, torn      | test_curate.test_kill_9_half_way_then_rerun, test_chaos
a killed worker                         -> hangs for ever  | test_workers, test_curate.test_kill_9_of_one_worker_...
one undecodable byte                    -> rest dropped    | test_shards.test_a_bad_row_costs_that_row, test_chaos
a truncated archive or Parquet file     -> other tasks die | test_echo.test_one_bad_file_costs_itself, test_shards
a file that fails while it is read      -> rest dropped    | test_a_file_that_cannot_be_read_for_a_while, here
the counts after a resume               -> of its last run | test_curate, test_chaos: the manifests are equal
a step that raises                      -> texts in logs   | test_no_text_in_logs, here
HTTP 429 or 503 of an endpoint          -> the rank dies   | test_endpoint.test_storms_torn_replies_...
an endpoint that never answers          -> hangs for ever  | test_endpoint.test_a_reply_that_does_not_come_is_given_up
an endpoint's key                       -> in its logs     | test_endpoint.test_a_key_comes_from_the_environment_...
a Ray task that raises                  -> ends well       | test_executors.test_errors_on_a_ray_cluster_come_out
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from configs.errors import RunError
from curation.corpus.shards import BadRow
from curation.pipeline import reader, steps
from curation.pipeline.curate import curate
from tests.curation.datasets import data_bytes, data_rows, manifest_of, rows, write_jsonl
from tests.curation.pipeline.test_echo import consistent, echo_config


def test_rows_of_any_type(tmp_path: Path) -> None:
    ids = ["one", 2, 3.5, True, None, ["a", 1], {"a": None}]
    licences = ["mit", None, ["cc0"], 4, {"name": "mit"}, True]
    written = [
        row | {"id": ids[i % len(ids)], "licence": licences[i % len(licences)], "extra": [i, "x", {}, None][i % 4]}
        for i, row in enumerate(rows(100))
    ]
    write_jsonl(tmp_path / "in/a.jsonl", written)
    config = echo_config(tmp_path / "in", tmp_path / "out")
    summary = curate(config)
    assert summary.rows_out == summary.documents_in == 100 and consistent(manifest_of(config))
    assert [row["text"] for row in data_rows(config)] == [row["text"] for row in rows(100)]
    assert [row["source_id"] for row in data_rows(config)[:5]] == ["one", "2", "3.5", "True", None]


def test_a_file_that_cannot_be_read_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_jsonl(tmp_path / "in/a.jsonl", rows(100))
    config, undisturbed = (echo_config(tmp_path / "in", tmp_path / name) for name in ("out", "undisturbed"))
    curate(undisturbed)
    real = reader.read_shard

    def breaking(*given: Any) -> Iterator[Any]:
        for number, item in enumerate(real(*given)):
            if number == 60:
                # What the reader makes of an error of the store.
                yield BadRow(None, "cannot be read (Input/output error)", "")
                return
            yield item

    with monkeypatch.context() as patch:
        patch.setattr(reader, "read_shard", breaking)
        with pytest.raises(RunError, match=r"a\.jsonl gave 60 documents, and 100 when it was checked \(cannot be read"):
            curate(config)
    # Whole batches of 8 alone are kept: a shorter one would move the others.
    assert curate(config).resumed == 56
    assert data_bytes(config) == data_bytes(undisturbed) and manifest_of(config) == manifest_of(undisturbed)


def test_no_text_in_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    private = "the patient of room nine"
    write_jsonl(tmp_path / "in/a.jsonl", [{"text": private}])
    config = echo_config(tmp_path / "in", tmp_path / "out", "gates.min_words=1")

    def failing(rewriter: Any, teacher: Any, requests: list[Any], *given: Any, **more: Any) -> None:
        text = requests[0].document.text
        raise KeyError(len(text))

    monkeypatch.setattr(steps, "write", failing)
    with pytest.raises(KeyError):
        curate(config)
    said = capfd.readouterr()
    kept = [path.read_bytes() for path in tmp_path.rglob("out/**/*") if path.is_file()]
    assert kept and private not in said.err + said.out and not any(private.encode() in content for content in kept)
