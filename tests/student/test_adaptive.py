"""Adaptive repeats spend their budget exactly, where it matters, and pick better rewrites than uniform ones."""

import numpy as np
import pytest

from student.adaptive import (
    Spread,
    allocate,
    choose_best,
    chosen,
    estimate_spread,
    posterior,
    posterior_of_runs,
    repeat_adaptively,
    repeat_uniformly,
)


class World:
    """True gains of rewrites, and students that measure them with noise."""

    def __init__(self, seed, documents=12, rewrites=6, reliability=0.4, seed_sd=0.0):
        self.rng = np.random.default_rng(seed)
        self.truth_DG = self.rng.normal(size=(documents, rewrites)) * reliability**0.5
        self.noise_sd = (1 - reliability) ** 0.5
        self.seed_DR = self.rng.normal(size=(documents, 4000)) * seed_sd
        self.sizes = [rewrites] * documents
        self.slots = []

    def measure(self, slots):
        self.slots += slots
        return [
            float(self.truth_DG[s.document, s.rewrite] + self.seed_DR[s.document, s.repeat] + self.noise_sd * noise)
            for s, noise in zip(slots, self.rng.normal(size=len(slots)), strict=True)
        ]

    def regret(self, gains, common_seeds=False):
        choices = chosen(gains, common_seeds=common_seeds)
        return float(np.mean(self.truth_DG.max(1) - self.truth_DG[np.arange(len(choices)), choices]))


def regrets(repeat, runs_per_rewrite, worlds=6, common_seeds=False, **settings):
    """Regret of a procedure in each of some worlds."""
    found = []
    for seed in range(worlds):
        world = World(seed, **settings)
        budget = runs_per_rewrite * sum(world.sizes)
        found.append(world.regret(repeat(world.measure, world.sizes, budget), common_seeds))
        assert len(world.slots) == budget
    return np.array(found)


@pytest.mark.parametrize("reliability", [0.2, 0.5])
@pytest.mark.parametrize("every_group", [False, True])
def test_adaptive_repeats_beat_as_many_uniform_ones(reliability, every_group):
    def adaptive(measure, sizes, budget):
        return repeat_adaptively(measure, sizes, budget, batch=32, every_group=every_group)

    uniform, adapted = (regrets(way, 4, reliability=reliability) for way in (repeat_uniformly, adaptive))
    saved = uniform - adapted
    assert saved.mean() > saved.std(ddof=1) / len(saved) ** 0.5
    assert adapted.mean() < 0.85 * uniform.mean()


def test_common_seeds_are_estimated_away():
    def adaptive(common_seeds):
        return lambda measure, sizes, budget: repeat_adaptively(
            measure, sizes, budget, batch=32, common_seeds=common_seeds
        )

    settings = {"reliability": 0.5, "seed_sd": 5.0}
    aware = regrets(adaptive(True), 4, common_seeds=True, **settings).mean()
    assert aware < regrets(adaptive(False), 4, **settings).mean()
    assert aware < 0.85 * regrets(repeat_uniformly, 4, common_seeds=True, **settings).mean()


def test_every_rewrite_runs_once_before_any_runs_twice():
    counts = [np.zeros(4, int), np.array([1, 0, 1, 1])]
    first = allocate([np.zeros(4), np.zeros(4)], counts, 1.0, 1.0, 5)
    assert [list(extra) for extra in first] == [[1, 1, 1, 1], [0, 1, 0, 0]]


def test_slots_go_to_the_contenders_and_to_the_undecided_group():
    means = [[5.0, 4.9, 0.0, 0.1], [5.0, 0.0, 0.2, 0.1]]
    undecided, decided = allocate(means, [[2] * 4] * 2, 1.0, 2.0, 12)
    assert undecided.sum() + decided.sum() == 12
    assert undecided[:2].sum() >= 10
    each = allocate(means, [[2] * 4] * 2, 1.0, 2.0, 3, every_group=True)
    assert [extra.sum() for extra in each] == [3, 3]


def test_one_lucky_run_does_not_win():
    means, counts = [1.0, 0.9, 0.0], [1, 20, 20]
    assert np.argmax(means) == 0
    assert choose_best(means, counts, noise_sd=1.0, prior_sd=0.5) == 1
    assert choose_best([0.0, 0.0], [0, 0], 1.0, 1.0) is None


def test_the_posterior_shrinks_towards_the_group_by_the_reliability_of_the_mean():
    means_G, variances_G = posterior([1.0, 2.0, 3.0], [4, 4, 4], noise_sd=2.0, prior_sd=1.0)
    np.testing.assert_allclose(means_G, [1.5, 2.0, 2.5], atol=1e-6)  # reliability 1 / (1 + 4 / 4)
    np.testing.assert_allclose(variances_G, 0.5, atol=1e-6)
    runs_GR = np.array([[1.0] * 4, [2.0] * 4, [3.0] * 4])
    np.testing.assert_allclose(posterior_of_runs(runs_GR, Spread(2.0, 1.0))[0], means_G, atol=1e-6)


def test_the_spread_is_found_and_starts_from_half_noise():
    assert estimate_spread([[[1.0], [3.0]]]) == Spread(1.0, 1.0)
    rng = np.random.default_rng(0)
    truth_DG = rng.normal(size=(400, 5)) * 0.5
    gains = (truth_DG[..., None] + rng.normal(size=(400, 5, 3))).tolist()
    noise_sd, prior_sd, seed_sd = estimate_spread(gains)
    assert (noise_sd, prior_sd, seed_sd) == (pytest.approx(1.0, abs=0.05), pytest.approx(0.5, abs=0.08), 0.0)


def test_failed_students_cost_their_slot_and_nothing_else():
    world = World(0, documents=3, rewrites=3)
    asked = []

    def measure(slots):
        asked.extend(slots)
        return [None if (slot.document, slot.rewrite) == (0, 1) else world.measure([slot])[0] for slot in slots]

    gains = repeat_adaptively(measure, [3, 3, 3], budget=40, batch=8)
    assert len(asked) == len(set(asked)) == 40
    assert sum(len(runs) for group in gains for runs in group) == 40
    choices = chosen(gains)
    assert choices[0] in (0, 2) and None not in choices


def test_empty_and_single_groups_do_no_harm():
    assert repeat_adaptively(lambda slots: [0.0] * len(slots), [], 10, 4) == []
    gains = repeat_adaptively(lambda slots: [1.0] * len(slots), [0, 1], 3, 2)
    assert gains[0] == [] and len(gains[1][0]) == 3
    assert chosen(gains) == [None, 0]
