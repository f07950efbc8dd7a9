"""Finds the shards that the user named: files, folders and globs, of this machine or of any fsspec URL.

A name is taken to the letter first: `a[1].jsonl` is that file where there is one, else a glob. Below a folder, and
where a glob has wildcards, hidden names (first letter `.` or `_`) are left out with all below them:
`.ipynb_checkpoints` and `_temporary` hold rows a second time. So are the folders that the run itself writes. What is
left out is counted and named; a folder that cannot be read is an error, because nobody knows what it holds.
"""

import fnmatch
import glob
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import httpx
from fsspec.core import url_to_fs

from configs.errors import UserError, nearest

COMPRESSIBLE = (".jsonl", ".ndjson", ".warc", ".wet")
SUFFIXES = (*(f"{kind}{compression}" for kind in COMPRESSIBLE for compression in ("", ".gz", ".zst")), ".parquet")
OF_DATASETS = ("quarantine.jsonl", "filtered.jsonl")
"""Files of a dataset folder that hold what was refused."""

Skipped = dict[str, list[str]]
"""Names of files and folders that are not read, by the reason."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One input file: its URL (of this machine: its absolute path), and the name that ids and the manifest give it."""

    url: str
    name: str


def find_shards(patterns: Sequence[str], skipped: Skipped | None = None, own: Sequence[Path] = ()) -> list[Shard]:
    """The files that the patterns (files, globs, folders; local or fsspec URLs) name, each once, in their order; the
    files of a glob or folder are sorted. A shard's name is its path below the folder that all have in common.

    `skipped` is filled with what is not read, named from that folder too, so that no name tells where on its maker's
    machine a dataset was made. `own` are folders that the run writes: they and what is below them are
    read only where a pattern names a place inside them to the letter, before its first wildcard. Raises UserError that
    names a pattern without files, a file of another kind, or a folder that cannot be read.
    """
    unread: Skipped = {}
    urls: dict[str, str] = {}
    for pattern in patterns:
        new: Skipped = {}
        found = _expand(pattern, new, {os.path.realpath(folder) for folder in own})
        for reason, names in new.items():
            unread.setdefault(reason, []).extend(names)
        if not found:
            why = describe_skipped(new)
            raise UserError(f"no shards ({', '.join(SUFFIXES)}) in {pattern}" + (f"; not read: {why}" if why else ""))
        for url in found:
            first = urls.setdefault(_identity(url), url)
            if first != url:
                unread.setdefault("links to files that are read", []).append(url)
    if not urls:
        raise UserError("no input files are named")
    common = _common_folder(list(urls.values()))
    if skipped is not None:
        skipped |= {reason: [_name(url, common) for url in names] for reason, names in unread.items()}
    names = [_name(url, common) for url in urls.values()]
    if repeated := sorted({name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else ()):
        raise UserError(f"two input files would both be called {repeated[0]}: rename one of them")
    return [Shard(url, name) for url, name in zip(urls.values(), names, strict=True)]


def describe_skipped(skipped: Skipped) -> str:
    """`3 of another kind (a.csv, b.txt, README.md); 1 hidden (.git)`."""

    def some(names: list[str]) -> str:
        return ", ".join(PurePosixPath(name).name for name in names[:3]) + ", ..." * (len(names) > 3)

    return "; ".join(f"{len(names)} {reason} ({some(names)})" for reason, names in skipped.items())


def open_shard(shard: Shard) -> Any:
    """The file, open for its bytes. Raises OSError, or what the store raises."""
    # fsspec would read a local `x::y.jsonl` as a chain of file systems.
    return fsspec.open(shard.url, "rb").open() if _is_remote(shard.url) else open(shard.url, "rb")


def shard_info(shard: Shard) -> dict[str, Any]:
    """What its store says of the file: `size` and, where it has them, time stamps and hashes. Raises OSError."""
    if _is_remote(shard.url):
        fs, path = url_to_fs(shard.url)
        return dict(fs.info(path))
    status = os.stat(shard.url)
    return {"size": status.st_size, "mtime": status.st_mtime}


def _is_remote(url: str) -> bool:
    # An absolute path of this machine has no two slashes in a row.
    return "://" in url


def _expand(pattern: str, skipped: Skipped, own: set[str]) -> list[str]:
    if not pattern.strip():
        raise UserError("an input file is named by an empty text")
    local = pattern.removeprefix("file://").removeprefix("local://")
    try:
        if _is_remote(local) and not os.path.lexists(local):
            return _expand_remote(pattern, skipped)
        return _expand_local(pattern, os.path.abspath(os.path.expanduser(local)), skipped, own)
    except UserError:
        raise
    except (OSError, httpx.HTTPError, ImportError, ValueError) as error:
        # A host that does not answer, a missing driver (`s3://` without s3fs), an unknown protocol.
        where = getattr(error, "filename", None) or pattern
        raise UserError(f"{where}: {one_line(error)}") from None


def _expand_local(pattern: str, path: str, skipped: Skipped, own: set[str]) -> list[str]:
    if os.path.isdir(path):
        if os.path.realpath(path) in own:
            raise UserError(f"{pattern} is a folder that this run writes: name another one")
        return sorted(_below(path, skipped, _not_around(path, own)))
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        if glob.has_magic(path):
            return sorted(_glob(path, skipped, own))
        parent = os.path.dirname(path)
        names = os.listdir(parent) if os.path.isdir(parent) else []
        hint = f": {nearest(os.path.basename(path), names)}" if 0 < len(names) <= 20 else ""
        raise UserError(f"no such file: {pattern}{hint}") from None
    if not os.path.exists(path):
        raise UserError(f"{pattern} is a link to {os.path.realpath(path)}, which does not exist")
    if not os.path.isfile(path):
        raise UserError(f"{pattern} is no regular file: input is read more than once")
    if not _is_readable(path):
        raise UserError(f"{pattern}: not a kind of file we read ({', '.join(SUFFIXES)})")
    return [path]


def _below(folder: str, skipped: Skipped, own: set[str]) -> Iterator[str]:
    """The shards below a folder. Links to folders are followed, and no folder is read twice."""
    folders, seen = [folder], {os.path.realpath(folder)}
    while folders:
        entries = list(os.scandir(folders.pop()))
        names = {entry.name for entry in entries}
        of_dataset = _is_dataset(names)
        for entry in sorted(entries, key=lambda entry: entry.name):
            if _is_hidden(entry.name):
                skipped.setdefault("hidden", []).append(entry.path)
            elif entry.is_dir():
                real = os.path.realpath(entry.path)
                if _is_own(entry.path, own, skipped):
                    continue
                if real in seen:
                    skipped.setdefault("links to folders that are read", []).append(entry.path)
                else:
                    seen.add(real)
                    folders.append(entry.path)
            elif of_dataset and entry.name in OF_DATASETS:
                skipped.setdefault("with refused rows of a dataset", []).append(entry.path)
            else:
                yield from _shard_of(entry.path, skipped, own)


def _glob(pattern: str, skipped: Skipped, own: set[str]) -> Iterator[str]:
    """The shards that a pattern matches, part by part, so that only folders that it can match in are listed."""
    *parts, last = pattern.split("/")[1:]
    if last == "**":
        parts, last = [*parts, "**"], "*"
    literal = itertools.takewhile(lambda part: not glob.has_magic(part), parts)
    own = _not_around("/" + "/".join(literal), own)
    folders = ["/"]
    for part in parts:
        matching = dict.fromkeys(path for folder in folders for path in _matches(folder, part, skipped, own))
        folders = [path for path in matching if os.path.isdir(path) and not _is_own(path, own, skipped)]
    for path in dict.fromkeys(path for folder in folders for path in _matches(folder, last, skipped, own)):
        if not os.path.isdir(path):
            yield from _shard_of(path, skipped, own)
        elif _is_own(path, own, skipped):
            continue
        elif _is_readable(path):  # as Spark calls the folder of a table
            yield from _below(path, skipped, own)
        else:
            skipped.setdefault("folders (`**` reads what is below them)", []).append(path)


def _matches(folder: str, part: str, skipped: Skipped, own: set[str]) -> Iterator[str]:
    """The paths in a folder that one part of a glob matches; `**`: the folder, and all folders below it."""
    if part != "**" and not glob.has_magic(part):
        path = os.path.join(folder, part)
        if os.path.lexists(path):
            yield path
        return
    if part == "**":
        yield folder
    matches = re.compile(fnmatch.translate("*" if part == "**" else part)).match
    with os.scandir(folder) as listed:
        entries = sorted(listed, key=lambda entry: entry.name)
    of_dataset = _is_dataset({entry.name for entry in entries})
    for entry in entries:
        if part == "**" and entry.is_dir() and entry.is_symlink():
            skipped.setdefault("links to folders, which `**` does not follow", []).append(entry.path)
            continue
        if part == "**" and not entry.is_dir():
            continue
        if _is_hidden(entry.name) and part[0] != entry.name[0]:
            if part == "**" or matches(entry.name):
                skipped.setdefault("hidden", []).append(entry.path)
        elif part == "**":
            if not _is_own(entry.path, own, skipped):
                yield from _matches(entry.path, part, skipped, own)
        elif matches(entry.name):
            if of_dataset and entry.name in OF_DATASETS:
                skipped.setdefault("with refused rows of a dataset", []).append(entry.path)
            else:
                yield entry.path


def _is_own(path: str, own: set[str], skipped: Skipped) -> bool:
    """Whether the run writes the folder, or the file that a link leads to; then it is counted, once."""
    real = PurePosixPath(os.path.realpath(path))
    if not any(real.is_relative_to(other) for other in own):
        return False
    names = skipped.setdefault("written by this run", [])
    if path not in names:
        names.append(path)
    return True


def _not_around(path: str, own: set[str]) -> set[str]:
    """The folders of the run but those that hold `path`: what the user names inside of them to the letter is read."""
    real = PurePosixPath(os.path.realpath(path))
    return {folder for folder in own if PurePosixPath(folder) not in real.parents}


def _is_dataset(names: set[str]) -> bool:
    """Whether a folder with these entries is one that `curate` wrote."""
    return ".notewright" in names or names.issuperset(("manifest.json", *OF_DATASETS))


def _shard_of(path: str, skipped: Skipped, own: set[str]) -> Iterator[str]:
    if os.path.islink(path) and _is_own(path, own, skipped):
        return
    if not _is_readable(path):
        skipped.setdefault("of another kind", []).append(path)
    elif os.path.exists(path) and not os.path.isfile(path):
        skipped.setdefault("that are no regular file", []).append(path)
    else:
        # A link to nothing too: reading it fails, and is counted like every file that cannot be read.
        yield path


def _expand_remote(pattern: str, skipped: Skipped) -> list[str]:
    fs, path = url_to_fs(pattern)
    is_folder, has_magic = fs.isdir(path), glob.has_magic(path)
    if not is_folder and not fs.exists(path) and not has_magic:
        # Raises the cause: a host that cannot be reached is not a file that does not exist.
        fs.info(path)
        raise UserError(f"no such file: {pattern}")
    if not is_folder and fs.exists(path):
        if not _is_readable(path):
            raise UserError(f"{pattern}: not a kind of file we read ({', '.join(SUFFIXES)})")
        return [fs.unstrip_protocol(path)]
    named = path.rstrip("/").split("/")
    literal = len(named) if is_folder else next(i for i, part in enumerate(named) if glob.has_magic(part))
    wanted_hidden = {part[0] for part in named[literal:] if _is_hidden(part)}
    found = []
    for file in sorted(fs.find(path) if is_folder else (p for p in fs.glob(path) if not fs.isdir(p))):
        hidden = [part for part in file.split("/")[literal:] if _is_hidden(part) and part[0] not in wanted_hidden]
        if hidden or not _is_readable(file):
            skipped.setdefault("hidden" if hidden else "of another kind", []).append(fs.unstrip_protocol(file))
        else:
            found.append(fs.unstrip_protocol(file))
    return found


def _is_readable(path: str) -> bool:
    return path.lower().endswith(SUFFIXES)


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "_"))


def _identity(url: str) -> str:
    return url if _is_remote(url) else os.path.realpath(url)


def _common_folder(urls: Sequence[str]) -> str:
    """The folder that all files have in common, of this machine where any is; empty where there is none."""
    local = [url for url in urls if not _is_remote(url)]
    folders = [PurePosixPath(url).parent for url in (local or urls)]
    return os.path.commonpath(folders) if len({folder.parts[:1] for folder in folders}) == 1 else ""


def _name(url: str, common: str) -> str:
    """What the file is called, from the folder `common` where it is of the same store; UTF-8, which a name on disk
    need not be."""
    path = PurePosixPath(url)
    beside = common and path.parts[:1] == PurePosixPath(common).parts[:1]
    return os.fsencode(os.path.relpath(path, common) if beside else path).decode(errors="backslashreplace")


def one_line(error: BaseException) -> str:
    """An error's message, without the path that the system puts into it: the manifest names the file already."""
    text = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
    return " ".join(text.split()) or type(error).__name__
