"""How far a verb's students are, on stderr: a live bar with rate and ETA on a terminal, plain lines elsewhere."""

import time
from types import TracebackType

from rich.progress import Progress

from curation.console.progress import LINE_SECONDS, live_bar, say


class StudentProgress:
    """Counts students towards `total`; `done` of them were there before and do not count for the rate."""

    def __init__(self, what: str, total: int, done: int = 0):
        self.what, self.total, self.done = what, total, done
        self._before = self._calls_done = done
        self._started = self._last_line = time.monotonic()
        self._bar: Progress | None = None

    def __enter__(self) -> "StudentProgress":
        self._bar = live_bar(self.what, self.total, self.done)
        if self._bar is None and self.done:
            say(f"{self.what}: {self.done}/{self.total} students were finished before")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self.done > self._before:
            self._line()

    def expect(self, students: int) -> None:
        """That many more are to come."""
        self.total += students
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], total=self.total)

    def advance(self, students: int) -> None:
        self.reach(self.done + students)

    def within(self, done: int, total: int) -> None:
        """`done` of the `total` students of one call; what earlier calls did is added."""
        self.expect(max(0, self._calls_done + total - self.total))
        self.reach(self._calls_done + done)
        if done == total:
            self._calls_done += total

    def reach(self, done: int) -> None:
        self.done = done
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, rate=f"{self._rate():.2f} students/s")
        elif time.monotonic() - self._last_line >= LINE_SECONDS:
            self._line()

    def _rate(self) -> float:
        return (self.done - self._before) / max(time.monotonic() - self._started, 1e-9)

    def _line(self) -> None:
        self._last_line = time.monotonic()
        rate = self._rate()
        left = f", {(self.total - self.done) / rate:.0f} s to go" if rate and self.done < self.total else ""
        say(f"{self.what}: {self.done}/{self.total} students, {rate:.2f} students/s{left}")
