"""The lab's students differ in what helps them, as declared. Trains on the lab's real models."""

import pytest

from configs.load import load_config
from configs.schema import Lab
from curation.bench.lab.run import CONFIG, measure
from curation.lab.build import build_lab
from student.statistics.intervals import estimate

pytestmark = pytest.mark.slow

PEOPLE = 32


@pytest.fixture(scope="module")
def lab():
    """The quickstart's lab: built in minutes where it is not there yet."""
    build_lab(Lab())
    return Lab().dir


@pytest.mark.parametrize(
    ("student", "best", "second"),
    [("student-fixed", "question-answer", "permuted"), ("student-augmented", "permuted", "question-answer")],
)
def test_each_student_learns_most_from_its_own_kind_of_lesson(lab, student, best, second):
    """On people whom no setting was chosen on, at the preset that teachers are trained with."""
    config = load_config(CONFIG, [f"student.model={lab / student}", f"lab.train_people={32 + PEOPLE}"])
    arms = measure(config, (best, second, "filler", "wrong"))["arms"]
    batches = arms[best]["batches"]
    assert len(batches) == PEOPLE and not any(arm["failed"] for arm in arms.values())
    for worse, least in (second, 0), ("filler", 1), ("wrong", 1):
        differences = [arms[best]["gains"][name] - arms[worse]["gains"][name] for name in batches]
        found = estimate(differences, list(batches.values()))
        assert found.low > least, f"{best} - {worse}: {found}"
