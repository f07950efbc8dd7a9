"""The bench of the student pool: that it runs."""

import json

import pytest

from curation.bench import pool as pool_bench


@pytest.mark.slow
def test_the_bench_runs(monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setattr(pool_bench, "QUEUE", 640)
    result = pool_bench.run_bench(students=64, steps=1, repeats=1, progress=lambda _: None)
    assert set(result["students_per_second"]) == {"inline", "inline_1", "actors_1", "actors_2"}
    assert result["queue"]["jobs"] == 640
    assert 0 < result["overhead_share"] < 1
    assert "students/s" in pool_bench.table(json.loads(json.dumps(result, allow_nan=False)))
