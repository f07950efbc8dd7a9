"""The results of all units of `notewright bench teacher` together: means with intervals, comparisons, tables.

Intervals draw training runs and the batches of people that shared students. Which comparisons are made, and how they
are corrected, is fixed before any run in teacher.yaml beside this file.
"""

import itertools
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console

from configs.format import interval, number, without_nan
from configs.load import load_config
from curation.bench.teacher import Design, preset
from curation.console.tables import Table, print_tables
from curation.lab.items import JUNK
from student.statistics.intervals import Estimate, estimate_share, holm
from teacher.reward.evaluation import crossed_estimate, crossed_share, crossed_test

Unit = Mapping[str, Any]
"""A unit's result."""
Results = Mapping[str, Unit]
"""By the unit's name."""
MEASURES = {"gain": "gains", "accuracy": "accuracies"}
"""Keys of a unit's arm by what is measured: nats a token, and the share of right answers."""
ARMS = ("raw", "untrained", "trained")
SECTIONS = ("lab", "student", "teacher", "reward", "rl")


def summarise(
    design: Design, fixed: Design, begun: Mapping[str, Any], overrides: Sequence[str], results: Results
) -> dict[str, Any]:
    """The bench as one JSON object. `departures` names what this call changed of the `fixed` design, and
    `changed_since_begun` what is not as it was when the first unit of the folder began (`begun`). `preset` is what all
    units start from, before the settings of their student and algorithm."""
    changed = [name for name, value in fixed if getattr(design, name) != value]
    return {
        "design": (now := design.model_dump(mode="json")),
        "departures": [*changed, *overrides],
        "changed_since_begun": [name for name in now if now[name] != begun.get(name)],
        "preset": load_config(preset(design), overrides).model_dump(mode="json", include=set(SECTIONS)),
        "students": {student: _student(results, design, student) for student in design.students},
        "comparisons": _comparisons(results, design, fixed.runs),
        "strategy_mix": _strategy_mix(results, design),
        "shuffled": {
            student: {
                "minus_untrained": {measure: _difference(runs, runs, "untrained", measure)[0] for measure in MEASURES},
                "strategy_shares": strategy_shares(run["strategies"]["trained"] for run in runs),
            }
            for student in design.students
            if (runs := _runs(results, f"{student}/shuffled"))
        },
        "planted_questions": {k: v for k, v in results["planted"].items() if k not in ("seconds", "settings")},
        "retention": [_retention(run) for run in _runs(results, f"{design.students[0]}/retention")],
    }


def _runs(results: Results, prefix: str) -> list[Unit]:
    """The runs `PREFIX-0`, `PREFIX-1` ..., in the order of their numbers."""
    numbers = {name.removeprefix(f"{prefix}-"): run for name, run in results.items() if name.startswith(f"{prefix}-")}
    return [numbers[number] for number in sorted(numbers, key=float)]


def _student(results: Results, design: Design, student: str) -> dict[str, Any]:
    alone = results[f"{student}/strategies"]["strategy_arms"]
    first, second = sorted((n for n in alone if n != "raw"), key=lambda n: -_mean(alone[n], "gain"))[:2]
    return {
        "algorithms": {name: _algorithm(_runs(results, f"{student}/{name}")) for name in design.algorithms},
        "strategies": {
            name: {measure: estimate_arms([arm], measure) for measure in MEASURES} for name, arm in alone.items()
        },
        # What this student learns most from, and by how much: of the untrained teacher's lessons, written once.
        "preferred": {"strategy": first, "over": second, "gain": paired([alone[first]], [alone[second]], "gain")[0]},
    }


def _mean(arm: Unit, measure: str) -> float:
    return statistics.fmean(arm[MEASURES[measure]].values())


