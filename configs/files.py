"""Files that appear complete or not at all, and files that the user names."""

import errno
import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from configs.errors import RunError, UserError
from configs.format import without_nan

T = TypeVar("T")

Record = dict[str, Any]
"""One line of a JSONL file."""

_locks_held: set[Path] = set()
# A forked child holds none of its parent's locks.
os.register_at_fork(after_in_child=_locks_held.clear)


def is_full(error: OSError) -> bool:
    """Whether the disk, or the user's share of it, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Says of an OSError inside that `path` cannot be written, with a RunError. A full disk stays an OSError: what is
    kept, and how to go on, depends on the run."""
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error


def make_folder(path: Path) -> None:
    """The folder and those above it, where they are not there yet. Raises RunError, OSError for a full disk."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)


def write_whole(path: Path, content: bytes | str) -> None:
    """Writes `path` beside its place and renames it there: after a kill it is as it was, or complete, never half.
    Raises RunError, OSError for a full disk, with nothing left behind."""
    make_folder(path.parent)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with writing(path), partial.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
            os.replace(partial, path)
    finally:
        with suppress(OSError):
            partial.unlink()


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
    make_folder(path.parent)
    with writing(path):
        file = path.open("a")
    with file:
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


def write_json(path: Path, value: Any) -> None:
    """Writes one JSON value, indented, UTF-8, with null for what is not finite; the file appears whole."""
    write_whole(path, json.dumps(without_nan(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def reading(what: str, path: Path) -> Iterator[None]:
    """For reading a file that the user named as `what`. Raises UserError where it is no regular file or cannot be
    read."""
    if not os.path.isfile(path):
        raise UserError(f"{what}: {path} is no regular file" if os.path.lexists(path) else f"{what}: no file {path}")
    try:
        yield
    except OSError as error:
        raise UserError(f"{what}: {path} cannot be read: {error.strerror}") from None


def read_given(what: str, path: Path) -> str:
    """The text of a file that the user named as `what`. Raises UserError."""
    with reading(what, path):
        content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{what}: {path}, line {line}: not UTF-8: byte {content[error.start]:#04x}") from None


def parse_lines(what: str, path: Path, parse: Callable[[Any], T], limit: int | None = None) -> list[T]:
    """What `parse` makes of each line of a JSONL file that the user named as `what`, of the first `limit` lines;
    blank ones are left out. Raises UserError with the number of the line, also where `parse` raises it."""
    parsed = []
    for number, line in enumerate(read_given(what, path).split("\n")[:limit], start=1):
        if line.strip():
            try:
                parsed.append(parse(parse_json(line)))
            except UserError as error:
                raise UserError(f"{what}: {path}, line {number}: {error}") from None
    return parsed


def parse_json(text: str) -> Any:
    """The value of a JSON text that the user wrote. Raises UserError for what is none, for one that is nested too
    deeply, and for halves of surrogate pairs, which are no characters."""
    try:
        value = json.loads(text)
        # Only an escape can make a half in a text that was UTF-8.
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeEncodeError:
        raise UserError("holds half of a surrogate pair, which is no character") from None
    except RecursionError:
        raise UserError("not JSON that can be read: nested too deeply") from None
    except ValueError as error:
        raise UserError(f"not JSON: {error}") from None


def read_json_lines(path: Path, *keys: str) -> list[Record]:
    """The records of a journal file, each with these keys, without a torn last line; empty if there is no such file.
    Raises UserError for a line that is no such record."""
    if not path.is_file():
        return []
    records = []
    with written_by_us(path), path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                records.append(dict(json.loads(line)))
                [records[-1][key] for key in keys]
    return records


def read_own(path: Path, parse: Callable[[Any], T]) -> T:
    """What `parse` makes of the JSON in a file that an earlier call wrote. Raises UserError as `written_by_us`."""
    with written_by_us(path):
        return parse(json.loads(path.read_bytes()))


@contextmanager
def written_by_us(path: Path) -> Iterator[None]:
    """Raises UserError where the content of the file, which an earlier call wrote, is not as this version writes it:
    it was copied in part, edited, or written by another version."""
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error).partition("\n")[0]
        raise UserError(f"{path} is not as this version writes it ({reason}): move it away, or put it back") from None
