"""The sections that evaluation.json fills: arms, comparisons, scaling, forgetting, edits. A block a student. A page
shows all of it, a terminal the tables."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup
from rich.console import Console

from configs.format import amount
from configs.schema.reward import Measure
from curation.console.tables import Table, print_tables
from curation.evaluation.records import (
    ArmEstimates,
    EditSequences,
    Estimate,
    EvaluationResult,
    ScalingPoint,
    StudentResult,
)
from curation.report import plots
from curation.report.evaluation import (
    arm_tables,
    bounds,
    comparison_tables,
    intervals_of,
    told,
    trained_arms,
    verdicts,
)
from curation.report.parts import Block, Figure, Section, cell, draw, number
from curation.report.plots import Curve, Interval, Row
from student.records import in_measure

FORGOTTEN = (
    ("retention_accuracy", "Old questions still answered", "share of questions it could answer before"),
    ("retention_loss", "Loss gained on old texts", "nats a token; above zero is forgotten"),
)


def sections(evaluation: EvaluationResult) -> list[Section]:
    """In the order: arms, comparisons, scaling, forgetting, edits, and how it was measured."""
    drawn = [section_of(evaluation) for section_of in (_arms, _comparisons, _scaling, _forgetting, _edits)]
    notes = Section("notes", "How it was measured", "How it was measured", " ".join(evaluation.notes))
    return [*(section for section in drawn if section.blocks), notes]


def _blocks(
    evaluation: EvaluationResult,
    figures_of: Callable[[str, StudentResult], Sequence[Figure]],
    tables_of: Callable[[StudentResult, Measure], Sequence[Table]] = lambda student, rewarded: (),
) -> list[Block]:
    """A block for each student that has figures."""
    students = evaluation.students.items()
    return [
        Block(figures, tables_of(student, evaluation.measure), label)
        for label, student in students
        if (figures := figures_of(label, student))
    ]


class Shown(NamedTuple):
    """What a figure shows of arms, of scaling points, or of pairs."""

    what: str
    """`gain`, `accuracy`, or `gain in choice, not rewarded`."""
    axis: str
    measure: Measure | None
    """None: the accuracy."""

    def read(self, estimates: ArmEstimates | ScalingPoint | None) -> Interval | None:
        """The value with its bounds, as far as it was measured."""
        if estimates is None:
            return None
        return bounds(estimates.measures.get(self.measure) if self.measure else estimates.accuracy)


def _shown(evaluation: EvaluationResult, student: StudentResult) -> list[Shown]:
    """The rewarded measure, the accuracy, and the measures that are told beside them."""
    rewarded, *others = told(student, evaluation.measure)
    return [
        Shown("gain", f"gain {in_measure(rewarded)}", rewarded),
        Shown("accuracy", "questions answered right (share)", None),
        *(Shown(f"gain in {measure}, not rewarded", f"gain {in_measure(measure)}", measure) for measure in others),
    ]


def _arms(evaluation: EvaluationResult) -> Section:
    def figures(label: str, student: StudentResult) -> list[Figure]:
        return [
            draw(
                plots.forest, f"{shown.what.capitalize()}{words}: {label}", rows,
                f"Whiskers: {intervals_of(evaluation, setting)}.", xlabel=f"held-out {shown.axis}",
                share=shown.measure is None,
            )
            for setting, words in (("together", ""), ("single", ", one document a student"))
            for shown in _shown(evaluation, student)
            if (rows := _rows(student, [shown.read(getattr(arm, setting)) for arm in student.arms.values()]))
        ]  # fmt: skip

    text = (
        f"Every arm trains its students for {evaluation.steps} steps of {evaluation.tokens_per_step} tokens, from up "
        f"to {amount(evaluation.rewrites, 'text')} a document; † marks arms that do not. Gain and accuracy are of "
        f"held-out questions about held-out documents; what is rewarded is the gain {in_measure(evaluation.measure)}, "
        "and other measures stand beside it. Tokens in texts: different ones of a document's lesson, and its "
        "texts. Overlap: the share of a text's 4-grams that another text of its lesson holds."
    )
    blocks = _blocks(evaluation, figures, arm_tables)
    return Section("arms", "Arms", "Arms: what students gain from each kind of text", text, blocks)


def _rows(student: StudentResult, values: Sequence[Interval | None]) -> list[Row]:
    """A row an arm that has a value."""
    return [
        Row(name if arm.equal_tokens else f"{name} †", value, name in trained_arms(student))
        for (name, arm), value in zip(student.arms.items(), values, strict=True)
        if value
    ]


def _comparisons(evaluation: EvaluationResult) -> Section:
    whiskers = f"Whiskers: {intervals_of(evaluation)}, not corrected."

    def figures(label: str, student: StudentResult) -> list[Figure]:
        figures = []
        for shown in _shown(evaluation, student):
            judged = shown.measure in (None, evaluation.measure)
            rows = [
                Row(f"{c.arm} − {c.against}", estimate.bounds, judged and c.verdict != "no detectable difference")
                for c in student.comparisons
                if (c.measure, c.setting) == (shown.what if judged else "gain", "together")
                and (estimate := c.measures.get(shown.measure) if shown.measure and not judged else c.difference)
            ]
            if rows:
                title = f"Differences in {shown.what}: {label}"
                caption = f"{whiskers} {'Diamonds: differs after correction.' if judged else 'No verdict.'}"
                xlabel = f"difference in {shown.axis}"
                figures.append(draw(plots.forest, title, rows, caption, xlabel=xlabel, sign=True))
        return figures

    correction = evaluation.correction
    families = ", ".join(f"{size} of {name}" for name, size in correction.families.items() if size)
    text = (
        "Paired by document, question and seed. The intervals are of each comparison by itself; the verdict is by the "
        f"p value after Holm's correction over all students (comparisons: {families}) at {correction.level:.0%}. "
        "Detectable: a true difference of this size is found in 80% of such evaluations (without the correction), so "
        "smaller ones may well exist where the verdict is “no detectable difference”."
    )
    blocks = _blocks(evaluation, figures, comparison_tables)
    return Section("pairs", "Which arms differ", "Which arms differ", text, blocks)


def _flat(
    evaluation: EvaluationResult, student: StudentResult, read: Callable[[ArmEstimates], Interval | None] | None
) -> dict[str, Curve]:
    """The arm that all are compared with, as a line under curves that it is none of: text that does not grow."""
    tokens = [point.lesson_tokens for points in student.scaling.values() for point in points if point.lesson_tokens]
    arm = student.arms.get(evaluation.reference)
    if read is None or arm is None or not tokens or evaluation.reference in student.scaling:
        return {}
    return {f"{evaluation.reference}, as it is": Curve([min(tokens), max(tokens)], [read(arm.together)] * 2)}


def _scaling(evaluation: EvaluationResult) -> Section:
    def figures(label: str, student: StudentResult) -> list[Figure]:
        scaled = [(shown.what, shown.axis, shown.read) for shown in _shown(evaluation, student)]
        # Diversity stands beside the gain.
        scaled.insert(1, ("overlap", "shared 4-grams in a lesson (share)", lambda point: (point.overlap, None, None)))  # type: ignore[union-attr, arg-type]
        return [
            draw(
                plots.curves, f"{what.capitalize()} by lesson tokens: {label}",
                {
                    arm: Curve([point.lesson_tokens for point in points], [read(point) for point in points])
                    for arm, points in student.scaling.items()
                } | _flat(evaluation, student, read if what != "overlap" else None),
                f"Bands: {intervals_of(evaluation)}." if what != "overlap" else "No interval: it is of the texts.",
                xlabel="different tokens of a document's lesson", ylabel=ylabel, log_x=True, named=True,
            )
            for what, ylabel, read in scaled if student.scaling
        ]  # fmt: skip

    def tables(student: StudentResult, rewarded: Measure) -> list[Table]:
        shown = _shown(evaluation, student)
        rows = [
            [
                arm, str(p.rewrites), number(p.lesson_tokens, 0), number(p.overlap),
                *(cell(one.read(p)) for one in shown), cell(bounds(p.more)), number(p.more_p, 3),
            ]
            for arm, points in student.scaling.items()
            for p in points
        ]  # fmt: skip
        head = ["arm", "rewrites", "lesson tokens", "overlap", *(one.what for one in shown), "most minus this"]
        return [Table([*head, "p, corrected"], rows)]

    text = (
        "What more text about a document brings: 1, 2, 4, … rewrites a document, every point trained on the same "
        "number of tokens and steps. Overlap is diversity's opposite: where a gain bends and the overlap climbs, the "
        "texts repeat each other."
    )
    blocks = _blocks(evaluation, figures, tables)
    return Section("scaling", "Scaling", "Scaling: gain against lesson tokens", text, blocks)


def _forgetting(evaluation: EvaluationResult) -> Section:
    def figures(label: str, student: StudentResult) -> list[Figure]:
        figures = []
        for measure, title, xlabel in FORGOTTEN:
            estimates = [e for arm in student.arms.values() if (e := getattr(arm.together, measure))]
            if estimates:
                batches = amount(max(estimate.clusters for estimate in estimates), "batch")
                caption = f"Whiskers: 95% intervals over {batches} of documents."
                share = measure == "retention_accuracy"
                rows = _rows(student, [bounds(getattr(a.together, measure)) for a in student.arms.values()])
                figures.append(draw(plots.forest, f"{title}: {label}", rows, caption, xlabel=xlabel, share=share))
        return figures

    text = "What each arm costs: questions that the student could answer before it was taught, and texts that it knew."
    blocks = _blocks(evaluation, figures)
    return Section("forgetting", "Forgetting", "Forgetting, arm by arm", text, blocks)


def _edits(evaluation: EvaluationResult) -> Section:
    def figures(label: str, student: StudentResult) -> list[Figure]:
        matrices = [_matrix(label, edits) for edits in student.sequences]
        return [*matrices, *_still_known(label, student)] if matrices else []

    text = (
        "A student is taught one batch of documents after the other, its adapter merged each time. A row is the "
        "student after that many edits, a column the documents of one edit: on the diagonal what was just taught, left "
        "of it what is still known, right of it (in italics) what was not taught yet. Sequences edit the same "
        "documents in other orders and groups, with other seeds: intervals are over them alone."
    )
    blocks = _blocks(evaluation, figures, _after_edits)
    return Section("edits", "Edits in a row", "Edits in a row: what is still known", text, blocks)


def _after_edits(student: StudentResult, rewarded: Measure) -> list[Table]:
    """After the last edit, and the first edit's documents after both."""
    rows = [
        [
            _replayed(edits), *map(_cell, (edits.studied, edits.studied_unedited, edits.studied_difference)),
            cell(edits.accuracy[1][0].bounds), cell(edits.accuracy[-1][0].bounds), _cell(edits.retention_accuracy),
        ]
        for edits in student.sequences
    ]  # fmt: skip
    if (effect := student.replay_effect) is not None:
        rows.append(["replay minus none", _cell(effect.studied), *[""] * 4, _cell(effect.retention_accuracy)])
    head = ["", "all studied", "never edited", "difference", "first edit's, after it", "in the end", "old questions"]
    return [Table(head, rows, title="Share of questions answered right in the end")]


