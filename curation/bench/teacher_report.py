"""The results of all units of `notewright bench teacher` together: means with intervals, claims, tables.

Intervals draw the batches of people that shared students; where there are several training runs, these too.
"""

import itertools
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from configs.format import interval, without_nan
from curation.bench.teacher_controls import OLD_PEOPLE
from student.statistics.intervals import Estimate, estimate_share
from teacher.algorithms.table import ALGORITHMS
from teacher.reward.evaluation import crossed_estimate, crossed_share, crossed_test

JUNK = ("filler", "wrong", "none")
"""Strategies that teach nothing true, and texts that follow none."""

TARGETS = {"student-fixed": 0.85, "student-augmented": 0.92}
"""Accuracy on held-out people that the trained teacher should reach."""

OLD_KNOWLEDGE = 0.85

FIRST = next(iter(ALGORITHMS))
"""The algorithm that is shown, and that the controls train with. Taking the one that did best on these people would be
a choice by the test."""

Unit = Mapping[str, Any]
"""A unit's result."""
Results = Mapping[str, Unit]
"""By the unit's name."""
KEYS = {"accuracy": "accuracies", "gain": "gains"}
"""Keys of a unit's arm by what is measured."""


def summarise(results: Results) -> dict[str, Any]:
    """The bench as one JSON object; accuracies are shares of right answers, gains nats a token."""
    students = list(dict.fromkeys(name.split("/")[0] for name in results if "/" in name))
    summary: dict[str, Any] = {"students": {}, "controls": _controls(results, students)}

    def by_name(prefix: str, names: Iterable[str]) -> dict[str, dict[str, Any]]:
        return {name: _algorithm(runs) for name in names if (runs := _runs(results, f"{prefix}{name}-"))}

    for student in students:
        algorithms = by_name(f"{student}/", ALGORITHMS)
        alone = results[f"{student}/strategies"]["strategy_arms"]
        summary["students"][student] = {
            **algorithms[FIRST],
            "algorithm": FIRST,
            "target_accuracy": TARGETS.get(student),
            "strategies": {name: _means([arm]) for name, arm in alone.items()},
            "algorithms": algorithms,
        }
    summary["strategy_mix"] = _strategy_mix(results, students)
    summary["repeats"] = {student: by_name(f"{student}/repeats-", ("fixed", "adaptive")) for student in students}
    summary["claims"] = _claims(summary)
    return summary


def _runs(results: Results, prefix: str) -> list[Unit]:
    return [result for name, result in sorted(results.items()) if name.startswith(prefix)]


def _arms(runs: Sequence[Unit], arm: str) -> list[Unit]:
    return [run["arms"][arm] for run in runs]


def _algorithm(runs: Sequence[Unit]) -> dict[str, Any]:
    """One algorithm's training runs with one student."""
    means = {arm: _means(_arms(runs, arm)) for arm in ("raw", "untrained", "trained")}
    shares = strategy_shares(run["strategies"]["trained"] for run in runs)
    return {
        **{arm: mean["accuracy"] for arm, mean in means.items()},
        "gain": {arm: mean["gain"] for arm, mean in means.items()},
        **{f"trained_minus_{other}": _differences(runs, other) for other in ("raw", "untrained")},
        "dominant_strategy": next(iter(shares)),
        "strategy_shares": shares,
        "junk_share": sum(shares.get(name, 0.0) for name in JUNK),
        "seeds": len(runs),
        "student_runs": round(statistics.fmean(run["student_runs"] for run in runs)),
        "seconds": round(statistics.fmean(run["seconds"] for run in runs), 1),
    }


def _means(arms: Sequence[Unit]) -> dict[str, dict[str, float | None]]:
    accuracies, gains = ([arm[key] for arm in arms] for key in KEYS.values())
    accuracy, gain = crossed_share(accuracies, arms[0]["batches"]), crossed_estimate(gains, arms[0]["batches"])
    return {"accuracy": _rounded(accuracy), "gain": _rounded(gain)}


def _differences(runs: Sequence[Unit], other: str) -> dict[str, Any]:
    """The trained teacher's arm minus the `other` one of the same runs."""
    return {measure: _difference(_arms(runs, "trained"), _arms(runs, other), key) for measure, key in KEYS.items()}


