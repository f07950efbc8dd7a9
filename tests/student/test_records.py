"""The measures of an answer, and their rises."""

from dataclasses import replace

import pytest

from student.records import MEASURES, UNITS, Answer, mean_gain

EXTRA = {"contrast_before": 0.5, "contrast_after": 2.0, "choice_before": 0.0, "choice_after": 1.0}
TOLD = Answer(loglik_before=-3.0, loglik_after=-1.0, correct_before=False, correct_after=True, extra=EXTRA)
BARE = Answer(loglik_before=-3.0, loglik_after=-2.0, correct_before=False, correct_after=True)


def test_a_gain_is_the_rise_of_a_measure():
    assert [TOLD.gain_of(measure) for measure in MEASURES] == [2.0, 1.5, 1.0, *[None] * 4]
    assert [BARE.gain_of(measure) for measure in MEASURES] == [1.0, *[None] * 6]
    text = replace(BARE, extra={"bits_before": -2.5, "bits_after": -1.0})
    assert [text.gain_of(measure) for measure in MEASURES] == [*[None] * 4, 1.5, None, None]


def test_answers_that_do_not_tell_a_measure_are_left_out_of_its_mean():
    assert mean_gain([TOLD, BARE], "loglik") == pytest.approx(1.5)
    assert mean_gain([TOLD, BARE], "contrast") == pytest.approx(1.5)
    assert mean_gain([TOLD, BARE], "recall") is None


def test_every_measure_has_a_unit():
    assert tuple(UNITS) == MEASURES
