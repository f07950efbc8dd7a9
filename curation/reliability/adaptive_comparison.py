r"""Adaptive against uniform repeats at the same number of students: which picks the truly best rewrite more often?

A rewrite's true gain is the mean of its recorded runs, and a student's gain is one of them, drawn with replacement (the
bootstrap's plug-in principle). Both procedures choose by the same posterior.

    notewright reliability configs/lab.yaml --source lab --adaptive --credit shared --documents 50 --rewrites 8 \
        --repeats 6 'teacher.strategies=[permuted]' student.steps=8

compares them on 400 people with eight restatements each, whose merits are so alike that one run has a reliability of
0.3; about ten minutes of one core.
"""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from curation.study.students import Gains
from student.statistics.adaptive import PlannedRun, best_rewrites, repeat_adaptively, repeat_uniformly
from student.statistics.intervals import estimate, estimate_difference
from student.statistics.mixed_model import MeasuredRun
from student.statistics.reliability import gains_table


def compare(
    recorded: Gains, runs_per_rewrite: int, *, clusters: Sequence[Hashable], shared: bool, students: int,
    simulations: int = 20, seed: int = 0,
) -> dict[str, Any] | None:  # fmt: skip
    """Both procedures, and `doubled`: uniform repeats with twice the budget, for scale. Of each the share of documents
    whose truly best rewrite was chosen, and the true gain of the best minus that of the chosen one, mean over
    documents; and what adaptive repeats gain and save, with 95% intervals over `clusters`.

    None where fewer than two rewrites of any document were recorded. `shared`: the documents of a cluster share
    students; `students` is `student.statistics.adaptive`'s."""
    recording = _Recorded(recorded)
    if not recording.documents:
        return None
    rng = np.random.default_rng(seed)
    numbers = {name: number for number, name in enumerate(dict.fromkeys(clusters))}
    batches = [numbers[clusters[d]] for d in recording.documents] if shared else None
    results = []
    for _ in range(simulations):
        # One column a repeat and document: with common seeds, what a repeat does to all rewrites stays together. Where
        # students are shared, two of one repeat may learn the same rewrite beside other texts: each draws anew.
        columns_DR = rng.integers(recording.repeats, size=(len(recording.documents), 64 * recording.repeats))

        def draw(planned: list[PlannedRun], columns_DR: np.ndarray = columns_DR) -> list[float]:
            drawn_N = rng.integers(recording.repeats, size=len(planned)).tolist()
            if not shared:
                drawn_N = [columns_DR[run.document, run.repeat % columns_DR.shape[1]] for run in planned]
            return [recording.draw(run, int(column)) for run, column in zip(planned, drawn_N, strict=True)]

        budgets = runs_per_rewrite, 2 * runs_per_rewrite
        uniform, doubled = (repeat_uniformly(draw, recording.sizes, budget, batches=batches) for budget in budgets)
        adaptive = repeat_adaptively(draw, recording.sizes, runs_per_rewrite, batches=batches, students=students)
        results.append([recording.verdict(runs) for runs in (uniform, adaptive, doubled)])
    verdicts_ADM = np.mean(results, axis=0)
    names = [clusters[d] for d in recording.documents]
    saved_D, best_D = (sign * (verdicts_ADM[0] - verdicts_ADM[1])[:, m] for sign, m in ((1, 1), (-1, 0)))
    return {
        "how": "simulated",
        "runs_per_rewrite": runs_per_rewrite,
        **{
            way: {"best_chosen": float(of[:, 0].mean()), "regret": float(of[:, 1].mean())}
            for way, of in zip(("uniform", "adaptive", "doubled"), verdicts_ADM, strict=True)
        },
        "regret_saved": float(saved_D.mean()),
        "regret_saved_interval": estimate(saved_D, names).interval,
        "best_gained": float(best_D.mean()),
        "best_gained_interval": estimate_difference(best_D, names).interval,
    }


class _Recorded:
    """Recorded runs of the documents with at least two rewrites that ran."""

    def __init__(self, recorded: Gains):
        table_DGR = gains_table(recorded)
        ran_DG = np.isfinite(table_DGR).any(-1)
        self.documents = [d for d in range(len(recorded)) if ran_DG[d].sum() >= 2]
        self.runs = [table_DGR[d][ran_DG[d]] for d in self.documents]
        self.true_gains = [np.nanmean(runs_GR, axis=-1) for runs_GR in self.runs]
        self.repeats = table_DGR.shape[-1]
        self.sizes = [len(runs_GR) for runs_GR in self.runs]

    def draw(self, planned: PlannedRun, column: int) -> float:
        """The recorded run of that column; the next one where it failed."""
        runs_R = np.roll(self.runs[planned.document][planned.rewrite], -column)
        return float(runs_R[np.isfinite(runs_R)][0])

    def verdict(self, runs: Sequence[MeasuredRun]) -> np.ndarray:
        """(D, 2): whether the best was chosen, and the regret."""
        rows = []
        for gains_G, choice in zip(self.true_gains, best_rewrites(runs, self.sizes), strict=True):
            regret = gains_G.max() - (gains_G.mean() if choice is None else gains_G[choice])
            rows.append((choice is not None and regret == 0, regret))
        return np.array(rows, dtype=np.float64)
