import os
import signal
import sqlite3
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from configs.load import save_config
from curation.evaluation.records import ITEMS_FILE, read_result
from curation.evaluation.run import run_evaluate
from student.pools.inline import InlinePool
from student.records import Outcome
from tests.processes import happens


def start(config_file, run):
    command = [sys.executable, "-m", "curation.cli", "evaluate", str(config_file), f"run.dir={run}"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finished(run):
    found = list(run.glob("evaluation/students/*/journal/outcomes.sqlite"))
    if not found:
        return 0
    try:
        with sqlite3.connect(found[0]) as db:
            return db.execute("SELECT count(*) FROM outcomes").fetchone()[0]
    except sqlite3.OperationalError:  # not made yet
        return 0


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_and_ends_the_same(make_config, shop_file, tmp_path):
    config = make_config(
        student={"max_slots": 2, "steps": 60},
        evaluation={"arms": ["none", "repeated", "untrained", f"file:{shop_file}"], "seeds": 3},
    )
    file = tmp_path / "evaluate.yaml"
    save_config(config, file)
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = start(file, killed)
    happens(lambda: finished(killed) >= 6, alive=lambda: process.poll() is None)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    before = finished(killed)
    assert 6 <= before < 48, "it was killed in the middle"
    assert read_result(killed) is None
    second = start(file, killed)
    said, _ = second.communicate()
    assert second.returncode == 0, said
    other = config.model_copy(update={"run": config.run.model_copy(update={"dir": whole})})
    undisturbed = run_evaluate(other)
    assert read_result(killed).model_copy(update={"seconds": undisturbed.seconds}) == undisturbed
    assert pq.read_table(killed / ITEMS_FILE) == pq.read_table(whole / ITEMS_FILE)


def test_an_interrupted_evaluation_trains_only_the_rest(make_config, monkeypatch):
    config = make_config(student={"max_slots": 2}, evaluation={"arms": ["none", "repeated"]})
    examine, trained = InlinePool.examine, []

    def interrupted(pool, jobs, on_done=None):
        def two_batches(found):
            on_done(found)
            trained.append(len(found))
            if len(trained) == 2:
                raise KeyboardInterrupt

        return examine(pool, jobs, two_batches)

    monkeypatch.setattr(InlinePool, "examine", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_evaluate(config)
    assert read_result(config.run.dir) is None
    asked = []
    monkeypatch.setattr(
        InlinePool, "examine", lambda pool, jobs, on_done=None: asked.append(len(jobs)) or examine(pool, jobs, on_done)
    )
    (student,) = run_evaluate(config).students.values()
    assert asked == [16 - sum(trained)]
    assert student.arms["repeated"].together.failed == 0


def test_failed_students_are_counted_and_left_out(make_config, monkeypatch):
    examine = InlinePool.examine

    def failing(pool, jobs, on_done=None):
        outcomes = examine(pool, jobs)
        bad = [bool(job.lesson.texts) and "in the shop 0" in job.lesson.texts[0] for job in jobs]
        return [
            Outcome(gain=None, error="the loss is not finite") if b else o for b, o in zip(bad, outcomes, strict=True)
        ]

    monkeypatch.setattr(InlinePool, "examine", failing)
    (student,) = run_evaluate(make_config(evaluation={"arms": ["none", "repeated"]})).students.values()
    assert student.arms["repeated"].together.failed == 2
    assert student.arms["none"].together.failed == 0
    assert student.arms["repeated"].together.gain.n == 6
    (gain, _) = student.comparisons
    assert gain.difference.n == 6, "compared where both sides' students ran"


@pytest.mark.slow
def test_two_students_in_two_processes(make_config, student_folder, teacher_folder):
    models = [str(student_folder), str(teacher_folder)]
    settings = {"arms": ["none", "repeated"], "students": models, "seeds": 1}
    config = make_config(evaluation=settings | {"workers": 2})
    result = run_evaluate(config)
    assert [student.model for student in result.students.values()] == models
    assert result.correction.families["together/gain"] == 2, "one family over all students"
    alone = make_config(evaluation=settings, run={"dir": config.run.dir.with_name("alone")})
    found = run_evaluate(alone)
    for label, student in result.students.items():
        mean = student.arms["repeated"].together.gain.mean
        assert mean == pytest.approx(found.students[label].arms["repeated"].together.gain.mean, abs=1e-4)


def test_every_student_gets_a_teacher_of_its_own(make_config, shop_file, tmp_path):
    train = tmp_path / "train.jsonl"
    train.write_text(shop_file.read_text().replace("in the shop", "the shop in"))
    config = make_config(
        data={"train": [str(train)], "heldout": [str(shop_file)]},
        rl={"rewrites_per_lesson": 2, "rounds": 1, "documents_per_round": 4, "group_size": 2, "learning_rate": 0.01},
        evaluation={"arms": ["repeated", "untrained", "trained"], "teacher_for": "each", "seeds": 1},
    )
    result = run_evaluate(config)
    (student,) = result.students.values()
    assert student.teacher.endswith("checkpoint-0001")
    assert student.arms["trained"].words == "trained teacher, one training run"
    (of_intervals,) = (note for note in result.notes if note.startswith("Intervals are"))
    assert "those of a trained teacher are of one training run" in of_intervals
    pairs = {(c.arm, c.against) for c in student.comparisons}
    assert pairs == {("untrained", "repeated"), ("trained", "repeated"), ("trained", "untrained")}
    again = run_evaluate(config)
    assert again.students.popitem()[1] == student


def test_interrupted_edits_go_on_and_end_the_same(make_config, shop_file, tmp_path, monkeypatch):
    """Cut short in each of two calls; the merged models that are left are those that the rest starts from."""
    evaluation = {"arms": ["repeated", f"file:{shop_file}"], "edits": 3, "sequences": 2}
    config = make_config(evaluation=evaluation)
    keep, kept = InlinePool.keep, []

    def interrupted(pool, job, folder):
        kept.append(job)
        if len(kept) in (3, 7):
            raise KeyboardInterrupt
        return keep(pool, job, folder)

    monkeypatch.setattr(InlinePool, "keep", interrupted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run_evaluate(config)
    resumed = run_evaluate(config)
    assert len(kept) == 2 * (2 * 3 - 1) + 2, "each edit once, but for the two that were cut short"
    assert not list(config.run.dir.glob("evaluation/students/*/edits/*/*/*.safetensors"))
    whole = run_evaluate(make_config(evaluation=evaluation, run={"dir": tmp_path / "whole"}))
    assert resumed.model_copy(update={"seconds": whole.seconds}) == whole