def _algorithm(runs: Sequence[Unit]) -> dict[str, Any]:
    """One algorithm's training runs with one student."""
    written = [
        (number, name in JUNK)
        for number, run in enumerate(runs)
        for counts in run["strategies"]["trained"].values()
        for name in Counter(counts).elements()
    ]
    clusters, junk = zip(*written, strict=True)
    return {
        "runs": len(runs),
        **{arm: {m: estimate_arms([run["arms"][arm] for run in runs], m) for m in MEASURES} for arm in ARMS},
        "strategy_shares": strategy_shares(run["strategies"]["trained"] for run in runs),
        "junk_share": rounded(estimate_share(junk, clusters)),
        "best_rounds": [run["best_round"] for run in runs],
        "student_runs": round(statistics.fmean(run["student_runs"] for run in runs)),
        "seconds": round(statistics.fmean(run["seconds"] for run in runs), 1),
    }


def estimate_arms(arms: Sequence[Unit], measure: str) -> dict[str, float | None]:
    """The mean of one arm over training runs and people."""
    crossed = crossed_share if measure == "accuracy" else crossed_estimate
    return rounded(crossed([arm[MEASURES[measure]] for arm in arms], arms[0]["batches"]))


def paired(arms: Sequence[Unit], others: Sequence[Unit], measure: str) -> tuple[dict[str, float | None], float | None]:
    """Mean of arm minus other, paired by person and training run, and the p-value of no difference."""
    key = MEASURES[measure]
    pairs = [
        {name: arm[key][name] - other[key][name] for name in arm[key] if name in other[key]}
        for arm, other in zip(arms, others, strict=True)
    ]
    difference, p = crossed_test(pairs, arms[0]["batches"], of_shares=measure == "accuracy")
    return rounded(difference), p


def _difference(
    runs: Sequence[Unit], others: Sequence[Unit], against: str, measure: str
) -> tuple[dict[str, float | None], float | None]:
    """The trained teacher's arm of `runs` minus the arm `against` of `others`."""
    return paired([run["arms"]["trained"] for run in runs], [run["arms"][against] for run in others], measure)


def rounded(values: Estimate) -> dict[str, float | None]:
    """For JSON. Bounds are None where one batch of people makes no interval possible."""
    return dict(without_nan({name: round(value, 4) for name, value in values._asdict().items()}))


def _comparisons(results: Results, design: Design, runs_to_decide: Mapping[str, int]) -> list[dict[str, Any]]:
    """All comparisons, corrected within the family and measure. Fewer training runs than designed decide nothing."""
    families: dict[str, list[dict[str, Any]]] = {"trained": [], "shuffled": []}
    for student, measure in itertools.product(design.students, MEASURES):
        of = {"student": student, "measure": measure}
        for algorithm, against in itertools.product(design.algorithms, design.against):
            runs = _runs(results, f"{student}/{algorithm}")
            difference, p = _difference(runs, runs, against, measure)
            of_pair = {"algorithm": algorithm, "against": against, "difference": difference, "p": p, "runs": len(runs)}
            families["trained"].append({**of, **of_pair})
        shuffled = _runs(results, f"{student}/shuffled")
        real = _runs(results, f"{student}/{design.first}")[: len(shuffled)]
        difference, p = _difference(real, shuffled, "trained", measure)
        of_pair = {"algorithm": design.first, "against": "shuffled rewards", "difference": difference, "p": p}
        families["shuffled"].append({**of, **of_pair, "runs": len(real)})
    for family, measure in itertools.product(families.values(), MEASURES):
        compared = [comparison for comparison in family if comparison["measure"] == measure]
        for comparison, p in zip(compared, holm([comparison["p"] for comparison in compared]), strict=True):
            comparison["p_corrected"] = p
            comparison["verdict"] = "no detectable difference"
            designed = runs_to_decide["shuffled" if family is families["shuffled"] else comparison["algorithm"]]
            if comparison["runs"] < max(2, designed):
                comparison["verdict"] = f"not decided: {comparison['runs']} of {designed} training runs"
            elif p is not None and p < design.level:
                comparison["verdict"] = "more" if comparison["difference"]["mean"] > 0 else "less"
    return list(itertools.chain(*families.values()))


def strategy_shares(by_document: Iterable[Mapping[str, Mapping[str, int]]]) -> dict[str, float]:
    """Share of each strategy in what was written about held-out people, the most frequent first."""
    counts = sum(
        (Counter(strategies) for documents in by_document for strategies in documents.values()), Counter[str]()
    )
    return {name: round(count / counts.total(), 4) for name, count in counts.most_common()}


