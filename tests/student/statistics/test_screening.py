import numpy as np
import pytest

from student.statistics.screening import fit_screen, lessons_to_teach

FLOOR = 0.1


def simulated(generator, documents, lessons, weight, signs=8):
    """Signs of which one tells a gain with this correlation, and gains; documents differ by much."""
    signs_NS = generator.normal(size=(documents * lessons, signs)) + 3 * np.repeat(
        generator.normal(size=(documents, signs)), lessons, 0
    )
    noise = generator.normal(size=documents * lessons)
    groups = np.repeat(np.arange(documents), lessons)
    own = signs_NS[:, 0] - (np.bincount(groups, signs_NS[:, 0]) / lessons)[groups]
    gains = weight * own + np.sqrt(1 - weight**2) * noise + 5 * generator.normal(size=documents)[groups]
    return signs_NS, gains, groups.tolist()


@pytest.mark.parametrize("documents", [8, 48])
def test_a_screen_of_noise_is_hardly_ever_kept(documents):
    generator = np.random.default_rng(documents)
    kept = 0
    for _ in range(100):
        signs_NS, gains_N, groups = simulated(generator, documents, 8, 0.0)
        kept += fit_screen(signs_NS, gains_N, groups, groups).correlation.low > FLOOR
    assert kept <= 4  # 2.5% if the floor were 0


def test_its_interval_covers_what_the_fit_does_on_other_documents():
    generator = np.random.default_rng(1)
    hits, rounds = 0, 60
    for _ in range(rounds):
        fit = fit_screen(*(drawn := simulated(generator, 48, 8, 0.6)), drawn[2])
        signs_NS, gains_N, groups = simulated(generator, 150, 8, 0.6)
        table = np.array(
            [[signs_NS[d * 8 : d * 8 + 8] @ fit.weights_S, gains_N[d * 8 : d * 8 + 8]] for d in groups[::8]]
        )
        ranks = table.argsort(-1).argsort(-1)
        true = np.mean([np.corrcoef(of_one)[0, 1] for of_one in ranks])
        hits += fit.correlation.low <= true <= fit.correlation.high
    assert hits >= 0.9 * rounds


def test_what_is_constant_or_unknown_does_no_harm():
    generator = np.random.default_rng(2)
    signs_NS, gains_N, groups = simulated(generator, 30, 6, 0.9)
    signs_NS[:, 1], signs_NS[::3, 2], signs_NS[:, 3] = 7.0, np.nan, np.nan
    fit = fit_screen(signs_NS, gains_N, groups, groups)
    assert fit.correlation.low > 0.6 and fit.weights_S[1] == fit.weights_S[3] == 0
    assert fit.rank(signs_NS[:6])[0] == signs_NS[:6, 0].argmax()
    none = fit_screen(np.full((6, 2), np.nan), np.arange(6.0), [0] * 6, [0] * 6)
    assert not none.correlation.low > FLOOR


def test_the_better_the_signs_the_fewer_lessons_are_taught_at_equal_regret():
    kept = [lessons_to_teach(r, 16, 0.6, 0.05) for r in (0.0, 0.3, 0.5, 0.7)]
    assert (
        kept == sorted(kept, reverse=True) and kept[0] >= 12 and kept[-1] <= 5
    )  # three of 16 left out at random cost 5%
    assert lessons_to_teach(0.9, 2, 1.0, 0.05) == 2 and lessons_to_teach(0.9, 1, 1.0, 0.05) == 1


def test_the_interval_of_the_best_of_a_few_holds_its_gain_and_the_choice_raises_the_true_one():
    generator = np.random.default_rng(3)
    held, chosen, best, size = [], [], [], 4
    for _ in range(20):
        fit = fit_screen(*(drawn := simulated(generator, 24, 8, 0.6)), drawn[2])
        signs_NS, gains_N, _ = simulated(generator, 150, size, 0.6)
        for signs_GS, gains_G in zip(signs_NS.reshape(-1, size, 8), gains_N.reshape(-1, size), strict=True):
            predicted_G = fit.predict(signs_GS)
            first = int(predicted_G.argmax())
            lead = gains_G[first] - gains_G.mean()
            held.append(abs(lead - predicted_G[first]) <= fit.error(size))
            chosen.append(0.6 * (signs_GS[first, 0] - signs_GS[:, 0].mean()))  # without the noise
            best.append(0.6 * (signs_GS[:, 0].max() - signs_GS[:, 0].mean()))
    assert 0.94 <= np.mean(held) <= 0.97
    assert np.mean(chosen) > 0.9 * np.mean(best) > 0.5
