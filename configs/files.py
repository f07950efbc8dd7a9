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

_locks_held: set[Path] = set()
# A forked child holds none of its parent's locks.
os.register_at_fork(after_in_child=_locks_held.clear)


def write_whole(path: Path, content: bytes | str) -> None:
    """Writes `path` beside its place and renames it there: after a kill it is as it was, or complete, never half.
    Raises OSError as the system does, with nothing left behind."""
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


@contextmanager
def locked(path: Path, *, wait: bool = False, if_taken: Exception | None = None) -> Iterator[None]:
    """Holds an exclusive lock on the file `path`. Nothing else may open that file: closing it would free the lock.

    Raises `if_taken`, or else BlockingIOError, if this process holds it already, or if another one does and not `wait`.

    A POSIX record lock, not `flock`: it dies with this process, where a forked child (datatrove's manager is one) would
    keep a `flock` alive after the parent was killed.
    """
    name = path.absolute()
    # The kernel gives a process its own record lock a second time, and frees it with the first of the two.
    if name in _locks_held:
        raise if_taken or BlockingIOError(f"{path} is locked by this process")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise if_taken or error from None
        _locks_held.add(name)
        try:
            yield
        finally:
            _locks_held.discard(name)


def append_whole(path: Path, content: bytes, *, sync: bool = True) -> None:
    """Adds `content` at the end of the file: all of it or, where the disk is full, nothing. With `sync` it is on disk
    when this returns. Raises RunError."""
    kept = "lines before it are kept, and the same call goes on"
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    size = os.fstat(file).st_size
    try:
        if os.write(file, content) < len(content):  # a disk that fills up takes a part
            os.ftruncate(file, size)
            raise RunError(f"cannot write {path}: the disk is full; {kept}")
        if sync:
            os.fsync(file)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}; {kept}") from error
    finally:
        os.close(file)


def drop_torn_line(path: Path) -> int:
    """Cuts off what stands behind the last line break, which a killed process left; returns its number of bytes."""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)
    return len(content) - whole


def write_json_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Writes one JSON object a line, UTF-8; the file appears whole, as with `write_whole`."""
    write_whole(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def read_json_lines(path: Path) -> list[Record]:
    """The records of a journal file, without a torn last line; empty if there is no such file."""
    if not path.is_file():
        return []
    with path.open("rb") as file:
        return [json.loads(line) for line in file if line.endswith(b"\n")]
