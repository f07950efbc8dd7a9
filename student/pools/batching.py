"""Which students are trained together, and what becomes of a batch whose worker dies."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
