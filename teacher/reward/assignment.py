"""Which student learns which lessons: a student learns one lesson of each of the documents that share it."""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from student.records import Document, Outcome, group_of
from teacher.records import Rewrite

RewriteSet = Sequence[Rewrite]
"""A lesson: rewrites of one document that are taught together."""


class TaughtLesson(NamedTuple):
    """A lesson as a student is taught it."""

    document: int
    lesson: int
    """Number of the lesson in its document's group."""
    without: int | None = None
    """Number of the rewrite that is left out, to learn what it adds."""


class PlannedStudent(NamedTuple):
    """One student to train."""

    lessons: tuple[TaughtLesson, ...]
    """One per document of the batch, in the batch's order."""
    batch: int
    """Documents of a batch share their students, in every repeat."""
    repeat: int
    """Students of one batch and repeat have the same seed."""


class LessonResult(NamedTuple):
    """What one student showed about one of its lessons."""

    student: PlannedStudent
    gain: float
    """Gain on the lesson's document (under `shard` credit on all that the student was asked), in `reward.measure`."""
    forgotten: float
    """Loss gained on the retention texts by the whole student, in nats a token."""
    outcome: Outcome | None
    """Narrowed to the lesson's document; None where nothing was left to teach."""


Results = dict[TaughtLesson, list[LessonResult]]
"""In the order of the students that learnt the lesson; failed ones are left out."""


def lessons_of(group: Sequence[Rewrite], size: int) -> list[RewriteSet]:
    """A group of G x m rewrites as its G lessons of m."""
    assert len(group) % size == 0, f"a group of {len(group)} rewrites holds no whole lessons of {size}"
    return [group[start : start + size] for start in range(0, len(group), size)]


def strategy_of(lesson: RewriteSet) -> str:
    """The strategy of most of a lesson's rewrites that passed the gates; "" where none passed."""
    counts = Counter(rewrite.strategy for rewrite in lesson if rewrite.rejected is None)
    return max(sorted(counts), key=counts.__getitem__, default="")


def clusters_of(documents: Sequence[Document], together: int) -> list[int]:
    """What counts once in an interval, for each document: the batch that shares students, or where a student learns one
    document alone, the first document under its title (passages and tasks of one title are no independent draws)."""
    if together > 1:
        return [d // together for d in range(len(documents))]
    groups = list(map(group_of, documents))
    first = {group: d for d, group in reversed(list(enumerate(groups)))}
    return [first[group] for group in groups]


def batches_of(documents: int, size: int) -> list[range]:
    """Numbers of the documents that share students; the last batch may be smaller."""
    return [range(start, min(start + size, documents)) for start in range(0, documents, size)]


def assign(
    lessons_DT: Sequence[Sequence[int]],
    size: int,
    repeat: int,
    seed: int,
    *,
    strategies: Sequence[Sequence[str]] | None = None,
) -> Iterator[PlannedStudent]:
    """The students of one repeat, of which exactly one learns each of a document's lessons in `lessons_DT` (numbers; T
    are equal for documents that share students).

    In repeat 0 the j-th student learns the j-th of these lessons of every document of its batch. In later repeats each
    document's lessons are shuffled by themselves. With `strategies` (D x G, the strategy of each lesson) lessons are
    sorted by strategy, so most students learn one strategy.
    """
    for number, batch in enumerate(batches_of(len(lessons_DT), size)):
        orders = []
        for d in batch:
            order = list(lessons_DT[d])
            # In new company a lesson meets other neighbours, whose luck averages out over repeats.
            if repeat or strategies is not None:
                random.Random(f"{seed} {repeat} {d}").shuffle(order)
            if strategies is not None:
                order.sort(key=strategies[d].__getitem__)
            orders.append(order)
        for slot in range(len(orders[0])):
            taught = tuple(TaughtLesson(d, order[slot]) for d, order in zip(batch, orders, strict=True))
            yield PlannedStudent(taught, number, repeat)