def _retention(run: Unit) -> dict[str, Any]:
    """What students still knew after the lessons of one trained teacher, and what it taught them."""
    old = run["old_accuracy"]["trained"]
    return {
        "weight": run["retention_weight"],
        "old_knowledge": rounded(estimate_share(old["after"], range(len(old["after"])))),
        "old_knowledge_before_lessons": statistics.fmean(old["before"]),
        **{measure: estimate_arms([run["arms"]["trained"]], measure) for measure in MEASURES},
        "strategy_shares": strategy_shares([run["strategies"]["trained"]]),
        "best_round": run["best_round"],
    }


def _strategy_mix(results: Results, design: Design) -> dict[str, Any] | None:
    """Total variation distances between the mixes of strategies that trained teachers write: of two runs with different
    students, and of two runs with the same student, which differ by chance.

    The unit is the run. `p_value` is the share of the ways to divide the runs between two students that set them as far
    apart; with five runs each it cannot fall below 2 of 252. None where a student has one run.
    """
    runs = [_runs(results, f"{student}/{design.first}") for student in design.students]
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


def print_summary(summary: Mapping[str, Any], console: Console) -> None:
    """Tables of the arms, the comparisons, the single strategies and the controls."""
    arms, alone = [], []
    for student, figures in summary["students"].items():
        for name, algorithm in figures["algorithms"].items():
            mix = ", ".join(f"{name} {share:.0%}" for name, share in list(algorithm["strategy_shares"].items())[:3])
            accuracies = (interval(**algorithm[arm]["accuracy"]) for arm in ARMS)
            arms.append([student, name, str(algorithm["runs"]), *accuracies, mix])
        best_first = sorted(figures["strategies"].items(), key=lambda item: -item[1]["gain"]["mean"])
        strategies = (f"{name} {s['accuracy']['mean']:.2f} ({s['gain']['mean']:.1f})" for name, s in best_first)
        preferred = figures["preferred"]
        most = f"{preferred['strategy']}, by {interval(**preferred['gain'])} over {preferred['over']}"
        alone.append([student, ", ".join(strategies), most])
    compared = [
        [
            c["student"],
            c["algorithm"],
            c["against"],
            interval(**c["difference"]),
            number(c["p_corrected"], 3),
            c["verdict"],
        ]
        for c in summary["comparisons"]
        if c["measure"] == "gain"
    ]
    head = ["student", "trained by", "minus", "gain", "corrected p", "verdict"]
    print_tables(
        console,
        Table(
            ["student", "algorithm", "runs", *ARMS, "trained teachers write"], arms, "llrrrrw",
            "Accuracy on held-out people",
        ),
        Table(head, compared, "lllrrl", "Gain of the trained teachers' lessons, nats a token"),
        Table(["student", "lessons of one strategy: accuracy (gain)", "gains most from"], alone, "lww"),
    )  # fmt: skip
    planted = summary["planted_questions"]
    lines = [
        f"{student}: shuffled rewards minus untrained {interval(**shuffled['minus_untrained']['gain'])}"
        for student, shuffled in summary["shuffled"].items()
    ]
    if mix := summary["strategy_mix"]:
        between, within = min(mix["between_students"]), max(mix["within_students"])
        lines.append(
            f"mixes of strategies differ by {between:.2f} or more between the students, by {within:.2f} or less between"
            f" runs of one (p = {mix['p_value']})"
        )
    lines += [
        f"retention weight {kept['weight']:g}: old knowledge {interval(**kept['old_knowledge'])} of"
        f" {kept['old_knowledge_before_lessons']:.2f}, accuracy {interval(**kept['accuracy'])}, one training run"
        for kept in summary["retention"]
    ]
    lines.append(
        f"{planted['gated']} of {planted['carried']} texts with a planted question are refused,"
        f" {planted['clean_gated']} of {planted['clean']} clean ones"
    )
    said = {"departures": "not as designed", "changed_since_begun": "changed since the first run in this folder began"}
    lines += [f"{words}: {', '.join(summary[key])}" for key, words in said.items() if summary[key]]
    for line in lines:
        console.print(line, markup=False)
