import itertools

import numpy as np
import pytest

from student.statistics.reliability import Noise
from teacher.records import Rewrite
from teacher.reward.assignment import LessonResult, PlannedStudent, TaughtLesson
from teacher.reward.pooling import PooledPredictions, pooled_values


def pooled_gains(gains_DG, shares_DGS, noise):
    """Each lesson's own gain, the lessons of a document compared; nan where none ran."""
    ran_N = np.flatnonzero(np.isfinite(gains_DG))
    pooled_L = pooled_values(
        gains_DG.ravel()[ran_N], ran_N[:, None], ran_N // gains_DG.shape[1],
        shares_DGS.reshape(-1, shares_DGS.shape[2]), Noise(noise, 56.0),
    )  # fmt: skip
    return pooled_L.values_L.reshape(gains_DG.shape)


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


def test_pooling_chooses_better_lessons_than_their_own_runs_alone(step):
    shares_DGS, truth_DG, gains_DG = step
    alone, pooled = regret(truth_DG, gains_DG), regret(truth_DG, pooled_gains(gains_DG, shares_DGS, 1.0))
    assert pooled < 0.5 * alone


def test_where_lessons_differ_by_themselves_pooling_costs_nothing(step):
    """Their own worth has three times the noise's standard deviation."""
    shares_DGS, truth_DG, _ = step
    generator = np.random.default_rng(1)
    truth_DG = truth_DG + 0.9 * generator.normal(size=truth_DG.shape)
    gains_DG = truth_DG + 0.3 * generator.normal(size=truth_DG.shape)
    assert regret(truth_DG, pooled_gains(gains_DG, shares_DGS, 0.09)) <= 1.1 * regret(truth_DG, gains_DG)


def test_a_predictions_error_is_what_noise_does_to_it():
    """Of equal lessons, with all of the noise known and with a quarter of it: contrasts to a group's mean have the
    spread that own error and loadings say."""
    generator = np.random.default_rng(0)
    shares_LS = generator.multinomial(2, [0.5, 0.3, 0.2], size=240) / 2
    lessons_KN, groups_K = np.arange(240)[:, None], np.arange(240) // 4
    for share in (1.0, 0.25):
        seen, expected = [], []
        for values_K in generator.normal(size=(300, 240)):
            pooled = pooled_values(values_K, lessons_KN, groups_K, shares_LS, Noise(share, 56.0))
            values_DG, loadings_DGS = pooled.values_L.reshape(60, 4), pooled.loadings_LS.reshape(60, 4, 3)
            seen.append((values_DG - values_DG.mean(1, keepdims=True)) ** 2)
            shared_DG = ((loadings_DGS - loadings_DGS.mean(1, keepdims=True)) ** 2).sum(2)
            expected.append((pooled.own_error**2 * (1 - 1 / 4) + shared_DG) / share)  # the noise has variance 1
        assert np.mean(seen) == pytest.approx(np.mean(expected), rel=0.1)


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


def test_what_whole_students_show_is_traced_to_the_strategies_that_they_learnt():
    """Six batches of eight documents, a student for each place: a student shows the mean of its eight lessons."""
    rng = np.random.default_rng(0)
    shares_DGS = rng.multinomial(5, [0.4, 0.4, 0.2], size=(48, 8)) / 5
    truth_DG = shares_DGS @ [0.0, 0.1, 0.2]
    lessons_KN = np.array([[d * 8 + g for d in range(8 * b, 8 * b + 8)] for b in range(6) for g in range(8)])
    values_K = truth_DG.ravel()[lessons_KN].mean(1) + 0.005 * rng.normal(size=48) + np.repeat(rng.normal(size=6), 8)
    pooled_DG = pooled_values(values_K, lessons_KN, np.repeat(np.arange(6), 8), shares_DGS.reshape(-1, 3), None)
    pooled_DG = pooled_DG.values_L.reshape(48, 8)

    def slope(values_DG):
        centred_DG, true_DG = (a - a.mean(1, keepdims=True) for a in (values_DG, truth_DG))
        return float((centred_DG * true_DG).sum() / (true_DG**2).sum())

    face_DG = np.repeat(values_K.reshape(6, 8), 8, axis=0)
    assert slope(face_DG) < 0.2, "at face value a lesson bears an eighth of what it does"
    assert 0.7 < slope(pooled_DG) < 1.1


def test_an_empty_place_does_not_count_as_a_lesson():
    """Of two lessons that two students learnt alone, beside an empty place."""
    shares_LS = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    pooled_L = pooled_values(
        np.array([1.0, 3.0]), np.array([[0, -1], [1, -1]]), np.array([0, 0]), shares_LS, Noise(0.0, 1.0)
    ).values_L
    assert np.isnan(pooled_L[2])
    np.testing.assert_allclose(pooled_L[:2], [1.0, 3.0])


def test_a_seed_that_all_lessons_share_draws_none_of_them_to_the_mean():
    """Two repeats whose seeds are worth 2 nats more and less to whatever is taught."""
    generator = np.random.default_rng(0)
    table = [
        [[Rewrite(document_id=f"d{d}", strategy="copy", text="t", completion="t", prompt="p")] for _ in range(6)]
        for d in range(20)
    ]
    results: dict[TaughtLesson, list[LessonResult]] = {}
    true = generator.normal(size=(20, 6))
    for d, g in itertools.product(range(20), range(6)):
        lesson = TaughtLesson(d, g)
        results[lesson] = [
            LessonResult(PlannedStudent((lesson,), d, repeat), true[d, g] + seed + 0.1 * generator.normal(), 0.0, None)
            for repeat, seed in enumerate((2.0, -2.0))
        ]
    predictions = PooledPredictions(table, results).of_lessons(Noise(0.01, 56.0))
    predicted = np.array([[predictions[TaughtLesson(d, g)].value for g in range(6)] for d in range(20)])
    predicted, true = (values - values.mean(1, keepdims=True) for values in (predicted, true))
    assert np.corrcoef(predicted.ravel(), true.ravel())[0, 1] > 0.99
    assert predicted.std(1).mean() > 0.9 * true.std(1).mean()
