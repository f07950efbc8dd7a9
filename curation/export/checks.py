"""What a dataset folder must pass before it leaves the machine."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from configs.errors import UserError
from configs.files import written_by_us
from curation.corpus.licences import forbids_derivatives, is_unknown, licence_name
from curation.corpus.secrets import find_secrets
from curation.export.hub import Upload
from curation.pipeline.dataset import WORK
from curation.pipeline.fingerprint import fingerprint
from curation.pipeline.manifest import read_manifest

NOT_PUSHED = frozenset({WORK, "quarantine.jsonl", "filtered.jsonl", "evaluation.json", "report.html"})
"""What may lie in the folder but is not pushed: a refused text may be one that must not be published."""
PUSHED = frozenset({"data", "manifest.json", "README.md"})


def check_folder(output: Path) -> tuple[dict[str, Any], list[Upload]]:
    """The manifest of a dataset folder and the shards that it names, after a look at every byte of them. Raises
    UserError if the folder holds no dataset, or if anything in it is not as the manifest says."""
    if not output.is_dir():
        raise UserError(f"no such folder: {output}")
    manifest = read_manifest(output)
    with written_by_us(output / "manifest.json"):
        wrong = list(_wrong_sums(manifest))
    if wrong:
        raise UserError(f"{output}/manifest.json does not hold ({'; '.join(wrong[:3])}): curate again")
    names = {shard["path"] for shard in manifest["shards"]}
    present = {path.relative_to(output).as_posix() for path in (output / "data").rglob("*") if not path.is_dir()}
    stray = sorted(({path.name for path in output.iterdir()} - NOT_PUSHED - PUSHED) | (present - names))
    if stray:
        raise UserError(f"{output} holds what no curation wrote ({', '.join(stray[:3])}): move it away")
    return manifest, [_check_shard(output, shard) for shard in manifest["shards"]]


def _wrong_sums(manifest: Mapping[str, Any]) -> Iterator[str]:
    if manifest["fingerprint"] != fingerprint(manifest["settings"]):
        yield "the fingerprint is not that of its settings"
    for file in manifest["files"]:
        if file["documents_in"] != sum(file[n] for n in ("documents_out", "filtered", "quarantined", "failed")):
            yield f"the counts of {file['path']} do not add up"
    if manifest["rows"] != sum(shard["rows"] for shard in manifest["shards"]):
        yield "rows is not the sum of the shards' rows"
    if manifest["rows"] != sum(manifest["licences"].values()):
        yield "rows is not the sum of the licences' rows"


def _check_shard(output: Path, shard: Mapping[str, Any]) -> Upload:
    path = output / shard["path"]
    if not path.is_file():
        raise UserError(f"{path} is missing: delete {output} and curate again")
    upload = Upload.of(shard["path"], path)
    if (upload.size, upload.sha256) != (shard["bytes"], shard["sha256"]):
        raise UserError(
            f"{path} is not as manifest.json has it: it was changed since; delete {output} and curate again"
        )
    if (rows := pq.read_metadata(path).num_rows) != shard["rows"]:
        raise UserError(f"{path} has {rows} rows, manifest.json says {shard['rows']}")
    return upload


def check_rows(output: Path, manifest: Mapping[str, Any]) -> list[str]:
    """Reads every row; returns those that hold secrets, as `id (kind)`, without the secret. Raises UserError if the
    licences are not those of the manifest."""
    licences: Counter[str] = Counter()
    secrets: list[str] = []
    for shard in manifest["shards"]:
        with pq.ParquetFile(output / shard["path"]) as file:
            for batch in file.iter_batches(batch_size=1000, columns=["id", "text", "licence"]):
                licences.update(batch["licence"].to_pylist())
                for id, text in zip(batch["id"].to_pylist(), batch["text"].to_pylist(), strict=True):
                    if kinds := find_secrets(text):
                        secrets.append(f"{id} ({', '.join(kinds)})")
    if licences != manifest["licences"]:
        raise UserError(f"the licences of the rows of {output} are not those of its manifest.json: curate again")
    return secrets


def unfit_licences(licences: Mapping[str, int], allow_licences: Collection[str]) -> Iterator[str]:
    """The licences that forbid a publication or are unknown; `licences` are the numbers of their rows."""
    allowed = {licence_name(licence) for licence in allow_licences}
    for licence, count in sorted(licences.items()):
        if licence_name(licence) in allowed:
            continue
        if is_unknown(licence):
            yield f"the licence of {count} rows is unknown (set curation.licence, or --allow-licence unknown)"
        elif forbids_derivatives(licence):
            yield (
                f"{count} rows come under {licence}, which allows no derived works (--allow-licence '{licence}' if you "
                "may all the same)"
            )
