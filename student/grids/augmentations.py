"""Changes of all grids of a task that make another task of it, and that can be undone (arXiv 2411.07279, section 3).

An augmentation is named; those with chance in them (`shift`, `colours`) are drawn. `a+b` is a chain: first a, then b. A
rule that does not depend on what is changed is the same rule in the changed task: `colours` is right for a rule of
places and wrong for a rule of colours, `rotate-90` the other way round.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from student.grids.grid import COLOURS, Grid, Pair

CHAIN = "+"
EXAMPLES = "examples"
"""Permutes the pairs of a task and no grid."""
Change = Callable[[Grid], Grid]
_Draw = Callable[[np.random.Generator], tuple[Change, Change]]


def _fixed(change: Change, undo: Change) -> _Draw:
    return lambda rng: (change, undo)


def _turned(quarters: int) -> _Draw:
    return _fixed(lambda grid: np.rot90(grid, quarters), lambda grid: np.rot90(grid, -quarters))


def _scaled(factor: int) -> _Draw:
    return _fixed(lambda grid: grid.repeat(factor, 0).repeat(factor, 1), lambda grid: grid[::factor, ::factor])


def _shifted(rng: np.random.Generator) -> tuple[Change, Change]:
    """The same number of rows and columns for all grids; what leaves on one side comes in on the other."""
    by = (int(rng.integers(0, 30)), int(rng.integers(0, 30)))
    return lambda grid: np.roll(grid, by, (0, 1)), lambda grid: np.roll(grid, (-by[0], -by[1]), (0, 1))


def _recoloured(first: int) -> _Draw:
    """A permutation of the colours from `first` on."""

    def draw(rng: np.random.Generator) -> tuple[Change, Change]:
        to = np.arange(COLOURS, dtype=np.int8)
        to[first:] = rng.permutation(to[first:])
        back = np.argsort(to).astype(np.int8)
        return lambda grid: to[grid], lambda grid: back[grid]

    return draw


def _same(grid: Grid) -> Grid:
    return grid


AUGMENTATIONS: dict[str, _Draw] = {
    "identity": _fixed(_same, _same),
    "rotate-90": _turned(1),
    "rotate-180": _turned(2),
    "rotate-270": _turned(3),
    "flip-rows": _fixed(np.flipud, np.flipud),
    "flip-columns": _fixed(np.fliplr, np.fliplr),
    "transpose": _fixed(np.transpose, np.transpose),
    "shift": _shifted,
    "colours": _recoloured(1),
    "all-colours": _recoloured(0),
    "scale-2": _scaled(2),
    "scale-3": _scaled(3),
    EXAMPLES: _fixed(_same, _same),
}
"""All augmentations by name. `colours` leaves the colour 0 as it is, which is the background in most ARC tasks."""


@dataclass(frozen=True)
class View:
    """A task as an augmentation shows it."""

    changes: tuple[Change, ...]
    undos: tuple[Change, ...]
    order: tuple[int, ...]
    """The pair of the task that stands in each place."""

    def of(self, grid: Grid) -> Grid:
        """A grid as it is in the view."""
        for change in self.changes:
            grid = change(grid)
        return grid

    def undo(self, grid: Grid) -> Grid:
        """The grid that the view shows as this one. Every grid of the task comes back exactly; a student's answer need
        not be of a size that the view can have (`scale-2`), and is cut to one then."""
        for undo in reversed(self.undos):
            grid = undo(grid)
        return grid

    def pairs(self, pairs: Sequence[Pair]) -> list[Pair]:
        """All pairs as they are in the view, in its order."""
        return [Pair(self.of(pairs[number].input), self.of(pairs[number].output)) for number in self.order]

    def undo_pairs(self, pairs: Sequence[Pair]) -> list[Pair]:
        """What `pairs` was given."""
        places = np.argsort(self.order)
        return [Pair(self.undo(pairs[place].input), self.undo(pairs[place].output)) for place in places]


def names_of(chain: str) -> list[str]:
    """The augmentations of a chain. Raises ValueError for an empty or unknown one, which it names."""
    names = chain.split(CHAIN)
    for name in names:
        if name not in AUGMENTATIONS:
            raise ValueError(name)
    return names


def draw_view(chain: str, rng: np.random.Generator, pairs: int) -> View:
    """A view of a task of so many pairs by a chain of augmentations."""
    names = names_of(chain)
    steps = [AUGMENTATIONS[name](rng) for name in names]
    order = rng.permutation(pairs).tolist() if EXAMPLES in names else range(pairs)
    return View(tuple(change for change, _ in steps), tuple(undo for _, undo in steps), tuple(order))