def _difference(arms: Sequence[Unit], others: Sequence[Unit], key: str) -> dict[str, Any]:
    """Paired by person and training run."""
    pairs = [
        {name: arm[key][name] - other[key][name] for name in arm[key] if name in other[key]}
        for arm, other in zip(arms, others, strict=True)
    ]
    difference, _ = crossed_test(pairs, arms[0]["batches"], of_shares=key == KEYS["accuracy"])
    verdict = "better" if difference.low > 0 else "worse" if difference.high < 0 else "no detectable difference"
    return {**_rounded(difference), "verdict": verdict}


def _rounded(values: Estimate) -> dict[str, float | None]:
    """For JSON. Bounds are None where one batch of people makes no interval possible."""
    return dict(without_nan({name: round(value, 4) for name, value in values._asdict().items()}))


def strategy_shares(by_document: Iterable[Mapping[str, Mapping[str, int]]]) -> dict[str, float]:
    """Share of each strategy in what was written about held-out people, the most frequent first."""
    counts = sum(
        (Counter(strategies) for documents in by_document for strategies in documents.values()), Counter[str]()
    )
    return {name: round(count / counts.total(), 4) for name, count in counts.most_common()}


def _controls(results: Results, students: Sequence[str]) -> dict[str, Any]:
    controls: dict[str, Any] = {"shuffled_rewards": {}, "planted_questions": results.get("planted")}
    for student in students:
        if runs := _runs(results, f"{student}/shuffled-"):
            shuffled = {
                "trained_minus_untrained": _differences(runs, "untrained"),
                "strategy_shares": strategy_shares(run["strategies"]["trained"] for run in runs),
                "seeds": len(runs),
            }
            real = _runs(results, f"{student}/{FIRST}-")
            if len(real) == len(runs):
                trained, trained_shuffled = _arms(real, "trained"), _arms(runs, "trained")
                shuffled["real_minus_shuffled"] = _difference(trained, trained_shuffled, KEYS["gain"])
            controls["shuffled_rewards"][student] = shuffled
        penalty = {how: results.get(f"{student}/retention-{how}") for how in ("without", "with")}
        if all(penalty.values()):
            controls["retention_penalty"] = {how: _retention(run) for how, run in penalty.items() if run}
    return controls


def _retention(run: Unit) -> dict[str, Any]:
    """What the student still knew after the trained teacher's lessons, and what the teacher wrote."""
    figures, old = _algorithm([run]), run["old_accuracy"]["trained"]
    return {
        "old_knowledge": _rounded(estimate_share(old["after"], texts=OLD_PEOPLE)),
        "old_knowledge_before_lessons": statistics.fmean(old["before"]),
        "weight": run["retention_weight"],
        "best_round": run["best_round"],
        "accuracy": figures["trained"],
        "strategy_shares": figures["strategy_shares"],
    }


def _strategy_mix(results: Results, students: Sequence[str]) -> dict[str, Any] | None:
    """Total variation distances between the mixes of strategies that trained teachers write: of two runs with different
    students, and of two runs with the same student, which differ by chance.

    The unit is the run. `p_value` is the share of the ways to divide the runs between two students that set them as far
    apart; with three runs each it cannot fall below 0.1. None where a student has one run.
    """
    runs = [_runs(results, f"{student}/{FIRST}-") for student in students]
    if len(runs) != 2 or min(map(len, runs)) < 2:
        return None
    mixes = [strategy_shares([run["strategies"]["trained"]]) for run in itertools.chain(*runs)]
    first = len(runs[0])
    distances = {
        (i, j): 0.5 * sum(abs(mixes[i].get(name, 0.0) - mixes[j].get(name, 0.0)) for name in {*mixes[i], *mixes[j]})
        for i, j in itertools.combinations(range(len(mixes)), 2)
    }

    def across(side: Sequence[int]) -> list[float]:
        """Distances between the runs of `side` and the others."""
        return [distance for (i, j), distance in distances.items() if (i in side) != (j in side)]

    between = across(range(first))
    within = [distance for (i, j), distance in distances.items() if (i < first) == (j < first)]
    # A permutation test: runs are exchangeable if the students do not matter.
    permuted = [sum(across(side)) for side in itertools.combinations(range(len(mixes)), first)]
    return {
        "between_students": [round(distance, 4) for distance in between],
        "within_students": [round(distance, 4) for distance in within],
        "p_value": round(sum(total >= sum(between) - 1e-12 for total in permuted) / len(permuted), 4),
    }


