"""Reads every input file once before any model is loaded: its documents, its unreadable rows, the hash of its bytes."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import fsspec
import orjson
from datatrove.data import Document
from fsspec.core import url_to_fs

from configs.errors import UserError
from configs.files import Record, write_whole
from curation.console.progress import say
from curation.corpus.filters import is_unknown, licence_of
from curation.corpus.shards import Shard, read_shard


@dataclass(frozen=True, slots=True)
class CheckedFile:
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
    """Why the file could not be read from some point on, or that it is empty."""


def check_files(
    shards: Sequence[Shard], limit: int | None, work: Path
) -> tuple[list[CheckedFile], list[Record] | None]:
    """The files, and the quarantine records of what cannot be read; None where `work` already has them, because
    shards that are unchanged since `save_preflight` are not read again.

    Prints a line for each file with a defect. Writes nothing. Raises UserError if no shard has a document.
    """
    state = work / "checked.json"
    versions = [_version(shard) for shard in shards]
    known = [CheckedFile(**entry) for entry in json.loads(state.read_bytes())] if state.exists() else []
    wanted = [(shard.name, version, limit) for shard, version in zip(shards, versions, strict=True)]
    if [(file.name, file.version, file.limit) for file in known] == wanted:
        return known, None
    bad_rows: list[Record] = []
    files = [_check_file(shard, version, limit, bad_rows) for shard, version in zip(shards, versions, strict=True)]
    for file in files:
        if file.reason:
            usable = f"; {file.documents} documents before that are used" if file.documents else ""
            say(f"{file.name}: {file.reason}{usable}")
        if file.bad_rows:
            rows = file.documents + file.bad_rows
            say(f"{file.name}: {file.bad_rows} of {rows} rows cannot be used and go to quarantine")
    if not any(file.documents for file in files):
        causes = "; ".join(f"{file.name}: {file.reason or f'{file.bad_rows} unusable rows'}" for file in files[:3])
        raise UserError(f"no documents in {len(files)} input file{'s' * (len(files) > 1)} ({causes})")
    return files, bad_rows


def save_preflight(work: Path, files: Sequence[CheckedFile], bad_rows: list[Record]) -> None:
    """Keeps what `check_files` returned. Call it only once the output folder is acquired: before that it may be
    another run's."""
    write_whole(work / "bad_rows.jsonl", b"".join(orjson.dumps(record) + b"\n" for record in bad_rows))
    write_whole(work / "checked.json", json.dumps([asdict(file) for file in files], indent=1))


def _check_file(shard: Shard, version: str, limit: int | None, bad_rows: list[Record]) -> CheckedFile:
    """Adds the quarantine records to `bad_rows`."""
    documents = unusable = licensed = 0
    reason = None
    for item in read_shard(shard, limit):
        if isinstance(item, Document):
            documents += 1
            licensed += not is_unknown(licence_of(item, ""))
            continue
        record = {"source_file": shard.name, "source_row": item.row, "source_id": None, "rewrite": None}
        bad_rows.append({**record, "stage": "read", "reason": item.reason, "strategy": None, "text": item.text})
        if item.row is None:
            reason = item.reason
        else:
            unusable += 1
    if not documents and not unusable:
        reason = reason or "empty"
    return CheckedFile(shard.name, version, limit, _content_hash(shard), documents, licensed, unusable, reason)


def _version(shard: Shard) -> str:
    fs, path = url_to_fs(shard.url)
    info = fs.info(path)
    stamp = next((info[key] for key in ("mtime", "ETag", "LastModified", "updated") if info.get(key)), "")
    return f"{info.get('size')} {stamp}"


def _content_hash(shard: Shard) -> str:
    """The hash that a remote store already has of the content, else its SHA-256."""
    fs, path = url_to_fs(shard.url)
    info = fs.info(path)
    known = next((info[key] for key in ("lfs", "blob_id", "ETag", "md5Hash") if info.get(key)), None)
    if known is not None:
        return str(getattr(known, "sha256", known))
    try:
        with fsspec.open(shard.url, "rb").open() as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        # `read_shard` has reported the reason already; the file takes part with unknown content.
        return f"unreadable: {error.strerror}"
