"""The sections that evaluation.json fills: arms, comparisons, scaling, forgetting, edits. A block a student."""

import operator
from collections.abc import Callable, Mapping, Sequence

from configs.format import amount
from curation.evaluation import records
from curation.evaluation.records import ArmEstimates, EvaluationResult, FalsePositives, ScalingPoint, StudentResult
from curation.report import plots
from curation.report.evaluation import arm_table, comparison_tables, intervals_of, triple
from curation.report.parts import Block, Figure, Section, Table, cell, number, slug
from curation.report.plots import Curve, Interval, Row, plain, spoken

GAIN = "held-out gain (nats a token)"
RIGHT = "held-out questions answered right (share)"


def sections(found: EvaluationResult) -> list[Section]:
    """In the order: arms, comparisons, scaling, forgetting, edits, and how the evaluation itself was tested."""
    drawn = [_arms(found), _comparisons(found), _scaling(found), _forgetting(found), _edits(found), _notes(found)]
    return [section for section in drawn if section.blocks or section.text]


def _arms(found: EvaluationResult) -> Section:
    blocks = []
    for label, student in found.students.items():
        figures = []
        for setting, company in (("together", ""), ("single", ", one document a student")):
            for measure, xlabel in (("gain", GAIN), ("accuracy", RIGHT)):
                rows = _rows(student, operator.attrgetter(measure), setting)
                if rows:
                    title = f"{measure.capitalize()}{company}: {label}"
                    name = f"arms-{setting}-{measure}-{slug(label)}"
                    svg = plots.forest(name, title, rows, xlabel=xlabel, share=measure == "accuracy")
                    figures.append(Figure(title, svg, f"Whiskers: {intervals_of(found, setting)}."))
        blocks.append(Block(figures, [arm_table(student)], label))
    text = (
        f"Every arm trains its students for {found.steps} steps of {found.tokens_per_step} tokens, from up to "
        f"{amount(found.rewrites, 'text')} a document; † marks arms that do not. Gain and accuracy are of held-out "
        "questions about held-out documents. Tokens in texts: different ones of a document's lesson, and its texts. "
        "Overlap: the share of a text's 4-grams that another text of its lesson holds."
    )
    return Section("arms", "Arms", "Arms: what students gain from each kind of text", text, blocks)


def _rows(
    student: StudentResult, figure: Callable[[ArmEstimates], records.Estimate | None], setting: str = "together"
) -> list[Row]:
    rows = []
    for name, arm in student.arms.items():
        measured = arm.together if setting == "together" else arm.single
        value = None if measured is None else triple(figure(measured))
        if value is not None:
            rows.append(Row(name if arm.equal_tokens else f"{name} †", value, name == "trained"))
    return rows


def _comparisons(found: EvaluationResult) -> Section:
    blocks = []
    caption = f"Whiskers: {intervals_of(found)}, not corrected. Diamonds: differs after correction."
    for label, student in found.students.items():
        figures = []
        for measure, xlabel in (("gain", f"difference in {GAIN}"), ("accuracy", "difference in share answered right")):
            ours = [one for one in student.comparisons if (one.measure, one.setting) == (measure, "together")]
            values = {f"{one.arm} − {one.against}": (triple(one.difference), one.verdict) for one in ours}
            rows = [
                Row(name, value, verdict != "no detectable difference")
                for name, (value, verdict) in values.items()
                if value is not None
            ]
            if rows:
                title = f"Differences in {measure}: {label}"
                svg = plots.forest(f"pairs-{measure}-{slug(label)}", title, rows, xlabel=xlabel, sign="+")
                figures.append(Figure(title, svg, caption))
        if figures:
            blocks.append(Block(figures, comparison_tables(student), label))
    families = ", ".join(f"{size} of {name}" for name, size in found.correction.families.items() if size)
    text = (
        "Paired by document, question and seed. The intervals are of each comparison by itself; the verdict is by the "
        f"p value after Holm's correction over all students (comparisons: {families}) at {found.correction.level:.0%}. "
        "Detectable: a true difference of this size is found in 80% of such evaluations (without the correction), so "
        "smaller ones may well exist where the verdict is “no detectable difference”."
    )
    return Section("pairs", "Which arms differ", "Which arms differ", text if blocks else "", blocks)


def _scaling(found: EvaluationResult) -> Section:
    blocks = []
    for label, student in found.students.items():
        figures = []
        for measure, ylabel, read in SCALED if student.scaling else ():
            series = {
                arm: Curve([point.lesson_tokens for point in points], [read(point) for point in points])
                for arm, points in student.scaling.items()
            }
            title = f"{measure.capitalize()} by lesson tokens: {label}"
            svg = plots.curves(
                f"scaling-{measure}-{slug(label)}", title, series, xlabel="different tokens of a document's lesson",
                ylabel=ylabel, log_x=True, named=True,
            )  # fmt: skip
            band = "No interval: it is of the texts." if measure == "overlap" else f"Bands: {intervals_of(found)}."
            figures.append(Figure(title, svg, band, _scaling_table(student.scaling, read)))
        if figures:
            blocks.append(Block(figures, title=label))
    text = (
        "What more text about a document brings: 1, 2, 4, … rewrites a document, every point trained on the same "
        "number of tokens and steps. Overlap is diversity's opposite: where a gain bends and the overlap climbs, the "
        "texts repeat each other."
    )
    return Section("scaling", "Scaling", "Scaling: gain against lesson tokens", text if blocks else "", blocks)


