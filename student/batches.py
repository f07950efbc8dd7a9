"""Which students are trained together, and what becomes of a batch whose worker dies."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import NamedTuple

from configs.schema import Student
from student.records import Lesson

DEATHS = 2
"""A batch is blamed when so many of its workers have died: the first may have been the machine's own failure."""

CHARACTERS_A_TOKEN = 5
"""Of English text, at most; longer texts than `student.max_text_tokens` of these are cut."""


class Size(NamedTuple):
    """How much training a lesson is, told from its characters: tokens would cost the process that deals jobs out
    milliseconds a job, which beyond a few GPUs is all the time it has."""

    steps: int
    characters: float
    """Of one step."""

    @classmethod
    def of(cls, lesson: Lesson, settings: Student) -> "Size":
        """Of a lesson under the config's settings; a lesson without text has no steps."""
        texts = [text if isinstance(text, str) else "".join(segment.text for segment in text) for text in lesson.texts]
        if not texts:
            return cls(0, 0.0)
        most = CHARACTERS_A_TOKEN * settings.max_text_tokens
        total = sum(min(len(text), most) for text in texts)
        a_step = min(len(texts), settings.texts_per_step or len(texts))
        characters = total * a_step / len(texts)
        if settings.tokens_per_step:
            characters = float(settings.tokens_per_step * CHARACTERS_A_TOKEN)
        epochs = (lesson.epochs or settings.epochs) * math.ceil(total / max(1.0, characters))
        return cls(lesson.steps or (None if lesson.epochs else settings.steps) or epochs, characters)

    @property
    def cost(self) -> float:
        """In characters trained on; no batch is free."""
        return 1.0 + self.steps * self.characters


@dataclass(frozen=True, slots=True)
class Batch:
    """Students that go to a worker together, by their numbers in the call."""

    jobs: list[int]
    deaths: int = 0
    """Workers that died on it."""

    def after_death(self) -> list["Batch"]:
        """What is to be run again: all of it after the first death, then its halves. Empty where a single student is
        left to blame."""
        deaths = self.deaths + 1
        if deaths < DEATHS:
            return [replace(self, deaths=deaths)]
        if len(self.jobs) == 1:
            return []
        middle = len(self.jobs) // 2
        # A half that kills its worker is cut again at once: it has been met before.
        return [Batch(half, DEATHS - 1) for half in (self.jobs[:middle], self.jobs[middle:])]


def by_length(sizes: Sequence[Size]) -> list[int]:
    """Numbers of the jobs, longest first: those of like length share a batch, and no long one is left for last."""
    return sorted(range(len(sizes)), key=sizes.__getitem__, reverse=True)


def consecutive(order: list[int], size: int) -> list[list[int]]:
    """Pieces of `size`; the last may be shorter."""
    return [order[start : start + size] for start in range(0, len(order), size)]


def cut(costs: Sequence[float], most: int, workers: int) -> list[int]:
    """Sizes of consecutive batches of jobs, so that all workers have work and end at about the same time.

    As few batches of at most `most` as there can be, but as many as workers (or a multiple of them), of about equal
    cost each: those of long jobs hold fewer.
    """
    left, waiting = float(sum(costs)), len(costs)
    batches = min(waiting, workers * math.ceil(waiting / (most * workers)))
    sizes = []
    for after in range(batches - 1, -1, -1):
        start = len(costs) - waiting
        least, size, cost = max(1, waiting - after * most), 0, 0.0
        while size < min(most, waiting - after):
            add = costs[start + size]
            if size >= least and cost + add / 2 > left / (after + 1):
                break
            cost, size = cost + add, size + 1
        sizes.append(size)
        left, waiting = left - cost, waiting - size
    return sizes


def even_runs(lengths: list[int], count: int, max_tokens: int) -> list[slice]:
    """At most `count` runs of neighbours, of which the longest to compute is as short as can be.

    Unlike `cut` it knows the lengths in tokens, and so what padding adds (`positions`); nothing is left for later.
    """

    def filled(most: int) -> list[slice]:
        runs, start = [], 0
        while start < len(lengths):
            fit = sum(1 for _ in takewhile(lambda so_far: so_far <= most, _positions(lengths[start:], max_tokens)))
            runs.append(slice(start, start + fit))
            start += fit
        return runs or [slice(0, 0)]

    low = max(lengths, default=0)
    high = len(lengths) * low
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(filled(middle)) <= count else (middle + 1, high)
    return filled(low)


def positions(lengths: list[int], max_tokens: int) -> int:
    """Positions of a step of students of these lengths, all padding counted: those of a pass are as long as its
    longest, and come sorted by length, so that this is little."""
    return max(_positions(lengths, max_tokens), default=0)


def _positions(lengths: list[int], max_tokens: int) -> Iterator[int]:
    """The same of the first, the first two, ..."""
    before = size = longest = of_all = 0
    for length in lengths:
        of_all = max(of_all, length)
        if size >= max(1, max_tokens // max(1, of_all)):  # a pass is full
            before, size, longest = before + size * longest, 0, 0
        size, longest = size + 1, max(longest, length)
        yield before + size * longest
