"""Where a round's wall clock goes: sampling, students, update, and nothing of these."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from teacher.run.gpu_watch import GpuWatch

Span = tuple[float, float]
T = TypeVar("T")

PHASES = ("sample", "students", "update")


class Clock:
    """Notes when which phase ran, in whatever thread: `with clock("sample"):`. Inside of `with clock:` it watches the
    GPUs, too."""

    def __init__(self) -> None:
        self._gpus = GpuWatch()
        self.restart()

    def __enter__(self) -> "Clock":
        self._gpus.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._gpus.__exit__(*error)

    def restart(self) -> None:
        """Forgets what was noted; the round's wall clock starts now."""
        self._started = time.perf_counter()
        self._spans: list[tuple[str, float, float]] = []

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        assert phase in PHASES
        started = time.perf_counter()
        try:
            yield
        finally:
            self._spans.append((phase, started, time.perf_counter()))

    def seconds(self, phase: str) -> float:
        """In which the phase ran."""
        return length(self._of(phase))

    def figures(self) -> dict[str, float]:
        """`seconds/round`, `seconds/<phase>` and `seconds/idle`, in which none of them ran, since `restart`;
        `seconds/overlap`, in which sampling and students both ran; and the shares of the round in which the writer, the
        students, and both with the update were idle. `idle_share/gpu` is the mean over this machine's GPUs, if it has
        some.

        An update that samples and asks students itself (GRPO) counts without them, so that without overlap the phases
        and `idle` add up to the round.
        """
        wall = time.perf_counter() - self._started
        sample, students = self._of("sample"), self._of("students")
        asked, every = length(sample + students), length([span for phase in PHASES for span in self._of(phase)])
        seconds = {
            "round": wall,
            "sample": length(sample),
            "students": length(students),
            "update": every - asked,
            "idle": wall - every,
            "overlap": length(sample) + length(students) - asked,
        }
        shares = {"writer": 1 - seconds["sample"] / wall, "students": 1 - seconds["students"] / wall}
        shares["all"] = seconds["idle"] / wall
        if (gpu := self._gpus.idle_share(self._started)) is not None:
            shares["gpu"] = gpu
        return {f"seconds/{name}": value for name, value in seconds.items()} | {
            f"idle_share/{name}": value for name, value in shares.items()
        }

    def _of(self, phase: str) -> list[Span]:
        return [(start, end) for name, start, end in self._spans if name == phase]


def length(spans: Sequence[Span]) -> float:
    """Seconds that at least one of the spans covers."""
    covered, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return covered


def ahead(tasks: Sequence[Callable[[], T]], *, overlap: bool) -> Iterator[T]:
    """What the tasks give, in their order. With `overlap` a thread runs them one after the other while the results are
    worked on; else each is run when it is asked for."""
    if not overlap:
        yield from (task() for task in tasks)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="sampling") as thread:
        futures = [thread.submit(task) for task in tasks]
        try:
            for future in futures:
                yield future.result()
        finally:  # whoever stops asking, for an error of its own, does not wait for what was not begun
            thread.shutdown(wait=False, cancel_futures=True)