SCALED: Sequence[tuple[str, str, Callable[[ScalingPoint], Interval | None]]] = (
    ("gain", GAIN, lambda point: (point.gain.mean, point.gain.low, point.gain.high)),
    ("overlap", "shared 4-grams in a lesson (share)", lambda point: (point.overlap, None, None)),
    (
        "accuracy",
        "answered right (share)",
        lambda point: (point.accuracy.mean, point.accuracy.low, point.accuracy.high),
    ),
)
"""Measure, axis, figure of a point; diversity stands beside the gain."""


def _scaling_table(
    scaling: Mapping[str, Sequence[ScalingPoint]], read: Callable[[ScalingPoint], Interval | None]
) -> Table:
    rows = [
        [arm, str(point.rewrites), number(point.lesson_tokens, 0), cell(read(point))]
        for arm, points in scaling.items()
        for point in points
    ]
    return Table(["arm", "rewrites", "lesson tokens", "value"], rows, "lrrr")


def _forgetting(found: EvaluationResult) -> Section:
    blocks = []
    for label, student in found.students.items():
        figures = []
        for measure, title, xlabel in (
            ("retention_accuracy", "Old questions still answered", "share of questions it could answer before"),
            ("retention_loss", "Loss gained on old texts", "nats a token; above zero is forgotten"),
        ):
            rows = _rows(student, operator.attrgetter(measure))
            if rows:
                title = f"{title}: {label}"
                svg = plots.forest(
                    f"{slug(measure)}-{slug(label)}", title, rows, xlabel=xlabel, share=measure == "retention_accuracy"
                )
                batches = max(own.clusters for arm in student.arms.values() if (own := getattr(arm.together, measure)))
                figures.append(
                    Figure(title, svg, f"Whiskers: 95% intervals over {amount(batches, 'batch')} of documents.")
                )
        if figures:
            blocks.append(Block(figures, title=label))
    text = "What each arm costs: questions that the student could answer before it was taught, and texts that it knew."
    return Section("forgetting", "Forgetting", "Forgetting, arm by arm", text if blocks else "", blocks)


def _edits(found: EvaluationResult) -> Section:
    blocks = []
    for label, student in found.students.items():
        if student.sequences:
            figures = [_matrix(label, number, edits) for number, edits in enumerate(student.sequences)]
            blocks.append(Block([*figures, *_still_known(label, student.sequences)], title=label))
    text = (
        "One student is taught one batch of documents after the other, its adapter merged each time. A row is the "
        "student after that many edits, a column the documents of one edit: on the diagonal what was just taught, left "
        "of it what is still known, right of it (in italics) what was not taught yet."
    )
    return Section("edits", "Edits in a row", "Edits in a row: what is still known", text if blocks else "", blocks)


def _matrix(label: str, number: int, edits: records.EditSequence) -> Figure:
    columns = [str(j + 1) for j in range(len(edits.accuracy[0]))]
    values = [plain(row) for row in edits.accuracy]
    rows = [str(i) for i in range(len(values))]
    pale = [(i, j) for i in range(len(rows)) for j in range(len(columns)) if j >= i]
    old = ""
    if edits.retention_accuracy is not None:
        columns.append("old")
        for row, kept in zip(values, edits.retention_accuracy, strict=True):
            row.append((kept, None, None))
        old = " Old: questions it could answer before the first edit."
    title = f"Accuracy {_replayed(edits)}: {label}"
    svg = plots.heatmap(
        f"edits-{number}-{slug(label)}", title, rows, columns, values, xlabel="documents of edit",
        ylabel="edits so far", pale=pale,
    )  # fmt: skip
    share = f", where {edits.replay:.0%} of a lesson's documents come from earlier edits" if edits.replay else ""
    caption = f"Lessons of the arm {edits.arm}{share}. Share of held-out questions answered right; one student.{old}"
    return Figure(title, svg, caption)


def _replayed(edits: records.EditSequence) -> str:
    return "with replay" if edits.replay else "without replay"


def _still_known(label: str, sequences: Sequence[records.EditSequence]) -> list[Figure]:
    """Accuracy on everything taught so far, and on old knowledge, beside the student that was never edited."""
    studied, kept = {}, {}
    for edits in sequences:
        studied[_replayed(edits)] = Curve(range(1, len(edits.studied) + 1), plain(edits.studied))
        if edits.retention_accuracy is not None:
            kept[_replayed(edits)] = Curve(range(len(edits.retention_accuracy)), plain(edits.retention_accuracy))
    unedited = sequences[0].studied_unedited
    studied["never edited"] = Curve(range(1, len(unedited) + 1), plain(unedited))
    figures = []
    for name, series, what in (
        ("studied", studied, "Everything taught so far"),
        ("kept", kept, "Old questions still answered"),
    ):
        if series:
            title = f"{what}: {label}"
            svg = plots.curves(
                f"edits-{name}-{slug(label)}", title, series, xlabel="edits so far", ylabel="answered right (share)",
                share=True,
            )  # fmt: skip
            figures.append(Figure(title, svg, "One student a curve: no interval."))
    return figures


def _notes(found: EvaluationResult) -> Section:
    tested = [
        f"{label}: {_tested(student.false_positives)}"
        for label, student in found.students.items()
        if student.false_positives is not None
    ]
    rows = [["holds" if claim.holds else "does not hold", claim.words] for claim in found.claims]
    blocks = [Block(tables=[Table(["", "what the evaluation was made to show"], rows, "lw")])] if rows else []
    title = "How it was measured, and tested on itself"
    return Section("notes", "How it was measured", title, " ".join([*found.notes, *tested]), blocks)


def _tested(found: FalsePositives) -> str:
    rate = spoken((found.rate.mean, found.rate.low, found.rate.high), 3)
    return (
        f"of {found.pairs} pairs of the arm {found.arm} with itself, a single comparison at 5% called {found.differ} "
        f"different (rate {rate}, Wilson's interval), the corrected verdict {found.differ_corrected}."
    )
