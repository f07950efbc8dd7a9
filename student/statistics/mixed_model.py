"""What student runs say about the true gains of rewrites.

A gain is taken as `document + rewrite + student + seed + noise`: true gains of a document's rewrites are normal around
the document's level (`prior_sd`); a student that learns of several documents moves all their gains alike
(`student_sd`: its company and its initialisation); equal seeds move a document's rewrites alike (`seed_sd`). What
students and seeds do is predicted from everything that sits in them and taken off: best linear unbiased prediction
(Robinson 1991, Statistical Science 6), the deviations estimated from the runs themselves.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from student.statistics.reliability import reliability


class MeasuredRun(NamedTuple):
    """What came of a seat."""

    document: int
    rewrite: int
    gain: float | None
    """Of the document in that student; None where the student failed."""
    student: Hashable = None
    repeat: Hashable = 0


class StandardDeviations(NamedTuple):
    """Standard deviations that beliefs rest on, in the unit of the gain."""

    noise_sd: float
    """Of one run around all that is named below."""
    prior_sd: float
    """Of the true gains of a document's rewrites."""
    seed_sd: float = 0.0
    """Of what all rewrites of a document share in a repeat."""
    student_sd: float = 0.0
    """Of what all documents of a student share."""


def estimate_standard_deviations(runs: Sequence[MeasuredRun]) -> StandardDeviations:
    """Pooled standard deviations from the runs so far.

    Before anything ran twice, the deviations inside groups is taken as half noise and half contrast.
    """
    ran = [run for run in runs if run.gain is not None]
    table = _tables(ran)
    found = reliability(table, common_seeds=True, resamples=2)
    if found.noise_variance is None:  # every run has a seed of its own
        found = reliability(table, resamples=2)
    student = _student_variance(ran)
    if found.noise_variance is None or found.between_variance is None:
        variances = [float(np.nanvar(table_GR, ddof=1)) for table_GR in table if np.isfinite(table_GR).sum() >= 2]
        half = (sum(variances) / len(variances) / 2 if variances else 0.0) or 1.0
        student = min(student, 0.9 * half)
        return StandardDeviations(math.sqrt(half - student), math.sqrt(half), 0.0, math.sqrt(student))
    total = max(0.0, found.between_variance) + found.noise_variance or 1.0
    # An estimate of no contrast at all would end the search; a twentieth of the variance keeps it open.
    prior = max(found.between_variance, 0.05 * total)
    student = min(student, 0.9 * found.noise_variance)
    noise = max(found.noise_variance - student, 1e-6 * total)
    seed = max(0.0, found.seed_variance or 0.0)
    return StandardDeviations(math.sqrt(noise), math.sqrt(prior), math.sqrt(seed), math.sqrt(student))


