"""The lab's second world: small grids, and rules that recolour their cells or move them.

What helps a student to learn one rule harms it with another. A rule of colours gives each colour another one: turned by
a quarter, a task of it is one more task of the same rule, and with the colours permuted it is one of another rule. A
rule of places moves the cells, in a certain direction: there it is the other way round. A family is one rule, whose
tasks differ in their grids. The families that the student has met in its pretraining, those that a teacher learns on
and those that are held out are different ones. Everything is a function of a seed.
"""

from collections.abc import Iterator
from functools import lru_cache
from itertools import cycle, permutations, product
from typing import NamedTuple

import numpy as np

from configs.seeds import stable_seed
from student.benchmarks.arc import Task
from student.grids.grid import COLOURS as ALL_COLOURS
from student.grids.grid import Pair

SIDE = 2
"""Rows and columns of a grid."""
COLOURS = 5
"""In one task, drawn from all ten."""
SHOWN = 4
"""Pairs that a task shows. One more is asked."""
KINDS = ("colours", "places")
GROUPS = ("train", "heldout", "base")
OF_A_KIND = 18
"""Families of each kind in `train` and in `heldout`; `base` has the others."""


def _turned() -> np.ndarray:
    """All grids without a colour twice, each in a row with the seven that are it turned or mirrored."""
    found: dict[bytes, list[np.ndarray]] = {}
    for cells in permutations(range(COLOURS), SIDE**2):
        grid = np.array(cells, dtype=np.int8).reshape(SIDE, SIDE)
        turned = [np.rot90(side, quarters) for side in (grid, grid.T) for quarters in range(4)]
        found[min(other.tobytes() for other in turned)] = turned
    return np.array(list(found.values()))


_TURNED = _turned()


class Family(NamedTuple):
    """One rule."""

    colours: tuple[int, ...]
    """What becomes of each colour of a task."""
    places: tuple[int, ...]
    """The cell of the input, row by row, that each cell of the output is taken from."""

    @property
    def kind(self) -> str:
        """One of `KINDS`."""
        return KINDS[self.colours == tuple(range(COLOURS))]

    @property
    def name(self) -> str:
        return f"{self.kind} {' '.join(map(str, getattr(self, self.kind)))}"

    def apply(self, grids: np.ndarray) -> np.ndarray:
        """The outputs of grids, int8 (..., SIDE, SIDE) of colours below `COLOURS` each."""
        cells = grids.reshape(*grids.shape[:-2], -1)[..., list(self.places)]
        return np.array(self.colours, dtype=np.int8)[cells].reshape(grids.shape)


@lru_cache
def families(group: str) -> tuple[Family, ...]:
    """The families of one of `GROUPS`, a rule of colours and one of places in turn."""
    same_colours, same_places = tuple(range(COLOURS)), tuple(range(SIDE**2))
    # Three colours change, three cells come through: or else there would be hardly anything to see.
    colours = [to for to in permutations(same_colours) if sum(map(int.__ne__, to, same_colours)) > 2]
    places = [taken for taken in product(same_places, repeat=SIDE**2) if len(set(taken)) > 2 and taken != same_places]
    chosen = []
    for kind, rules in zip(KINDS, (colours, places), strict=True):
        drawn = np.random.default_rng(stable_seed("families", kind)).permutation(len(rules)).tolist()
        start = GROUPS.index(group) * OF_A_KIND
        chosen.append([rules[i] for i in drawn[start : None if group == "base" else start + OF_A_KIND]])
    # Where there are fewer of one kind, they come again.
    pairs = zip(chosen[1], cycle(chosen[0]), strict=False)
    return tuple(f for taken, to in pairs for f in (Family(to, same_places), Family(same_colours, taken)))


def draw_inputs(rng: np.random.Generator, tasks: int) -> np.ndarray:
    """The inputs of tasks, int8 (tasks, SHOWN + 1, SIDE, SIDE). A grid holds no colour twice, so that a pair shows much
    of a rule, and none of a task's grids is another one turned or mirrored."""
    drawn = rng.permuted(np.tile(np.arange(len(_TURNED)), (tasks, 1)), axis=1)[:, : SHOWN + 1]
    return _TURNED[drawn, rng.integers(8, size=drawn.shape)]


def make_tasks(group: str, count: int, seed: int) -> Iterator[tuple[Family, Task]]:
    """So many tasks, of the group's families in turn."""
    of_group = families(group)
    for number in range(count):
        family = of_group[number % len(of_group)]
        rng = np.random.default_rng(stable_seed("grids", seed, group, number))
        [inputs] = draw_inputs(rng, 1)
        shown_as = rng.permutation(ALL_COLOURS).astype(np.int8)
        pairs = [Pair(*pair) for pair in zip(shown_as[inputs], shown_as[family.apply(inputs)], strict=True)]
        yield family, Task(f"{group}-{number:04d}", tuple(pairs[:SHOWN]), tuple(pairs[SHOWN:]))
