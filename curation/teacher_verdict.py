"""What the units of `notewright bench teacher` say together: figures with intervals, verdicts, tables.

An interval over people draws the batches that shared students; where there are several training runs, these too.
"""

import random
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from teacher.estimates import Estimate, crossed_estimate

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
            for algorithm in ("rest_em", "grpo", "dpo")
            if (runs := _runs(results, f"{student}/{algorithm}-"))
        }
        best = max(algorithms, key=lambda name: algorithms[name]["gain"]["trained"]["mean"])
        strategies = results[f"{student}/strategies"]["strategy_arms"]
        found["students"][student] = {
            **algorithms[best],
            "algorithm": best,
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


def _figures(arms: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    return {
        name: _json(crossed_estimate([arm[key] for arm in arms], arms[0]["batches"]))
        for name, key in (("accuracy", "accuracies"), ("gain", "gains"))
    }


def _difference(ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]], key: str) -> dict[str, Any]:
    """Paired by person and training run."""
    pairs = [
        {name: mine[key][name] - other[key][name] for name in mine[key] if name in other[key]}
        for mine, other in zip(ours, theirs, strict=True)
    ]
    found = crossed_estimate(pairs, ours[0]["batches"])
    verdict = "better" if found.low > 0 else "worse" if found.high < 0 else "no detectable difference"
    return _json(found) | {"verdict": verdict}


def _json(found: Estimate) -> dict[str, float]:
    return {name: round(value, 4) for name, value in found._asdict().items()}


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
        if runs := _runs(results, f"{student}/shuffled"):
            found["shuffled_rewards"][student] = _algorithm(runs)["trained_minus_untrained"]
    found["planted_questions"] = results.get("planted")
    without, kept = (_runs(results, f"{students[0]}/retention-{name}") for name in ("without", "with"))
    if without and kept:
        found["retention_penalty"] = {
            name: {
                "old_knowledge": runs[0]["old_accuracy"]["trained"]["after"],
                "old_knowledge_before_lessons": runs[0]["old_accuracy"]["trained"]["before"],
                "accuracy": _algorithm(runs)["trained"],
                "strategy_shares": _algorithm(runs)["strategy_shares"],
            }
            for name, runs in (("without", without), ("with", kept))
        }
    return found


def _mix(results: Results, students: Sequence[str], permutations: int = 2000) -> dict[str, Any] | None:
    """Total variation distance between what the teachers of two students write about the same people, and how often
    chance gives as much: the labels of whole people are swapped, as their rewrites are not independent."""
    runs = [_runs(results, f"{student}/rest_em-") for student in students]
    if len(runs) != 2 or not all(runs):
        return None
    pooled = [_pooled(found) for found in runs]
    names = sorted(set(pooled[0]) & set(pooled[1]))
    rng = random.Random(0)
    seen = _distance([pooled[0][name] for name in names], [pooled[1][name] for name in names])
    as_far = 0
    for _ in range(permutations):
        swaps = [rng.random() < 0.5 for _ in names]
        sides = [[pooled[side ^ swap][name] for name, swap in zip(names, swaps, strict=True)] for side in (0, 1)]
        as_far += _distance(*sides) >= seen
    return {"distance": round(seen, 4), "p_value": (as_far + 1) / (permutations + 1), "people": len(names)}


def _pooled(runs: Sequence[Mapping[str, Any]]) -> dict[str, Counter[str]]:
    """Strategies by person, over training runs."""
    found: dict[str, Counter[str]] = {}
    for run in runs:
        for name, counts in run["strategies"]["trained"].items():
            found.setdefault(name, Counter()).update(counts)
    return found


def _distance(ours: Sequence[Counter[str]], theirs: Sequence[Counter[str]]) -> float:
    first, second = (sum(side, Counter()) for side in (ours, theirs))
    names = {*first, *second}
    return 0.5 * sum(abs(first[name] / first.total() - second[name] / second.total()) for name in names)


def _claims(found: Mapping[str, Any]) -> dict[str, bool]:
    """What the bench set out to show, each true or false."""
    claims: dict[str, bool] = {}
    for student, figures in found["students"].items():
        for other in ("raw", "untrained"):
            better = [a[f"trained_minus_{other}"]["gain"]["low"] > 0 for a in figures["algorithms"].values()]
            enough = min(2, len(better))
            claims[f"{student}: trained beats {other} with {enough} or more algorithms"] = sum(better) >= enough
        if figures["target_accuracy"]:
            name = f"{student}: accuracy of {figures['target_accuracy']:.2f} or more"
            claims[name] = figures["trained"]["mean"] >= figures["target_accuracy"]
        claims[f"{student}: junk below 2% of what is written"] = figures["junk_share"] < 0.02
        best = max(figures["strategies"], key=lambda name: figures["strategies"][name]["gain"]["mean"])
        claims[f"{student}: the dominant strategy is the one that is worth most alone"] = (
            figures["dominant_strategy"] == best
        )
    if found["strategy_mix"]:
        claims["the two students' teachers write different mixes"] = found["strategy_mix"]["p_value"] < 0.01
    controls = found["controls"]
    for student, difference in controls["shuffled_rewards"].items():
        claims[f"{student}: shuffled rewards do not improve"] = not difference["gain"]["low"] > 0
    if planted := controls["planted_questions"]:
        claims["planted benchmark questions are gated"] = planted["gated"] == planted["carried"] > 0
    if retention := controls.get("retention_penalty"):
        claims[f"the retention penalty keeps old knowledge at {OLD_KNOWLEDGE} or better, where without it drops"] = (
            retention["with"]["old_knowledge"] >= OLD_KNOWLEDGE > retention["without"]["old_knowledge"]
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
        arms.add_row(student, *(interval(figures[arm]) for arm in ("raw", "untrained", "trained")), mix)
        ways = sorted(figures["strategies"].items(), key=lambda item: -item[1]["gain"]["mean"])
        alone.add_row(
            student, ", ".join(f"{name} {w['accuracy']['mean']:.2f} ({w['gain']['mean']:.1f})" for name, w in ways)
        )
        rows = [*figures["algorithms"].items()]
        rows += [(f"rest_em, 2 runs {how}", runs) for how, runs in found["repeats"].get(student, {}).items()]
        for name, runs in rows:
            equal.add_row(
                student, name, str(runs["student_runs"]), interval(runs["trained"]),
                interval(runs["trained_minus_raw"]["gain"]), interval(runs["trained_minus_untrained"]["gain"]),
            )  # fmt: skip
    for table in (arms, alone, equal):
        console.print(table)
    for claim, holds in found["claims"].items():
        console.print(f"{'yes' if holds else 'NO '}  {claim}", markup=False, highlight=False)


def interval(figure: Mapping[str, Any]) -> str:
    """`0.97 [0.95, 0.98]`."""
    return f"{figure['mean']:.2f} [{figure['low']:.2f}, {figure['high']:.2f}]"
