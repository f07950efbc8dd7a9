"""What the students of several settings say: which lessons beat what, in which measures, at what cost."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datatrove.data import Document

from configs.format import interval, number, quantity
from configs.schema import Config, Search
from configs.schema.reward import Measure
from curation.console.tables import Table, print_tables, stdout_console
from curation.study.groups import FOREIGN, Group
from curation.study.students import Recording
from student.benchmarks.sources import DocumentQuestions
from student.records import Answer, mean_gain
from student.statistics.intervals import Mean, clustered_mean, holm
from student.statistics.reliability import gains_table, mean_of_runs, reliability

LEVEL = 0.05
VERDICT = (
    "A lesson beats both where its gain is above that of the foreign text (of its own form where there is one) and"
    " above that of the passage's arm, in every measure of search.judged_by. Its p-value is the largest of these"
    " comparisons' (intersection-union, Berger 1982), corrected by Holm over all lessons and settings, below 0.05."
    " Differences are paired by document; clusters are titles. Of the settings with such a lesson and a reliability of"
    " one run of the first measure (among arms that are not foreign) of search.minimum_reliability or more, the one of"
    " fewest student tokens is named, of equals the one of fewest seconds."
)
"""How the map is analysed; part of the design that is fixed before anything is measured."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The students of one setting."""

    name: str
    changes: Mapping[str, Any]
    recording: Recording
    tokens: float
    """That a student trains on."""
    seconds: float | None
    """Of a student with its exam; None where none was timed."""


def summarise(
    config: Config, groups: Sequence[Group], clusters: Sequence[Hashable], measured: Sequence[Measured]
) -> dict[str, Any]:
    """The map: of each setting what every arm gains, lessons against the passage and foreign texts, reliability and
    cost; and the setting that `VERDICT` names."""
    search = config.search
    kinds = [_kinds_of(config, group) for group in groups]
    rows = [_setting(search, groups, clusters, one, kinds) for one in measured]
    compared = [lesson for row in rows for lesson in row["lessons"]]
    for lesson, p in zip(compared, holm([lesson["p"] for lesson in compared]), strict=True):
        lesson["p_holm"] = p
        lesson["beats_both"] = p is not None and p < LEVEL
    named = [
        row for row in rows
        if any(lesson["beats_both"] for lesson in row["lessons"])
        and (row["reliability"][search.judged_by[0]]["reliability"] or 0) >= search.minimum_reliability
    ]  # fmt: skip
    cheapest = min(named, key=lambda row: (row["tokens"], row["seconds"] or 0.0), default=None)
    measures = " and ".join(search.judged_by)
    words = (
        f"At none of {len(rows)} settings does a lesson detectably beat foreign text and {search.passage} in {measures}"
        f" with a reliability of {search.minimum_reliability:g} or more."
    )
    if cheapest is not None:
        best = ", ".join(lesson["lesson"] for lesson in cheapest["lessons"] if lesson["beats_both"])
        words = f"{cheapest['name']}: the cheapest setting where a lesson ({best}) beats both in {measures}."
    return {
        "student": config.student.model,
        "documents": len(groups),
        "titles": len(set(clusters)),
        "questions": sum(map(len, kinds)),
        "settings": rows,
        "cheapest": None if cheapest is None else cheapest["name"],
        "words": words,
        "rule": VERDICT,
    }


