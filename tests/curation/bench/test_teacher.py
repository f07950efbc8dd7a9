import io
import json
import random
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from configs.schema import Config
from curation.bench.teacher import _copy_outcomes, begun_design, changed_design, read_design, unit_config, units
from curation.bench.teacher_controls import ShuffledPool
from curation.bench.teacher_report import print_summary, summarise
from curation.cli import main
from student.records import Answer, Exam, Job, Lesson, Outcome, Proof, Question, mean_gain
from teacher.run.journal import Journal

DESIGN = read_design()
PEOPLE = [f"person-{number}" for number in range(96)]
BATCHES = {name: number // 8 for number, name in enumerate(PEOPLE)}


def arm(level, run=0):
    rng = random.Random(f"{level} {run}")
    values = {name: level + rng.uniform(-0.05, 0.05) for name in PEOPLE}
    return {"gains": {name: 6 * value for name, value in values.items()}, "accuracies": values, "batches": BATCHES}


def trained_run(level, strategy, run=0):
    """A unit's result; `strategy` is what its trained teacher writes."""
    return {
        "arms": {"raw": arm(0.1), "untrained": arm(0.4, run), "trained": arm(level, run + 100)},
        "strategies": {
            "untrained": {name: {"copy": 5} for name in PEOPLE},
            "trained": {name: {strategy: 5} for name in PEOPLE},
        },
        "student_runs": 100,
        "best_round": 2,
        "seconds": 1.0,
    }


def results(level=0.9, shuffled=0.4, second="permuted", runs=None):
    found = {}
    for student, strategy in zip(DESIGN.students, ("question-answer", second), strict=True):
        for name, number in DESIGN.runs.items():
            of_kind = (shuffled, "copy") if name == "shuffled" else (level, strategy)
            found |= {f"{student}/{name}-{run}": trained_run(*of_kind, run) for run in range(runs or number)}
        alone = {strategy: arm(0.9), "copy": arm(0.1), "raw": arm(0.95)}
        found[f"{student}/strategies"] = {"strategy_arms": alone}
    for weight in DESIGN.retention_weights:
        old = {"trained": {"before": [1.0] * 12, "after": [0.6 + weight / 100] * 12}}
        kept = {"retention_weight": weight, "old_accuracy": old}
        found[f"{DESIGN.students[0]}/retention-{weight:g}"] = trained_run(level, "permuted") | kept
    counts = {"carried": 4, "carried_by_the_teacher": 0, "gated": 4, "clean": 4, "clean_gated": 0}
    return found | {"planted": counts | {"seconds": 1.0, "settings": "abc"}}


def summary(design=DESIGN, overrides=(), begun=None, **changes):
    return summarise(design, DESIGN, begun or design.model_dump(mode="json"), overrides, results(**changes))


def verdicts(summary, against, measure="gain"):
    return {c["verdict"] for c in summary["comparisons"] if c["against"] == against and c["measure"] == measure}


def test_the_summary_holds_design_comparisons_and_controls():
    found = summary()
    assert found["design"]["runs"] == DESIGN.runs and found["departures"] == []
    assert found["preset"]["rl"]["rounds"] == 3 and found["design"]["level"] == 0.05
    per_measure = len(DESIGN.students) * (2 * len(DESIGN.algorithms) + 1)
    assert len(found["comparisons"]) == 2 * per_measure
    for against in ("raw", "untrained", "shuffled rewards"):
        assert verdicts(found, against) == {"more"}
    first = found["comparisons"][0]
    assert first["difference"]["mean"] == pytest.approx(6 * 0.8, abs=0.05) and first["runs"] == DESIGN.runs["rest_em"]
    assert first["p"] < first["p_corrected"] < 0.05
    fixed = found["students"]["student-fixed"]
    algorithm = fixed["algorithms"][DESIGN.first]
    assert algorithm["trained"]["accuracy"]["low"] < 0.9 < algorithm["trained"]["accuracy"]["high"]
    assert algorithm["junk_share"]["mean"] == 0 < algorithm["junk_share"]["high"]
    assert (fixed["preferred"]["strategy"], fixed["preferred"]["over"]) == ("question-answer", "copy")
    assert found["shuffled"]["student-fixed"]["strategy_shares"] == {"copy": 1.0}
    assert [kept["weight"] for kept in found["retention"]] == list(DESIGN.retention_weights)
    assert found["strategy_mix"]["p_value"] == pytest.approx(2 / 252, abs=1e-4)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    shown = io.StringIO()
    print_summary(found, Console(file=shown, width=220))
    assert "question-answer 100%" in shown.getvalue() and "4 of 4 texts" in shown.getvalue()
    assert "not as designed" not in shown.getvalue()


def test_no_difference_is_called_none():
    found = summary(level=0.4, shuffled=0.4, second="question-answer")
    assert verdicts(found, "untrained") == verdicts(found, "shuffled rewards") == {"no detectable difference"}
    assert found["strategy_mix"]["p_value"] == 1.0


@pytest.mark.parametrize("runs", [1, min(DESIGN.runs.values()) - 1])
def test_fewer_training_runs_than_designed_decide_nothing_and_a_departure_is_said(runs):
    """However clear the difference is between those that were made."""
    found = summary(changed_design(quick=False, runs=runs), ["rl.rounds=1"], runs=runs)
    decided_by = {"shuffled rewards": DESIGN.runs["shuffled"]}
    for c in found["comparisons"]:
        designed = decided_by.get(c["against"], DESIGN.runs[c["algorithm"]])
        assert c["verdict"] == f"not decided: {runs} of {designed} training runs"
    assert found["preset"]["rl"]["rounds"] == 1
    assert found["departures"] == ["runs", "rl.rounds=1"] and (found["strategy_mix"] is None) == (runs == 1)


def test_a_design_that_changed_after_the_first_run_began_is_said(tmp_path):
    assert begun_design(tmp_path, DESIGN) == DESIGN.model_dump(mode="json")
    fewer = DESIGN.model_copy(update={"level": 0.1, "runs": dict.fromkeys(DESIGN.runs, 3)})
    begun = begun_design(tmp_path, fewer)
    assert summarise(fewer, fewer, begun, (), results())["changed_since_begun"] == ["runs", "level"]
    assert summary(begun=begun)["changed_since_begun"] == []


def test_the_design_fits_its_preset_and_the_quick_bench_is_a_part_of_it():
    quick = changed_design(quick=True, runs=None)
    assert [unit.name for unit in units(quick, [])] == [
        "student-fixed/rest_em-0", "student-augmented/rest_em-0", "student-fixed/shuffled-0",
        "student-augmented/shuffled-0",
        "student-fixed/strategies", "student-augmented/strategies", "planted",
    ]  # fmt: skip
    work = units(DESIGN, [])
    assert len({unit.name for unit in work}) == len(work) == 2 * sum(DESIGN.runs.values()) + 6
    for unit in work:  # every setting of the design is one of the config
        unit_config(unit, DESIGN, Path("bench"))


def test_students_of_another_algorithm_are_not_trained_again(tmp_path):
    first = tmp_path / "rest_em-1"
    with Journal(first) as journal:
        journal.outcomes.put_many({"key": Outcome(gain=0.5)})

    def known(name, seed):
        config = Config.model_validate({"run": {"dir": str(tmp_path / name), "seed": seed}})
        _copy_outcomes(tmp_path / f"rest_em-{seed}", config)
        with Journal(config.run.dir) as journal:
            return journal.outcomes.get_many(["key"])

    assert known("grpo-1", 1) == {}, "it is not finished"
    (first / "result.json").write_text("{}")
    assert known("grpo-1", 1) == {}, "a unit that was begun goes on with its own"
    assert known("dpo-1", 1) == {"key": Outcome(gain=0.5)}
    assert known("dpo-0", 0) == {}


class Counting:
    """Students that gain what their lesson's number says, of each document ten times its own number more."""

    fingerprint = "counting"
    proof = Proof("float32", packed=True, shares_prompts=True)
    at_once = 8

    def examine(self, jobs, on_done=None):
        return [self.taught(job) for job in jobs]

    @staticmethod
    def taught(job):
        number = int(job.lesson.texts[0].split()[1])
        if number == FAILS:
            return Outcome(gain=None, error="diverged")
        gains = [number + 10.0 * int(q.document_id) for q in job.exam.questions]
        answers = [Answer(loglik_before=0.0, loglik_after=g, correct_before=False, correct_after=True) for g in gains]
        return Outcome(gain=statistics.fmean(gains), answers=tuple(answers))


FAILS = 5


def test_shuffling_moves_answers_between_students_document_by_document():
    """Document by document: what is dealt wrongly about one says nothing of another, and nothing moves between exams,
    seeds, or to a student that failed."""
    students = Counting()
    pool = ShuffledPool(students)
    names = [str(n // 2) for n in range(8)]  # two questions about each of four documents
    exam = Exam(
        questions=tuple(Question(prompt=f"what {n}?", answer="gold", document_id=d) for n, d in enumerate(names))
    )
    jobs = [Job(lesson=Lesson(texts=(f"text {n}",), document_ids=("a",), seed=1), exam=exam) for n in range(8)]
    jobs += [replace(job, lesson=replace(job.lesson, seed=2)) for job in jobs]
    straight, dealt = students.examine(jobs), pool.examine(jobs)
    orders = []
    for part in (slice(0, 8), slice(8, 16)):
        ran = [(s, d) for s, d in zip(straight[part], dealt[part], strict=True) if s.gain is not None]
        assert len(ran) == 7 and dealt[part][FAILS].error == "diverged"
        for place in range(8):
            before, after = (
                [outcome.answers[place].gain_of("loglik") for outcome in side] for side in zip(*ran, strict=True)
            )
            assert sorted(before) == sorted(after)
            orders.append([gain - 10 * int(names[place]) for gain in after])
        assert all(d.gain == pytest.approx(mean_gain(d.answers, "loglik")) for _, d in ran)
    assert orders[::2] == orders[1::2], "a document's answers stay together"
    assert len({tuple(order) for order in orders}) == 8, "each document and seed has an order of its own"
    alone = pool.examine(jobs[:1])
    assert alone == straight[:1], "an arm that is measured is one student an exam and seed"
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
    assert set(found["students"]) == set(DESIGN.students) and "rl.rounds=1" in found["departures"]
    stamps = {path: path.stat().st_mtime_ns for path in folder.glob("**/result.json")}
    assert len(stamps) == 7
    next(iter(sorted(stamps))).unlink()
    assert main(arguments) == 0
    again = json.loads(capfd.readouterr().out.strip().splitlines()[-1])
    first, second = (summary["students"]["student-fixed"]["algorithms"]["rest_em"] for summary in (found, again))
    assert first["trained"] == second["trained"]
    assert sum(path.stat().st_mtime_ns != stamp for path, stamp in stamps.items()) == 1