def _cell(states: Sequence[Estimate] | None) -> Markup:
    """The last state."""
    return cell(states[-1].bounds if states else None)


def _matrix(label: str, edits: EditSequences) -> Figure:
    columns = [str(j + 1) for j in range(len(edits.accuracy[0]))]
    rows = [str(i) for i in range(len(edits.accuracy))]
    values = [[cell.bounds for cell in row] for row in edits.accuracy]
    not_taught_yet = [(i, j) for i in range(len(rows)) for j in range(len(columns)) if j >= i]
    share = f", where {edits.replay:.0%} of a lesson's documents come from earlier edits" if edits.replay else ""
    caption = (
        f"Lessons of the arm {edits.arm}{share}. Share of held-out questions answered right, mean of"
        f" {amount(edits.sequences, 'sequence')}; the table has the 95% intervals over them."
    )
    if edits.retention_accuracy is not None:
        columns.append("old")
        values = [[*row, kept.bounds] for row, kept in zip(values, edits.retention_accuracy, strict=True)]
        caption += " Old: questions it could answer before the first edit."
    cells = [[name, *(cell(value) for value in row)] for name, row in zip(rows, values, strict=True)]
    table = Table(["edits so far", *columns], cells, "r" * (1 + len(columns)))
    return draw(
        plots.heatmap, f"Accuracy {_replayed(edits)}: {label}", values, caption, table, rows=rows, columns=columns,
        xlabel="documents of edit", ylabel="edits so far", pale=not_taught_yet,
    )  # fmt: skip


