import dataclasses
import json
import math
import subprocess
import sys

import pytest

from configs.errors import UserError
from configs.files import read_json_lines
from student.records import Answer, Exam, Job, Lesson, Outcome, Question, Segment
from teacher.run.journal import Journal, outcome_key

JOB = Job(
    lesson=Lesson(
        texts=("gold", (Segment("prompt", "iron"), Segment("output", "salt"))), document_ids=("a", "b"), seed=3
    ),
    exam=Exam(questions=(Question(prompt="what ?", answer="gold", document_id="a"),), retention_texts=("old",)),
)
OUTCOME = Outcome(
    gain=0.1 + 0.2,
    metrics={"steps": 4, "loglik_after": -1 / 3},
    answers=(
        Answer(
            loglik_before=-2 / 3, loglik_after=-1 / 3, correct_before=False, correct_after=True, extra={"bpb": 1e-300}
        ),
    ),
)


def line(step: int) -> dict:
    return {"kind": "step", "round": 1, "step": step, "reward/mean": 0.5}


def test_a_line_that_a_resumed_run_repeats_is_skipped(tmp_path):
    with Journal(tmp_path) as journal:
        assert journal.metric(line(1))
        assert journal.metric(line(2))
        assert journal.metric({"kind": "heldout", "round": 2, "arm": "raw"})
    with Journal(tmp_path) as journal:
        assert not journal.metric(line(2) | {"reward/mean": 0.7})
        assert journal.metric({"kind": "heldout", "round": 2, "arm": "trained"})
        assert journal.metric(line(3))
    records = read_json_lines(tmp_path / "journal" / "metrics.jsonl")
    assert [record.get("step") for record in records if record["kind"] == "step"] == [1, 2, 3]
    assert all(record["time"] > 1e9 for record in records)


def test_a_torn_last_line_is_dropped_with_a_note_and_written_again(tmp_path):
    with Journal(tmp_path) as journal:
        journal.metric(line(1))
        journal.metric(line(2))
    path = tmp_path / "journal" / "metrics.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    assert len(read_json_lines(path)) == 1
    with Journal(tmp_path) as journal:
        assert "torn" in journal.notes[0]
        assert journal.metric(line(2))
    assert [record["step"] for record in read_json_lines(path)] == [1, 2]


def test_numbers_that_json_cannot_hold_become_null(tmp_path):
    with Journal(tmp_path) as journal:
        journal.metric(line(1) | {"reward/low": math.nan, "penalties": {"length": math.inf}})
    text = (tmp_path / "journal" / "metrics.jsonl").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert json.loads(text)["reward/low"] is None


def test_an_outcome_comes_back_to_the_bit(tmp_path):
    key = outcome_key("pool", JOB)
    with Journal(tmp_path) as journal:
        assert journal.outcomes.get_many([key]) == {}
        journal.outcomes.put_many({key: OUTCOME, "failed": Outcome(gain=None, error="out of memory")})
    with Journal(tmp_path) as journal:
        assert journal.outcomes.get_many([key, "failed"]) == {key: OUTCOME}, "a failed student is run again"
        assert len(journal.outcomes) == 1


def test_the_key_covers_all_that_the_outcome_depends_on():
    changes = [
        dataclasses.replace(JOB, lesson=dataclasses.replace(JOB.lesson, seed=4)),
        dataclasses.replace(JOB, lesson=dataclasses.replace(JOB.lesson, steps=9)),
        dataclasses.replace(JOB, lesson=dataclasses.replace(JOB.lesson, texts=("gold", "ironsalt"))),
        dataclasses.replace(JOB, exam=Exam(questions=JOB.exam.questions)),
    ]
    keys = {outcome_key("pool", job) for job in [JOB, *changes]} | {outcome_key("other", JOB)}
    assert len(keys) == 6
    assert outcome_key("pool", dataclasses.replace(JOB)) == outcome_key("pool", JOB)


def test_two_processes_cannot_work_in_one_run(tmp_path):
    with Journal(tmp_path), pytest.raises(UserError, match="another process"):
        Journal(tmp_path)
    Journal(tmp_path).close()


WRITE_UNTIL_KILLED = """
import sys
from pathlib import Path
from student.records import Outcome
from teacher.run.journal import Journal
with Journal(Path(sys.argv[1])) as journal:
    for step in range(10**6):
        journal.metric({"kind": "step", "round": 1, "step": step})
        journal.outcomes.put_many({str(step): Outcome(gain=0.5)})
        if step == 50:
            print("ready", flush=True)
"""


def test_what_was_written_before_kill_9_is_there_after_it(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", WRITE_UNTIL_KILLED, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    process.kill()
    process.communicate()
    with Journal(tmp_path) as journal:
        steps = [record["step"] for record in read_json_lines(journal.metrics.path)]
        assert steps == list(range(len(steps)))
        assert len(steps) > 50
        assert len(steps) - 1 <= len(journal.outcomes) <= len(steps)
