"""What `notewright reliability` found, as tables."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.format import interval, number
from curation.console.tables import Table, print_tables, stdout_console
from student.records import in_measure

TARGET = 0.8
"""The reliability that `repeats_for_target` is about."""
Report = Mapping[str, Any]
"""What one unit of credit gives, as in the JSON."""


def print_reports(reports: Sequence[Report], output: Path) -> None:
    """The tables of `notewright reliability`, to stdout."""
    console = stdout_console()
    columns = list(zip(*map(_column, reports), strict=True))
    rows = [[cells[0][0], *(figure for _, figure in cells)] for cells in columns]
    print_tables(console, Table(["", *(r["credit"] for r in reports)], rows, title="How much of the reward is signal"))
    if any(len(report["by_measure"]) > 1 for report in reports):
        print_tables(console, _measure_table(reports))
    for report in reports:
        rows = [
            [
                f"{way['strategy']} (control)" if way["control"] else way["strategy"], str(way["documents"]),
                interval(way["gain"], *way["gain_interval"]), number(way["accuracy"]),
            ]
            for way in report["ways"]
        ]  # fmt: skip
        head = ["strategy", "documents", f"gain {in_measure(report['measure'])}", "accuracy after"]
        print_tables(console, Table(head, rows, title=f"Ways of rewriting, {report['credit']} credit"))
    if any(report["adaptive"] for report in reports):
        print_tables(console, _adaptive_table(reports))
    for report in reports:
        errors = report["errors"]
        failed = f"{len(errors)} students failed: {errors[0]}" if errors else None
        for remark in filter(None, (report["components"]["reason"], failed)):
            console.print(f"{report['credit']}: {remark}", markup=False)
    console.print(f"written to {output}", markup=False, soft_wrap=True)


def _column(report: Report) -> list[tuple[str, str]]:
    """The figures of one unit of credit by their names."""
    parts = report["components"]
    return [
        ("documents x rewrites", f"{parts['documents']} x {parts['rewrites'] / max(1, parts['documents']):.3g}"),
        ("documents a student", str(report["documents_per_student"])),
        ("student runs", str(report["students"])),
        ("repeats a rewrite", str(report["repeats"])),
        ("sd between rewrites", _deviation(parts["between_variance"])),
        ("sd of retraining noise", _deviation(parts["noise_variance"])),
        ("reliability of one run", interval(parts["reliability"], parts["low"], parts["high"])),
        ("reliability of their mean", interval(report["mean_of_repeats"], *report["mean_of_repeats_interval"])),
        (f"repeats that reach {TARGET:g}", number(report["repeats_for_target"], 0)),
        ("student runs a rewrite then", number(report["students_for_target"])),
        ("student runs a rewrite now", number(report["students_per_rewrite"])),
        ("seconds a student run", number(report["seconds_per_student"], 3)),
        ("sd between strategies", number(report["contrast_sd"], 3)),
        ("best strategy minus worst", number(report["contrast_range"], 3)),
    ]


def _measure_table(reports: Sequence[Report]) -> Table:
    rows = []
    for report in reports:
        for measure, signal in report["by_measure"].items():
            parts = signal["components"]
            name = f"{measure}{', rewarded' if measure == report['measure'] else ''}"
            deviations = [_deviation(parts[part]) for part in ("between_variance", "noise_variance")]
            told = interval(parts["reliability"], parts["low"], parts["high"])
            rows.append([report["credit"], name, *deviations, told, number(signal["contrast_range"], 3)])
    head = ["sd between rewrites", "sd of noise", "reliability of one run", "best strategy minus worst"]
    title = "The same students in every measure, each in its unit"
    return Table(["credit", "measure", *head], rows, "llrrrr", title)


def _adaptive_table(reports: Sequence[Report]) -> Table:
    rows = []
    for report in reports:
        for c in report["adaptive"]:
            shares = [f"{c[way]['best_chosen']:.0%}" for way in ("uniform", "adaptive")]
            regrets = [number(c[way]["regret"], 3) for way in ("uniform", "adaptive", "doubled")]
            more = interval(c["best_gained"], *c["best_gained_interval"])
            low, high = c["regret_saved_interval"]
            saved = interval(c["regret_saved"], low, high, 3)
            rows.append([report["credit"], str(c["runs_per_rewrite"]), *shares, more, *regrets, saved])
    head = ["credit", "runs a rewrite", "best chosen", "adaptive", "more", "regret", "adaptive", "doubled", "saved"]
    return Table(head, rows, title="Adaptive against uniform repeats at the same number of runs, on recorded outcomes")


def _deviation(variance: float | None) -> str:
    """A standard deviation; an estimate below 0 is no contrast."""
    return number(None if variance is None else max(0.0, variance) ** 0.5, 3)
