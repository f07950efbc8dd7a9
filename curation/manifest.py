"""What names a curation run and what came of it: preflight, fingerprint, the lock, and manifest.json."""

import ctypes
import fcntl
import hashlib
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import fsspec
import orjson
from datatrove.data import Document
from fsspec.core import url_to_fs

from configs.errors import UserError
from configs.files import write_whole
from curation.dataset import FileCounts
from curation.documents import Shard, read_shard
from curation.filters import is_unknown, licence_of
from curation.progress import say

WORK = ".notewright"
"""Folder inside the output folder for the unfinished run; of a finished one it keeps what makes a rerun quick."""


@dataclass(frozen=True, slots=True)
class Checked:
    """One input file after preflight."""

    name: str
    version: str
    """Size and time stamp: the file is read again only if they changed."""
    limit: int | None
    sha256: str
    documents: int
    licensed: int
    """Documents that name a licence themselves."""
    bad_rows: int
    reason: str | None
    """Why the file, from some point on, could not be read, or that it is empty."""

    def counts(self) -> FileCounts:
        """Where the file's counts start: the bad rows are quarantined, the documents still to come."""
        total = self.documents + self.bad_rows
        return FileCounts(self.name, documents_in=total, quarantined=self.bad_rows, reason=self.reason)


BadRows = list[dict[str, Any]]


def preflight(shards: list[Shard], limit: int | None, work: Path) -> tuple[list[Checked], BadRows | None]:
    """Reads every shard once before any model is loaded: documents, unreadable rows, content hash.

    Returns the files and the quarantine records of what cannot be read, or None for those where `work` knows them:
    shards unchanged since `save_preflight` are not read again. What is wrong with a shard is said in a line. Writes
    nothing. Raises UserError if no shard has a document.
    """
    state = work / "checked.json"
    versions = [_version(shard) for shard in shards]
    known = [Checked(**entry) for entry in json.loads(state.read_bytes())] if state.exists() else []
    wanted = [(shard.name, version, limit) for shard, version in zip(shards, versions, strict=True)]
    if [(c.name, c.version, c.limit) for c in known] == wanted:
        return known, None
    bad: BadRows = []
    checked = [_check(shard, version, limit, bad) for shard, version in zip(shards, versions, strict=True)]
    for c in checked:
        if c.reason:
            say(f"{c.name}: {c.reason}" + (f"; {c.documents} documents before that are used" if c.documents else ""))
        if c.bad_rows:
            say(f"{c.name}: {c.bad_rows} of {c.documents + c.bad_rows} rows cannot be used and go to quarantine")
    if not any(c.documents for c in checked):
        causes = "; ".join(f"{c.name}: {c.reason or f'{c.bad_rows} unusable rows'}" for c in checked[:3])
        raise UserError(f"no documents in {len(checked)} input file{'s' * (len(checked) > 1)} ({causes})")
    return checked, bad


def save_preflight(work: Path, checked: list[Checked], bad: BadRows) -> None:
    """Keeps what `preflight` found. Only once the folder is claimed: it may hold another run's."""
    write_whole(work / "bad_rows.jsonl", b"".join(orjson.dumps(record) + b"\n" for record in bad))
    write_whole(work / "checked.json", json.dumps([asdict(c) for c in checked], indent=1).encode())


def _check(shard: Shard, version: str, limit: int | None, bad: BadRows) -> Checked:
    documents = bad_rows = licensed = 0
    reason = None
    for item in read_shard(shard, limit):
        if isinstance(item, Document):
            documents += 1
            licensed += not is_unknown(licence_of(item, ""))
            continue
        record = {"source_file": shard.name, "source_row": item.row, "source_id": None, "rewrite": None}
        bad.append({**record, "stage": "read", "reason": item.reason, "strategy": None, "text": item.text})
        if item.row is None:
            reason = item.reason
        else:
            bad_rows += 1
    if not documents and not bad_rows and reason is None:
        reason = "empty"
    return Checked(shard.name, version, limit, _content(shard), documents, licensed, bad_rows, reason)


