"""A check's result: the record, the table, the exit code."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

Status = Literal["ok", "warn", "fail"]
COLOURS: dict[Status, str] = {"ok": "green", "warn": "yellow", "fail": "red"}


@dataclass(frozen=True, slots=True)
class Check:
    """What one check of the machine came to."""

    name: str
    state: Status
    found: str
    fix: str = ""
    """What to change. Empty where all is well."""


Checks = Iterable[Check]


def exit_code(checks: Sequence[Check]) -> int:
    """1 where a check failed, else 0: a warning is no failure."""
    return int(any(check.state == "fail" for check in checks))


def print_checks(checks: Sequence[Check], console: Console) -> None:
    """One row a check, with what to change below what was found."""
    table = Table("", "", "", show_header=False)
    for check in checks:
        text = Text(check.found)
        if check.fix:
            text.append(f"\n-> {check.fix}", style="bold")
        table.add_row(Text(check.state, style=COLOURS[check.state]), check.name, text)
    console.print(table)
    count = {state: sum(check.state == state for check in checks) for state in COLOURS}
    console.print(f"{count['ok']} ok, {count['warn']} to know of, {count['fail']} to change")
