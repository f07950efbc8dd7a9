"""The evaluation for a reader: tables on the terminal, and one picture for a README or a dataset card."""

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from configs.format import amount, interval
from configs.schema.reward import Measure
from curation.evaluation.records import (
    Comparison,
    EditSequences,
    Estimate,
    EvaluationResult,
    ReplayEffect,
    StudentResult,
)
from student.records import MEASURES, in_measure

PICTURE_FILE = "evaluation/arms.png"
INK, ACCENT, FAINT = "#4a4f55", "#0072b2", "#9aa0a6"
"""Colours of arms, of the trained teacher, and of arms outside the equal comparison; they also differ in grey."""


VERDICTS = {"better": "gains more", "worse": "gains less", "no detectable difference": "no detectable difference"}


def print_evaluation(result: EvaluationResult, run_dir: Path, console: Console) -> None:
    """Prints arms with intervals and verdicts, curves, sequences, the check of the verdict, expectations, notes."""
    for label, student in result.students.items():
        console.print(_arm_table(label, student, result))
        if any(len(arm.together.measures) > 1 for arm in student.arms.values()):
            console.print(_measure_table(student, result.measure))
        console.print(_side_table(student))
        if student.scaling:
            console.print(_scaling_table(student))
        lines = [_edits_line(edits) for edits in student.sequences]
        if student.replay_effect is not None:
            lines.append(_replay_line(student.replay_effect))
        if (check := student.false_positives) is not None:
            lines.append(
                f"{check.arm} with itself, same texts and other seeds of students: {check.differ} of {check.pairs}"
                f" overlapping pairs differ at 5%, {check.differ_corrected} after the correction"
            )
        for line in [*lines, ""]:
            console.print(line, markup=False)
    lines = [f"{'yes' if e.holds else 'NO '}  {e.words}: {_interval(e.estimate)}" for e in result.claims]
    lines += [f"* {note}" for note in result.notes]
    lines.append(f"{result.student_runs} students, {result.seconds:.0f} s; {run_dir / 'evaluation.json'}")
    for line in lines:
        console.print(line, markup=False)


def _arm_table(label: str, student: StudentResult, result: EvaluationResult) -> Table:
    """Rising in gain; below them the trained teacher against each other arm."""
    reference = result.reference
    headings = ["students taught with", "tokens", f"gain {in_measure(result.measure)}", "accuracy"]
    headings += [f"gain - {reference}", "MDE", "p (Holm)", "verdict"]
    table = Table(*headings, title=f"student {label}: many documents together", title_justify="left")
    comparisons = [c for c in student.comparisons if (c.setting, c.measure) == ("together", "gain")]
    with_reference = {c.arm: c for c in comparisons if c.against == reference}

    def gain(name: str) -> float:
        estimate = student.arms[name].together.gain
        return float("-inf") if estimate is None else estimate.mean

    for name in sorted(student.arms, key=gain):
        arm, comparison = student.arms[name], with_reference.get(name)
        table.add_row(
            Text(arm.words), f"{arm.together.tokens:.0f}", _interval(arm.together.gain),
            _interval(arm.together.accuracy), *(_comparison_cells(comparison) if comparison else "----"),
        )  # fmt: skip
    table.add_section()
    for c in comparisons:
        if c.against != reference:
            table.add_row(Text(f"{student.arms[c.arm].words} - {c.against}"), "", "", "", *_comparison_cells(c))
    return table


def _measure_table(student: StudentResult, rewarded: Measure) -> Table:
    """Arms, and below them the pairs whose verdict is in the rewarded measure, in all measures side by side."""
    told = [m for m in MEASURES if any(m in arm.together.measures for arm in student.arms.values())]
    headings = [f"gain {in_measure(measure)}{', rewarded' if measure == rewarded else ''}" for measure in told]
    table = Table("all measures; those not rewarded describe", *headings, title_justify="left")
    for arm in student.arms.values():
        table.add_row(Text(arm.words), *(_interval(arm.together.measures.get(measure)) for measure in told))
    table.add_section()
    for c in student.comparisons:
        if (c.setting, c.measure) == ("together", "gain"):
            cells = [_interval(c.measures.get(measure), sign=True) for measure in told]
            table.add_row(Text(f"{c.arm} - {c.against}"), *cells)
    return table