def _replayed(edits: EditSequences) -> str:
    return "with replay" if edits.replay else "without replay"


def _still_known(label: str, student: StudentResult) -> list[Figure]:
    """Accuracy on everything taught so far, and on old knowledge, beside the student that was never edited; and what
    replay changes."""
    studied = {_replayed(edits): _curve(1, edits.studied) for edits in student.sequences}
    studied["never edited"] = _curve(1, student.sequences[0].studied_unedited)
    old = {_replayed(e): _curve(0, e.retention_accuracy) for e in student.sequences if e.retention_accuracy is not None}
    bands = f"Bands: 95% intervals over {amount(student.sequences[0].sequences, 'sequence')}"
    effect = student.replay_effect
    named = {} if effect is None else {"taught so far": effect.studied, "old questions": effect.retention_accuracy}
    changes = {name: _curve(2, values) for name, values in named.items() if values is not None}
    return [
        draw(
            plots.curves, f"{title}: {label}", curves, caption, within="edits", xlabel="edits so far", ylabel=ylabel,
            share=share,
        )
        for title, curves, caption, ylabel, share in (
            ("Everything taught so far", studied, f"{bands}.", "answered right (share)", True),
            ("Old questions still answered", old, f"{bands}.", "answered right (share)", True),
            ("Replay minus no replay", changes, f"{bands}, paired.", "difference in share answered right", False),
        )
        if curves
    ]  # fmt: skip


