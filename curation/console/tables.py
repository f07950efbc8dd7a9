"""What the terminal shows when a verb has ended: short tables on stdout."""

import html
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from configs.format import shorten
from teacher.training.summary import TrainSummary

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