def _claims(summary: Mapping[str, Any]) -> dict[str, bool]:
    """The claims that the bench was made for, each true or false; those that it cannot decide are left out."""
    claims: dict[str, bool] = {}
    controls = summary["controls"]
    for student, figures in summary["students"].items():
        algorithms = figures["algorithms"].values()
        if figures["trained"]["low"] is None:
            continue
        for other in ("raw", "untrained"):
            better = [algorithm[f"trained_minus_{other}"]["gain"]["low"] > 0 for algorithm in algorithms]
            enough = min(2, len(better))
            claims[f"{student}: trained beats {other} with {enough} or more algorithms"] = sum(better) >= enough
        if target := figures["target_accuracy"]:
            claim = f"{student}: {figures['algorithm']} reaches an accuracy of {target:.2f}"
            claims[claim] = figures["trained"]["mean"] >= target
        junk = max(algorithm["junk_share"] for algorithm in algorithms)
        claims[f"{student}: junk below 2% of what is written, with each algorithm"] = junk < 0.02
        alone = {name: arm["gain"]["mean"] for name, arm in figures["strategies"].items() if name != "raw"}
        claim = f"{student}: the dominant strategy is the one that is worth most alone"
        claims[claim] = figures["dominant_strategy"] == max(alone, key=lambda name: alone[name])
        shuffled = controls["shuffled_rewards"].get(student)
        # A teacher with shuffled rewards walks at random over strategies, and one walk ends somewhere.
        if shuffled and shuffled["seeds"] > 1:
            # The mean and not the interval, which a few such walks make wide.
            gain = shuffled["trained_minus_untrained"]["gain"]["mean"]
            claims[f"{student}: shuffled rewards do not improve"] = gain <= 0
    if mix := summary["strategy_mix"]:
        claim = "mixes differ more between the students than between runs of one"
        claims[claim] = min(mix["between_students"]) > max(mix["within_students"])
    if planted := controls["planted_questions"]:
        claim = "planted benchmark questions are gated, clean copies are not"
        claims[claim] = planted["gated"] == planted["carried"] > 0 == planted["clean_gated"]
    if retention := controls.get("retention_penalty"):
        old_with, old_without = (retention[how]["old_knowledge"] for how in ("with", "without"))
        claim = f"the retention penalty keeps old knowledge at {OLD_KNOWLEDGE} or better, where without it drops"
        claims[claim] = (
            old_with["mean"] >= OLD_KNOWLEDGE > old_without["mean"]
            and old_without["high"] < old_with["low"]
            # Falling back to the untrained teacher keeps what is known, and teaches nothing.
            and retention["with"]["best_round"] > 0
        )
    return claims


def print_summary(summary: Mapping[str, Any], console: Console) -> None:
    """Tables of the arms, the single strategies, the algorithms, and the claims."""
    arms = Table("student", "raw, repeated", "untrained", "trained", "learned mix", title="Accuracy on held-out people",
                 title_justify="left")  # fmt: skip
    alone = Table("student", "lessons of one strategy: accuracy (gain)", title_justify="left")
    equal = Table("student", "algorithm", "student runs", "accuracy", "minus raw: gain", "minus untrained: gain",
                  title="At equal student runs", title_justify="left")  # fmt: skip
    for student, figures in summary["students"].items():
        mix = ", ".join(f"{name} {share:.0%}" for name, share in list(figures["strategy_shares"].items())[:3])
        arms.add_row(student, *(interval(**figures[arm]) for arm in ("raw", "untrained", "trained")), mix)
        best_first = sorted(figures["strategies"].items(), key=lambda item: -item[1]["gain"]["mean"])
        strategies = (f"{name} {s['accuracy']['mean']:.2f} ({s['gain']['mean']:.1f})" for name, s in best_first)
        alone.add_row(student, ", ".join(strategies))
        repeats = {f"{FIRST}, 2 runs {how}": runs for how, runs in summary["repeats"].get(student, {}).items()}
        for name, runs in (figures["algorithms"] | repeats).items():
            gains = (runs[f"trained_minus_{other}"]["gain"] for other in ("raw", "untrained"))
            gain_texts = (interval(gain["mean"], gain["low"], gain["high"]) for gain in gains)
            equal.add_row(student, name, str(runs["student_runs"]), interval(**runs["trained"]), *gain_texts)
    for table in (arms, alone, equal):
        console.print(table)
    for claim, holds in summary["claims"].items():
        console.print(f"{'yes' if holds else 'NO '}  {claim}", markup=False, highlight=False)
