"""Where the student pool stops to scale: a round's students on simulated GPUs, batch by batch.

Batches are formed and dispatched by the pool's own rules (`student.pools.batching.batch_sizes`, longest first, one
batch an actor), at the costs that `curation.bench.pool` measures. An actor waits from the end of its batch until the
dispatching process has come to it, and, when no batch is left, until the round is over.
"""

import heapq
import itertools
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from student.pools.batching import batch_sizes

GPUS = (8, 16, 32, 64, 128, 256, 512)
MOST = 256
"""Students of a batch on a GPU, as in `student.pool`."""
SEEDS = 5
LEAST_EFFICIENCY = 0.8
"""Below this share of the actors' time spent on students, scaling has bent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Seconds."""

    batch: float
    """Cost of any batch, whatever is in it."""
    student: float
    """Cost of a student of mean length, on top of its batch's."""
    spread: float
    """Standard deviation of the logarithm of a batch's time, at equal contents."""
    deal_batch: float
    """Cost to the dispatching process of a batch."""
    deal_student: float
    """And for each student in it."""

    def faster(self, times: float) -> "Costs":
        """The costs of actors that are so many times as fast, with the same dispatching process."""
        return replace(self, batch=self.batch / times, student=self.student / times)


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """Seconds of one simulated round of students; all but the first summed over actors."""

    makespan: float
    students: float
    batches: float
    """Batches' own cost, beside their students: small ones cost as much as large ones."""
    dealing: float
    """Waiting for the dispatching process."""
    tail: float
    """Waiting for the last actor, when no batch is left."""


def simulate(lengths: Sequence[float], gpus: int, costs: Costs, seed: int) -> Round:
    """One round of students of these relative lengths (mean 1) on so many GPUs."""
    rng = random.Random(seed)
    order = sorted(lengths, reverse=True)
    longest_first = iter(order)
    free = [(0.0, gpu) for gpu in range(gpus)]
    ends = [0.0] * gpus
    dispatcher_free = student_seconds = batch_seconds = waiting = 0.0
    for size in batch_sizes(order, MOST, gpus):
        batch = list(itertools.islice(longest_first, size))
        since, gpu = heapq.heappop(free)
        # One process dispatches: an actor that is free waits until it has dispatched the batches before.
        dispatcher_free = max(dispatcher_free, since) + costs.deal_batch + costs.deal_student * len(batch)
        luck = rng.lognormvariate(0.0, costs.spread)
        student_seconds += luck * costs.student * sum(batch)
        batch_seconds += luck * costs.batch
        waiting += dispatcher_free - since
        ends[gpu] = dispatcher_free + luck * (costs.batch + costs.student * sum(batch))
        heapq.heappush(free, (ends[gpu], gpu))
    makespan = max(ends)
    return Round(
        makespan=makespan, students=student_seconds, batches=batch_seconds, dealing=waiting,
        tail=sum(makespan - end for end in ends),
    )  # fmt: skip


def scaling(lengths: Sequence[float], costs: Costs, teacher_share: float) -> dict[str, Any]:
    """Means of `SEEDS` rounds on each of `GPUS`, and where scaling bends.

    `teacher_share` of the round at the fewest GPUs is the teacher's, which more GPUs for students do not shorten.
    `points` hold `gpus`, `students_per_second`, `efficiency` (students' share of the actors' time), the shares that are
    lost to `small_batches`, `dealing` (the dispatching process) and `tail`, and `round_efficiency` (where actors also
    idle in the teacher's part). `bends_at` is the first number of GPUs at which `efficiency` is below 0.8, `why` the
    largest loss there; None where it never is. `round_bends_at`: of `round_efficiency`, relative to the fewest GPUs.
    """
    points: list[dict[str, Any]] = []
    teacher_seconds = 0.0
    fields = {"efficiency": "students", "small_batches": "batches", "dealing": "dealing", "tail": "tail"}
    for gpus in GPUS:
        rounds = [simulate(lengths, gpus, costs, seed) for seed in range(SEEDS)]
        means = {field: statistics.fmean(getattr(r, field) for r in rounds) for field in ("makespan", *fields.values())}
        makespan = means["makespan"]
        shares = {name: means[field] / (gpus * makespan) for name, field in fields.items()}
        if not points:
            teacher_seconds = makespan * teacher_share / (1 - teacher_share)
        round_efficiency = shares["efficiency"] * makespan / (makespan + teacher_seconds)
        rate = len(lengths) / makespan
        points.append({"gpus": gpus, "students_per_second": rate, **shares, "round_efficiency": round_efficiency})
    bent = next((point for point in points if point["efficiency"] < LEAST_EFFICIENCY), None)
    least = LEAST_EFFICIENCY * points[0]["round_efficiency"]
    return {
        "points": points,
        "bends_at": bent and bent["gpus"],
        "why": bent and max(("small_batches", "dealing", "tail"), key=lambda name: bent[name]),
        "round_bends_at": next((point["gpus"] for point in points if point["round_efficiency"] < least), None),
    }
