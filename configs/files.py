"""Files that appear complete or not at all."""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from configs.errors import RunError

Record = dict[str, Any]
"""One line of a JSONL file."""


def write_whole(path: Path, content: bytes | str) -> None:
    """Writes `path` beside its place and renames it there: after a kill it is as it was, or complete, never half.

    Raises OSError as the system does, with nothing left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def append_whole(file: int, path: Path, content: bytes, *, sync: bool = False) -> None:
    """Appends all of `content` to the open file at `path`, or nothing of it. With `sync` it is on disk when this
    returns. Raises RunError."""
    size = os.fstat(file).st_size
    try:
        if os.write(file, content) < len(content):  # a disk that fills up takes a part
            os.ftruncate(file, size)
            raise RunError(f"cannot write {path}: the disk is full; lines before it are kept")
        if sync:
            os.fsync(file)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}; lines before it are kept") from error


@contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Holds an exclusive lock on `path` against other processes. Raises BlockingIOError if it is taken and not `wait`.

    A POSIX record lock, not `flock`: it dies with this process, where a forked child (datatrove's manager is one) would
    keep a `flock` alive after the parent was killed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


def write_json_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Writes one JSON object a line, UTF-8; the file appears whole, as with `write_whole`."""
    write_whole(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def read_json_lines(path: Path) -> list[Record]:
    """The records of a journal file, without a torn last line; empty if there is no such file."""
    if not path.is_file():
        return []
    with path.open("rb") as file:
        return [json.loads(line) for line in file if line.endswith(b"\n")]
