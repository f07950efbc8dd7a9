"""What the terminal shows when a verb has ended: short tables on stdout."""

import html
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from configs.format import interval, shorten
from configs.schema import Config
from configs.schema.reward import Measure
from student.records import in_measure
from student.statistics.intervals import Estimate
from teacher.records import ONE_RUN
from teacher.reward.evaluation import difference_name
from teacher.reward.student_models import labels
from teacher.training.summary import TrainSummary

ARMS = {"raw": "raw text", "untrained": "untrained teacher", "trained": f"trained teacher, {ONE_RUN}"}
EXAMPLE_CHARACTERS = 400


class Table(NamedTuple):
    """A table, for a terminal and for a page. Cells are text, or markup (`markupsafe.Markup`); a row without cells is a
    line. `align` has a letter a column: l, r, or w for text that may wrap; without it the first column is text and the
    others are figures. A `folded` one shows its title alone on a page until it is opened."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    align: str = ""
    title: str = ""
    folded: bool = False

    @property
    def letters(self) -> str:
        """`align`, a letter a column."""
        return self.align or "w" + "r" * (len(self.head) - 1)


def print_tables(console: Console, *tables: Table) -> None:
    """Without lines between the columns, so that much fits into 120 characters; markup is left out."""
    for table in tables:
        style = {"title_justify": "left", "box": box.SIMPLE_HEAD, "pad_edge": False, "show_header": any(table.head)}
        shown = RichTable(title=Text(table.title) if table.title else None, **style)  # type: ignore[arg-type]
        for name, align in zip(table.head, table.letters, strict=True):
            justify = "right" if align == "r" else "left"
            shown.add_column(Text(name), justify=justify, overflow="fold", no_wrap=align != "w")  # type: ignore[arg-type]
        for row in table.rows:
            if row:
                shown.add_row(*map(_plain, row))
            else:
                shown.add_section()
        console.print(shown)


def _plain(cell: str) -> Text:
    if hasattr(cell, "__html__"):
        cell = html.unescape(re.sub(r"<[^>]*>", "", str(cell).replace("<br>", "\n")))
    return Text(cell)


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of a Markdown file."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"|{'|'.join(f' {cell} ' if cell else ' ' for cell in cells)}|" for cells in lines)


def print_training(summary: TrainSummary, config: Config) -> None:
    """Reward, held-out gain by arm, strategies, and where the outputs are."""
    console = stdout_console()
    first, last = summary.strategies_first, summary.strategies_last
    names = sorted({*first, *last}, key=lambda name: (-last.get(name, 0.0), name))
    rows = [["reward", interval(*summary.reward_first, 3), interval(*summary.reward_last, 3)]]
    rows += [[f"writes {name}", f"{first.get(name, 0.0):.0%}", f"{last.get(name, 0.0):.0%}"] for name in names]
    print_tables(console, Table(["", "first step", "last step"], rows, title="Training"))
    if summary.heldout:
        print_tables(console, _arms(summary, config.reward.measure))
    if summary.checkpoint is None:
        teacher = f"{config.teacher.model} as it is: no round gained more on the validation documents"
    else:
        best = "" if summary.best_round is None else f" (round {summary.best_round} validated best)"
        teacher = f"{summary.checkpoint}{best}"
    console.print(
        f"teacher: {teacher}\n"
        f"journal: {config.run.dir / 'journal'}\n"
        f"{summary.algorithm}: {summary.rounds} rounds, {summary.student_runs} student runs ({summary.students} with"
        f" held-out arms in this call), {summary.seconds:.0f} s",
        markup=False,
    )


def _arms(summary: TrainSummary, rewarded: Measure) -> Table:
    """All students together, and below them each by itself where there are several; other measures come last."""
    title = f"Documents that the teacher never learnt on (95% intervals over them, of {ONE_RUN})"
    told = next(iter(summary.heldout.values())).by_measure
    measures = [rewarded, *(measure for measure in told if measure != rewarded)]
    gains = [f"gain {in_measure(measure)}" for measure in measures]
    if len(gains) > 1:
        gains[0] += ", rewarded"
    head, rows = ["students taught with", gains[0], "accuracy", *gains[1:]], list[list[str]]()
    students = labels(list(next(iter(summary.heldout.values())).by_student))
    for student, label in [(None, ""), *students.items()]:
        heldout, prefix = summary.heldout, ""
        if student is not None:
            heldout = {arm: evaluation.by_student[student] for arm, evaluation in heldout.items()}
            prefix = f"student/{label}/"
            rows += [[], [f"student {label}", *[""] * (len(head) - 1)]]
        for arm, arm_label in ARMS.items():
            if arm in heldout:
                gains = [_cell(heldout[arm].by_measure.get(measure)) for measure in measures]
                rows.append([arm_label, gains[0], interval(*heldout[arm].accuracy), *gains[1:]])
        for other in ("untrained", "raw"):
            accuracy = summary.differences.get(f"{prefix}accuracy_minus_{other}")
            if accuracy is not None:
                names = (prefix + difference_name(measure, rewarded, other) for measure in measures)
                gains = [_cell(summary.differences.get(name)) for name in names]
                rows.append([f"trained ({ONE_RUN}) - {other}", gains[0], interval(*accuracy), *gains[1:]])
    return Table(head, rows, title=title)


def _cell(estimate: Estimate | None) -> str:
    return "-" if estimate is None else interval(*estimate, 3)


def print_example(summary: TrainSummary) -> None:
    """One held-out document, and what the teacher made of it at first and in the end."""
    if not summary.examples:
        return
    # One that changed says more than one that did not.
    example = next((e for e in summary.examples if e.before != e.after), summary.examples[0])
    source, before, after = (
        Text(shorten(" ".join(text.split()), EXAMPLE_CHARACTERS))
        for text in (example.source, example.before, example.after)
    )
    console = stdout_console()
    console.print("Document (never learnt on):", markup=False)
    console.print(source, style="dim")
    columns = f"at first: {example.strategy_before}", f"now: {example.strategy_after}"
    table = RichTable(*columns, title="What the teacher writes from it", title_justify="left", expand=True)
    table.add_row(before, after)
    console.print(table)


def stdout_console() -> Console:
    """The console of a verb's results."""
    # Made anew each time, so that a redirected stdout is the one written to. In a pipe rich would assume 80 columns,
    # where tables with an interval for every measure fold their words.
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=200)
