"""On both of the lab's students a lesson that helps beats one that does not. Trains on the lab's real models."""

import random
import statistics

import pytest

from configs.load import load_config
from configs.schema import Lab
from curation.lab import world
from curation.lab.build import build_lab
from student.pools.inline import InlinePool
from student.records import Exam, Job, Lesson, Question
from student.statistics.intervals import estimate

pytestmark = pytest.mark.slow

PEOPLE = 16


@pytest.fixture(scope="module")
def lab():
    """The quickstart's lab: built in minutes where it is not there yet."""
    build_lab(Lab())
    return Lab().dir


def gains(pool, people, strategy, texts):
    """Gain of each person's questions, one student a person, `texts` rewrites in its lesson."""
    rng = random.Random(strategy)
    jobs = [
        Job(
            lesson=Lesson(texts=tuple(world.rewrite(strategy, person, rng) for _ in range(texts)), seed=number),
            exam=Exam(
                questions=tuple(Question(prompt=q["question"], answer=q["answer"]) for q in world.exam_items(person))
            ),
        )
        for number, person in enumerate(people)
    ]
    outcomes = pool.examine(jobs)
    assert all(outcome.error is None for outcome in outcomes)
    return [outcome.gain for outcome in outcomes]


@pytest.mark.parametrize(
    ("student", "helpful", "texts"), [("student-fixed", "question-answer", 1), ("student-augmented", "permuted", 5)]
)
def test_a_helpful_lesson_beats_filler_and_wrong_facts(lab, student, helpful, texts):
    settings = load_config("configs/lab.yaml").student.model_copy(update={"model": str(lab / student)})
    pool = InlinePool(settings)
    start = Lab().base_people + Lab().train_people
    people = world.make_people(Lab().seed, start, PEOPLE)
    good = gains(pool, people, helpful, texts)
    for useless in ("filler", "wrong"):
        bad = gains(pool, people, useless, texts)
        differences = [a - b for a, b in zip(good, bad, strict=True)]
        low = estimate(differences).low
        assert low > 1, f"{helpful} - {useless}: {statistics.fmean(differences):.2f} nats a token"
