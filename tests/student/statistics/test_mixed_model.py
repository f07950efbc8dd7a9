"""Posterior gains are shrunk by their reliability and free of the effects of students and seeds."""

import numpy as np
import pytest

from student.statistics.adaptive import posterior_gains
from student.statistics.mixed_model import MeasuredRun, StandardDeviations, estimate_standard_deviations, posteriors


def planted(seed, documents=80, rewrites=6, repeats=3, prior=0.5, noise=1.0, seeds=0.0, students=0.0):
    """Runs of documents in batches of eight, each rewrite once a repeat with random other ones; and the true gains."""
    rng = np.random.default_rng(seed)
    truth_DG = 3 + rng.normal(size=(documents, 1)) + rng.normal(size=(documents, rewrites)) * prior
    luck = {}
    runs = []
    for d in range(documents):
        for repeat in range(repeats):
            common = rng.normal() * seeds
            for k, g in enumerate(rng.permutation(rewrites)):
                student = d // 8, repeat, k
                gain = truth_DG[d, g] + common + luck.setdefault(student, rng.normal() * students)
                runs.append(MeasuredRun(d, int(g), float(gain + rng.normal() * noise), student, repeat))
    return runs, truth_DG


def test_planted_standard_deviations_are_estimated():
    runs, _ = planted(0, documents=400, seeds=0.7, students=0.6)
    noise_sd, prior_sd, seed_sd, student_sd = estimate_standard_deviations(runs)
    assert noise_sd == pytest.approx(1.0, abs=0.05)
    assert prior_sd == pytest.approx(0.5, abs=0.08)
    assert seed_sd == pytest.approx(0.7, abs=0.1)
    assert student_sd == pytest.approx(0.6, abs=0.1)
    # Where every run had a seed of its own, what seeds do is noise.
    own = [run._replace(repeat=(run.repeat, run.rewrite)) for run in runs]
    assert estimate_standard_deviations(own).noise_sd == pytest.approx((1 + 0.49) ** 0.5, abs=0.08)


def test_before_anything_ran_twice_half_the_variance_is_noise():
    runs = [MeasuredRun(0, 0, 1.0), MeasuredRun(0, 1, 3.0)]
    assert estimate_standard_deviations(runs) == StandardDeviations(1.0, 1.0)
    assert estimate_standard_deviations([]).noise_sd > 0


def test_the_posterior_shrinks_towards_the_group_by_the_reliability_of_the_mean():
    runs = [MeasuredRun(0, g, mean, repeat=(g, r)) for g, mean in enumerate((1.0, 2.0, 3.0)) for r in range(4)]
    ((means_G, variances_G),) = posteriors(runs, [3], StandardDeviations(noise_sd=2.0, prior_sd=1.0))
    np.testing.assert_allclose(means_G, [1.5, 2.0, 2.5], atol=1e-6)  # reliability 1 / (1 + 4 / 4)
    np.testing.assert_allclose(variances_G, 0.5, atol=1e-6)


def test_posterior_means_are_nearer_the_truth_than_means_of_runs():
    runs, truth_DG = planted(1, repeats=2, students=1.0)
    means_DG = np.zeros_like(truth_DG)
    for run in runs:
        means_DG[run.document, run.rewrite] += run.gain / 2
    believed_DG = np.array([means_G for means_G, _ in posterior_gains(runs, [6] * 80)])
    np.testing.assert_allclose(believed_DG.mean(1), means_DG.mean(1), atol=0.5)
    error, of_means = (np.sqrt(np.mean((x_DG - truth_DG) ** 2)) for x_DG in (believed_DG, means_DG))
    assert error < 0.7 * of_means


def test_documents_without_a_common_student_do_not_affect_each_other():
    runs, _ = planted(2, documents=16, students=1.0)
    deviations = estimate_standard_deviations(runs)
    together = posteriors(runs, [6] * 16, deviations)
    alone = posteriors([run for run in runs if run.document < 8], [6] * 16, deviations)
    for d in range(8):
        np.testing.assert_allclose(together[d][0], alone[d][0])
    assert np.isnan(alone[8][0]).all()
