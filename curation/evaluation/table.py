"""The evaluation on the terminal: a table of arms for each student, and what else was measured below it."""

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from configs.format import interval
from curation.evaluation.records import Comparison, Estimate, EvaluationResult, StudentResult


def print_evaluation(result: EvaluationResult, run_dir: Path, console: Console) -> None:
    """Arms with intervals and verdicts, curves, sequences, the check of the verdict, claims, notes, and where it is."""
    for label, student in result.students.items():
        console.print(_arms(label, student, result.reference))
        console.print(_beside(student))
        if student.scaling:
            console.print(_scaling(student))
        for line in _rest(student):
            console.print(line, markup=False)
        console.print()
    for claim in result.claims:
        console.print(f"{'yes' if claim.holds else 'NO '}  {claim.words}", markup=False)
    for note in result.notes:
        console.print(f"* {note}", markup=False)
    console.print(
        f"{result.student_runs} students, {result.seconds:.0f} s; {run_dir / 'evaluation.json'}", markup=False
    )


def _arms(label: str, student: StudentResult, reference: str) -> Table:
    """Rising in gain; below them the trained teacher against each other arm."""
    table = Table("students taught with", "tokens", "gain (nats a token)", "accuracy", title_justify="left")
    table.title = f"student {label}: many documents together"
    for heading in (f"gain - {reference}", "MDE", "p (Holm)", "verdict"):
        table.add_column(heading)
    compared = [c for c in student.comparisons if (c.setting, c.measure) == ("together", "gain")]
    against = {c.arm: c for c in compared if c.against == reference}
    for name, arm in sorted(student.arms.items(), key=lambda item: _mean(item[1].together.gain)):
        measured, comparison = arm.together, against.get(name)
        table.add_row(
            Text(arm.words), f"{measured.tokens:.0f}", _interval(measured.gain), _interval(measured.accuracy),
            *(_compared(comparison) if comparison else "----"),
        )  # fmt: skip
    table.add_section()
    for comparison in compared:
        if comparison.against != reference:
            table.add_row(
                Text(f"{comparison.arm} - {comparison.against}"), "", "", "",
                *_compared(comparison),
            )  # fmt: skip
    return table


def _beside(student: StudentResult) -> Table:
    """What was measured beside the gain, as far as it was."""
    arms = list(student.arms.values())
    columns: dict[str, list[str]] = {}
    for name in arms[0].together.benchmarks:
        columns[f"benchmark {name}"] = [_interval(arm.together.benchmark_accuracies.get(name)) for arm in arms]
    if any(arm.together.retention_accuracy for arm in arms):
        columns["old knowledge"] = [_interval(arm.together.retention_accuracy) for arm in arms]
    if any(arm.together.retention_loss for arm in arms):
        columns["loss on old texts"] = [_interval(arm.together.retention_loss, sign=True) for arm in arms]
    if any(arm.single for arm in arms):
        columns["one document: gain"] = [_interval(arm.single.gain if arm.single else None) for arm in arms]
    columns["overlap"] = [f"{arm.overlap:.2f}" for arm in arms]
    table = Table("beside it", *columns, title_justify="left")
    for arm, *cells in zip(arms, *columns.values(), strict=True):
        table.add_row(Text(arm.words), *cells)
    return table


def _scaling(student: StudentResult) -> Table:
    table = Table("rewrites a document", title_justify="left")
    numbers = sorted({point.rewrites for points in student.scaling.values() for point in points})
    for number in numbers:
        table.add_column(str(number))
    for name, points in student.scaling.items():
        by_number = {point.rewrites: point for point in points}
        table.add_row(
            Text(f"{student.arms[name].words}: gain, tokens, overlap"),
            *(
                f"{p.gain.mean:.2f}, {p.lesson_tokens:.0f}, {p.overlap:.2f}"
                for p in map(by_number.__getitem__, numbers)
            ),
        )
    return table


def _rest(student: StudentResult) -> list[str]:
    lines = []
    for found in student.sequences:
        if not found.studied:
            continue
        old = f", old knowledge {found.retention_accuracy[-1]:.2f}" if found.retention_accuracy else ""
        how = f"with replay of {found.replay:.0%}" if found.replay else "without replay"
        lines.append(
            f"{len(found.studied)} edits {how}: accuracy on all that was studied {found.studied[-1]:.2f} (never edited"
            f" {found.studied_unedited[-1]:.2f}), on the first edit's documents {found.accuracy[1][0]:.2f} then"
            f" {found.accuracy[-1][0]:.2f}{old}"
        )
    if (check := student.false_positives) is not None:
        lines.append(
            f"{check.pairs} pairs of {check.arm} with itself: {check.differ} differ at 5% {_interval(check.rate)},"
            f" {check.differ_corrected} after the correction"
        )
    return lines


def _interval(figure: Estimate | None, *, sign: bool = False) -> str:
    """`0.97 [0.95, 0.98]`; without bounds where there are none."""
    return "-" if figure is None else interval(figure.mean, figure.low, figure.high, sign=sign)


def _compared(comparison: Comparison) -> tuple[str, str, str, str]:
    """Difference, minimum detectable effect, corrected p-value, verdict."""
    numbers = ("-" if value is None else f"{value:.2g}" for value in (comparison.detectable, comparison.p_corrected))
    return (_interval(comparison.difference, sign=True), *numbers, comparison.verdict)  # type: ignore[return-value]


def _mean(figure: Estimate | None) -> float:
    return float("-inf") if figure is None else figure.mean
