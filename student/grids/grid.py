"""Grids of colours, pairs of them, and both as text.

A grid is rows of digits, one digit a cell, with a slash between rows; a pair is two lines, the input with an equals
sign behind it and the output:

    012/345=
    345/012

Each cell is a token of its own in tokenizers that read single digits (SmolLM2, Qwen). Neither the slash nor the equals
sign ends an answer in an exam (`student.engine.encoding.ends_answer`), and the line break behind an output does: an
answer is right only if it stops where the grid does.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

Grid = np.ndarray
"""int8 (rows, columns) of colours."""
COLOURS = 10
ROW, ANSWER = "/", "=\n"
"""What stands between two rows, and between an input and its output."""


class Pair(NamedTuple):
    """An input and the output that the task's rule makes of it."""

    input: Grid
    output: Grid


def as_grid(rows: Any) -> Grid:
    """A grid from lists of numbers. Raises ValueError with what is wrong, such as `row 2 has 3 cells, row 1 has 4`."""
    if not isinstance(rows, list) or not rows or not all(isinstance(row, list) and row for row in rows):
        raise ValueError("is no list of rows of colours")
    for number, row in enumerate(rows, 1):
        if len(row) != len(rows[0]):
            raise ValueError(f"is no rectangle: row {number} has {len(row)} cells, row 1 has {len(rows[0])}")
        wrong = next((cell for cell in row if type(cell) is not int or not 0 <= cell < COLOURS), None)
        if wrong is not None:
            raise ValueError(f"holds {wrong!r} in row {number}: colours are the numbers 0 to {COLOURS - 1}")
    return np.array(rows, dtype=np.int8)


def grid_text(grid: Grid) -> str:
    """`012/345`."""
    return ROW.join("".join(map(str, row)) for row in grid.tolist())


def read_grid(text: str) -> Grid:
    """The grid of a text that `grid_text` wrote. Raises ValueError for any other text."""
    if not text.isascii() or not text.replace(ROW, "").isdecimal():
        raise ValueError(f"is no grid: {text[:40]!r}")
    return as_grid([[int(cell) for cell in row] for row in text.split(ROW)])


def pairs_text(pairs: Iterable[Pair]) -> str:
    """Pairs, one after another."""
    return "\n".join(f"{grid_text(pair.input)}{ANSWER}{grid_text(pair.output)}" for pair in pairs)


def read_pairs(text: str) -> list[Pair]:
    """The pairs of a text that `pairs_text` wrote. Raises ValueError for any other text."""
    lines = text.split("\n")
    if len(lines) % 2 or any(line[-1:] != ANSWER[0] for line in lines[::2]):
        raise ValueError(f"is no list of pairs of grids: {text[:40]!r}")
    return [Pair(read_grid(one[:-1]), read_grid(other)) for one, other in zip(lines[::2], lines[1::2], strict=True)]


def question_text(shown: Sequence[Pair], asked: Grid) -> str:
    """What a student reads before it answers: the pairs that are shown, and the input whose output is asked for."""
    before = pairs_text(shown)
    return f"{before}{before and chr(10)}{grid_text(asked)}{ANSWER}"
