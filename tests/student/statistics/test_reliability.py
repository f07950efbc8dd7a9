"""Planted variances are estimated without bias, and intervals cover at their level."""

import math

import numpy as np
import pytest

from student.statistics.reliability import gains_table, reliability, repeats_for, spearman_brown


def planted(rng, documents, rewrites, repeats, between, noise, seeds=0.0):
    document_D = rng.normal(size=(documents, 1, 1)) * 3
    rewrite_DG = rng.normal(size=(documents, rewrites, 1)) * between**0.5
    seed_DR = rng.normal(size=(documents, 1, repeats)) * seeds**0.5
    return document_D + rewrite_DG + seed_DR + rng.normal(size=(documents, rewrites, repeats)) * noise**0.5


def test_a_full_table_gives_the_textbook_analysis_of_variance():
    gains_DGR = planted(np.random.default_rng(0), 7, 5, 3, 0.3, 0.7)
    means_DG = gains_DGR.mean(-1)
    between = 3 * ((means_DG - means_DG.mean(1, keepdims=True)) ** 2).sum() / (7 * 4)
    within = ((gains_DGR - means_DG[..., None]) ** 2).sum() / (7 * 5 * 2)
    result = reliability(gains_DGR)
    assert result.noise_variance == pytest.approx(within)
    assert result.between_variance == pytest.approx((between - within) / 3)
    assert result.reliability == pytest.approx((between - within) / (between + 2 * within))
    assert (result.documents, result.rewrites, result.runs, result.failed) == (7, 35, 105, 0)


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_planted_variances_are_estimated(missing):
    rng = np.random.default_rng(1)
    gains_DGR = planted(rng, 600, 6, 4, between=0.25, noise=1.0, seeds=2.0)
    gains_DGR[rng.random(gains_DGR.shape) < missing] = np.nan
    result = reliability(gains_DGR, common_seeds=True)
    assert result.between_variance == pytest.approx(0.25, abs=0.04)
    assert result.noise_variance == pytest.approx(1.0, abs=0.05)
    assert result.seed_variance == pytest.approx(2.0, abs=0.2)
    assert result.low < 0.2 < result.high
    assert result.failed == np.isnan(gains_DGR).sum()


def test_effects_of_common_seeds_are_not_noise():
    gains_DGR = planted(np.random.default_rng(2), 200, 6, 4, between=0.5, noise=0.5, seeds=5.0)
    assert reliability(gains_DGR, common_seeds=True).reliability == pytest.approx(0.5, abs=0.06)
    assert reliability(gains_DGR).reliability < 0.1


def test_ragged_nested_data_is_estimated_without_bias():
    rng = np.random.default_rng(3)
    gains = [
        [
            list(true + rng.normal(size=rng.choice([1, 1, 2, 6])))
            for true in rng.normal(size=rng.integers(2, 7)) * 0.5 + rng.normal()
        ]
        for _ in range(1500)
    ]
    result = reliability(gains)
    assert result.between_variance == pytest.approx(0.25, abs=0.04)
    assert result.noise_variance == pytest.approx(1.0, abs=0.04)


def test_spearman_brown_and_the_repeats_that_reach_a_target():
    assert spearman_brown(0.2, 16) == pytest.approx(0.8)
    assert repeats_for(0.2, 0.8) == 16
    assert repeats_for(0.9, 0.8) == 1
    assert repeats_for(0.0) is None and repeats_for(None) is None and spearman_brown(None, 3) is None
    # The mean of three runs really has the reliability that is foretold.
    rng = np.random.default_rng(4)
    gains_DGR = planted(rng, 3000, 5, 6, between=0.25, noise=0.75)
    thirds_DGR = gains_DGR.reshape(3000, 5, 2, 3).mean(-1)
    assert reliability(gains_DGR).at(3) == pytest.approx(reliability(thirds_DGR).reliability, abs=0.02)


@pytest.mark.parametrize(
    ("gains", "words"),
    [
        ([], "no document has two rewrites"),
        ([[[1.0, 2.0]]], "no document has two rewrites"),
        ([[[1.0], [2.0]], [[0.0], [5.0]]], "no rewrite ran twice"),
        ([[[1.0, None], [None, 2.0]]], "no rewrite ran twice"),
        ([[[1.0, 1.0], [1.0, 1.0]]], "all gains of a document are equal"),
        ([[[None, None], [None, math.nan]]], "no document has two rewrites"),
    ],
)
@pytest.mark.parametrize("common_seeds", [False, True])
def test_unknown_figures_are_none_with_a_reason(gains, words, common_seeds):
    result = reliability(gains, common_seeds=common_seeds)
    assert result.reliability is None and result.at(4) is None and repeats_for(result.reliability) is None
    assert words in result.reason


def test_pure_noise_has_no_reliability_and_no_repeats_that_help():
    result = reliability(planted(np.random.default_rng(5), 300, 5, 3, between=0.0, noise=1.0))
    assert result.reliability < 0.05
    assert result.low == 0.0
    assert repeats_for(reliability([[[0.0, 2.0], [2.0, 0.0]]] * 3).reliability) is None


def test_one_document_has_an_estimate_but_no_interval():
    result = reliability([[[1.0, 1.1], [2.0, 2.2], [3.0, 2.9]]])
    assert result.reliability > 0.9
    assert result.low is None and "interval" in result.reason


def test_failed_runs_are_counted_and_gaps_of_ragged_lists_are_not():
    result = reliability([[[1.0, None], [2.0, 3.0, 4.0]], [[0.0, 1.0], [5.0]]])
    assert (result.runs, result.failed) == (7, 1)
    assert gains_table([[[1.0], [2.0, None]]]).shape == (1, 2, 2)


@pytest.mark.parametrize("true", [0.1, 0.5])
def test_the_interval_of_reliability_covers_at_its_level(true):
    rng = np.random.default_rng(7)
    result = [reliability(planted(rng, 12, 6, 3, true, 1 - true)) for _ in range(250)]
    assert 0.88 <= np.mean([f.low <= true <= f.high for f in result]) <= 0.99


def test_documents_that_share_students_are_drawn_together():
    rng = np.random.default_rng(8)
    gains_DGR = np.repeat(planted(rng, 8, 6, 3, 0.4, 0.6), 8, axis=0)
    alone = reliability(gains_DGR)
    together = reliability(gains_DGR, clusters=np.repeat(np.arange(8), 8).tolist())
    assert together.reliability == pytest.approx(alone.reliability)
    assert together.high - together.low > 2 * (alone.high - alone.low)
