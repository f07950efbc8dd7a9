"""The bench of the student pool: its simulation by arithmetic, and that it runs."""

import json

import pytest

from configs.errors import UserError
from curation.bench import pool as pool_bench
from curation.bench.pool_simulation import GPUS, Costs, scaling, simulate

FREE = Costs(batch=0.0, student=1.0, spread=0.0, deal_batch=0.0, deal_student=0.0)
EQUAL = [1.0] * 8192


def test_equal_students_on_actors_that_cost_nothing_else_scale_without_loss():
    found = scaling(EQUAL, FREE, teacher_share=0.0)
    assert [point["gpus"] for point in found["points"]] == list(GPUS)
    assert all(point["efficiency"] == pytest.approx(1.0) for point in found["points"])
    assert found["points"][-1]["students_per_second"] == pytest.approx(512)
    assert found["bends_at"] is found["why"] is found["round_bends_at"] is None


@pytest.mark.parametrize(
    ("lengths", "changes", "why"),
    [
        (EQUAL, {"deal_student": 0.01}, "dealing"),
        (EQUAL, {"batch": 20.0}, "small_batches"),
        ([500.0, *[1.0] * 8191], {}, "tail"),
    ],
)
def test_the_cause_that_bends_scaling_is_named(lengths, changes, why):
    costs = Costs(**{"batch": 0.0, "student": 1.0, "spread": 0.0, "deal_batch": 0.0, "deal_student": 0.0} | changes)
    found = scaling(lengths, costs, teacher_share=0.0)
    assert found["why"] == why
    assert GPUS[0] < found["bends_at"] <= GPUS[-1]
    if why == "dealing":  # whatever the number of actors, one process deals
        assert all(point["students_per_second"] <= 100 for point in found["points"])


def test_the_teacher_bends_the_round_where_the_students_still_scale():
    found = scaling(EQUAL, FREE, teacher_share=0.1)
    assert found["bends_at"] is None
    first, second = (point["round_efficiency"] for point in found["points"][:2])
    assert first == pytest.approx(0.9)
    assert second == pytest.approx(0.45 / (0.45 + 0.1)), "Amdahl"
    assert found["round_bends_at"] == 32


def test_the_parts_of_the_actors_time_add_up():
    costs = Costs(batch=2.0, student=1.0, spread=0.3, deal_batch=0.1, deal_student=0.02)
    lengths = [1.0 + (n % 7) / 7 for n in range(3000)]
    found = simulate(lengths, 64, costs, seed=1)
    assert found.students + found.batches + found.dealing + found.tail == pytest.approx(64 * found.makespan)
    assert found == simulate(lengths, 64, costs, seed=1) != simulate(lengths, 64, costs, seed=2)


def test_the_teachers_share_comes_from_a_runs_journal(tmp_path):
    journal = tmp_path / "journal"
    journal.mkdir()
    lines = [{"kind": "update", "seconds/round": 10.0, "seconds/students": s} for s in (6.0, 8.0)]
    (journal / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert pool_bench._teacher_share(tmp_path) == pytest.approx(0.3)
    with pytest.raises(UserError, match="no round in its journal"):
        pool_bench._teacher_share(tmp_path / "other")


@pytest.mark.slow
def test_the_bench_runs(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setattr(pool_bench, "QUEUE", 640)
    result = pool_bench.run_bench(students=64, steps=1, repeats=1, progress=lambda _: None)
    assert set(result["students_per_second"]) == {"inline", "inline_1", "actors_1", "actors_2"}
    assert result["queue"]["jobs"] == 640
    assert 0 < result["overhead_share"] < 1
    assert "students/s" in pool_bench.table(json.loads(json.dumps(result, allow_nan=False)))
