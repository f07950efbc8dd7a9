"""Where a round's wall clock goes (sampling, students, the update, or none of these), and how long GPUs stood idle."""

import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Span = tuple[float, float]
T = TypeVar("T")

PHASES = ("sample", "students", "update")


class Clock:
    """Notes when which phase ran, in any thread: `with clock("sample"):`. Inside of `with clock:` it also asks
    `nvidia-smi` for each GPU's utilisation, the share of a moment in which any kernel of any process ran on it."""

    def __init__(self) -> None:
        self._gpu_watch: subprocess.Popen[str] | None = None
        self._gpu_busy: list[tuple[float, float]] = []
        """Moments (`time.perf_counter`) and a GPU's utilisation then, in 0 ... 1."""
        self.restart()

    def __enter__(self) -> "Clock":
        program = shutil.which("nvidia-smi")
        if torch.cuda.is_available() and program is not None:
            command = [program, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--loop-ms", "200"]
            if re.fullmatch(r"\d+(,\d+)*", visible := os.environ.get("CUDA_VISIBLE_DEVICES", "")):
                command += ["--id", visible]
            self._gpu_watch = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            threading.Thread(target=self._read_gpus, args=[self._gpu_watch.stdout], name="gpu", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._gpu_watch is not None:
            self._gpu_watch.terminate()
            self._gpu_watch.wait()

    def _read_gpus(self, lines: Iterable[str]) -> None:
        for line in lines:
            if line.strip().isdigit():  # "[N/A]" where a GPU is shared out
                self._gpu_busy.append((time.perf_counter(), float(line) / 100))

    def restart(self) -> None:
        """Forgets what was noted; the round's wall clock starts now."""
        self._started = time.perf_counter()
        self._spans: dict[str, list[Span]] = {phase: [] for phase in PHASES}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        spans, started = self._spans[phase], time.perf_counter()
        try:
            yield
        finally:
            spans.append((started, time.perf_counter()))

    def seconds(self, phase: str) -> float:
        """Seconds since `restart` in which the phase ran."""
        return length(self._spans[phase])

    def figures(self) -> dict[str, float]:
        """Where the time since `restart` went.

        `seconds/round` is all of it, `seconds/<phase>` that of each phase, `seconds/idle` that in which none ran, and
        `seconds/overlap` that in which sampling and students both ran. `idle_share/writer`, `/students` and `/all` are
        the shares of the round in which the writer, the students, and both with the update were idle; `idle_share/gpu`
        is the mean over this machine's GPUs, if it has some.
        """
        wall = time.perf_counter() - self._started
        sample, students = self.seconds("sample"), self.seconds("students")
        either = length(self._spans["sample"] + self._spans["students"])
        any_phase = length([span for spans in self._spans.values() for span in spans])
        figures = {
            "seconds/round": wall,
            "seconds/sample": sample,
            "seconds/students": students,
            # A trainer that samples by itself also trains students inside of its update. The update is counted without
            # them, so that without overlap the phases and `idle` add up to the round.
            "seconds/update": any_phase - either,
            "seconds/idle": wall - any_phase,
            "seconds/overlap": sample + students - either,
            "idle_share/writer": 1 - sample / wall,
            "idle_share/students": 1 - students / wall,
            "idle_share/all": (wall - any_phase) / wall,
        }
        if busy := [share for moment, share in self._gpu_busy if moment >= self._started]:
            figures["idle_share/gpu"] = 1 - sum(busy) / len(busy)
        return figures


def length(spans: Sequence[Span]) -> float:
    """Seconds that at least one of the spans covers."""
    covered, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return covered


def ahead(tasks: Sequence[Callable[[], T]], *, overlap: bool) -> Iterator[T]:
    """The results of the tasks, in order. With `overlap` a thread runs one task after another while the results are
    worked on; else each is run when its result is needed."""
    if not overlap:
        yield from (task() for task in tasks)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="sampling") as thread:
        # `map` cancels what was not begun when its consumer stops early, for an error of its own.
        yield from thread.map(lambda task: task(), tasks)
