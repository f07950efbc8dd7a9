import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import fsspec
import orjson
from datatrove.data import Document
from fsspec.core import url_to_fs

from configs.errors import UserError
from configs.files import write_whole
from curation.console.progress import say
from curation.corpus.filters import is_unknown, licence_of
from curation.corpus.shards import Shard, read_shard
from curation.pipeline.dataset import FileCounts


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
