"""What a dataset folder must pass before it leaves the machine."""

import json
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from configs.errors import UserError
from curation.corpus.secrets import find_secrets
from curation.export.hub import Upload
from curation.pipeline.card import leaks_checked, terms
from curation.pipeline.dataset import WORK
from curation.pipeline.fingerprint import fingerprint
from curation.pipeline.manifest import read_manifest

KEPT_HOME = frozenset({WORK, "quarantine.jsonl", "filtered.jsonl", "evaluation.json", "report.html"})
"""What may lie in the folder but is not pushed: what was refused may be refused because it must not be published."""
PUSHED = frozenset({"data", "manifest.json", "README.md"})


@dataclass(slots=True)
class Rows:
    """What a look at every row found."""

    rows: int = 0
    licences: Counter[str] = field(default_factory=Counter)
    secrets: list[str] = field(default_factory=list)
    """`id (kind)` of rows that hold one; never the secret itself."""


def check_folder(output: Path) -> tuple[dict[str, Any], list[Upload]]:
    """The manifest of a dataset folder and the shards that it names, after a look at every byte of them.

    Raises UserError if the folder is none, or anything in it is not as the manifest has it.
    """
    if not output.is_dir():
        raise UserError(f"no such folder: {output}")
    try:
        manifest = read_manifest(output)
        _check_sums(manifest)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{output}/manifest.json is broken ({error}): curate again") from None
    except UserError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        what = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{output}/manifest.json does not hold ({what}): curate again") from None
    names = {shard["path"] for shard in manifest["shards"]}
    present = {path.relative_to(output).as_posix() for path in (output / "data").rglob("*") if not path.is_dir()}
    stray = sorted(({path.name for path in output.iterdir()} - KEPT_HOME - PUSHED) | (present - names))
    if stray:
        raise UserError(f"{output} holds what no curation wrote ({', '.join(stray[:3])}): move it away")
    return manifest, [_check_shard(output, shard) for shard in manifest["shards"]]


def _check_sums(manifest: Mapping[str, Any]) -> None:
    rows, wrong = manifest["rows"], []
    if manifest["fingerprint"] != fingerprint(manifest["settings"]):
        wrong.append("the fingerprint is not that of its settings")
    for file in manifest["files"]:
        if file["documents_in"] != sum(file[n] for n in ("documents_out", "filtered", "quarantined", "failed")):
            wrong.append(f"the counts of {file['path']} do not add up")
    if rows != sum(shard["rows"] for shard in manifest["shards"]):
        wrong.append("rows is not the sum of the shards' rows")
    if rows != sum(manifest["licences"].values()):
        wrong.append("rows is not the sum of the licences' rows")
    if wrong:
        raise ValueError("; ".join(wrong[:3]))


def _check_shard(output: Path, shard: Mapping[str, Any]) -> Upload:
    path = output / shard["path"]
    if not path.is_file():
        raise UserError(f"{path} is missing: delete {output} and curate again")
    item = Upload.of(shard["path"], path)
    if (item.size, item.sha256) != (shard["bytes"], shard["sha256"]):
        raise UserError(
            f"{path} is not as manifest.json has it: it was changed since; delete {output} and curate again"
        )
    if pq.read_metadata(path).num_rows != shard["rows"]:
        raise UserError(f"{path} has {pq.read_metadata(path).num_rows} rows, manifest.json says {shard['rows']}")
    return item


def check_rows(output: Path, manifest: Mapping[str, Any]) -> Rows:
    """Reads every row: licences, secrets. Raises UserError if the licences are not those of the manifest."""
    found = Rows()
    for shard in manifest["shards"]:
        with pq.ParquetFile(output / shard["path"]) as file:
            for batch in file.iter_batches(batch_size=1000, columns=["id", "text", "licence"]):
                found.rows += batch.num_rows
                found.licences.update(batch["licence"].to_pylist())
                for id, text in zip(batch["id"].to_pylist(), batch["text"].to_pylist(), strict=True):
                    if kinds := find_secrets(text):
                        found.secrets.append(f"{id} ({', '.join(kinds)})")
    if dict(found.licences) != dict(manifest["licences"]):
        raise UserError(f"the licences of the rows of {output} are not those of its manifest.json: curate again")
    return found


def refuse_unfit(
    output: Path,
    manifest: Mapping[str, Any],
    rows: Rows,
    *,
    allow_unchecked: bool,
    allow_secrets: bool,
    allow_licences: Collection[str],
) -> None:
    """Raises UserError if the rows hold secrets, may not be published, or were never held against a benchmark."""
    problems = []
    if rows.secrets and not allow_secrets:
        some = ", ".join(rows.secrets[:3]) + (", ..." if len(rows.secrets) > 3 else "")
        problems.append(f"{len(rows.secrets)} texts seem to hold secrets: {some} (take them out, or --allow-secrets)")
    allowed = {licence.lower() for licence in allow_licences}
    for licence, count in sorted(rows.licences.items()):
        if licence.lower() in allowed:
            continue
        if licence.lower() in ("unknown", "none", ""):
            problems.append(
                f"the licence of {count} rows is unknown (set curation.licence, or --allow-licence unknown)"
            )
        elif "no derivatives" in terms([licence]):
            problems.append(
                f"{count} rows come under {licence}, which allows no derived works (--allow-licence '{licence}' if you "
                "may all the same)"
            )
    if not leaks_checked(manifest) and not allow_unchecked:
        problems.append(
            "no leak check ran: the curation had no benchmark items, so held-out questions may be in the texts (name "
            "curation.benchmarks or data.heldout and curate again, or --allow-unchecked)"
        )
    if problems:
        raise UserError(f"{output} is not fit to be published: {'; '.join(problems)}")
