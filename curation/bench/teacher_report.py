"""What the units of `notewright bench teacher` say together: figures with intervals, verdicts, tables.

An interval over people draws the batches that shared students; where there are several training runs, these too.
"""

import itertools
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from configs.format import interval
from student.statistics.intervals import Estimate, as_share, estimate
from teacher.algorithms.table import ALGORITHMS
from teacher.reward.evaluation import crossed_estimate

JUNK = ("filler", "wrong", "none")
"""Strategies that teach nothing true, and texts that follow none."""

TARGETS = {"student-fixed": 0.85, "student-augmented": 0.92}
"""Accuracy on held-out people that the trained teacher should reach."""

OLD_KNOWLEDGE = 0.85

Results = Mapping[str, Mapping[str, Any]]


def summarise(results: Results) -> dict[str, Any]:
    """The bench as one JSON object; accuracies are shares of right answers, gains nats a token."""
    students = list(dict.fromkeys(name.split("/")[0] for name in results if "/" in name))
    found: dict[str, Any] = {"students": {}, "controls": {}}
    for student in students:
        algorithms = {
            algorithm: _algorithm(runs)
            for algorithm in ALGORITHMS
            if (runs := _runs(results, f"{student}/{algorithm}-"))
        }
        # Not the one that did best on these people: that would be a choice by the test.
        shown = next(iter(algorithms))
        strategies = results[f"{student}/strategies"]["strategy_arms"]
        found["students"][student] = {
            **algorithms[shown],
            "algorithm": shown,
            "target_accuracy": TARGETS.get(student),
            "strategies": {name: _figures([arm]) for name, arm in strategies.items()},
            "algorithms": algorithms,
        }
    found["controls"] = _controls(results, students)
    found["strategy_mix"] = _mix(results, students)
    found["repeats"] = {student: {} for student in students}
    for student in students:
        for how in ("fixed", "adaptive"):
            if runs := _runs(results, f"{student}/repeats-{how}-"):
                found["repeats"][student][how] = _algorithm(runs)
    found["claims"] = _claims(found)
    return found


def _runs(results: Results, prefix: str) -> list[Mapping[str, Any]]:
    return [found for name, found in sorted(results.items()) if name.startswith(prefix)]


def _algorithm(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One algorithm's training runs with one student."""
    arms = {arm: [run["arms"][arm] for run in runs] for arm in ("raw", "untrained", "trained")}
    figures: dict[str, Any] = {arm: _figures(found)["accuracy"] for arm, found in arms.items()}
    figures["gain"] = {arm: _figures(found)["gain"] for arm, found in arms.items()}
    for other in ("raw", "untrained"):
        figures[f"trained_minus_{other}"] = {
            "accuracy": _difference(arms["trained"], arms[other], "accuracies"),
            "gain": _difference(arms["trained"], arms[other], "gains"),
        }
    shares = shares_of(run["strategies"]["trained"] for run in runs)
    return figures | {
        "dominant_strategy": next(iter(shares)),
        "strategy_shares": shares,
        "junk_share": sum(shares.get(name, 0.0) for name in JUNK),
        "seeds": len(runs),
        "student_runs": round(statistics.fmean(run["student_runs"] for run in runs)),
        "seconds": round(statistics.fmean(run["seconds"] for run in runs), 1),
    }


def _figures(arms: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    accuracy, gain = (
        crossed_estimate([arm[key] for arm in arms], arms[0]["batches"]) for key in ("accuracies", "gains")
    )
    return {"accuracy": _json(as_share(accuracy)), "gain": _json(gain)}


def _difference(ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]], key: str) -> dict[str, Any]:
    """Paired by person and training run."""
    pairs = [
        {name: mine[key][name] - other[key][name] for name in mine[key] if name in other[key]}
        for mine, other in zip(ours, theirs, strict=True)
    ]
    found = crossed_estimate(pairs, ours[0]["batches"])
    verdict = "better" if found.low > 0 else "worse" if found.high < 0 else "no detectable difference"
    return {**_json(found), "verdict": verdict}


def _json(found: Estimate) -> dict[str, float | None]:
    """Bounds are None where one batch of people makes no interval possible."""
    return {name: None if math.isnan(value) else round(value, 4) for name, value in found._asdict().items()}


