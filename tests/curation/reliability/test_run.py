"""`notewright reliability`: the table and the JSON say what real students did, at equal numbers of student runs."""

import json
import random
from dataclasses import replace

import pytest

from configs.errors import UserError
from configs.schema import Config, Lora, Reward, Run, Student
from curation.reliability.adaptive_comparison import compare
from curation.reliability.run import run_reliability
from curation.study.groups import read_groups
from curation.study.students import RewriteStudy
from student.pools.inline import InlinePool
from student.records import Answer, Outcome, Proof
from teacher.reward.student_runs import StudentRuns
from teacher.run.journal import Journal
from tests.student.conftest import build, tokenizer  # noqa: F401

SETTINGS = Student(lora=Lora(rank=4, alpha=8), learning_rate=2e-2, steps=8)
ANIMALS = ["cat", "dog", "bird"]
PLACES = ["mat", "rug", "sea"]


def documents(count):
    """A document says where an animal sat; its rewrites tell it, ask it, or say nothing."""
    for i in range(count):
        animal, place = ANIMALS[i % 3], PLACES[i // 3 % 3]
        yield {
            "id": f"{i}",
            "text": f"the {animal} sat on the {place} .",
            "questions": [{"question": f"where did the {animal} sat ?", "answer": f"the {place}", "split": "reward"}],
            "rewrites": [
                {"strategy": "told", "text": f"on the {place} sat the {animal} ."},
                {"strategy": "asked", "text": f"where did the {animal} sat ? the {place}"},
                {"strategy": "filler", "text": "it was it was it was"},
            ],
        }


@pytest.fixture
def config(tmp_path):
    return config_of(tmp_path, 6)


@pytest.fixture
def many(tmp_path):
    """Enough documents to tell a better way of repeating from luck."""
    return config_of(tmp_path, 60)


def config_of(tmp_path, count):
    path = tmp_path / "documents.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in documents(count)))
    return Config(
        run=Run(dir=tmp_path / "run"),
        data={"train": (str(path),)},
        student=SETTINGS,
        reward=Reward(documents_per_student=3),
    )


@pytest.fixture
def pool(tokenizer):  # noqa: F811
    return InlinePool(SETTINGS, model=build("llama"), tokenizer=tokenizer)


class Planted:
    """Students whose gains are known: a rewrite's merit, what the student's seed does to all, and noise of its own.

    It stands in for real students where the arithmetic is tested, and real ones could not be planted.
    """

    fingerprint = "planted"
    proof = Proof("float32", packed=True, shares_prompts=True)
    merit = {"told": 0.5, "asked": 1.0, "filler": 0.0}  # noqa: RUF012

    def __init__(self, noise, seed_effect=1.0):
        self.noise, self.seed_effect = noise, seed_effect
        self.jobs = []

    def examine(self, jobs, on_done=None):
        self.jobs += jobs
        return [self._outcome(job) for job in jobs]

    def _outcome(self, job):
        gains = []
        taught = dict(zip(job.lesson.document_ids, job.lesson.texts, strict=True))
        for question in job.exam.questions:
            text = taught[question.document_id]
            way = "asked" if "?" in text else "filler" if "it was" in text else "told" if text[:2] == "on" else None
            generator = random.Random(repr((job.lesson.seed, text, job.lesson.texts)))
            gains.append(
                self.merit.get(way, 0.3) + self.seed_effect * (job.lesson.seed % 7) + self.noise * generator.gauss(0, 1)
            )
        answers = tuple(
            Answer(loglik_before=0.0, loglik_after=gain, correct_before=False, correct_after=gain > 0.5)
            for gain in gains
        )
        metrics = {"accuracy_before": 0.0, "accuracy_after": 0.0}
        return Outcome(gain=sum(gains) / len(gains), metrics=metrics, answers=answers)


def by_credit(result):
    return {report["credit"]: report for report in result["credits"]}


def test_real_students_give_a_table_and_a_json(config, pool, capsys):
    result = run_reliability(config, repeats=2, documents=2, pool=pool)
    assert json.loads((config.run.dir / "reliability.json").read_text()) == result
    found = by_credit(result)
    assert list(found) == ["document", "shared", "shard"]
    # Two documents alone, six in two shared students: the same number of student runs.
    assert {report["students"] for report in found.values()} == {16}
    assert found["document"]["components"]["documents"] == 2
    assert found["shared"]["components"]["documents"] == 6
    assert found["document"]["students_per_rewrite"] == 2.0
    assert found["shared"]["students_per_rewrite"] == pytest.approx(2 / 3)
    for report in found.values():
        assert {way["strategy"] for way in report["ways"]} == {"told", "asked", "filler", "raw"}
        assert [way["strategy"] for way in report["ways"] if way["control"]] == ["raw"]
    ways = {way["strategy"]: way["gain"] for way in found["document"]["ways"]}
    assert ways["asked"] > ways["filler"] + 0.5
    assert found["document"]["components"]["reliability"] > 0.5
    printed = capsys.readouterr().out
    assert "reliability of one run" in printed and "asked" in printed


def test_a_second_call_finds_its_students_in_the_cache(config, pool, monkeypatch):
    examine, students = pool.examine, []
    monkeypatch.setattr(pool, "examine", lambda jobs, on_done=None: students.extend(jobs) or examine(jobs, on_done))
    first = run_reliability(config, repeats=2, documents=2, pool=pool, credits=["document"])
    trained = len(students)
    again = run_reliability(config, repeats=2, documents=2, pool=pool, credits=["document"])
    assert len(students) == trained
    assert again["credits"][0]["components"] == first["credits"][0]["components"]
    assert again["credits"][0]["seconds_per_student"] is None
    more = run_reliability(config, repeats=3, documents=2, pool=pool, credits=["document"])
    assert len(students) == trained + 8
    assert more["credits"][0]["repeats"] == 3


def test_planted_noise_and_contrast_are_reported(config):
    noise = 0.2
    found = by_credit(run_reliability(config, repeats=40, documents=6, pool=Planted(noise)))
    alone, shared, shard = found["document"], found["shared"], found["shard"]
    between = 0.25  # of 0, 0.5 and 1
    for report in (alone, shared):
        assert report["components"]["noise_variance"] == pytest.approx(noise**2, rel=0.25)
        assert report["components"]["between_variance"] == pytest.approx(between, rel=0.15)
        assert report["contrast_range"] == pytest.approx(1.0, abs=0.15)
        assert report["repeats_for_target"] == 1
        assert report["mean_of_repeats"] > 0.98
    # A seed moves all rewrites of a document alike, by up to 6: that is no noise of the reward.
    assert alone["components"]["seed_variance"] > 1
    assert shared["students_for_target"] < alone["students_for_target"]
    # One of three documents moves a shard by a third, and the others' rewrites are its noise.
    assert shard["components"]["between_variance"] == pytest.approx(between / 9, rel=0.5)
    assert shard["components"]["reliability"] < 0.5 < shared["components"]["reliability"]
    assert shard["students"] == shared["students"]


def test_the_same_students_tell_the_reliability_of_every_measure(config, capsys):
    """Contrast is as noisy as log-likelihood here, and its rewrites differ by a tenth as much."""

    class Told(Planted):
        def _outcome(self, job):
            outcome = super()._outcome(job)
            noise = random.Random(repr(outcome.answers)).gauss
            answers = tuple(
                replace(a, extra={"contrast_before": 0.0, "contrast_after": a.loglik_after / 10 + noise(0, self.noise)})
                for a in outcome.answers
            )
            return replace(outcome, answers=answers)

    result = run_reliability(config, repeats=20, documents=6, pool=Told(0.2, seed_effect=0.0), credits=["document"])
    [report] = result["credits"]
    loglik, contrast = report["by_measure"].values()
    assert list(report["by_measure"]) == ["loglik", "contrast"] and result["measure"] == "loglik"
    assert loglik["components"] == report["components"] and loglik["components"]["reliability"] > 0.8
    assert contrast["components"]["reliability"] < 0.3
    assert contrast["contrast_range"] < 0.5 * loglik["contrast_range"]
    printed = " ".join(capsys.readouterr().out.split())
    assert "loglik, rewarded" in printed and "contrast" in printed


def test_every_candidate_is_taught_once_a_repeat_in_changing_company(config):
    pool = Planted(0.1)
    run_reliability(config, repeats=12, documents=6, pool=pool, credits=["shared"])
    mates = {}
    for job in pool.jobs:
        assert len(job.lesson.texts) == len(set(job.lesson.document_ids)) == 3
        assert {question.document_id for question in job.exam.questions} == set(job.lesson.document_ids)
        mates.setdefault(job.lesson.texts[0], set()).add(job.lesson.texts[1:])
    assert all(len(company) > 3 for company in mates.values())
    seeds = {}
    for job in pool.jobs:
        seeds.setdefault((job.lesson.seed, job.lesson.document_ids), []).append(job)
    assert {len(jobs) for jobs in seeds.values()} == {4}  # three rewrites and the raw text have one seed


def test_adaptive_repeats_are_compared_on_what_was_recorded(many):
    result = run_reliability(many, repeats=12, documents=60, pool=Planted(0.6), credits=["document"], adaptive=True)
    comparisons = result["credits"][0]["adaptive"]
    assert [c["how"] for c in comparisons] == ["simulated"] * 3
    assert all(0 <= c[arm]["best_chosen"] <= 1 for c in comparisons for arm in ("uniform", "adaptive"))
    assert all(c["doubled"]["regret"] <= c["uniform"]["regret"] + 0.02 for c in comparisons)
    assert sum(c["regret_saved"] for c in comparisons) > 0


def test_what_has_no_two_rewrites_is_not_compared():
    assert compare([], 2, clusters=[], shared=False, students=8) is None


def test_one_repeat_or_an_unknown_credit_is_the_users_mistake(config, pool):
    with pytest.raises(UserError, match="2 repeats"):
        run_reliability(config, repeats=1, pool=pool)
    with pytest.raises(UserError, match="did you mean 'shared'"):
        run_reliability(config, credits=["shard", "shraed"], pool=pool)


def test_documents_that_cannot_be_compared_are_left_out_with_a_word(config, tmp_path, pool, capsys):
    rows = list(documents(3))
    rows[1]["rewrites"] = rows[1]["rewrites"][:1]
    rows[2]["questions"][0]["split"] = "heldout"
    path = tmp_path / "few.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = run_reliability(config, source=str(path), repeats=2, documents=3, pool=pool, credits=["document"])
    components = result["credits"][0]["components"]
    assert components["documents"] == 1 and components["low"] is None
    said = " ".join(capsys.readouterr().err.split())
    assert "1 documents without reward questions" in said and "1 documents without two rewrites" in said
    rows[0]["rewrites"] = ["only one"]
    path.write_text(json.dumps(rows[0]) + "\n")
    with pytest.raises(UserError, match="two rewrites to compare"):
        run_reliability(config, source=str(path), pool=pool)


def test_the_lab_is_people_told_in_each_way(config):
    groups = read_groups(config, "lab", 5, None)
    assert len({group.document.id for group in groups}) == 5
    for group in groups:
        assert {c.strategy for c in group.candidates} >= {"permuted", "question-answer", "filler", "wrong"}
        assert len({c.text for c in group.candidates}) == len(group.candidates)
    assert read_groups(config, "lab", 5, None) == groups
    assert len(read_groups(config, "lab", 2, 9)[0].candidates) == 9


def test_texts_that_were_written_for_a_study_are_kept(config, monkeypatch):
    config = config.model_copy(update={"teacher": config.teacher.model_copy(update={"strategies": ("permutation",)})})
    groups = read_groups(config, None, 6, 2)
    assert groups[0].candidates[0].strategy == "permutation"
    monkeypatch.setattr("curation.study.groups.sample_rewrites", lambda *given: pytest.fail("written again"))
    assert read_groups(config, None, 6, 2) == groups
    with pytest.raises(pytest.fail.Exception, match="written again"):
        read_groups(config, None, 6, 3)


def test_the_lab_can_tell_people_in_one_way_alone():
    config = Config(teacher={"strategies": ("permuted",)})
    (group,) = read_groups(config, "lab", 1, 8)
    assert [candidate.strategy for candidate in group.candidates] == ["permuted"] * 8
    assert len({candidate.text for candidate in group.candidates}) > 4
    with pytest.raises(UserError, match="did you mean 'permuted'"):
        read_groups(Config(teacher={"strategies": ("permuteed",)}), "lab", 1, None)


def test_students_learn_what_those_of_the_reward_would(config):
    pool = Planted(0.0)
    config = config.model_copy(
        update={"student": config.student.model_copy(update={"split_lines": True, "with_document": True})}
    )
    groups = read_groups(config, None, 1, None)
    two_lines = groups[0].candidates[0]._replace(text="on the mat\nsat the cat .")
    groups = [replace(groups[0], candidates=(two_lines,))]
    with Journal(config.run.dir) as journal:
        runs = StudentRuns(config, [groups[0].document], journal)
        job = RewriteStudy(runs, pool, groups, 1)._job({0: 0}, "repeat", 0)
        shorter = RewriteStudy(runs, pool, groups, 1, steps=2)._job({0: 0}, "repeat", 0)
    assert job.lesson.texts == ("on the mat", "sat the cat .", groups[0].document.text)
    assert job.lesson.steps == SETTINGS.steps and shorter.lesson.steps == 2
