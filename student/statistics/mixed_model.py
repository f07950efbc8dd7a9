"""A mixed model of gains: which true gains of rewrites follow from the student runs so far.

A gain is taken as `document + rewrite + student + seed + noise`. The true gains of a document's rewrites are normal
around the document's level (`prior_sd`). A student that learns several documents moves all their gains alike, by its
initialisation and by what it learns together (`student_sd`). Equal seeds move a document's rewrites alike (`seed_sd`).
The effects of students and seeds are predicted from all runs that share them and are subtracted: best linear unbiased
prediction (Robinson 1991, Statistical Science 6), with standard deviations estimated from the runs themselves.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from student.statistics.reliability import measured_noise, reliability


class MeasuredRun(NamedTuple):
    """The gain of one document in one student run."""

    document: int
    rewrite: int
    gain: float | None
    """None if the student failed."""
    student: Hashable = None
    repeat: Hashable = 0


class StandardDeviations(NamedTuple):
    """Standard deviations of the effects that make up a gain, in the unit of the gain."""

    noise_sd: float
    """Spread of one run around the effects below."""
    prior_sd: float
    """Spread of the true gains of a document's rewrites."""
    seed_sd: float = 0.0
    """Spread of the part that all rewrites of a document share in a repeat."""
    student_sd: float = 0.0
    """Spread of the part that all documents of a student share."""


def estimate_standard_deviations(runs: Sequence[MeasuredRun]) -> StandardDeviations:
    """Standard deviations pooled over all documents.

    Before anything ran twice, half of the variance inside groups is taken as noise and half as true differences. That
    is a guess to plan the first repeats by; a claim needs `noise_degrees`.
    """
    ran = [run for run in runs if run.gain is not None]
    table = _tables(ran)
    components = reliability(table, common_seeds=True)
    if components.noise_variance is None:  # every run has a seed of its own
        components = reliability(table)
    student = _student_variance(ran)
    if components.noise_variance is None or components.between_variance is None:
        variances = [float(np.nanvar(table_GR, ddof=1)) for table_GR in table if np.isfinite(table_GR).sum() >= 2]
        half = (sum(variances) / len(variances) / 2 if variances else 0.0) or 1.0
        student = min(student, 0.9 * half)
        return StandardDeviations(math.sqrt(half - student), math.sqrt(half), 0.0, math.sqrt(student))
    total = max(0.0, components.between_variance) + components.noise_variance or 1.0
    # An estimate of no differences at all would end the search for the best; a twentieth of the variance keeps it open.
    prior = max(components.between_variance, 0.05 * total)
    student = min(student, 0.9 * components.noise_variance)
    noise = max(components.noise_variance - student, 1e-6 * total)
    seed = max(0.0, components.seed_variance or 0.0)
    return StandardDeviations(math.sqrt(noise), math.sqrt(prior), math.sqrt(seed), math.sqrt(student))


def noise_degrees(runs: Sequence[MeasuredRun]) -> float:
    """Degrees of freedom of `StandardDeviations.noise_sd`; 0 where nothing ran twice, and the noise is a guess."""
    ran = [run for run in runs if run.gain is not None]
    noise = measured_noise(list(_tables(ran)) if ran else [])
    return noise.degrees if noise else float(len(ran) - len({(run.document, run.rewrite) for run in ran}))