def shares_of(by_document: Iterable[Mapping[str, Mapping[str, int]]]) -> dict[str, float]:
    """Share of each strategy in what was written about held-out people, the most frequent first."""
    counts: Counter[str] = Counter()
    for documents in by_document:
        for own in documents.values():
            counts.update(own)
    return {name: round(count / counts.total(), 4) for name, count in counts.most_common()}


def _controls(results: Results, students: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {"shuffled_rewards": {}}
    for student in students:
        if runs := _runs(results, f"{student}/shuffled-"):
            arms = {arm: [run["arms"][arm] for run in runs] for arm in ("untrained", "trained")}
            found["shuffled_rewards"][student] = {
                "trained_minus_untrained": {
                    measure: _difference(arms["trained"], arms["untrained"], key)
                    for measure, key in (("accuracy", "accuracies"), ("gain", "gains"))
                },
                "strategy_shares": shares_of(run["strategies"]["trained"] for run in runs),
                "seeds": len(runs),
            }
            real = _runs(results, f"{student}/rest_em-")
            if len(real) == len(runs):
                found["shuffled_rewards"][student]["real_minus_shuffled"] = _difference(
                    [run["arms"]["trained"] for run in real], arms["trained"], "gains"
                )
    found["planted_questions"] = results.get("planted")
    for student in students:
        without, kept = (
            [results[name] for name in (f"{student}/retention-{how}",) if name in results]
            for how in ("without", "with")
        )
        if not (without and kept):
            continue
        found["retention_penalty"] = {
            name: {
                "old_knowledge": _json(estimate(runs[0]["old_accuracy"]["trained"]["after"])),
                "old_knowledge_before_lessons": statistics.fmean(runs[0]["old_accuracy"]["trained"]["before"]),
                "weight": runs[0]["retention_weight"],
                "best_round": runs[0]["best_round"],
                "accuracy": _algorithm(runs)["trained"],
                "strategy_shares": _algorithm(runs)["strategy_shares"],
            }
            for name, runs in (("without", without), ("with", kept))
        }
    return found


def _mix(results: Results, students: Sequence[str]) -> dict[str, Any] | None:
    """Total variation distances between the mixes of strategies that trained teachers write: of two runs with different
    students, and of two runs with the same student, which differ by chance.

    The unit is the run. `p_value`: share of the ways to deal the runs to two students that set them as far apart; with
    three runs each it cannot fall below 0.1. None where a student has one run.
    """
    runs = [_runs(results, f"{student}/rest_em-") for student in students]
    if len(runs) != 2 or min(map(len, runs)) < 2:
        return None
    mixes = [shares_of([run["strategies"]["trained"]]) for found in runs for run in found]
    first = len(runs[0])
    pairs = {(i, j): _distance(mixes[i], mixes[j]) for i, j in itertools.combinations(range(len(mixes)), 2)}
    between = [distance for (i, j), distance in pairs.items() if (i < first) != (j < first)]
    within = [distance for (i, j), distance in pairs.items() if (i < first) == (j < first)]

    def apart(side: Sequence[int]) -> float:
        return sum(distance for (i, j), distance in pairs.items() if (i in side) != (j in side))

    dealt = [apart(side) for side in itertools.combinations(range(len(mixes)), first)]
    seen = apart(range(first))
    return {
        "between_students": [round(distance, 4) for distance in between],
        "within_students": [round(distance, 4) for distance in within],
        "p_value": round(sum(distance >= seen - 1e-12 for distance in dealt) / len(dealt), 4),
    }


def _distance(ours: Mapping[str, float], theirs: Mapping[str, float]) -> float:
    return 0.5 * sum(abs(ours.get(name, 0.0) - theirs.get(name, 0.0)) for name in {*ours, *theirs})


def _claims(found: Mapping[str, Any]) -> dict[str, bool]:
    """What the bench set out to show, each true or false; what it cannot tell is not among them."""
    claims: dict[str, bool] = {}
    for student, figures in found["students"].items():
        algorithms = figures["algorithms"]
        if figures["trained"]["low"] is None:
            continue
        for other in ("raw", "untrained"):
            better = [a[f"trained_minus_{other}"]["gain"]["low"] > 0 for a in algorithms.values()]
            enough = min(2, len(better))
            claims[f"{student}: trained beats {other} with {enough} or more algorithms"] = sum(better) >= enough
        if figures["target_accuracy"]:
            name = f"{student}: {figures['algorithm']} reaches an accuracy of {figures['target_accuracy']:.2f}"
            claims[name] = figures["trained"]["mean"] >= figures["target_accuracy"]
        junk = max(a["junk_share"] for a in algorithms.values())
        claims[f"{student}: junk below 2% of what is written, with each algorithm"] = junk < 0.02
        alone = {name: arm["gain"]["mean"] for name, arm in figures["strategies"].items() if name != "raw"}
        claims[f"{student}: the dominant strategy is the one that is worth most alone"] = figures[
            "dominant_strategy"
        ] == max(alone, key=lambda name: alone[name])
        shuffled = found["controls"]["shuffled_rewards"].get(student)
        # Such a teacher walks at random over strategies, and one walk ends somewhere.
        if shuffled and shuffled["seeds"] > 1:
            # Not the interval alone, which a few such walks make wide.
            found_gain = shuffled["trained_minus_untrained"]["gain"]
            claims[f"{student}: shuffled rewards do not improve"] = found_gain["mean"] <= 0
    if mix := found["strategy_mix"]:
        claims["mixes differ more between the students than between runs of one"] = min(mix["between_students"]) > max(
            mix["within_students"]
        )
    controls = found["controls"]
    if planted := controls["planted_questions"]:
        claims["planted benchmark questions are gated, clean copies are not"] = (
            planted["gated"] == planted["carried"] > 0 == planted["clean_gated"]
        )
    if retention := controls.get("retention_penalty"):
        claims[f"the retention penalty keeps old knowledge at {OLD_KNOWLEDGE} or better, where without it drops"] = (
            retention["with"]["old_knowledge"]["mean"] >= OLD_KNOWLEDGE
            and retention["without"]["old_knowledge"]["high"] < retention["with"]["old_knowledge"]["low"]
            and retention["without"]["old_knowledge"]["mean"] < OLD_KNOWLEDGE
            # Falling back to the untrained teacher keeps what is known, and teaches nothing.
            and retention["with"]["best_round"] > 0
        )
    return claims


def print_summary(found: Mapping[str, Any], console: Console) -> None:
    """Tables of the arms, the single strategies, the algorithms, and the claims."""
    arms = Table("student", "raw, repeated", "untrained", "trained", "learned mix", title="Accuracy on held-out people",
                 title_justify="left")  # fmt: skip
    alone = Table("student", "lessons of one strategy: accuracy (gain)", title_justify="left")
    equal = Table("student", "algorithm", "student runs", "accuracy", "minus raw: gain", "minus untrained: gain",
                  title="At equal student runs", title_justify="left")  # fmt: skip
    for student, figures in found["students"].items():
        mix = ", ".join(f"{name} {share:.0%}" for name, share in list(figures["strategy_shares"].items())[:3])
        arms.add_row(student, *(_with_bounds(figures[arm]) for arm in ("raw", "untrained", "trained")), mix)
        ways = sorted(figures["strategies"].items(), key=lambda item: -item[1]["gain"]["mean"])
        alone.add_row(
            student, ", ".join(f"{name} {w['accuracy']['mean']:.2f} ({w['gain']['mean']:.1f})" for name, w in ways)
        )
        rows = [*figures["algorithms"].items()]
        rows += [(f"rest_em, 2 runs {how}", runs) for how, runs in found["repeats"].get(student, {}).items()]
        for name, runs in rows:
            equal.add_row(
                student, name, str(runs["student_runs"]), _with_bounds(runs["trained"]),
                _with_bounds(runs["trained_minus_raw"]["gain"]), _with_bounds(runs["trained_minus_untrained"]["gain"]),
            )  # fmt: skip
    for table in (arms, alone, equal):
        console.print(table)
    for claim, holds in found["claims"].items():
        console.print(f"{'yes' if holds else 'NO '}  {claim}", markup=False, highlight=False)


def _with_bounds(figure: Mapping[str, Any]) -> str:
    return interval(figure["mean"], figure["low"], figure["high"])
