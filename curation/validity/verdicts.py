"""What the tables say: each signal beside the target, all of them corrected together, and a recommendation."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from curation.validity.signals import Signal
from student.statistics.intervals import Estimate, holm
from student.statistics.prediction import rank_correlation, regret, regret_difference, true_correlation
from student.statistics.reliability import mean_of_runs, reliability

SIGNIFICANT = 0.05
STATISTICS = {
    "unit": "A rewrite within its document: what differs between documents counts nowhere.",
    "clusters": "Titles, where documents have one, else documents.",
    "correlation": "Spearman's rank correlation within each document (equal values share their mean rank), and its mean"
    " over documents, each with the weight of its number of rewrites minus one. 95% by the jackknife over clusters.",
    "silent": "A document where the signal or the target is the same for all rewrites says nothing about the"
    " correlation, and is counted. A signal that is so everywhere cannot be told.",
    "p": "Two-sided, that the correlation is 0, by the jackknife or, where that is larger, by the variance of chance"
    " orders; Holm's correction over all signals.",
    "corrected": "The correlation of the values that noise hides: the covariance within documents over the root of both"
    " true variances (Spearman 1904), with Fieller's 95% interval. Signals have noise where students are trained. It is"
    " given where both sides have two runs, and only where the interval has an end; at a low reliability it is wide.",
    "regret": "The target of the best rewrite minus that of the one with the largest signal, over that of the best"
    " minus the mean, each summed over documents: 0 is the best choice, 1 a random one. Among equal signals the choice"
    " is at random. The best is the best as measured: where the target is noisy no signal reaches 0.",
    "screen": "With reward.screen a run is replayed on 20 orders of the documents, in four steps: all lessons of the"
    " first are taught, then those that a screen leaves, which is fitted on what was taught whole before. Of the last"
    " three: the target's regret of choosing by the gain among the lessons taught, and that minus the regret among all,"
    " paired, 95% by the jackknife over clusters. Beside it as many lessons at random, and a screen fitted on gains"
    " shuffled within documents, which has to leave nothing out.",
    "cost": "Tokens that students train on and seconds, a rewrite.",
    "recommendation": "Of the signals with a corrected p below 0.05 and a correlation above 0 the one of the smallest"
    " regret is the best. The cheapest of them (in tokens, then in seconds) is recommended whose regret is not"
    " detectably above the best one's (95% interval of the difference, over clusters). Without such a signal none is"
    " detectably better than chance.",
}
"""How all is analysed; part of the design that is fixed before anything is measured."""
Bounds = tuple[float | None, float | None, float | None]
"""An estimate and its 95% interval; None where it cannot be told."""
Figures = dict[str, Any]
"""How well one signal predicts the target within documents, as in the JSON; see `STATISTICS` for each figure.
`documents` say something about the correlation, `silent` ones nothing; `corrected_reason` says why there is no
corrected correlation, and `cannot_be_told` why the signal says nothing at all; `reliability` is of one run of the
signal, None where its noise is not known, 1 without noise."""


def judge(signals: Sequence[Signal], target_DGR: np.ndarray, clusters: Sequence[Hashable]) -> tuple[list[Figures], str]:
    """Each signal's figures, by rising regret, and the recommendation."""
    target_DG = mean_of_runs(target_DGR)
    results = [_result(signal, target_DGR, clusters) for signal in signals]
    for result, p in zip(results, holm([result["p"] for result in results]), strict=True):
        result["p_holm"] = p
    words = _recommend(results, signals, target_DG, clusters)
    return sorted(results, key=lambda r: math.inf if r["regret"][0] is None else r["regret"][0]), words


def judge_target(words: str, target_DGR: np.ndarray, clusters: Sequence[Hashable]) -> Figures:
    """The reliability of `one_run` of the target and of the mean of its `runs` (the square of the best correlation that
    a signal without noise can have); and how well `another_run` predicts the mean of the others: no cheap signal should
    be expected to do better. None with one run."""
    one_run, R = reliability(target_DGR, clusters=clusters), target_DGR.shape[-1]
    another = None
    if R > 1:
        # Every run in turn; the documents of all turns are in their clusters.
        runs_DG = np.concatenate([target_DGR[..., r] for r in range(R)])
        others_DG = np.concatenate([mean_of_runs(np.delete(target_DGR, r, -1)) for r in range(R)])
        signal = Signal(
            name="another run of the target", kind="target", values_DG=runs_DG, runs_DGR=runs_DG[..., None],
            tokens=0.0, seconds=None, needs="",
        )  # fmt: skip
        another = _result(signal, others_DG[..., None], list(clusters) * R)
    return {
        "words": words, "runs": R, "one_run": asdict(one_run), "mean_reliability": one_run.at(R), "another_run": another
    }  # fmt: skip


