import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from curation.cli import main
from curation.teacher_bench import STUDENTS, units
from curation.teacher_controls import ShuffledPool
from curation.teacher_verdict import print_summary, summarise
from student.records import Exam, Job, Lesson, Outcome, Question

PEOPLE = [f"person-{number}" for number in range(48)]
BATCHES = {name: number // 8 for number, name in enumerate(PEOPLE)}


def arm(level):
    values = {name: level + 0.01 * (number % 5) for number, name in enumerate(PEOPLE)}
    return {"gains": {name: 6 * value for name, value in values.items()}, "accuracies": values, "batches": BATCHES}


def run(trained, strategy, old=None):
    """A unit's result; `strategy` is what its trained teacher writes."""
    found = {
        "arms": {"raw": arm(0.1), "untrained": arm(0.4), "trained": arm(trained)},
        "strategies": {
            "untrained": {name: {"copy": 5} for name in PEOPLE},
            "trained": {name: {strategy: 5} for name in PEOPLE},
        },
        "student_runs": 100,
        "seconds": 1.0,
    }
    return found | (
        {
            "retention_weight": 1.0,
            "old_accuracy": {"trained": {"before": [1.0] * 6, "after": [old - 0.01, old, old + 0.01] * 2}},
        }
        if old
        else {}
    )


def results(trained=0.95, shuffled=0.4, second="permuted", old=0.9):
    found = {}
    for student, strategy in zip(STUDENTS, ("question-answer", second), strict=True):
        for seed in range(3):
            found[f"{student}/rest_em-{seed}"] = run(trained, strategy)
            found[f"{student}/dpo-{seed}"] = run(trained - 0.1, strategy)
        found[f"{student}/shuffled"] = run(0.4, "copy")
        found[f"{student}/shuffled"]["arms"]["last_round"] = arm(shuffled)
        found[f"{student}/strategies"] = {"strategy_arms": {strategy: arm(0.97), "copy": arm(0.1)}}
    found["student-fixed/retention-without"] = run(trained, "question-answer", old=0.6)
    found["student-fixed/retention-with"] = run(trained, "permuted", old=old)
    return found | {"planted": {"carried": 4, "gated": 4, "clean": 4, "clean_gated": 0}}


def test_every_claim_holds_where_the_runs_show_it():
    found = summarise(results())
    assert all(found["claims"].values())
    assert len(found["claims"]) == 15
    fixed = found["students"]["student-fixed"]
    assert (fixed["algorithm"], fixed["dominant_strategy"]) == ("rest_em", "question-answer")
    assert fixed["trained"]["low"] <= fixed["trained"]["mean"] <= fixed["trained"]["high"]
    assert fixed["trained_minus_raw"]["gain"]["verdict"] == "better"
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    shown = io.StringIO()
    print_summary(found, Console(file=shown, width=200))
    assert "question-answer 100%" in shown.getvalue()


@pytest.mark.parametrize(
    ("changed", "claim"),
    [
        ({"trained": 0.4}, "trained beats untrained"),
        ({"trained": 0.8}, "accuracy of 0.85"),
        ({"shuffled": 0.6}, "shuffled rewards do not improve"),
        ({"second": "filler"}, "junk below 2%"),
        ({"second": "question-answer"}, "mixes differ"),
        ({"old": 0.7}, "retention penalty"),
    ],
)
def test_a_claim_fails_where_the_runs_do_not_show_it(changed, claim):
    claims = summarise(results(**changed))["claims"]
    assert not all(holds for name, holds in claims.items() if claim in name)


def test_the_quick_bench_is_one_algorithm_and_seed_on_both_students():
    names = [unit.name for unit in units(1, True, [])]
    assert names == [
        "student-fixed/rest_em-0", "student-augmented/rest_em-0", "student-fixed/shuffled",
        "student-augmented/shuffled",
        "student-fixed/strategies", "student-augmented/strategies", "planted",
    ]  # fmt: skip
    assert len({unit.name for unit in units(3, False, [])}) == 29


class Counting:
    """Students whose gain is the number in what they read."""

    fingerprint = "counting"

    def examine(self, jobs, on_done=None):
        return [Outcome(gain=float(job.lesson.texts[0].split()[1])) for job in jobs]


def test_shuffled_students_gain_the_same_in_other_places():
    students = Counting()
    pool = ShuffledPool(students)
    exam = Exam(questions=(Question(prompt="what?", answer="gold", document_id="a"),))
    jobs = [Job(lesson=Lesson(texts=(f"text {n}",), document_ids=("a",), seed=1), exam=exam) for n in range(8)]
    jobs += [replace(job, lesson=replace(job.lesson, seed=2)) for job in jobs]
    straight, dealt = students.examine(jobs), pool.examine(jobs)
    assert [o.gain for o in dealt] != [o.gain for o in straight]
    for part in (slice(0, 8), slice(8, 16)):
        assert sorted(o.gain for o in dealt[part]) == sorted(o.gain for o in straight[part])
    assert pool.fingerprint != students.fingerprint


@pytest.mark.slow
def test_the_bench_runs_from_nothing_and_goes_on(tmp_path, capfd):
    """On a lab of poor models: nothing is claimed of the figures, only that all units run and are not run again."""
    folder = tmp_path / "bench"
    small = [
        "lab.effort=0.02",
        f"lab.dir={tmp_path / 'lab'}",
        "rl.rounds=1",
        "rl.documents_per_round=8",
        "student.steps=4",
    ]
    small += ["student.steps=4", "rl.group_size=3", "rl.validation_documents=0", "data.heldout_limit=8"]
    small += ["rl.rewrites_per_lesson=2"]
    small += [f"data.{name}=[{tmp_path / 'lab/shards' / name}.jsonl]" for name in ("train", "heldout")]
    small += [f"teacher.model={tmp_path / 'lab/teacher'}", "gates.truncated=false"]
    arguments = ["bench", "teacher", "--quick", "--json", "--dir", str(folder), *small]
    assert main(arguments) == 0
    found = json.loads(capfd.readouterr().out.strip().splitlines()[-1])
    assert set(found["students"]) == set(STUDENTS)
    for student in STUDENTS:  # nothing validates, so that the last round is the one that was kept
        arms = json.loads((folder / student / "shuffled" / "result.json").read_text())["arms"]
        assert arms["last_round"] == arms["trained"]
    stamps = {path: path.stat().st_mtime_ns for path in folder.glob("**/result.json")}
    assert len(stamps) == 7
    next(iter(sorted(stamps))).unlink()
    assert main(arguments) == 0
    again = json.loads(capfd.readouterr().out.strip().splitlines()[-1])
    assert again["students"]["student-fixed"]["trained"] == found["students"]["student-fixed"]["trained"]
    assert sum(path.stat().st_mtime_ns != stamp for path, stamp in stamps.items()) == 1
