"""The lab's second world: small grids, and rules that make an output of an input.

A rule is about places (it moves cells, whatever their colours) or about colours (it recolours cells, wherever they
are). What helps a student with the one harms it with the other: with the colours of a task permuted, a rule of places
is the same rule, shown once more, and a rule of colours is another one. With the task turned it is the other way round,
since direction is part of a rule of places. A family is one kind of rule. The families that the student has met in its
pretraining, those that a teacher learns on and those that are held out are different ones. Everything is a function of
a seed.
"""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from configs.seeds import stable_seed
from student.benchmarks.arc import Task
from student.grids.grid import COLOURS, Pair

SIDE = 3
"""Rows and columns of a grid."""
SHOWN = 3
"""Pairs that a task shows. One more is asked."""
GROUPS = ("base", "train", "heldout")


class Family(NamedTuple):
    """Rules of one kind."""

    name: str
    place: tuple[int, ...] = ()
    """For each cell of the output the cell of the input that it is taken from; empty: its own."""
    rings: tuple[int, ...] = ()
    """Lengths of rings of colours, each of which gives way to the next; which colours they are is drawn for each
    task. Empty: colours stay."""

    def colours(self, rng: np.random.Generator) -> np.ndarray:
        """What each colour becomes, int8 (COLOURS,)."""
        to = np.arange(COLOURS, dtype=np.int8)
        drawn = rng.permutation(COLOURS)
        for length in self.rings:
            ring, drawn = drawn[:length], drawn[length:]
            to[ring] = np.roll(ring, 1)
        return to

    def apply(self, grids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The outputs of one task's grids, (..., SIDE * SIDE) each."""
        moved = grids[..., list(self.place)] if self.place else grids
        return self.colours(rng)[moved]


def families(group: str) -> list[Family]:
    """The families of one of `GROUPS`, half of them about places and half about colours."""
    rng = np.random.default_rng(0)
    places, rings = _places(), _rings()
    parts = [[every[i] for i in rng.permutation(len(every))] for every in (places, rings)]
    number, groups = GROUPS.index(group), len(GROUPS)
    of_places, of_colours = (part[number::groups] for part in parts)
    half = min(len(of_places), len(of_colours))
    return [family for two in zip(of_places[:half], of_colours[:half], strict=True) for family in two]


def _places() -> list[Family]:
    """The rows in any order, the columns in any order, and the same of the grid mirrored at its diagonal."""
    cells = np.arange(SIDE * SIDE).reshape(SIDE, SIDE)
    found = []
    orders = list(itertools.permutations(range(SIDE)))
    for mirrored, rows, columns in itertools.product((False, True), orders, orders):
        place = (cells.T if mirrored else cells)[list(rows)][:, list(columns)]
        name = f"{'mirrored ' * mirrored}rows {''.join(map(str, rows))} columns {''.join(map(str, columns))}"
        found.append(Family(name, place=tuple(place.flatten().tolist())))
    return found[1:]  # the first moves nothing


def _rings() -> list[Family]:
    """Rings that recolour four colours or more."""

    def partitions(total: int, most: int) -> Iterator[tuple[int, ...]]:
        if total == 0:
            yield ()
        for length in range(min(total, most), 1, -1):
            for rest in partitions(total - length, length):
                yield (length, *rest)

    every = [rings for total in range(4, COLOURS + 1) for rings in partitions(total, total)]
    return [Family(f"rings of {' '.join(map(str, rings))}", rings=rings) for rings in every]


def make_tasks(group: str, count: int, seed: int) -> Iterator[tuple[Family, Task]]:
    """So many tasks, of the group's families in turn."""
    of_group = families(group)
    for number in range(count):
        family = of_group[number % len(of_group)]
        rng = np.random.default_rng(stable_seed("grids", seed, group, number))
        inputs = rng.integers(COLOURS, size=(SHOWN + 1, SIDE * SIDE), dtype=np.int8)
        outputs = family.apply(inputs, rng)
        pairs = [Pair(*(grid.reshape(SIDE, SIDE) for grid in pair)) for pair in zip(inputs, outputs, strict=True)]
        yield family, Task(f"{group}-{number:04d}", tuple(pairs[:SHOWN]), tuple(pairs[SHOWN:]))