def posteriors(
    runs: Sequence[MeasuredRun], group_sizes: Sequence[int], deviations: StandardDeviations
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Posterior means (G,) of each document's true gains, and variances (G,) of their differences to the group's mean.

    Means are nan and variances 0 for a document without runs.
    """
    by_document: dict[int, list[MeasuredRun]] = defaultdict(list)
    for run in runs:
        if run.gain is not None:
            by_document[run.document].append(run)
    result: list[tuple[np.ndarray, np.ndarray]] = [(np.full(size, np.nan), np.zeros(size)) for size in group_sizes]
    for connected in _connected_documents(by_document):
        estimates = _predict([by_document[d] for d in connected], [group_sizes[d] for d in connected], deviations)
        for d, estimate in zip(connected, estimates, strict=True):
            result[d] = estimate
    return result


def _connected_documents(by_document: dict[int, list[MeasuredRun]]) -> list[list[int]]:
    """Sets of documents that share students, directly or through other documents (union-find)."""
    parent = {d: d for d in by_document}

    def root(d: int) -> int:
        while parent[d] != d:
            d = parent[d]
        return d

    first: dict[Hashable, int] = {}
    for d, runs in by_document.items():
        for run in runs:
            if run.student is not None:
                parent[root(d)] = root(first.setdefault(run.student, d))
    connected: dict[int, list[int]] = defaultdict(list)
    for d in by_document:
        connected[root(d)].append(d)
    return list(connected.values())


def _predict(
    runs: Sequence[Sequence[MeasuredRun]], sizes: Sequence[int], deviations: StandardDeviations
) -> list[tuple[np.ndarray, np.ndarray]]:
    """`posteriors` of documents that share students: Henderson's mixed model equations, solved densely.

    Of the Q effects the first are the rewrites, document by document; then come students and seeds as they appear.
    """
    starts = np.cumsum([0, *sizes]).tolist()
    blocks = [slice(start, start + size) for start, size in zip(starts, sizes, strict=False)]
    column_of: dict[tuple[Hashable, ...], int] = {}
    cells: list[tuple[int, int]] = []  # (run, effect) where the design matrix is 1
    y_N: list[float] = []
    levels = [float(np.mean([run.gain for run in document_runs])) for document_runs in runs]
    with_students = len(runs) > 1 and deviations.student_sd > 0
    for i, document_runs in enumerate(runs):
        for run in document_runs:
            assert run.gain is not None
            n = len(y_N)
            y_N.append(run.gain - levels[i])
            cells.append((n, starts[i] + run.rewrite))
            if with_students and run.student is not None:
                cells.append((n, column_of.setdefault(("student", run.student), starts[-1] + len(column_of))))
            if deviations.seed_sd > 0:
                cells.append((n, column_of.setdefault(("seed", i, run.repeat), starts[-1] + len(column_of))))
    design_NQ = np.zeros((len(y_N), starts[-1] + len(column_of)))
    design_NQ[tuple(np.array(cells).T)] = 1.0
    noise = max(deviations.noise_sd**2, 1e-18)
    precision_QQ = design_NQ.T @ design_NQ / noise
    for block, size in zip(blocks, sizes, strict=True):
        # Rewrites are normal around the group's mean, whose prior is flat. The 1e-9 keeps the matrix invertible.
        precision_QQ[block, block] += (np.eye(size) - (1 - 1e-9) / size) / max(deviations.prior_sd**2, 1e-18)
    for name, q in column_of.items():
        precision_QQ[q, q] += 1 / (deviations.student_sd if name[0] == "student" else deviations.seed_sd) ** 2
    covariance_QQ = np.linalg.inv(precision_QQ)
    means_Q = covariance_QQ @ (design_NQ.T @ np.array(y_N)) / noise
    estimates = []
    for block, size, level in zip(blocks, sizes, levels, strict=True):
        centring_GG = np.eye(size) - 1 / size
        variances_G = np.diag(centring_GG @ covariance_QQ[block, block] @ centring_GG) * size / max(1, size - 1)
        estimates.append((level + means_Q[block], variances_G.copy()))
    return estimates


def _tables(ran: Sequence[MeasuredRun]) -> list[np.ndarray]:
    """Gains of each document as a table of rewrites x seeds, nan where nothing ran; a rewrite's second run with a seed
    has a column of its own."""
    cells: dict[int, list[tuple[int, int, float | None]]] = defaultdict(list)
    columns: dict[int, dict[tuple[Hashable, int], int]] = defaultdict(dict)
    counts: Counter[tuple[int, int, Hashable]] = Counter()
    for run in ran:
        key, names = (run.document, run.rewrite, run.repeat), columns[run.document]
        column = names.setdefault((run.repeat, counts[key]), len(names))
        cells[run.document].append((run.rewrite, column, run.gain))
        counts[key] += 1
    tables = []
    for d, document_cells in cells.items():
        table_GR = np.full((1 + max(g for g, _, _ in document_cells), len(columns[d])), np.nan)
        for g, column, gain in document_cells:
            table_GR[g, column] = gain
        tables.append(table_GR)
    return tables


def _student_variance(ran: Sequence[MeasuredRun]) -> float:
    """Variance of the part that documents of one student share: the mean product of their deviations in it.

    Rewrites are assigned to students at random, so their own effects are not shared.
    """
    gains: dict[int, list[float]] = defaultdict(list)
    for run in ran:
        assert run.gain is not None
        gains[run.document].append(run.gain)
    means = {d: float(np.mean(values)) for d, values in gains.items()}
    deviations: dict[Hashable, dict[int, float]] = defaultdict(dict)
    for run in ran:
        if run.student is not None and len(gains[run.document]) > 1:
            assert run.gain is not None
            deviations[run.student][run.document] = run.gain - means[run.document]
    products = pairs = 0.0
    for by_document in deviations.values():
        z_D = np.array(list(by_document.values()))
        products += float(z_D.sum() ** 2 - (z_D**2).sum())
        # A document's own mean contains a share of each student's effect, by which a deviation is too small.
        kept_D = np.array([1 - 1 / len(gains[d]) for d in by_document])
        pairs += float(np.sqrt(np.outer(kept_D, kept_D)).sum() - kept_D.sum())
    return max(0.0, products / pairs) if pairs else 0.0
