"""What `notewright reliability` found, as records and as tables."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from configs.format import interval, number
from curation.reliability.adaptive_comparison import Comparison
from student.statistics.intervals import Interval
from student.statistics.reliability import Reliability

Credit = Literal["document", "shared", "shard"]
TARGET = 0.8
"""The reliability that `repeats_for_target` is about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way of rewriting, over all documents that have it."""

    strategy: str
    documents: int
    gain: float
    """Mean, nats a gold-answer token."""
    gain_interval: Interval
    accuracy: float
    """Share of the reward questions right after the lesson."""
    control: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditReport:
    """What one unit of credit gives."""

    credit: Credit
    documents_per_student: int
    repeats: int
    students: int
    """Student runs in all; those of `shared` and `shard` are the same."""
    components: Reliability
    mean_of_repeats: float | None
    """Reliability of the mean of `repeats` runs."""
    mean_of_repeats_interval: tuple[float | None, float | None]
    repeats_for_target: int | None
    """Runs of a rewrite whose mean reaches a reliability of 0.8; None: no contrast was found."""
    students_for_target: float | None
    """What these cost in student runs a rewrite: a run of `shared` or `shard` serves several documents at once."""
    students_per_rewrite: float
    """Student runs a rewarded rewrite as measured, with its repeats."""
    seconds_per_student: float | None
    ways: list[Way]
    contrast_sd: float | None
    """Standard deviation of the ways' mean gains, controls left out."""
    contrast_range: float | None
    """Best way's mean gain minus the worst's."""
    errors: list[str] = field(default_factory=list)
    """Of students that failed."""
    adaptive: list[Comparison] = field(default_factory=list)


def print_reports(reports: Sequence[CreditReport], output: Path) -> None:
    """The tables of `notewright reliability`, to stdout."""
    console = Console()
    table = Table(title="How much of the reward is signal", title_justify="left")
    for name in ("", *(report.credit for report in reports)):
        table.add_column(name, justify="right" if name else "left", no_wrap=not name)
    for label, cells in _rows(reports):
        table.add_row(label, *cells)
    console.print(table)
    for report in reports:
        console.print(_ways_table(report))
    if any(report.adaptive for report in reports):
        console.print(_adaptive_table(reports))
    for report in reports:
        if report.components.reason:
            console.print(f"{report.credit}: {report.components.reason}", highlight=False)
        if report.errors:
            console.print(f"{report.credit}: {len(report.errors)} students failed: {report.errors[0]}", highlight=False)
    console.print(f"written to {output}", highlight=False, soft_wrap=True)


def _rows(reports: Sequence[CreditReport]) -> list[tuple[str, list[str]]]:
    found = [report.components for report in reports]
    return [
        ("documents x rewrites", [f"{c.documents} x {c.rewrites / max(1, c.documents):.3g}" for c in found]),
        ("documents a student", [str(r.documents_per_student) for r in reports]),
        ("student runs", [str(r.students) for r in reports]),
        ("repeats a rewrite", [str(r.repeats) for r in reports]),
        ("sd between rewrites", [_root(c.between_variance) for c in found]),
        ("sd of retraining noise", [_root(c.noise_variance) for c in found]),
        ("reliability of one run", [interval(c.reliability, c.low, c.high) for c in found]),
        ("reliability of their mean", [interval(r.mean_of_repeats, *r.mean_of_repeats_interval) for r in reports]),
        (f"repeats that reach {TARGET:g}", [number(r.repeats_for_target, 0) for r in reports]),
        ("student runs a rewrite then", [number(r.students_for_target, 2) for r in reports]),
        ("student runs a rewrite now", [f"{r.students_per_rewrite:.2f}" for r in reports]),
        ("seconds a student run", [number(r.seconds_per_student, 3) for r in reports]),
        ("sd between ways", [number(r.contrast_sd, 3) for r in reports]),
        ("best way minus worst", [number(r.contrast_range, 3) for r in reports]),
    ]


def _ways_table(report: CreditReport) -> Table:
    table = Table(title=f"Ways of rewriting, {report.credit} credit", title_justify="left")
    for name in ("way", "documents", "gain, nats a token", "accuracy after"):
        table.add_column(name, justify="left" if name == "way" else "right")
    for way in report.ways:
        name = f"{way.strategy} (control)" if way.control else way.strategy
        table.add_row(name, str(way.documents), interval(way.gain, *way.gain_interval), f"{way.accuracy:.2f}")
    return table


def _adaptive_table(reports: Sequence[CreditReport]) -> Table:
    table = Table(title="Adaptive against uniform repeats at the same number of runs", title_justify="left")
    names = (
        "credit",
        "how",
        "runs a rewrite",
        "best chosen",
        "adaptive",
        "more",
        "regret",
        "adaptive",
        "doubled",
        "saved",
    )
    for name in names:
        table.add_column(name, justify="left" if name in ("credit", "how") else "right")
    for report in reports:
        for c in report.adaptive:
            shares = f"{c.uniform.best_chosen:.0%}", f"{c.adaptive.best_chosen:.0%}"
            more = interval(c.best_gained, *c.best_gained_interval)
            doubled = number(c.doubled.regret if c.doubled else None, 3)
            regrets = f"{c.uniform.regret:.3f}", f"{c.adaptive.regret:.3f}", doubled
            saved = interval(c.regret_saved, *c.regret_saved_interval, 3)
            table.add_row(report.credit, c.how, str(c.runs_per_rewrite), *shares, more, *regrets, saved)
    return table


def _root(variance: float | None) -> str:
    """A standard deviation; an estimate below 0 is no contrast."""
    return "-" if variance is None else f"{max(0.0, variance) ** 0.5:.3f}"