def _side_table(student: StudentResult) -> Table:
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


def _scaling_table(student: StudentResult) -> Table:
    numbers = sorted({point.rewrites for points in student.scaling.values() for point in points})
    table = Table("rewrites a document", *map(str, numbers), title_justify="left")
    for name, points in student.scaling.items():
        by_number = {point.rewrites: point for point in points}
        cells = [
            f"{p.gain.mean:.2f}, {p.lesson_tokens:.0f}, {p.overlap:.2f}" for p in map(by_number.__getitem__, numbers)
        ]
        table.add_row(Text(f"{student.arms[name].words}: gain, tokens, overlap"), *cells)
    return table


def _edits_line(edits: EditSequences) -> str:
    how = f"with replay of {edits.replay:.0%}" if edits.replay else "without replay"
    old = f", old knowledge {_interval(edits.retention_accuracy[-1])}" if edits.retention_accuracy else ""
    return (
        f"{len(edits.studied)} edits {how}, {amount(edits.sequences, 'sequence')}: accuracy on all that was studied"
        f" {_interval(edits.studied[-1])} (never edited {_interval(edits.studied_unedited[-1])}), on the first edit's"
        f" documents {_interval(edits.accuracy[1][0])} then {_interval(edits.accuracy[-1][0])}{old}"
    )


def _replay_line(effect: ReplayEffect) -> str:
    parts = {"what was studied": effect.studied, "old knowledge": effect.retention_accuracy}
    changes = [f"{what} {_interval(values[-1], sign=True)}" for what, values in parts.items() if values]
    return f"replay minus no replay, paired by sequence: {', '.join(changes)}"


def _interval(estimate: Estimate | None, *, sign: bool = False) -> str:
    return "-" if estimate is None else interval(*estimate.bounds, sign=sign)


def _comparison_cells(comparison: Comparison) -> list[str]:
    """Difference, minimum detectable effect, corrected p-value, verdict."""
    numbers = ["-" if value is None else f"{value:.2g}" for value in (comparison.detectable, comparison.p_corrected)]
    return [_interval(comparison.difference, sign=True), *numbers, VERDICTS[comparison.verdict]]


def write_picture(result: EvaluationResult, run_dir: Path) -> Path:
    """Writes `run_dir/evaluation/arms.png`, a panel a student: accuracy on held-out questions with its 95% interval,
    the best arm on top. Returns its path."""
    from matplotlib.figure import Figure

    students = result.students
    rows = max(len(student.arms) for student in students.values())
    figure = Figure(figsize=(4.6 * len(students) + 0.6, 0.27 * rows + 1.1), layout="constrained")
    panels = figure.subplots(1, len(students), squeeze=False)[0]
    for axes, (label, student) in zip(panels, students.items(), strict=True):
        accuracies = {name: a for name, arm in student.arms.items() if (a := arm.together.accuracy) is not None}
        names = sorted(accuracies, key=lambda name: accuracies[name].mean)
        for y, name in enumerate(names):
            mean, low, high = accuracies[name].bounds
            trained = name.partition(":")[0] == "trained"
            colour = ACCENT if trained else INK if student.arms[name].equal_tokens else FAINT
            if low is not None and high is not None:
                axes.plot([max(0.0, low), min(1.0, high)], [y, y], color=colour, lw=1.6)
            axes.plot(mean, y, "D" if trained else "o", color=colour, ms=6 if trained else 4.5)
            axes.annotate(f"{mean:.2f}", (1.04, y), va="center", fontsize=8, color=colour)
        axes.set_yticks(range(len(names)), [student.arms[name].words for name in names], fontsize=8)
        for tick, name in zip(axes.get_yticklabels(), names, strict=True):
            tick.set_color(ACCENT if name.partition(":")[0] == "trained" else "black")
        axes.set(xlim=(-0.03, 1.16), title=label)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
        axes.tick_params(axis="x", labelsize=8)
        axes.grid(axis="x", color="#e3e6e8", lw=0.7)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("held-out questions answered right, with 95% interval", fontsize=8)
    path = run_dir / PICTURE_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, facecolor="white")
    return path
