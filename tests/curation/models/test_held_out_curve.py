"""The rule by which a warm-up ends, on answers given by hand."""

import math
import random

import pytest

from curation.models.held_out_curve import PATIENCE, Diverged, HeldOutCurve
from student.engine.exam import Grade

TITLES = ["a", "a", "b", "b", "c", "c", "d", "d"]


def grades(*logliks):
    return [Grade(loglik=value, correct=value > -1, extra={}) for value in logliks]


def shifted(by, spread=0.0, seed=0):
    rng = random.Random(seed)
    return grades(*(-5 + by + rng.gauss(0, spread) for _ in TITLES))


def test_a_curve_that_rises_goes_on_and_one_that_has_risen_ends_at_its_best():
    curve = HeldOutCurve(TITLES)
    for number, by in enumerate((0.0, 0.5, 0.8, 0.8, 0.9, 0.7)):
        assert curve.add(1000 * number, shifted(by)) == (by in (0.0, 0.5, 0.9) or number == 2)
        assert not curve.flat
    assert curve.add(6000, shifted(0.89)) is False
    assert curve.flat and curve.best == 4 and PATIENCE == 2
    assert [point["rise"] for point in curve.points] == [True, True, True, False, True, False, False]
    assert curve.line() == "held-out ... -4.20 -> -4.10 -> -4.30 -> -4.11 nats a token"


def test_a_rise_within_its_standard_error_is_none():
    """The mean goes up by 0.05, and single titles by -1 to 1.2."""
    curve = HeldOutCurve(TITLES)
    curve.add(0, shifted(0))
    assert not curve.add(1000, grades(-6, -6, -3.8, -3.8, -6, -6, -3.8, -3.8))
    # The same rise of every title is one, however small.
    assert curve.add(2000, shifted(0.05))


def test_questions_of_one_title_are_no_evidence_of_their_own():
    """One of four titles rises by 0.8: a fifth of a nat on average, as is its error. By question it would be a rise."""
    curve, alone = HeldOutCurve(TITLES * 4), HeldOutCurve(list(range(4 * len(TITLES))))
    better = [-4.2 if title == "a" else -5 for title in TITLES * 4]
    for each in (curve, alone):
        each.add(0, grades(*[-5.0] * len(better)))
    assert not curve.add(1000, grades(*better))
    assert alone.add(1000, grades(*better))


@pytest.mark.parametrize("bad", [math.nan, -math.inf, -6.1])
def test_much_worse_than_at_the_start_is_divergence(bad):
    curve = HeldOutCurve(TITLES)
    curve.add(0, shifted(0))
    curve.add(1000, shifted(-0.9))
    with pytest.raises(Diverged, match=r"after 2000 tokens .* -5.00 at the start"):
        curve.add(2000, grades(*[bad] * len(TITLES)))


def test_a_state_goes_on_as_the_curve_does():
    curve, copy = HeldOutCurve(TITLES), HeldOutCurve(TITLES)
    curve.add(0, shifted(0, 0.3))
    curve.add(1000, shifted(1, 0.3, seed=1))
    copy.restore(curve.state())
    for number in (2, 3):
        assert [each.add(1000 * number, shifted(1, 0.3, seed=number)) for each in (curve, copy)] in (
            [True] * 2,
            [False] * 2,
        )
    assert copy.points == curve.points and copy.flat == curve.flat and copy.best == curve.best


def test_points_have_intervals_over_titles():
    curve = HeldOutCurve(TITLES)
    curve.add(0, grades(*[-0.5] * 4, *[-2] * 4))
    (point,) = curve.points
    assert point["loglik"] == -1.25 and point["accuracy"] == 0.5
    low, high = point["loglik_interval"]
    assert low < -2 and high > -0.5, "four titles say little"
    assert 0 < point["accuracy_interval"][0] < 0.5 < point["accuracy_interval"][1] < 1