def _result(signal: Signal, target_DGR: np.ndarray, clusters: Sequence[Hashable]) -> Figures:
    target_DG = mean_of_runs(target_DGR)
    agreement = rank_correlation(signal.values_DG, target_DG, clusters)
    corrected, reason = true_correlation(signal.runs_DGR, target_DGR, clusters, common_seeds=signal.kind == "students")
    untold = ""
    if not np.isfinite(signal.values_DG).any():
        untold = f"needs {signal.needs}" if signal.needs else "no student gave it"
    elif not agreement.documents:
        untold = "the signal or the target is the same for all rewrites of each document"
    noise = reliability(signal.runs_DGR, clusters=clusters, common_seeds=True) if signal.kind == "students" else None
    return {
        **{name: getattr(signal, name) for name in ("name", "kind", "measure", "credit", "steps")},
        "documents": agreement.documents,
        "silent": agreement.silent,
        "correlation": _bounds(None if untold else agreement.estimate()),
        "p": None if untold else agreement.p,
        "p_holm": None,
        "corrected": _bounds(None if untold else corrected),
        "corrected_reason": untold or reason,
        "regret": _bounds(None if untold else regret(signal.values_DG, target_DG, clusters).estimate()),
        "reliability": noise.reliability if noise else (1.0 if signal.kind == "sign" and not untold else None),
        "tokens": signal.tokens,
        "seconds": signal.seconds,
        "cannot_be_told": untold,
    }


def _recommend(
    results: Sequence[Figures], signals: Sequence[Signal], target_DG: np.ndarray, clusters: Sequence[Hashable]
) -> str:
    """By the rule in `STATISTICS`."""
    sure = [(result["p_holm"] if result["p_holm"] is not None else 1.0) < SIGNIFICANT for result in results]
    signs = [result["correlation"][0] or 0 for result in results]
    tells = [
        (result, signal)
        for result, signal, is_sure, sign in zip(results, signals, sure, signs, strict=True)
        if is_sure and sign > 0 and result["regret"][0] is not None
    ]
    against = [r["name"] for r, is_sure, sign in zip(results, sure, signs, strict=True) if is_sure and sign < 0]
    warning = f" Beware: {', '.join(against)} detectably prefer worse rewrites." if against else ""
    if not tells:
        return "No signal is detectably better than chance at telling a document's better rewrites." + warning
    best, best_signal = min(tells, key=lambda pair: pair[0]["regret"][0])

    def as_good(signal: Signal) -> bool:
        """The regret is not detectably above the best one's."""
        low = regret_difference(signal.values_DG, best_signal.values_DG, target_DG, clusters).estimate().low
        return signal is best_signal or not low > 0

    equal = [result for result, signal in tells if as_good(signal)]
    cheapest = min(equal, key=lambda r: (r["tokens"], r["seconds"] or 0.0, r["regret"][0]))
    if cheapest is best:
        words = f"Choose by {best['name']}: of {len(tells)} signals that tell something it has the smallest regret"
        return f"{words} ({best['regret'][0]:.2f}), and no cheaper one comes near.{warning}"
    return (
        f"Choose by {cheapest['name']} (regret {cheapest['regret'][0]:.2f}): it is the cheapest of {len(tells)} signals"
        f" that tell something whose regret is not detectably above the smallest, {best['regret'][0]:.2f} of"
        f" {best['name']}.{warning}"
    )


def _bounds(estimate: Estimate | None) -> Bounds:
    if estimate is None or not math.isfinite(estimate.mean):
        return None, None, None
    low, high = (bound if math.isfinite(bound) else None for bound in estimate.interval)
    return estimate.mean, low, high
