"""How far work is: a live bar on a terminal, a line every ten seconds elsewhere. Everything goes to stderr."""

import json
import multiprocessing
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_SECONDS = 10.0
POLL_SECONDS = 0.5


def say(line: str) -> None:
    """One line for the user."""
    # Made anew each time, so that a redirected stderr is the one written to.
    Console(stderr=True, highlight=False, soft_wrap=True).print(line, markup=False)


class WorkProgress:
    """Counts what is done of `total`; `done` of it was there before and does not count for the rate."""

    unit = ""

    def __init__(self, task: str, total: int, done: int = 0):
        self.task, self.total, self.done = task, total, done
        self._done_before = self._done_in_earlier_calls = done
        self._started = self._last_line = time.monotonic()
        self._bar: Progress | None = None

    def __enter__(self) -> Self:
        console = Console(stderr=True)
        # Bars of several processes would write over each other.
        if console.is_terminal and multiprocessing.parent_process() is None:
            columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
            self._bar = Progress(*columns, TextColumn("{task.fields[rates]}"), console=console)
            self._bar.add_task(self.task, total=self.total, completed=self.done, rates="")
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._show()
            self._bar.stop()
        elif self.done > self._done_before:
            self._say_line()

    def _show(self) -> None:
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self.done, total=self.total, rates=self._rates())
        elif time.monotonic() - self._last_line >= LINE_SECONDS:
            self._say_line()

    def _say_line(self) -> None:
        self._last_line = time.monotonic()
        to_go = ""
        if self._done_before < self.done < self.total:
            seconds = (self.total - self.done) * self._seconds() / (self.done - self._done_before)
            to_go = f", {seconds / 60:.0f} min to go" if seconds >= 120 else f", {seconds:.0f} s to go"
        say(f"{self.task}: {self.done}/{self.total} {self.unit}, {self._rates()}{to_go}")

    def _rates(self) -> str:
        return f"{(self.done - self._done_before) / self._seconds():.2f} {self.unit}/s"

    def _seconds(self) -> float:
        return max(time.monotonic() - self._started, 1e-9)


class StudentProgress(WorkProgress):
    """Counts students."""

    unit = "students"

    def __enter__(self) -> Self:
        super().__enter__()
        if self._bar is None and self.done:
            say(f"{self.task}: {self.done}/{self.total} students were finished before")
        return self

    def expect(self, students: int) -> None:
        """That many more are to come."""
        self.total += students

    def advance(self, students: int) -> None:
        """That many more are finished."""
        self.done += students
        self._show()

    def within(self, done: int, total: int) -> None:
        """`done` of the `total` students of one call are finished; those of earlier calls are added."""
        self.total = max(self.total, self._done_in_earlier_calls + total)
        self.done = self._done_in_earlier_calls + done
        self._show()
        if done == total:
            self._done_in_earlier_calls += total


class CurationProgress(WorkProgress):
    """Counts documents. It follows the log that workers append a line to after each finished batch (see `log_batch`),
    so that it works alike for work in this process, in others, and on other machines that share the folder."""

    unit = "documents"

    def __init__(self, log: Path, done: int, total: int):
        super().__init__("curating", total, done)
        self.log = log
        self.counts: Counter[str] = Counter()
        """Since the start, see `log_batch`."""
        self._offset = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Self:
        super().__enter__()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        self._read()
        super().__exit__(*error)

    def _follow(self) -> None:
        while not self._stop.wait(POLL_SECONDS):
            if self._read():
                self._show()

    def _read(self) -> bool:
        """Takes in the log's whole new lines; False if there are none."""
        if not self.log.exists():
            return False
        with self.log.open("rb") as file:
            file.seek(self._offset)
            new = file.read()
        new = new[: new.rfind(b"\n") + 1]
        self._offset += len(new)
        for line in new.splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                # Torn by a full disk, which the worker that wrote it reports itself.
                continue
            self.done += entry["documents"]
            self.counts.update(entry)
        return bool(new)

    def _rates(self) -> str:
        seconds, counts = self._seconds(), self.counts
        tokens = f"{counts['source_tokens'] / seconds:.0f} tokens/s in, {counts['tokens'] / seconds:.0f} out"
        kept = f"{counts['rows'] / max(counts['rewrites'], 1):.0%} kept"
        failed = f", {counts['failed']} failed" if counts["failed"] else ""
        return f"{super()._rates()}, {tokens}, {kept}{failed}"


def log_batch(log: Path, **counts: int) -> None:
    """Appends one line; whole, since short appends are atomic. `counts`: documents, rewrites and the rows and failures
    among them, tokens of the rows, source_tokens of the documents that were written about."""
    with log.open("a", encoding="utf-8") as file:
        print(json.dumps(counts), file=file)
