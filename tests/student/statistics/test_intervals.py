import math

import numpy as np
import pytest

from student.statistics.intervals import (
    clustered_mean,
    estimate,
    estimate_difference,
    estimate_share,
    holm,
    t_tail,
    wilson,
)

BATCHES = np.repeat(np.arange(6), 8).tolist()
"""Six batches of eight documents."""


def test_a_mean_by_hand():
    # Student's t with 5 degrees of freedom; the values have no skewness.
    mean, low, high = estimate([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    assert mean == 3.5
    assert (low, high) == pytest.approx((3.5 - 2.5706 * 0.7638, 3.5 + 2.5706 * 0.7638), abs=1e-3)
    assert estimate([1.0, 1.0, 2.0, 2.0, 3.0, 3.0], "aabbcc") == pytest.approx(estimate([1.0, 2.0, 3.0]))


def test_the_side_of_the_skew_is_wider():
    mean, low, high = estimate([0.0, 0.1, 0.0, 0.2, 0.1, 3.0])
    assert high - mean > 1.5 * (mean - low)
    assert estimate([0.0, -0.1, 0.0, -0.2, -0.1, -3.0]) == pytest.approx((-mean, -high, -low))


@pytest.mark.parametrize("of_shares", [False, True])
def test_the_interval_excludes_zero_where_p_is_below_five_percent(of_shares):
    rng = np.random.default_rng(0)
    significant = 0
    for _ in range(300):
        mean = clustered_mean((rng.choice([-1, 0, 0.5, 1], 48) * rng.random(6)[BATCHES] + 0.1).tolist(), BATCHES)
        mean = mean.difference() if of_shares else mean
        _, low, high = mean.estimate()
        assert mean.p is not None and (mean.p < 0.05) == (low > 0 or high < 0)
        significant += mean.p < 0.05
    assert 0 < significant < 300


@pytest.mark.parametrize("function", [estimate, estimate_share, estimate_difference])
def test_one_cluster_has_a_mean_and_no_interval(function):
    mean, low, high = function([0.0, 1.0], [0, 0])
    assert mean == 0.5 and math.isnan(low) and math.isnan(high)
    assert all(math.isnan(number) for number in function([]))


def test_documents_that_share_a_student_make_a_wider_interval():
    values = np.repeat(np.random.default_rng(1).normal(size=6), 8).tolist()
    together, alone = estimate(values, BATCHES), estimate(values)
    assert together.mean == pytest.approx(alone.mean)
    assert together.high - together.low > 2 * (alone.high - alone.low)


def test_all_right_is_not_certain():
    mean, low, high = estimate_share([1.0] * 48, BATCHES)
    assert (mean, high) == (1.0, 1.0) and 0.7 < low < 0.9
    assert estimate_share([0.0] * 48, BATCHES) == pytest.approx((0.0, 0.0, 1 - low))
    # Two arms whose documents all agree may still differ.
    assert estimate_difference([0.0] * 48, BATCHES).high > 0.03
    assert estimate_difference([1.0] * 48, BATCHES).low < 0.97


def test_shares_are_symmetric_under_flipping_hits_and_misses():
    values = np.random.default_rng(2).beta(8, 1, 48)
    mean, low, high = estimate_share(values.tolist(), BATCHES)
    assert low < mean < high < 1
    assert estimate_share((1 - values).tolist(), BATCHES) == pytest.approx((1 - mean, 1 - high, 1 - low))


@pytest.mark.parametrize("documents", [3, 8, 24])
def test_the_interval_of_a_mean_covers_at_its_level(documents):
    rng = np.random.default_rng(6)
    clusters = np.repeat(np.arange(documents), 4).tolist()
    hits, plain = 0, 0
    for _ in range(400):
        # What a document's rewrites have in common is most of the variance.
        values = (rng.normal(size=(documents, 1)) + 0.5 * rng.normal(size=(documents, 4))).ravel().tolist()
        hits += estimate(values, clusters).low <= 0 <= estimate(values, clusters).high
        plain += estimate(values).low <= 0 <= estimate(values).high
    assert 0.93 <= hits / 400 <= 0.99
    assert plain / 400 < 0.85, "ignoring the clusters would be far too sure"


@pytest.mark.parametrize("share", [0.1, 0.98])
def test_the_interval_of_a_share_covers_at_its_level(share):
    rng = np.random.default_rng(7)
    hits = 0
    for _ in range(400):
        # Intraclass correlation 0.3 between the ten questions of each of eight documents.
        of_batches = rng.beta(share * 7 / 3, (1 - share) * 7 / 3, 6)
        _, low, high = estimate_share((rng.binomial(10, of_batches[BATCHES]) / 10).tolist(), BATCHES)
        hits += low <= share <= high
    assert hits / 400 >= 0.93


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
    assert wilson(0.05, 100) == pytest.approx((0.0215, 0.1118), abs=2e-4)
    assert wilson(0, 200)[0] == 0


def test_wilson_holds_at_the_ends():
    assert wilson(0, 90) == (0.0, pytest.approx(0.0409, abs=1e-3))
    low, high = wilson(0.5, 90)
    assert low == pytest.approx(1 - high) and 0.39 < low < 0.5 < high < 0.61
    assert wilson(1.0, 90)[1] == 1.0
