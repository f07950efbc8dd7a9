import numpy as np
import pytest

from teacher.pooling import pooled_gains


@pytest.fixture(scope="module")
def step():
    """48 documents, 8 lessons of 5 rewrites in 3 strategies worth 0, 1, 2 nats; own worth sd 0.2, noise sd 1."""
    rng = np.random.default_rng(0)
    shares_DGS = rng.multinomial(5, [0.4, 0.4, 0.2], size=(48, 8)) / 5
    truth_DG = 5 * rng.normal(size=(48, 1)) + shares_DGS @ [0.0, 1.0, 2.0] + 0.2 * rng.normal(size=(48, 8))
    return shares_DGS, truth_DG, truth_DG + rng.normal(size=(48, 8))


def regret(truth_DG, values_DG):
    chosen_D = np.nanargmax(values_DG, axis=1)
    return float(np.mean(truth_DG.max(1) - truth_DG[np.arange(len(truth_DG)), chosen_D]))


@pytest.mark.parametrize(("noise", "share"), [(1.0, 0.5), (None, 0.8)])
def test_pooling_chooses_better_lessons_than_their_own_runs_alone(step, noise, share):
    shares_DGS, truth_DG, gains_DG = step
    alone, pooled = regret(truth_DG, gains_DG), regret(truth_DG, pooled_gains(gains_DG, shares_DGS, noise))
    assert pooled < share * alone


def test_without_noise_a_lesson_is_worth_what_it_gained(step):
    shares_DGS, truth_DG, _ = step
    np.testing.assert_allclose(pooled_gains(truth_DG, shares_DGS, 0.0), truth_DG, atol=1e-9)


def test_lessons_of_one_strategy_keep_their_order(step):
    _, _, gains_DG = step
    pooled_DG = pooled_gains(gains_DG, np.ones((48, 8, 1)), 0.5)
    assert (np.argsort(pooled_DG, axis=1) == np.argsort(gains_DG, axis=1)).all()
    np.testing.assert_allclose(pooled_DG.mean(1), gains_DG.mean(1))


def test_a_lesson_that_never_ran_stays_unknown(step):
    shares_DGS, _, gains_DG = step
    holes_DG = gains_DG.copy()
    holes_DG[3, 2] = np.nan
    holes_DG[5] = np.nan
    pooled_DG = pooled_gains(holes_DG, shares_DGS, 1.0)
    assert (np.isnan(pooled_DG) == np.isnan(holes_DG)).all()
