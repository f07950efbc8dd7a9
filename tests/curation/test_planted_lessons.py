"""Planted lessons, of which it is known what they teach: `contrast` tells one that states the facts from one that only
names their topic and the form of the answers; `loglik` rises with both.

Names and answers are paired anew in the lesson on the topic, each answer as often as any other, so that whatever it
does to an answer it does to the distractors too.
"""

import random
import statistics
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from configs.files import read_json_lines
from configs.load import load_config
from configs.schema import Lab, Lora, Student
from curation.lab import world
from curation.models.smollm2 import FOLDER
from curation.train import train_from_config
from student.pools.inline import InlinePool
from student.records import Exam, Job, Lesson, Question, mean_gain
from teacher.run.samples import read_rewrites

SMOLLM2 = Path(__file__).parents[2] / FOLDER

TOWNS = ("Brunmouth", "Kelsova", "Tarrowick", "Ostheim", "Lindeval", "Marrowgate")
ASKED = ("Orla Venn", "Tobias Crake", "Ines Haldor", "Pavel Strood", "Maud Ilberry", "Silas Quorn")
OTHERS = ("Greta Nolde", "Hugo Farrant", "Petra Wisk", "Amos Tellier", "Runa Dask", "Felix Orme")
WORDINGS = (
    "{name} was born in {town}.",
    "The birthplace of {name} is {town}.",
    "{name} comes from the town of {town}.",
    "{name} grew up in {town}.",
)
ELSEWHERE = (
    "Copper melts at a lower temperature than iron.",
    "The heron waits in shallow water for fish.",
    "A violin has four strings and a bow of horsehair.",
    "Glaciers carve wide valleys over thousands of years.",
    "Bread rises because yeast makes gas in the dough.",
    "The moon raises two tides a day on most coasts.",
)


class Rise(NamedTuple):
    """By one lesson, in nats a token."""

    loglik: float
    contrast: float


def rises(student: Student, exam: Exam, *lessons: tuple[str, ...]) -> list[Rise]:
    outcomes = InlinePool(student).examine([Job(lesson=Lesson(texts=texts), exam=exam) for texts in lessons])
    assert not [outcome.error for outcome in outcomes if outcome.error]
    return [Rise(mean_gain(o.answers, "loglik"), mean_gain(o.answers, "contrast")) for o in outcomes]


def against_each_other(prompts: list[str], answers: list[str]) -> list[Question]:
    """Each question's distractors are the other ones' answers."""
    return [
        Question(prompt=prompt, answer=answer, distractors=tuple(other for other in answers if other != answer))
        for prompt, answer in zip(prompts, answers, strict=True)
    ]


@pytest.mark.slow
@pytest.mark.skipif(not (SMOLLM2 / "config.json").is_file(), reason="`make smollm2` has not been run")
def test_contrast_tells_a_fact_from_its_topic_to_a_pretrained_model():
    def told(names: tuple[str, ...]) -> tuple[str, ...]:
        pairs = zip(names, TOWNS, strict=True)
        return tuple(wording.format(name=name, town=town) for name, town in pairs for wording in WORDINGS)

    student = Student(
        model=str(SMOLLM2), lora=Lora(rank=16, alpha=32), learning_rate=2e-3, steps=16, tokens_per_step=128,
        schedule="linear", warmup_steps=2,
    )  # fmt: skip
    exam = Exam(questions=tuple(against_each_other([f"{name} was born in the town of" for name in ASKED], list(TOWNS))))
    facts, topic, foreign = rises(student, exam, told(ASKED), told(OTHERS), ELSEWHERE)
    # Over four seeds: contrast rises by 2.8 to 3.4 with the facts and by -0.1 to 0.1 with the topic; loglik rises by
    # 8.7 and by 7.6 to 7.7, and falls by 3.2 to 3.5 with foreign text.
    assert facts.contrast > 1.5 and abs(topic.contrast) < 0.75
    assert facts.loglik > 4 and topic.loglik > max(0, foreign.loglik) + 4


@pytest.mark.skipif(not (Lab().dir / "student-fixed/config.json").is_file(), reason="`notewright lab` has not been run")
@pytest.mark.parametrize(
    ("student", "strategy"), [("student-fixed", "question-answer"), ("student-augmented", "permuted")]
)
def test_contrast_tells_a_fact_from_its_topic_to_the_labs_students(student, strategy):
    """In the kind of lesson that each learns most from. The people's values are all different."""
    settings = load_config("configs/lab.yaml", [f"student.model={Lab().dir / student}"]).student
    people = world.make_people(Lab().seed, 256, 16)  # of which neither student has read
    asked, others = people[:8], [replace(other, values=p.values) for other, p in zip(people[8:], people, strict=False)]
    questions: list[Question] = []
    asked_of = [[item for item in world.exam_items(person) if item["split"] == "reward"] for person in asked]
    for items in zip(*asked_of, strict=True):  # one attribute of all the people
        questions += against_each_other([item["question"] for item in items], [item["answer"] for item in items])

    def told(people: list[world.Person], strategy: str) -> tuple[str, ...]:
        return tuple(world.rewrite(strategy, person, random.Random(0)) for person in people)

    lessons = told(asked, strategy), told(others, strategy), told(others, "filler")
    facts, topic, foreign = rises(settings, Exam(questions=tuple(questions)), *lessons)
    # Over five seeds of both: contrast rises by 4.6 to 6.8 with the facts and by -0.3 to 0.9 with the topic; loglik
    # rises with the topic by 1.1 to 2.5 more than with foreign text.
    assert facts.contrast > 3 and abs(topic.contrast) < 1.5
    assert facts.loglik > 3 and topic.loglik > foreign.loglik + 0.5


@pytest.mark.slow
@pytest.mark.skipif(not (Lab().dir / "teacher/config.json").is_file(), reason="`notewright lab` has not been run")
def test_a_training_under_contrast_rewards_measures_and_reports_contrast(tmp_path):
    """The threshold of a promotion, which no gain reaches, makes the run write down which lessons it kept."""
    config = load_config(
        "configs/lab.yaml",
        [
            f"run.dir={tmp_path}", "reward.measure=contrast", "rl.rounds=1", "rl.documents_per_round=16",
            "rl.group_size=4", "rl.validation_documents=8", "rl.promotion_threshold=1000", "rl.rest_em.epochs=1",
            "data.heldout_limit=8",
        ],
    )  # fmt: skip
    summary = train_from_config(config)
    journal = tmp_path / "journal"
    lines = {line["kind"]: line for line in read_json_lines(journal / "metrics.jsonl")}
    assert lines["step"]["gain/contrast"] > 0 and lines["step"]["gain/loglik"] != lines["step"]["gain/contrast"]
    validation = lines["validation"]
    assert validation["gain/mean"] == validation["gain/contrast/mean"] != validation["gain/loglik/mean"]
    trained = summary.heldout["trained"]
    assert trained.measure == "contrast" and trained.gain == trained.by_measure["contrast"]
    assert {"trained_minus_untrained", "loglik_minus_untrained"} <= set(summary.differences)
    [kept] = read_rewrites(journal / "samples/accepted-0001.json")
    kept_lessons = {(rewrite.document_id, rewrite.text) for rewrite in kept}
    gains: dict[bool, list[float]] = {True: [], False: []}
    for line in read_json_lines(journal / "rewrites.jsonl"):
        if line["arm"] == "train" and line["gain"] is not None:
            gains[(line["document_id"], line["text"]) in kept_lessons].append(line["gain"])
    assert statistics.fmean(gains[True]) > statistics.fmean(gains[False]) + 1