def _version(shard: Shard) -> str:
    fs, path = url_to_fs(shard.url)
    info = fs.info(path)
    stamp = next((info[key] for key in ("mtime", "ETag", "LastModified", "updated") if info.get(key)), "")
    return f"{info.get('size')} {stamp}"


def _content(shard: Shard) -> str:
    """Names the content: what a remote store knows of it already, else its SHA-256."""
    fs, path = url_to_fs(shard.url)
    info = fs.info(path)
    known = next((info[key] for key in ("lfs", "blob_id", "ETag", "md5Hash") if info.get(key)), None)
    if known is not None:
        return str(getattr(known, "sha256", known))
    try:
        with fsspec.open(shard.url, "rb").open() as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        # Preflight has already quarantined it with the reason; it takes part as a file of unknown content.
        return f"unreadable: {error.strerror}"


def fingerprint(settings: dict[str, Any]) -> str:
    """SHA-256 of everything that changes the output; equal fingerprints give equal rows (greedy: equal bytes)."""
    return hashlib.sha256(orjson.dumps(settings, option=orjson.OPT_SORT_KEYS)).hexdigest()


def claim(output: Path, settings: dict[str, Any]) -> None:
    """Makes `output` this run's, or finds that it already is.

    Raises UserError, with the difference, if another run's work lies there.
    """
    state = output / WORK / "settings.json"
    for place in (output / "manifest.json", state):
        if place.exists():
            theirs = json.loads(place.read_bytes())["settings"]
            if fingerprint(theirs) == fingerprint(settings):
                return
            changes = list(_differences("", theirs, json.loads(orjson.dumps(settings))))
            more = f" and {len(changes) - 4} more" if len(changes) > 4 else ""
            raise UserError(
                f"{output} holds a dataset of another run ({'; '.join(changes[:4])}{more}): name another "
                "curation.output, or delete that folder"
            )
    write_whole(state, json.dumps({"settings": settings}, indent=1).encode())


def refuse_foreign(output: Path) -> None:
    """Raises UserError if `output` is a file, or a folder with files in it that no curation wrote."""
    if output.exists() and not output.is_dir():
        raise UserError(f"curation.output {output} is a file, not a folder")
    if not output.exists() or (output / WORK).exists() or (output / "manifest.json").exists():
        return
    foreign = sorted(p.name for p in output.iterdir())
    if foreign:
        raise UserError(f"curation.output {output} is not empty and no dataset of ours ({', '.join(foreign[:3])})")


def _differences(name: str, old: Any, new: Any) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _differences(f"{name}.{key}" if name else key, old.get(key), new.get(key))
    elif old != new:
        yield f"{name}: {_short(old)} -> {_short(new)}"


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."


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


def die_with_parent() -> None:
    """Asks the kernel to kill this process when its parent dies, so that a killed run leaves no worker writing on."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)


def hash_folder(folder: Path) -> str:
    """SHA-256 over the names and contents of a model folder's weight, config and tokenizer files."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".safetensors", ".bin", ".json", ".model", ".txt", ".gguf", ".jinja") and path.is_file():
            with path.open("rb") as file:
                digest.update(f"{path.name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def write_manifest(output: Path, manifest: dict[str, Any]) -> None:
    """Writes manifest.json, the mark of a finished dataset."""
    write_whole(output / "manifest.json", json.dumps(manifest, indent=2, ensure_ascii=False).encode() + b"\n")


def read_manifest(output: Path) -> dict[str, Any]:
    """The manifest of a dataset folder. Raises UserError if the folder is none."""
    path = output / "manifest.json"
    if not path.is_file():
        raise UserError(f"{output} is no finished dataset: it has no manifest.json")
    return dict(json.loads(os.fsdecode(path.read_bytes())))
