"""Collects a corpus: documents of many formats from folders, archives and packages into JSONL shards.

    notewright collect /usr/share/doc *.deb *.tar.gz --output runs/corpus

One shard a source, which has the same bytes whenever it is made of the same source by the same pandoc. A document that
cannot be read is counted and named in `collected.json`; it ends nothing.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from rich.table import Table
from rich.text import Text

from configs.errors import UserError
from configs.files import make_folder, read_own, write_json_lines, write_whole
from configs.schema.curation import language_code
from configs.seeds import stable_seed
from curation.collect.archives import BROKEN, Member, as_text, find_sources, members, unpacked
from curation.collect.convert import kind_of, pandoc_version, title_of, to_markdown
from curation.console.progress import WorkProgress, say
from curation.console.tables import stdout_console
from curation.corpus.filters import language_identifier
from curation.corpus.finding import one_line
from curation.corpus.licences import is_unknown, licence_name

NAMED = 200
"""Names of refused files that `collected.json` keeps for each reason; their number is always whole."""
SURE = 0.65
"""Least probability of a language that is written down, as `filters.min_language_probability`."""
FORMAT = 5
"""Raised when the same source would give other rows."""
OTHER = "not a document by its name"
_TESTS = re.compile(r"(?:.+[-_.])?(?:tests?|testing|testdata)(?:[-_.].+)?")
"""Folders such as `tests` and `jtreg-test-output`."""
_LICENCE_FILES = ("copyright", "PKG-INFO", "METADATA")
_LICENCE = re.compile(
    r"^(?:License-Expression: *|License: *|Classifier: License :: (?:OSI Approved :: )?)(\S.*)$", re.M
)
_COMMON = re.compile(r"/usr/share/common-licenses/([\w.+-]*\w)")
_WHOLE_LICENCE = re.compile(r"licen[cs]e\s+agreement|permission\s+is\s+hereby|redistribution\s+and\s+use\s+in", re.I)
"""A licence that is not referred to but stands there: what else is referred to may be for a part."""


def collect(paths: list[Path], output: Path, limit: int | None = None, licence: str | None = None) -> Path:
    """Writes a shard for each source and `collected.json` into `output`; returns the path of the latter.

    A row is `text` (Markdown), `title`, `language` where it is sure, `licence` where the source or else `licence` names
    one, `date` (of the file), `format`, `source` and `path` in it. With a `limit` a source gives so many documents,
    drawn by a hash of their paths. Shards of sources that have not changed since are kept. Raises UserError.
    """
    sources, version = find_sources(paths), pandoc_version()
    if output.exists() and any(path.name[0] != "." for path in output.iterdir()) and not _report(output).exists():
        raise UserError(f"{output} holds something else: name a new folder")
    make_folder(output)
    if not _report(output).exists():
        _write_report(output, [])  # so that a call that goes on after a kill knows the folder
    before = read_own(_report(output), dict)["sources"]
    made = {record["shard"]: record for record in before}
    records: list[dict[str, Any]] = []
    for source in sources:
        shard = _shard_name(source, [record["shard"] for record in records])
        status = source.stat()
        key = [FORMAT, as_text(source), status.st_size, status.st_mtime, limit, licence, version]
        # A folder's own time does not tell of changes further below.
        if source.is_dir() or made.get(shard, {}).get("key") != key or not _is_there(output, made[shard]):
            made[shard] = _collect_source(source, output / shard, limit, licence) | {"shard": shard, "key": key}
        records.append(made[shard])
        # What is not reached yet stays in the report: its shard is removed at the end if its source is gone.
        reached = {record["shard"] for record in records}
        _write_report(output, records + [record for record in before if record["shard"] not in reached])
    for stale in {record["shard"] for record in before} - {record["shard"] for record in records}:
        (output / stale).unlink(missing_ok=True)
    _write_report(output, records)
    if not any(record["documents"] for record in records):
        raise UserError(f"no documents in {', '.join(map(str, paths))}: see {_report(output)}")
    return _report(output)


def _is_there(output: Path, record: dict[str, Any]) -> bool:
    return not record["documents"] or (output / record["shard"]).is_file()


def _report(output: Path) -> Path:
    return output / "collected.json"


def _write_report(output: Path, records: list[dict[str, Any]]) -> None:
    write_whole(_report(output), json.dumps({"sources": records}, indent=1, ensure_ascii=False))


def _shard_name(source: Path, taken: list[str]) -> str:
    name = re.sub(r"[^\w.+-]+", "_", str(source.resolve()).strip("/") if source.is_dir() else source.name)
    number = sum(other.rpartition("~")[0] == name or other == f"{name}.jsonl" for other in taken)
    return f"{name}~{number}.jsonl" if number else f"{name}.jsonl"


def _collect_source(source: Path, shard: Path, limit: int | None, licence: str | None) -> dict[str, Any]:
    """Writes the shard; what it holds and what was refused, by reason."""
    refused: dict[str, list[str]] = {}
    rows: list[dict[str, Any]] = []
    try:
        chosen = _choose(source, limit, refused)
        licences = _licences(source)
        with WorkProgress(as_text(source.name), len(chosen)) as progress:
            progress.unit = "documents"
            for member in members(source):
                if member.path in chosen:
                    try:
                        rows.append(_row(source, member, licences, licence))
                    except BROKEN as error:
                        reason, _, detail = one_line(error).partition(": ")
                        refused.setdefault(reason, []).append(f"{member.path}: {detail}" if detail else member.path)
                    progress.done += 1
    except BROKEN as error:
        # What lies before the break of an archive is kept.
        refused.setdefault(f"the source cannot be read on: {one_line(error)}", []).append(as_text(source.name))
        say(f"{as_text(source)}: {one_line(error)}")
    shard.unlink(missing_ok=True)
    if rows:
        write_json_lines(shard, sorted(rows, key=lambda row: row["path"]))
    counts = {name: dict(Counter(str(row.get(name)) for row in rows).most_common()) for name in
              ("format", "language", "licence")}  # fmt: skip
    return {
        "source": as_text(source),
        "documents": len(rows),
        "characters": sum(len(row["text"]) for row in rows),
        **counts,
        "refused": {reason: len(names) for reason, names in sorted(refused.items())},
        "named": {reason: names[:NAMED] for reason, names in sorted(refused.items()) if reason != OTHER},
    }


def _before_break(source: Path) -> Iterator[Member]:
    """The members of a source that can be reached; who reads them all meets the break, and reports it."""
    with suppress(*BROKEN):
        yield from members(source)


def _choose(source: Path, limit: int | None, refused: dict[str, list[str]]) -> frozenset[str]:
    """Paths of the documents. Hidden folders are none of a source: `_sources` holds a manual a second time. Nor are a
    program's tests, whose inputs and reports look like documents."""
    paths: list[str] = []
    for member in _before_break(source):
        *folders, name = PurePosixPath(member.path).parts
        hidden = any(part.startswith((".", "_")) for part in (*folders, name)) or any(map(_TESTS.fullmatch, folders))
        is_document = kind_of(member.path) and not hidden
        (paths if is_document else refused.setdefault(OTHER, [])).append(member.path)
    if limit is not None:
        paths = sorted(paths, key=lambda path: (stable_seed("collect", path), path))[:limit]
    return frozenset(paths)


