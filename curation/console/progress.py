"""Says how long work is going: a live bar on a terminal, plain lines elsewhere. Everything goes to stderr."""

import json
import threading
import time
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_SECONDS = 10.0
POLL_SECONDS = 0.5


def say(line: str) -> None:
    """One line for the user."""
    # Made anew each time, so that a redirected stderr is the one written to.
    Console(stderr=True, highlight=False, soft_wrap=True).print(line, markup=False)


def live_bar(what: str, total: int, done: int) -> Progress | None:
    """A started bar with one task, whose `rate` field is a text behind the ETA; None where stderr is no terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        return None
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    bar = Progress(*columns, TextColumn("{task.fields[rate]}"), console=console)
    bar.add_task(what, total=total, completed=done, rate="")
    bar.start()
    return bar


class CurationProgress:
    """Follows the log that workers append a line to after each finished batch (see `log_batch`), so
    that it works alike for work in this process, in others, and on other machines that share the folder."""

    def __init__(self, log: Path, done: int, total: int):
        self.log, self.done, self.total = log, done, total
        self.documents = self.attempted = self.rows = self.failed = self.tokens = self.source_tokens = 0
        self.started = time.monotonic()
        self._offset = 0
        self._last_line = self.started
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._bar: Progress | None = None

    def __enter__(self) -> "CurationProgress":
        self._bar = live_bar("curating", self.total, self.done)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._read()
        if self._bar is not None:
            self._show()
            self._bar.stop()
        elif self.documents:
            self._print()

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
            self.documents += entry["documents"]
            self.attempted += entry["rewrites"]
            self.rows += entry["rows"]
            self.failed += entry["failed"]
            self.tokens += entry["tokens"]
            self.source_tokens += entry["source_tokens"]
        return bool(new)

    def _show(self) -> None:
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self.done + self.documents, rate=self._rates())
        elif time.monotonic() - self._last_line >= LINE_SECONDS:
            self._print()

    def _print(self) -> None:
        self._last_line = time.monotonic()
        remaining = self.total - self.done - self.documents
        seconds = remaining * (self._last_line - self.started) / self.documents
        eta = f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
        say(f"curating: {self.done + self.documents}/{self.total} documents, {self._rates()}, {eta} to go")

    def _rates(self) -> str:
        seconds = max(time.monotonic() - self.started, 1e-9)
        tokens = f"{self.source_tokens / seconds:.0f} tokens/s in, {self.tokens / seconds:.0f} out"
        kept = f"{self.rows / max(self.attempted, 1):.0%} kept"
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{self.documents / seconds:.2f} documents/s, {tokens}, {kept}{failed}"


def log_batch(log: Path, **counts: int) -> None:
    """Appends one line; whole, since short appends are atomic. `counts`: documents, rewrites and the rows and failures
    among them, tokens of the rows, source_tokens of the documents that were written about."""
    with log.open("a", encoding="utf-8") as file:
        print(json.dumps(counts), file=file)
