import io
import json
import statistics
from dataclasses import replace

import pytest
from rich.console import Console

from configs.schema import Config
from curation.bench.teacher import STUDENTS, _copy_outcomes, units
from curation.bench.teacher_controls import ShuffledPool
from curation.bench.teacher_report import print_summary, summarise
from curation.cli import main
from student.records import Answer, Exam, Job, Lesson, Outcome, Question
from teacher.run.journal import Journal

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
            "best_round": 2,
            "old_accuracy": {"trained": {"before": [1.0] * 6, "after": [old - 0.01, old, old + 0.01] * 2}},
        }
        if old
        else {}
    )


def results(trained=0.95, shuffled=0.4, second="permuted", old=0.9, penalised_round=2):
    found = {}
    for student, strategy in zip(STUDENTS, ("question-answer", second), strict=True):
        for seed in range(3):
            found[f"{student}/rest_em-{seed}"] = run(trained, strategy)
            found[f"{student}/dpo-{seed}"] = run(trained - 0.1, strategy)
        for seed in range(3):
            found[f"{student}/shuffled-{seed}"] = run(shuffled, "copy")
        found[f"{student}/strategies"] = {"strategy_arms": {strategy: arm(0.97), "copy": arm(0.1)}}
    found["student-fixed/retention-without"] = run(trained, "question-answer", old=0.6)
    found["student-fixed/retention-with"] = run(trained, "permuted", old=old) | {"best_round": penalised_round}
    return found | {"planted": {"carried": 4, "gated": 4, "clean": 4, "clean_gated": 0}}


def test_every_claim_holds_where_the_runs_show_it():
    found = summarise(dict(reversed(results().items())))  # units end in any order
    assert all(found["claims"].values())
    assert len(found["claims"]) == 15
    shuffled = found["controls"]["shuffled_rewards"]["student-fixed"]
    assert shuffled["real_minus_shuffled"]["mean"] == pytest.approx(6 * 0.55)
    assert shuffled["trained_minus_untrained"]["gain"]["verdict"] == "no detectable difference"
    kept = found["controls"]["retention_penalty"]
    assert [kept[how]["strategy_shares"] for how in ("without", "with")] == [
        {"question-answer": 1.0},
        {"permuted": 1.0},
    ]
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
        ({"penalised_round": 0}, "retention penalty"),
    ],
)
def test_a_claim_fails_where_the_runs_do_not_show_it(changed, claim):
    claims = summarise(results(**changed))["claims"]
    assert not all(holds for name, holds in claims.items() if claim in name)


def test_the_quick_bench_is_one_algorithm_and_seed_on_both_students():
    names = [unit.name for unit in units(1, True, [])]
    assert names == [
        "student-fixed/rest_em-0", "student-augmented/rest_em-0", "student-fixed/shuffled-0",
        "student-augmented/shuffled-0",
        "student-fixed/strategies", "student-augmented/strategies", "planted",
    ]  # fmt: skip
    assert len({unit.name for unit in units(3, False, [])}) == 33


def test_students_of_another_algorithm_are_not_trained_again(tmp_path):
    first = tmp_path / STUDENTS[0] / "rest_em-1"
    with Journal(first) as journal:
        journal.outcomes.put_many({"key": Outcome(gain=0.5)})

    def known(name, seed):
        unit = next(u for u in units(2, False, []) if u.name == f"{STUDENTS[0]}/{name}")
        config = Config.model_validate({"run": {"dir": str(tmp_path / unit.name), "seed": seed}})
        _copy_outcomes(unit, tmp_path, config)
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
            before, after = ([outcome.answers[place].gain for outcome in side] for side in zip(*ran, strict=True))
            assert sorted(before) == sorted(after)
            orders.append([gain - 10 * int(names[place]) for gain in after])
        assert all(d.gain == pytest.approx(statistics.fmean(a.gain for a in d.answers)) for _, d in ran)
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
    assert set(found["students"]) == set(STUDENTS)
    stamps = {path: path.stat().st_mtime_ns for path in folder.glob("**/result.json")}
    assert len(stamps) == 7
    next(iter(sorted(stamps))).unlink()
    assert main(arguments) == 0
    again = json.loads(capfd.readouterr().out.strip().splitlines()[-1])
    assert again["students"]["student-fixed"]["trained"] == found["students"]["student-fixed"]["trained"]
    assert sum(path.stat().st_mtime_ns != stamp for path, stamp in stamps.items()) == 1
