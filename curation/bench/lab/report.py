"""The figures of `notewright bench lab`, from the results of all cells."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from configs.format import interval, without_nan
from curation.bench.lab.cells import ARMS, Cell
from curation.console.tables import markdown
from curation.lab.models import STUDENTS
from student.statistics.intervals import Estimate, holm
from teacher.reward.evaluation import crossed_estimate, crossed_share, crossed_test


def summarise(runs: Mapping[Cell, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """The bench as one JSON object, from the results of each cell's students; see the package for the analysis."""
    rows, p_values = [], []
    for cell, results in runs.items():
        batches = results[0]["arms"]["raw"]["batches"]
        by_arm = {arm: [result["arms"][arm] for result in results] for arm in ARMS}
        pairs = [
            {name: gain - other["gains"][name] for name, gain in one["gains"].items() if name in other["gains"]}
            for one, other in zip(by_arm["permuted"], by_arm["question-answer"], strict=True)
        ]
        difference, p = crossed_test(pairs, batches)
        p_values.append(p)
        rows.append(
            {
                "change": cell.change,
                "recipe": {name: v for name, v in dataclasses.asdict(cell.recipe).items() if name != "seed"},
                "settings": list(cell.settings),
                "initial_weights": cell.initial_weights,
                "people": len(batches),
                "batches": len(set(batches.values())),
                "failed_students": sum(arm["failed"] for arms in by_arm.values() for arm in arms),
                **{
                    arm: {
                        "accuracy": _rounded(crossed_share([one["accuracies"] for one in of_arm], batches)),
                        "gain": _rounded(crossed_estimate([one["gains"] for one in of_arm], batches)),
                    }
                    for arm, of_arm in by_arm.items()
                },
                "permuted_minus_question_answer": {**_rounded(difference), "p": p},
            }
        )
    for row, p in zip(rows, holm(p_values), strict=True):
        row["permuted_minus_question_answer"]["p_adjusted"] = p
        row["verdict"] = _verdict(row["permuted_minus_question_answer"]["mean"], p)
    recipes = {name: dataclasses.asdict(recipe) for name, recipe in STUDENTS.items()}
    first, *others = recipes.values()
    differ = [key for key in first if any(other[key] != first[key] for other in others)]
    return {
        "students": recipes,
        "declared_difference": {key: {name: recipe[key] for name, recipe in recipes.items()} for key in differ},
        "cells": rows,
    }


def _rounded(values: Estimate) -> dict[str, float | None]:
    """For JSON. Bounds are None where one batch of people makes no interval possible."""
    return dict(without_nan({name: round(value, 4) for name, value in values._asdict().items()}))


def _verdict(difference: float, p: float | None) -> str:
    if p is None or p >= 0.05:
        return "no detectable difference"
    return "learns more from permuted" if difference > 0 else "learns more from question-answer"


def table(summary: Mapping[str, Any]) -> str:
    """Markdown: a row for each cell, the students named by their wordings."""
    names = {recipe["wordings"]: name for name, recipe in summary["students"].items()}
    lines = []
    for key, values in summary["declared_difference"].items():
        lines.append(f"The students differ in `{key}`: {', '.join(f'{n} {value}' for n, value in values.items())}.")
    rows = []
    for row in summary["cells"]:
        wordings = row["recipe"]["wordings"]
        name = f"{wordings} ({names[wordings]})" if wordings in names else str(wordings)
        if row["initial_weights"] > 1:
            name += f", {row['initial_weights']} students"
        arms = (f"{row[arm]['accuracy']['mean']:.2f} ({row[arm]['gain']['mean']:.1f})" for arm in ARMS)
        difference = row["permuted_minus_question_answer"]
        shown = interval(difference["mean"], difference["low"], difference["high"], sign=True)
        rows.append([row["change"], name, *arms, shown, row["verdict"]])
    head = ["changed", "wordings", *ARMS, "permuted minus question-answer", "verdict"]
    return "\n".join([*lines, "", markdown(head, rows)])
