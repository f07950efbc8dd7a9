import pytest

from student.statistics.intervals import holm, t_tail, wilson


@pytest.mark.parametrize(
    ("t", "degrees", "p"),
    [(2.570582, 5, 0.05), (12.7062, 1, 0.05), (6.868827, 5, 0.001), (1.959964, 100_000, 0.05), (0.0, 7, 1.0)],
)
def test_p_values_are_those_of_the_tables(t, degrees, p):
    assert t_tail(t, degrees) == pytest.approx(p, rel=1e-3)
    assert t_tail(-t, degrees) == t_tail(t, degrees)


def test_holm_by_hand():
    # 0.01 x 4, then 0.02 x 3 = 0.06, then max(0.03 x 2, 0.06), then max(0.5, 0.06); None is none of the family.
    assert holm([0.5, 0.01, None, 0.03, 0.02]) == pytest.approx([0.5, 0.04, None, 0.06, 0.06], nan_ok=True)
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_wilson_by_hand():
    assert wilson(5, 100) == pytest.approx((0.0215, 0.1118), abs=2e-4)
    assert wilson(0, 200)[0] == 0


def test_wilson_holds_at_the_ends():
    assert wilson(0, 90) == (0.0, pytest.approx(0.0409, abs=1e-3))
    low, high = wilson(45, 90)
    assert low == pytest.approx(1 - high) and 0.39 < low < 0.5 < high < 0.61
    assert wilson(90, 90)[1] == 1.0
