"""Where the student pool stops to scale: a round's students dealt to simulated GPUs, batch by batch.

Batches are cut and dealt by the pool's own rules (`student.pools.batching.batch_sizes`, longest first, one batch an
actor). What a batch, a student and the dealing process cost is given; `curation.bench.pool` measures it. The rest is
bookkeeping: an actor waits from the end of its batch until the dealing process has come to it, and, when nothing is
left to deal, until the round is over.
"""

import heapq
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
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
    """Of any batch, whatever it holds."""
    student: float
    """Of a student of mean length, beside its batch's."""
    spread: float
    """Standard deviation of the logarithm of a batch's time, at equal contents."""
    deal_batch: float
    """Of the dealing process, for a batch."""
    deal_student: float
    """And for each student in it."""

    def faster(self, times: float) -> "Costs":
        """Of actors that are so many times as fast; the dealing process is the same."""
        return Costs(
            batch=self.batch / times, student=self.student / times, spread=self.spread, deal_batch=self.deal_batch,
            deal_student=self.deal_student,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """Seconds of one simulated round of students; all but the first summed over actors."""

    makespan: float
    students: float
    batches: float
    """What batches cost beside their students: small ones cost as much as large ones."""
    dealing: float
    """Waiting for the dealing process."""
    tail: float
    """Waiting for the last actor, with nothing left to do."""


def simulate(lengths: Sequence[float], gpus: int, costs: Costs, seed: int) -> Round:
    """One round of students of these relative lengths (mean 1) on so many GPUs."""
    rng = random.Random(seed)
    order = sorted(lengths, reverse=True)
    waiting = []
    start = 0
    for size in batch_sizes(order, MOST, gpus):
        waiting.append(order[start : start + size])
        start += size
    waiting.reverse()
    free = [(0.0, gpu) for gpu in range(gpus)]
    dealer = students = batches = dealing = 0.0
    ends = [0.0] * gpus
    while waiting:
        asked, gpu = heapq.heappop(free)
        batch = waiting.pop()
        dealer = max(dealer, asked) + costs.deal_batch + costs.deal_student * len(batch)
        luck = rng.lognormvariate(0.0, costs.spread)
        students += luck * costs.student * sum(batch)
        batches += luck * costs.batch
        dealing += dealer - asked
        ends[gpu] = dealer + luck * (costs.batch + costs.student * sum(batch))
        heapq.heappush(free, (ends[gpu], gpu))
    makespan = max(ends)
    return Round(
        makespan=makespan, students=students, batches=batches, dealing=dealing,
        tail=sum(makespan - end for end in ends),
    )  # fmt: skip


def scaling(lengths: Sequence[float], costs: Costs, teacher_share: float) -> dict[str, Any]:
    """Means of `SEEDS` rounds on each of `GPUS`, and where scaling bends.

    `teacher_share` of the round at the fewest GPUs is the teacher's, which more GPUs for students do not shorten.
    `points` hold `gpus`, `students_per_second`, `efficiency` (students' share of the actors' time), the shares that are
    lost to `small_batches`, `dealing` and `tail`, and `round_efficiency` (with the teacher's part, actors idle in it).
    `bends_at` is the first number of GPUs at which `efficiency` is below 0.8, `why` what is lost most there; null where
    it never is. `round_bends_at`: the same of `round_efficiency`, relative to the fewest GPUs.
    """
    points: list[dict[str, Any]] = []
    teacher = None
    for gpus in GPUS:
        rounds = [simulate(lengths, gpus, costs, seed) for seed in range(SEEDS)]
        makespan = statistics.fmean(r.makespan for r in rounds)
        whole = gpus * makespan
        shares = {
            "efficiency": statistics.fmean(r.students for r in rounds) / whole,
            "small_batches": statistics.fmean(r.batches for r in rounds) / whole,
            "dealing": statistics.fmean(r.dealing for r in rounds) / whole,
            "tail": statistics.fmean(r.tail for r in rounds) / whole,
        }
        if teacher is None:
            teacher = makespan * teacher_share / (1 - teacher_share)
        points.append(
            {"gpus": gpus, "students_per_second": len(lengths) / makespan, **shares}
            | {"round_efficiency": shares["efficiency"] * makespan / (makespan + teacher)}
        )
    bent = next((point for point in points if point["efficiency"] < LEAST_EFFICIENCY), None)
    lost = ("small_batches", "dealing", "tail")
    at_first = points[0]["round_efficiency"]
    round_bent = next((p["gpus"] for p in points if p["round_efficiency"] < LEAST_EFFICIENCY * at_first), None)
    return {
        "points": points,
        "bends_at": bent and bent["gpus"],
        "why": bent and max(lost, key=lambda name: bent[name]),
        "round_bends_at": round_bent,
    }
