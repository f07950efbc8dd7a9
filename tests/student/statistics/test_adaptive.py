"""Adaptive repeats spend their budget exactly, where it matters, and pick better rewrites than uniform ones."""

import random
from collections import Counter

import numpy as np
import pytest

from student.statistics.adaptive import (
    best_rewrites,
    next_separate_runs,
    next_shared_runs,
    posterior_gains,
    repeat_adaptively,
    repeat_uniformly,
)
from student.statistics.mixed_model import MeasuredRun


class World:
    """True gains of rewrites, and students that measure them with noise; four documents a batch.

    What chance adds to a run depends on the run's name alone, not on those before it: two ways of spending meet the
    same luck, and a last bit that turns one decision does not change all that follows.
    """

    def __init__(self, seed, documents=40, rewrites=6, reliability=0.4, seed_sd=0.0, student_sd=0.0):
        self.seed = seed
        self.truth_DG = np.random.default_rng(seed).normal(size=(documents, rewrites)) * reliability**0.5
        self.noise_sd = (1 - reliability) ** 0.5
        self.seed_sd, self.student_sd = seed_sd, student_sd
        self.runs = Counter()
        self.sizes = [rewrites] * documents
        self.batches = [d // 4 for d in range(documents)]
        self.planned = []

    def measure(self, planned):
        self.planned += planned
        return [self.run(run) for run in planned]

    def run(self, planned):
        place = planned.document, planned.rewrite
        self.runs[place] += 1
        return (
            float(self.truth_DG[place])
            + self.draw("seed", planned.document, planned.repeat) * self.seed_sd
            + self.draw("student", planned.student) * self.student_sd
            + self.draw("run", *place, self.runs[place]) * self.noise_sd
        )

    def draw(self, *name):
        return random.Random(f"{self.seed} {name}").gauss(0, 1)

    def regret(self, runs):
        choices = best_rewrites(runs, self.sizes)
        return float(np.mean(self.truth_DG.max(1) - self.truth_DG[np.arange(len(choices)), choices]))


def spent(repeat, shared, worlds=6, **settings):
    """Some worlds, each with what a procedure ran in it: four runs a rewrite."""
    found = []
    for seed in range(worlds):
        world = World(seed, **settings)
        more = {"students": 3} if shared and repeat is repeat_adaptively else {}
        runs = repeat(world.measure, world.sizes, 4, batches=world.batches if shared else None, **more)
        assert len(runs) == len(world.planned) == 4 * sum(world.sizes)
        found.append((world, runs))
    return found


def regrets(measured, forget=()):
    """Regret in each world; `forget` names what the choice is not told."""
    return np.array([world.regret([run._replace(**dict.fromkeys(forget)) for run in runs]) for world, runs in measured])


@pytest.mark.parametrize("reliability", [0.2, 0.5])
@pytest.mark.parametrize("shared", [False, True])
def test_adaptive_repeats_beat_as_many_uniform_ones(reliability, shared):
    uniform, adapted = (
        regrets(spent(repeat, shared, reliability=reliability)) for repeat in (repeat_uniformly, repeat_adaptively)
    )
    saved = uniform - adapted
    assert saved.mean() > saved.std(ddof=1) / len(saved) ** 0.5
    assert adapted.mean() < 0.85 * uniform.mean()


def test_adaptive_repeats_win_where_students_have_luck_of_their_own():
    settings = {"reliability": 0.5, "student_sd": 1.5, "documents": 24}
    adapted, uniform = (regrets(spent(repeat, True, **settings)) for repeat in (repeat_adaptively, repeat_uniformly))
    assert adapted.mean() < 0.9 * uniform.mean()


def test_effects_of_shared_students_are_subtracted():
    settings = {"reliability": 0.5, "student_sd": 2.0, "documents": 24}
    measured = spent(repeat_uniformly, True, **settings)
    assert regrets(measured).mean() < 0.75 * regrets(measured, forget=("student",)).mean()


def test_effects_of_common_seeds_are_subtracted():
    settings = {"reliability": 0.5, "seed_sd": 5.0}
    measured = spent(repeat_adaptively, False, **settings)
    aware = regrets(measured).mean()
    assert aware < 0.75 * regrets(measured, forget=("repeat",)).mean()
    assert aware < 0.85 * regrets(spent(repeat_uniformly, False, **settings)).mean()


def test_each_student_learns_every_document_of_its_batch_once():
    world = World(0, documents=12)
    repeat_adaptively(world.measure, world.sizes, 3, batches=world.batches, students=4)
    by_student = {}
    for run in world.planned:
        by_student.setdefault(run.student, []).append(run.document)
    assert {tuple(documents) for documents in by_student.values()} == {(0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11)}
    assert len(by_student) == 3 * 6 * 3
    first = [(run.document, run.rewrite) for run in world.planned if run.repeat == 0]
    assert len(first) == len(set(first)) == 72


def test_no_last_bit_decides_which_rewrite_runs():
    """A leader and its rival with as many runs are worth the same: other machines round otherwise."""
    exact, rounded = World(0, reliability=0.2), World(0, reliability=0.2)
    repeat_adaptively(exact.measure, exact.sizes, 2)
    signs = random.Random(1)
    repeat_adaptively(
        lambda planned: [g + signs.uniform(-1e-9, 1e-9) for g in rounded.measure(planned)], rounded.sizes, 2
    )
    assert exact.planned == rounded.planned


def test_every_rewrite_runs_once_before_any_runs_twice():
    runs = [MeasuredRun(1, g, 1.0) for g in (0, 2, 3)]
    assert Counter(g for g in next_shared_runs(runs, [4, 4], 4)[0]) == Counter(range(4))
    assert next_shared_runs(runs, [4, 4], 1)[1] == [1]
    assert next_separate_runs(runs, [4, 4], 5) == [[0, 1, 2, 3], [1]]
    assert next_shared_runs([], [3, 0], 3) == [[*next_shared_runs([], [3], 3)[0]], []]


def test_runs_go_to_the_contenders_and_to_the_undecided_group():
    means = [[5.0, 4.9, 0.0, 0.1], [5.0, 0.0, 0.2, 0.1]]
    runs = [
        MeasuredRun(d, g, mean + sign, repeat=(g, sign))
        for d, means_G in enumerate(means)
        for g, mean in enumerate(means_G)
        for sign in (1, -1)
    ]
    undecided, decided = next_separate_runs(runs, [4, 4], 12)
    assert len(undecided) + len(decided) == 12
    assert sum(g < 2 for g in undecided) >= 10
    rewrites = next_shared_runs(runs, [4, 4], 3)
    assert [len(rewrites_K) for rewrites_K in rewrites] == [3, 3]
    assert all(g < 2 for g in rewrites[0])


def test_one_lucky_run_does_not_win():
    rng = np.random.default_rng(0)
    runs = [
        MeasuredRun(0, g, mean + rng.normal(), repeat=(g, r)) for g, mean in ((1, 0.9), (2, 0.0)) for r in range(20)
    ]
    runs.append(MeasuredRun(0, 0, 1.2, repeat="lucky"))
    means = [np.mean([run.gain for run in runs if run.rewrite == g]) for g in range(3)]
    assert np.argmax(means) == 0
    assert best_rewrites(runs, [3]) == [1]
    [(believed_G, _)] = posterior_gains(runs, [3])
    assert believed_G[0] < 1.0 and believed_G[1] == pytest.approx(means[1], abs=0.1)


def test_failed_students_cost_their_run_and_nothing_else():
    world = World(0, documents=3, rewrites=3)

    def measure(planned):
        gains = world.measure(planned)
        return [
            None if (run.document, run.rewrite) == (0, 1) else gain for run, gain in zip(planned, gains, strict=True)
        ]

    runs = repeat_adaptively(measure, [3, 3, 3], 5, students=8)
    assert len({(run.document, run.student) for run in world.planned}) == len(runs) == 45
    choices = best_rewrites(runs, [3, 3, 3])
    assert choices[0] in (0, 2) and None not in choices
    nothing = [MeasuredRun(0, 0, None), MeasuredRun(0, 1, None)]
    assert best_rewrites(nothing, [2]) == [None] and np.isnan(posterior_gains(nothing, [2])[0][0]).all()
    assert next_shared_runs(nothing, [3], 2)[0].count(2) == 1


def test_groups_without_and_with_one_rewrite_are_fine():
    assert repeat_adaptively(lambda planned: [0.0] * len(planned), [], 10) == []
    for batches in (None, [0, 0]):
        runs = repeat_adaptively(lambda planned: [1.0] * len(planned), [0, 1], 3, batches=batches, students=2)
        assert [(run.document, run.rewrite) for run in runs] == [(1, 0)] * 3
        assert best_rewrites(runs, [0, 1]) == [None, 0]
