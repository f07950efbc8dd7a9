"""Which students are trained together, and what happens to a batch whose worker dies."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

from configs.schema import Student
from student.records import Lesson

T = TypeVar("T")

DEATHS = 2
"""A batch is blamed when so many of its workers have died: the first may have been the machine's own failure."""

MAX_CHARACTERS_PER_TOKEN = 5
"""Most characters a token of English text."""


class TrainingSize(NamedTuple):
    """How much training a lesson is, estimated from its characters: tokenizing each job (milliseconds) would make
    the dispatcher the bottleneck beyond a few GPUs."""

    steps: int
    characters: float
    """Characters of one step."""

    @classmethod
    def of(cls, lesson: Lesson, settings: Student) -> "TrainingSize":
        """The size of a lesson; without texts it has no steps."""
        texts = [text if isinstance(text, str) else "".join(segment.text for segment in text) for text in lesson.texts]
        if not texts:
            return cls(0, 0.0)
        total = sum(map(len, texts))
        characters = total * min(len(texts), settings.texts_per_step or len(texts)) / len(texts)
        if settings.tokens_per_step:
            characters = float(settings.tokens_per_step * MAX_CHARACTERS_PER_TOKEN)
        epochs = (lesson.epochs or settings.epochs) * math.ceil(total / max(1.0, characters))
        return cls(lesson.steps or (None if lesson.epochs else settings.steps) or epochs, characters)

    @property
    def cost(self) -> float:
        """Characters trained on, plus one, because no batch is free."""
        return 1.0 + self.steps * self.characters


@dataclass(frozen=True, slots=True)
class JobBatch:
    """Jobs that go to a worker together, by their indices in the call."""

    jobs: list[int]
    deaths: int = 0
    """Workers that died on it."""

    def after_death(self) -> list["JobBatch"]:
        """The batches to run after another worker died: this one after the first death, then its halves. Empty if a
        single student is left to blame."""
        if self.deaths + 1 < DEATHS:
            return [replace(self, deaths=self.deaths + 1)]
        if len(self.jobs) == 1:
            return []
        middle = len(self.jobs) // 2
        # A half that kills its worker is halved at once: it has been run before.
        return [JobBatch(half, DEATHS - 1) for half in (self.jobs[:middle], self.jobs[middle:])]


def longest_first(sizes: Sequence[TrainingSize]) -> list[int]:
    """Indices of the jobs, longest first: jobs of like length then share a batch, and no long one comes last."""
    return sorted(range(len(sizes)), key=sizes.__getitem__, reverse=True)


def chunks(order: list[T], size: int) -> list[list[T]]:
    """Consecutive parts of `size`; the last may be shorter."""
    return [order[start : start + size] for start in range(0, len(order), size)]


def batch_sizes(costs: Sequence[float], most: int, workers: int) -> list[int]:
    """Sizes of consecutive batches of jobs, such that all workers have work and end at about the same time: as few of
    at most `most` jobs as possible, but as many as workers (or a multiple), with costs about equal."""
    remaining_cost, remaining = float(sum(costs)), len(costs)
    batches = min(remaining, workers * math.ceil(remaining / (most * workers)))
    sizes = []
    for batches_after in range(batches - 1, -1, -1):
        start = len(costs) - remaining
        # The batches after this one hold at least a job and at most `most` each.
        least, size, cost = max(1, remaining - batches_after * most), 0, 0.0
        while size < min(most, remaining - batches_after):
            next_cost = costs[start + size]
            if size >= least and cost + next_cost / 2 > remaining_cost / (batches_after + 1):
                break
            cost, size = cost + next_cost, size + 1
        sizes.append(size)
        remaining_cost, remaining = remaining_cost - cost, remaining - size
    return sizes
