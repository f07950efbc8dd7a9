"""The lab's second world: small grids, and rules that recolour them.

A rule gives each colour another one, in the whole grid or in one row or column of it. What helps a student to learn one
harms it with another: turned by a quarter, a rule of the whole grid is the same rule, shown once more, and a rule of
rows has become one of columns. Mirrored from left to right, a rule of rows stays as it is. With the colours permuted
none does. A family is one region and one kind of recolouring. The families that the student has met in its pretraining,
those that a teacher learns on and those that are held out are different ones. Everything is a function of a seed.
"""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from configs.seeds import stable_seed
from student.benchmarks.arc import Task
from student.grids.grid import Pair

SIDE = 3
"""Rows and columns of a grid."""
COLOURS = 5
"""Of ten: four pairs show nearly every colour in every row."""
SHOWN = 4
"""Pairs that a task shows. One more is asked."""
RINGS = ((5,), (4,), (3, 2), (3,), (2, 2), (2,))
REGIONS = ("whole", *(f"{line} {number}" for line in ("row", "column") for number in range(SIDE)))
GROUPS = ("base", "train", "heldout")


class Family(NamedTuple):
    """Rules of one kind."""

    region: str
    """Where cells are recoloured: one of `REGIONS`."""
    rings: tuple[int, ...]
    """Lengths of rings of colours, each of which gives way to the next; which colours they are is drawn for each
    task."""

    @property
    def name(self) -> str:
        return f"{self.region}, rings of {' '.join(map(str, self.rings))}"

    @property
    def kind(self) -> str:
        """`whole`, `row` or `column`."""
        return self.region.partition(" ")[0]

    def apply(self, grids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The outputs of one task's grids, int8 (..., SIDE, SIDE) each."""
        to = np.arange(COLOURS, dtype=np.int8)
        drawn = rng.permutation(COLOURS)
        for length in self.rings:
            ring, drawn = drawn[:length], drawn[length:]
            to[ring] = np.roll(ring, 1)
        place: list[slice | int] = [slice(None), slice(None)]
        if self.kind != "whole":
            place[self.kind == "column"] = int(self.region[-1])
        outputs = grids.copy()
        outputs[..., place[0], place[1]] = to[grids[..., place[0], place[1]]]
        return outputs


def families(group: str) -> list[Family]:
    """The families of one of `GROUPS`: two of every region, those of whole grids thrice, as often as all of rows."""
    number = GROUPS.index(group)
    found = []
    for r, (region, k) in enumerate(itertools.product(REGIONS, range(len(RINGS) // len(GROUPS)))):
        family = Family(region, RINGS[(number + len(GROUPS) * k + r // 2) % len(RINGS)])
        found += [family] * (SIDE if region == "whole" else 1)
    return found


def make_tasks(group: str, count: int, seed: int) -> Iterator[tuple[Family, Task]]:
    """So many tasks, of the group's families in turn."""
    of_group = families(group)
    for number in range(count):
        family = of_group[number % len(of_group)]
        rng = np.random.default_rng(stable_seed("grids", seed, group, number))
        inputs = rng.integers(COLOURS, size=(SHOWN + 1, SIDE, SIDE), dtype=np.int8)
        pairs = [Pair(*pair) for pair in zip(inputs, family.apply(inputs, rng), strict=True)]
        yield family, Task(f"{group}-{number:04d}", tuple(pairs[:SHOWN]), tuple(pairs[SHOWN:]))
