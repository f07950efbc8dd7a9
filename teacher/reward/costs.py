"""Seconds of students by what they were for, kept beside the journal, so that a call that goes on knows what earlier
ones took."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from teacher.reward.student_runs import StudentRuns
from teacher.run.journal import JsonLines


class Costs:
    """Seconds a unit, over all calls; a call that was killed adds what had been noted before."""

    def __init__(self, lines: JsonLines) -> None:
        self.lines = lines
        self.tokens_per_rewrite: dict[str, float] = {}
        self._units: dict[str, int] = defaultdict(int)
        self._seconds: dict[str, float] = defaultdict(float)
        for record in lines.read():
            self._count(record["work"], record["units"], record["seconds"])

    def add(self, work: str, units: int, seconds: float) -> None:
        """So many more units of the work took so long."""
        if units:
            self.lines.append({"work": work, "units": units, "seconds": seconds, "time": time.time()})
            self._count(work, units, seconds)

    @contextmanager
    def of(self, work: str, runs: StudentRuns) -> Iterator[None]:
        """Within it the students that `runs` trains are units of the work."""
        trained, started = runs.trained, time.monotonic()
        yield
        self.add(work, runs.trained - trained, time.monotonic() - started)

    def seconds_per_unit(self, work: str) -> float | None:
        """None where none was timed."""
        return self._seconds[work] / self._units[work] if self._units[work] else None

    def _count(self, work: str, units: int, seconds: float) -> None:
        self._units[work] += units
        self._seconds[work] += seconds