def posteriors(
    runs: Sequence[MeasuredRun], group_sizes: Sequence[int], deviations: StandardDeviations
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Posterior means (G,) of each document's true gains and variances (G,) of their contrasts to the group's mean."""
    found: list[tuple[np.ndarray, np.ndarray]] = [(np.full(size, np.nan), np.zeros(size)) for size in group_sizes]
    by_document: dict[int, list[MeasuredRun]] = defaultdict(list)
    for run in runs:
        if run.gain is not None:
            by_document[run.document].append(run)
    for company in _companies(by_document):
        parts = _predict([by_document[d] for d in company], [group_sizes[d] for d in company], deviations)
        for d, part in zip(company, parts, strict=True):
            found[d] = part
    return found


def _companies(by_document: dict[int, list[MeasuredRun]]) -> list[list[int]]:
    """Documents that students connect, directly or through others."""
    leader = {d: d for d in by_document}

    def lead(d: int) -> int:
        while leader[d] != d:
            d = leader[d]
        return d

    first: dict[Hashable, int] = {}
    for d, runs in by_document.items():
        for run in runs:
            if run.student is not None:
                leader[lead(d)] = lead(first.setdefault(run.student, d))
    companies: dict[int, list[int]] = defaultdict(list)
    for d in by_document:
        companies[lead(d)].append(d)
    return list(companies.values())


def _predict(
    runs: Sequence[Sequence[MeasuredRun]], sizes: Sequence[int], deviations: StandardDeviations
) -> list[tuple[np.ndarray, np.ndarray]]:
    """`posteriors` of documents that share students: Henderson's mixed model equations, solved densely."""
    rewrites = np.cumsum([0, *sizes])
    columns: dict[tuple[Hashable, ...], int] = {}
    cells: list[tuple[int, int]] = []
    y_N: list[float] = []
    levels: list[float] = []
    shared = len(runs) > 1 and deviations.student_sd > 0
    for i, of_document in enumerate(runs):
        levels.append(float(np.mean([run.gain for run in of_document])))
        for run in of_document:
            n = len(y_N)
            assert run.gain is not None
            y_N.append(run.gain - levels[i])
            cells.append((n, int(rewrites[i]) + run.rewrite))
            if shared and run.student is not None:
                cells.append((n, columns.setdefault(("student", run.student), int(rewrites[-1]) + len(columns))))
            if deviations.seed_sd > 0:
                cells.append((n, columns.setdefault(("seed", i, run.repeat), int(rewrites[-1]) + len(columns))))
    design_NQ = np.zeros((len(y_N), int(rewrites[-1]) + len(columns)))
    design_NQ[tuple(np.array(cells).T)] = 1.0
    noise = max(deviations.noise_sd**2, 1e-18)
    precision_QQ = design_NQ.T @ design_NQ / noise
    for start, size in zip(rewrites, sizes, strict=False):
        # Normal around the group's mean, which has a flat prior; the last term lets a group that never ran have one.
        block = slice(int(start), int(start) + size)
        precision_QQ[block, block] += (np.eye(size) - (1 - 1e-9) / size) / max(deviations.prior_sd**2, 1e-18)
    for name, q in columns.items():
        precision_QQ[q, q] += 1 / (deviations.student_sd if name[0] == "student" else deviations.seed_sd) ** 2
    covariance_QQ = np.linalg.inv(precision_QQ)
    means_Q = covariance_QQ @ (design_NQ.T @ np.array(y_N)) / noise
    parts = []
    for start, size, level in zip(rewrites, sizes, levels, strict=False):
        block = slice(int(start), int(start) + size)
        centring_GG = np.eye(size) - 1 / size
        contrast_G = np.diag(centring_GG @ covariance_QQ[block, block] @ centring_GG) * size / max(1, size - 1)
        parts.append((level + means_Q[block], contrast_G.copy()))
    return parts


def _tables(ran: Sequence[MeasuredRun]) -> list[np.ndarray]:
    """A table rewrites x seeds of each document, nan where nothing ran; a second run with a seed has its own column."""
    cells: dict[int, dict[tuple[int, Hashable, int], float]] = defaultdict(dict)
    seen: Counter[tuple[int, int, Hashable]] = Counter()
    for run in ran:
        key = run.document, run.rewrite, run.repeat
        assert run.gain is not None
        cells[run.document][run.rewrite, run.repeat, seen[key]] = run.gain
        seen[key] += 1
    tables = []
    for of_document in cells.values():
        columns = {name: r for r, name in enumerate(dict.fromkeys((repeat, n) for _, repeat, n in of_document))}
        table_GR = np.full((1 + max(g for g, _, _ in of_document), len(columns)), np.nan)
        for (g, repeat, n), gain in of_document.items():
            table_GR[g, columns[repeat, n]] = gain
        tables.append(table_GR)
    return tables


def _student_variance(ran: Sequence[MeasuredRun]) -> float:
    """Variance of what documents of one student share: the mean product of two documents' deviations in it.

    Rewrites are dealt to students at random, so what these do is in no two documents' deviations alike.
    """
    gains: dict[int, list[float]] = defaultdict(list)
    for run in ran:
        assert run.gain is not None
        gains[run.document].append(run.gain)
    means = {d: float(np.mean(values)) for d, values in gains.items()}
    seats: dict[Hashable, dict[int, float]] = defaultdict(dict)
    for run in ran:
        if run.student is not None and len(gains[run.document]) > 1:
            assert run.gain is not None
            seats[run.student][run.document] = run.gain - means[run.document]
    products = pairs = 0.0
    for sitting in seats.values():
        z_D = np.array(list(sitting.values()))
        products += float(z_D.sum() ** 2 - (z_D**2).sum())
        # A document's own mean holds a share of each student's effect.
        kept_D = np.array([1 - 1 / len(gains[d]) for d in sitting])
        pairs += float(np.sqrt(np.outer(kept_D, kept_D)).sum() - kept_D.sum())
    return max(0.0, products / pairs) if pairs else 0.0