def _setting(
    search: Search, groups: Sequence[Group], clusters: Sequence[Hashable], one: Measured, kinds: Sequence[Sequence[str]]
) -> dict[str, Any]:
    lessons = [a for a in search.arms if not a.startswith(FOREIGN) and a not in (search.passage, *search.controls)]

    def values(measure: Measure, kind: str | None = None) -> Any:
        """(D, G, R): gains, of the questions of one kind or of all."""

        def of_outcome(answers: Sequence[Answer], d: int) -> float | None:
            return mean_gain([a for a, k in zip(answers, kinds[d], strict=True) if kind in (None, k)], measure)

        return gains_table(
            [
                [[None if one is None else of_outcome(one.answers, d) for one in repeats] for repeats in candidates]
                for d, candidates in enumerate(one.recording.outcomes)
            ]
        )

    def mean(values_D: Any) -> Mean:
        known = [d for d, value in enumerate(values_D) if value == value]
        return clustered_mean([float(values_D[d]) for d in known], [clusters[d] for d in known])

    tables = {measure: values(measure) for measure in search.measures}
    means = {measure: mean_of_runs(table) for measure, table in tables.items()}
    place = {arm: g for g, arm in enumerate(search.arms)}
    rows = []
    for lesson in lessons:
        foreign = [arm for arm in search.arms if arm.startswith(FOREIGN)]
        beside = FOREIGN + lesson if FOREIGN + lesson in place else next(iter(foreign), None)
        differences, p_values = [], []
        for against in (beside, search.passage) if beside else (search.passage,):
            for measure in search.measures:
                difference = mean(means[measure][:, place[lesson]] - means[measure][:, place[against]])
                differences.append(
                    {"against": against, "measure": measure, **difference.estimate()._asdict(), "p": difference.p}
                )
                if measure in search.judged_by:
                    p_values.append(difference.p if difference.mean > 0 else 1.0)
        told = beside is not None and None not in p_values
        rows.append(
            {
                "lesson": lesson,
                "differences": differences,
                "p": max(p for p in p_values if p is not None) if told else None,
            }
        )
    own = [g for g, arm in enumerate(search.arms) if not arm.startswith(FOREIGN)]
    noise = {m: reliability(table[:, own], clusters=clusters, common_seeds=True) for m, table in tables.items()}
    by_kind = {
        kind: {
            arm: {m: mean(mean_of_runs(values(m, kind))[:, g]).estimate()._asdict() for m in search.measures}
            for arm, g in place.items()
        }
        for kind in sorted({kind for of_one in kinds for kind in of_one if kind})
    }
    return {
        "name": one.name,
        "changes": dict(one.changes),
        "tokens": one.tokens,
        "seconds": one.seconds,
        "students": one.recording.students,
        "failed": one.recording.errors,
        "reliability": {
            m: {"reliability": r.reliability, "low": r.low, "high": r.high, "reason": r.reason}
            for m, r in noise.items()
        },
        "arms": {
            arm: {m: mean(means[m][:, g]).estimate()._asdict() for m in search.measures} for arm, g in place.items()
        },
        "kinds": by_kind,
        "lessons": rows,
    }


def _kinds_of(config: Config, group: Group) -> list[str]:
    """The `kind` of each question in the order of the exam, empty where it has none."""
    benchmark = DocumentQuestions(config.student.prompt_template, all_as="reward")
    kinds: dict[tuple[str, str], str] = {}
    for item in group.document.metadata["questions"]:
        alone = Document(group.document.text, group.document.id, metadata={"questions": [item]})
        [question] = benchmark.exam(alone).questions
        kinds.setdefault((question.prompt, question.answer), str(item.get("kind") or ""))
    return [kinds[question.prompt, question.answer] for question in benchmark.exam(group.document).questions]


def print_settings(result: Mapping[str, Any], path: Path) -> None:
    """The map as tables and a sentence, to stdout."""
    console = stdout_console()
    rows = result["settings"]
    measures = list(next(iter(rows[0]["arms"].values())))

    def cell(figures: Mapping[str, Any], *, sign: bool = False) -> str:
        return interval(figures["mean"], figures["low"], figures["high"], sign=sign)

    gains, lessons, costs = list[list[str]](), list[list[str]](), []
    for row in rows:
        for place, (arm, figures) in enumerate(row["arms"].items()):
            gains.append(["" if place else row["name"], arm, *(cell(figures[measure]) for measure in measures)])
        for lesson in row["lessons"]:
            for against in dict.fromkeys(one["against"] for one in lesson["differences"]):
                found = {one["measure"]: one for one in lesson["differences"] if one["against"] == against}
                cells = [cell(found[measure], sign=True) for measure in measures]
                last = number(lesson["p_holm"], 3) if against == lesson["differences"][-1]["against"] else ""
                lessons.append([row["name"], lesson["lesson"], against, *cells, last])
        told = [interval(*(row["reliability"][m][key] for key in ("reliability", "low", "high"))) for m in measures]
        costs.append([row["name"], *told, quantity(row["tokens"]), number(row["seconds"]), str(row["students"])])
        gains, lessons = [*gains, []], [*lessons, []]
    figures = "r" * len(measures)
    print_tables(
        console,
        Table(["setting", "arm", *measures], gains, "ww" + figures, "What students gain"),
        Table(
            ["setting", "lesson", "minus", *measures, "p (Holm)"], lessons, f"www{figures}r",
            "Lessons minus what they have to beat",
        ),
        Table(
            ["setting", *measures, "tokens", "seconds", "students"], costs, title="Reliability of one run, and cost"
        ),
    )  # fmt: skip
    for line in (result["words"], f"written to {path}"):
        console.print(line, markup=False, soft_wrap=True)