def _curve(first: int, values: Sequence[Estimate]) -> Curve:
    return Curve(range(first, first + len(values)), [value.bounds for value in values])


def print_evaluation(evaluation: EvaluationResult, path: Path, console: Console) -> None:
    """The verdicts, the tables that are open on a page, and what is to be known of them."""
    *shown, notes = sections(evaluation)
    for section in shown:
        for block in section.blocks:
            tables = [table for table in block.tables if not table.folded]
            if tables:
                console.print(f"{section.title}; student {block.title}", markup=False, style="bold")
            print_tables(console, *tables)
    said = [verdict.words for verdict in verdicts(evaluation)]
    for line in (*said, notes.text, f"{evaluation.student_runs} students, {evaluation.seconds:.0f} s; {path}"):
        console.print(f"* {line}", markup=False)


def write_pictures(evaluation: EvaluationResult, folder: Path) -> list[Path]:
    """For each student a PNG for a README or a dataset card: its arms' accuracy on held-out questions."""
    paths = [folder / f"arms-{label.replace('/', '-')}.png" for label in evaluation.students]
    for path, (label, student) in zip(paths, evaluation.students.items(), strict=True):
        rows = _rows(student, [bounds(arm.together.accuracy) for arm in student.arms.values()])
        axis = "held-out questions answered right, with 95% interval"
        plots.forest("arms", label, rows, xlabel=axis, share=True, picture=path)
    return paths
