"""What a run leaves behind as it goes: append-only JSON lines, and the cache of student outcomes.

Both survive `kill -9`: a line is one write, a torn last line is dropped when the journal is opened again, a line that
a resumed run would repeat is skipped, and the cache is SQLite in WAL mode.
"""

import hashlib
import json
import logging
import os
import sqlite3
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from configs.errors import RunError, UserError
from configs.files import Record, append_whole, drop_torn_line, locked, read_json_lines
from configs.format import without_nan
from student.records import Answer, Job, Outcome

logger = logging.getLogger(__name__)

OUTCOMES = "outcomes.sqlite"


def held(run_dir: Path) -> AbstractContextManager[None]:
    """Holds a run for one journal or copy of it. Raises UserError where another process or journal holds it."""
    return locked(run_dir / "journal" / ".lock", if_taken=UserError(f"another process is at work in {run_dir}"))


class JsonLines:
    """An append-only file of JSON objects, of which no two have the same values under `key`."""

    def __init__(self, path: Path, key: Sequence[str]) -> None:
        self.path, self.key = path, key
        self.notes: list[str] = []
        """What had to be repaired on opening."""
        path.touch()
        if dropped := drop_torn_line(path):
            self.notes.append(f"{path.name}: dropped a torn last line of {dropped} bytes")
            logger.warning(self.notes[-1])
        self._keys = {self._key_of(record) for record in read_json_lines(path)}

    def append(self, record: Record) -> bool:
        """Writes one line. False, and nothing is written, if a line of this key is already there. Raises RunError."""
        key = self._key_of(record)
        if key in self._keys:
            return False
        line = json.dumps(without_nan(record), ensure_ascii=False, allow_nan=False).encode() + b"\n"
        append_whole(self.path, line, sync=False)
        self._keys.add(key)
        return True

    def read(self) -> list[Record]:
        """All lines."""
        return read_json_lines(self.path)

    def _key_of(self, record: Record) -> tuple[Any, ...]:
        return tuple(record.get(name) for name in self.key)


class Journal:
    """`<run>/journal`: metrics.jsonl, rewrites.jsonl and outcomes.sqlite, held by one process at a time. Raises
    UserError."""

    def __init__(self, run_dir: Path) -> None:
        self.dir = run_dir / "journal"
        self.dir.mkdir(parents=True, exist_ok=True)
        self._opened = ExitStack()
        self._opened.enter_context(held(run_dir))
        self.metrics = JsonLines(self.dir / "metrics.jsonl", ("kind", "round", "step", "arm"))
        self.rewrites = JsonLines(self.dir / "rewrites.jsonl", ("arm", "round", "step", "document_id", "sample"))
        self.outcomes = OutcomeCache(self.dir / OUTCOMES)
        self._opened.callback(self.outcomes.close)

    @property
    def notes(self) -> list[str]:
        """What had to be repaired on opening."""
        return self.metrics.notes + self.rewrites.notes

    def metric(self, record: Record) -> bool:
        """One line of metrics.jsonl, stamped with the time; False if the step is already there."""
        return self.metrics.append({"time": round(time.time(), 3), **record})

    def sync(self) -> None:
        for lines in (self.metrics, self.rewrites):
            with lines.path.open("rb") as file:
                os.fsync(file.fileno())

    def close(self) -> None:
        self._opened.close()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def outcome_key(fingerprint: str, job: Job) -> str:
    """sha256 of all that an outcome depends on, as canonical JSON: the pool, the lesson with its seed, the exam."""
    content: dict[str, Any] = {"pool": fingerprint, "job": asdict(job)}
    if not job.lesson.contexts:  # as before there were any
        del content["job"]["lesson"]["contexts"]
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class OutcomeCache:
    """Student outcomes on disk, so that no student is trained twice."""

    def __init__(self, path: Path) -> None:
        try:
            self._db = sqlite3.connect(path, timeout=60)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("CREATE TABLE IF NOT EXISTS outcomes (key TEXT PRIMARY KEY, outcome TEXT NOT NULL)")
        except sqlite3.DatabaseError as error:
            raise UserError(
                f"{path} cannot be used ({error}): move it away, and its students are taught again"
            ) from None

    def __len__(self) -> int:
        return self._db.execute("SELECT count(*) FROM outcomes").fetchone()[0]

    def get_many(self, keys: Iterable[str]) -> dict[str, Outcome]:
        """The outcomes that are there, by key."""
        known = {}
        for key in keys:
            row = self._db.execute("SELECT outcome FROM outcomes WHERE key = ?", (key,)).fetchone()
            if row is not None:
                record = json.loads(row[0])
                answers = tuple(Answer(**answer) for answer in record.pop("answers"))
                known[key] = Outcome(**record, answers=answers)
        return known

    def put_many(self, outcomes: dict[str, Outcome]) -> None:
        """Keeps them, all or none. Failed students are not kept: what failed may succeed when it is run again."""
        rows = [(key, json.dumps(asdict(outcome))) for key, outcome in outcomes.items() if outcome.error is None]
        try:
            with self._db:
                self._db.executemany("INSERT OR REPLACE INTO outcomes VALUES (?, ?)", rows)
        except sqlite3.OperationalError as error:
            raise RunError(f"cannot write the reward cache: {error}; earlier outcomes are kept") from error

    def close(self) -> None:
        self._db.close()
