"""What `notewright reliability` found, as records and as tables."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from configs.format import interval, number
from configs.schema.reward import Credit, Measure
from curation.reliability.adaptive_comparison import Comparison
from student.records import in_measure
from student.statistics.intervals import Interval
from student.statistics.reliability import Reliability

TARGET = 0.8
"""The reliability that `repeats_for_target` is about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategyResult:
    """One strategy, over all documents that have it."""

    strategy: str
    documents: int
    gain: float
    """Mean, in the rewarded measure."""
    gain_interval: Interval
    accuracy: float
    """Share of the reward questions right after the lesson."""
    control: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """How much of the gain in one measure is signal, in the measure's unit."""

    components: Reliability
    contrast_sd: float | None
    """Standard deviation of the strategies' mean gains, controls left out."""
    contrast_range: float | None
    """Best strategy's mean gain minus the worst's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditReport:
    """What one unit of credit gives."""

    credit: Credit
    measure: Measure
    """What is rewarded, and all that follows is in."""
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
    ways: list[StrategyResult]
    contrast_sd: float | None
    contrast_range: float | None
    """As in `Signal`."""
    by_measure: dict[Measure, Signal]
    """Of the same students: every measure that the exam tells, the rewarded one among them."""
    errors: list[str] = field(default_factory=list)
    """Errors of the students that failed."""
    adaptive: list[Comparison] = field(default_factory=list)
    reliability_by_repeats: list[dict[str, float | None]] = field(default_factory=list)
    """What the components imply for the mean of other numbers of repeats."""


def print_reports(reports: Sequence[CreditReport], output: Path) -> None:
    """The tables of `notewright reliability`, to stdout."""
    console = Console()
    table = _new_table("How much of the reward is signal", [""], [report.credit for report in reports])
    table.columns[0].no_wrap = True
    for label, cells in _rows(reports):
        table.add_row(label, *cells)
    console.print(table)
    if any(len(report.by_measure) > 1 for report in reports):
        console.print(_measure_table(reports))
    for report in reports:
        title = f"Ways of rewriting, {report.credit} credit"
        table = _new_table(title, ["strategy"], ["documents", f"gain {in_measure(report.measure)}", "accuracy after"])
        for result in report.ways:
            name = f"{result.strategy} (control)" if result.control else result.strategy
            gain = interval(result.gain, *result.gain_interval)
            table.add_row(name, str(result.documents), gain, number(result.accuracy))
        console.print(table)
    if any(report.adaptive for report in reports):
        console.print(_adaptive_table(reports))
    for report in reports:
        failed = f"{len(report.errors)} students failed: {report.errors[0]}" if report.errors else None
        for remark in filter(None, (report.components.reason, failed)):
            console.print(f"{report.credit}: {remark}", highlight=False)
    console.print(f"written to {output}", highlight=False, soft_wrap=True)


def _measure_table(reports: Sequence[CreditReport]) -> Table:
    headings = ["sd between rewrites", "sd of noise", "reliability of one run", "best strategy minus worst"]
    table = _new_table("The same students in every measure, each in its unit", ["credit", "measure"], headings)
    table.columns[1].no_wrap = True
    for report in reports:
        for measure, signal in report.by_measure.items():
            parts = signal.components
            name = f"{measure}{', rewarded' if measure == report.measure else ''}"
            table.add_row(
                report.credit, name, _deviation(parts.between_variance), _deviation(parts.noise_variance),
                interval(parts.reliability, parts.low, parts.high), number(signal.contrast_range, 3),
            )  # fmt: skip
    return table


def _rows(reports: Sequence[CreditReport]) -> list[tuple[str, list[str]]]:
    parts = [report.components for report in reports]
    return [
        ("documents x rewrites", [f"{c.documents} x {c.rewrites / max(1, c.documents):.3g}" for c in parts]),
        ("documents a student", [str(r.documents_per_student) for r in reports]),
        ("student runs", [str(r.students) for r in reports]),
        ("repeats a rewrite", [str(r.repeats) for r in reports]),
        ("sd between rewrites", [_deviation(c.between_variance) for c in parts]),
        ("sd of retraining noise", [_deviation(c.noise_variance) for c in parts]),
        ("reliability of one run", [interval(c.reliability, c.low, c.high) for c in parts]),
        ("reliability of their mean", [interval(r.mean_of_repeats, *r.mean_of_repeats_interval) for r in reports]),
        (f"repeats that reach {TARGET:g}", [number(r.repeats_for_target, 0) for r in reports]),
        ("student runs a rewrite then", [number(r.students_for_target) for r in reports]),
        ("student runs a rewrite now", [number(r.students_per_rewrite) for r in reports]),
        ("seconds a student run", [number(r.seconds_per_student, 3) for r in reports]),
        ("sd between strategies", [number(r.contrast_sd, 3) for r in reports]),
        ("best strategy minus worst", [number(r.contrast_range, 3) for r in reports]),
    ]


def _new_table(title: str, left: Sequence[str], right: Sequence[str]) -> Table:
    """With left-aligned columns first."""
    table = Table(title=title, title_justify="left")
    for justify, names in (("left", left), ("right", right)):
        for name in names:
            table.add_column(name, justify=justify)  # type: ignore[arg-type]
    return table


def _adaptive_table(reports: Sequence[CreditReport]) -> Table:
    headings = ["runs a rewrite", "best chosen", "adaptive", "more", "regret", "adaptive", "doubled", "saved"]
    title = "Adaptive against uniform repeats at the same number of runs"
    table = _new_table(title, ["credit", "how"], headings)
    for report in reports:
        for c in report.adaptive:
            shares = [f"{choices.best_chosen:.0%}" for choices in (c.uniform, c.adaptive)]
            regrets = [number(choices.regret if choices else None, 3) for choices in (c.uniform, c.adaptive, c.doubled)]
            more = interval(c.best_gained, *c.best_gained_interval)
            saved = interval(c.regret_saved, *c.regret_saved_interval, 3)
            table.add_row(report.credit, c.how, str(c.runs_per_rewrite), *shares, more, *regrets, saved)
    return table


def _deviation(variance: float | None) -> str:
    """A standard deviation; an estimate below 0 is no contrast."""
    return number(None if variance is None else max(0.0, variance) ** 0.5, 3)