def _row(source: Path, member: Member, licences: dict[str, str], default: str | None) -> dict[str, Any]:
    """The document of a file. Raises one of `BROKEN`, ValueError among them."""
    kind, text = to_markdown(kind_of(member.path) or "plain", unpacked(member.read()))
    label, probability = language_identifier().classify(text[:20_000])
    folders = [str(folder) for folder in PurePosixPath(member.path).parents]
    row = {
        "text": text,
        "title": title_of(kind, member.path, text),
        "language": language_code(str(label)) if probability >= SURE else None,
        "licence": next((licences[folder] for folder in [*folders, ""] if folder in licences), default),
        "date": datetime.fromtimestamp(member.changed, UTC).date().isoformat(),
        "format": kind,
        "source": as_text(source.name),
        "path": member.path,
    }
    return {name: value for name, value in row.items() if value is not None}


def _licences(source: Path) -> dict[str, str]:
    """By folder the licence that its package names: Debian's `copyright` (DEP 5; in an older one the only licence that
    it refers to, if none stands in it) or Python's PKG-INFO. "" stands for the rest of an archive in which all name
    the same."""
    found = {}
    for member in _before_break(source):
        path = PurePosixPath(member.path)
        if path.name in _LICENCE_FILES:
            try:
                text = member.read().decode(errors="replace")
            except BROKEN:
                continue
            told = _LICENCE.findall(text) if text.startswith(("Format", "Metadata-Version")) else []
            # Python's `License: UNKNOWN` stands before the classifiers, which may tell.
            names = [name for name in map(licence_name, told) if not is_unknown(name)][:1]
            if not names and not _WHOLE_LICENCE.search(text):
                names = sorted({licence_name(name.rstrip(".")) for name in _COMMON.findall(text)})
            if len(names) == 1:
                found[str(path.parent)] = names[0]
    if source.is_file() and len(set(found.values())) == 1:
        found[""] = next(iter(found.values()))
    return found


def print_collected(report: Path) -> None:
    """What each source gave, and why the rest was refused."""
    records = read_own(report, dict)["sources"]
    table = Table("source", "documents", "formats", "languages", "refused")
    for record in records:
        cells = [", ".join(f"{count} {name}" for name, count in list(record[of].items())[:6])
                 for of in ("format", "language")]  # fmt: skip
        reasons = "; ".join(f"{count} {reason}" for reason, count in record["refused"].items())
        table.add_row(*map(Text, (Path(record["source"]).name, f"{record['documents']:,}", *cells, reasons)))
    console = stdout_console()
    console.print(table)
    documents, characters = (sum(record[name] for record in records) for name in ("documents", "characters"))
    console.print(f"{documents:,} documents, {characters:,} characters; {report}", markup=False)
