"""manifest.json: what a dataset was made from, what became of every document, and what its texts are like."""

import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datatrove.data import Document

from configs.errors import UserError
from configs.files import read_own, write_whole
from configs.format import shorten
from curation.console.progress import say
from curation.corpus.decontaminate import BenchmarkIndex
from curation.corpus.filters import Cleaner
from curation.corpus.shards import read_shard
from curation.pipeline.dataset import RAW, FileCounts, Merged
from curation.pipeline.inputs import CurationInputs
from curation.pipeline.rewriter import rewriter_gates


def make_manifest(inputs: CurationInputs, files: list[FileCounts], merged: Merged) -> dict[str, Any]:
    """The manifest of the dataset that was merged. Warns if the teacher repeats itself."""
    return {
        "fingerprint": inputs.fingerprint,
        "settings": inputs.settings,
        "unbeaten": inputs.unbeaten,
        "versions": {name: version(name) for name in ("torch", "transformers", "datatrove", "pyarrow")},
        "files": [_fields(file) for file in files],
        "skipped": {
            reason: {"count": len(names), "first": [_as_text(name) for name in names[:20]]}
            for reason, names in inputs.skipped.items()
        },
        **_fields(merged),
        "gates": rewriter_gates(inputs.config),
        "leak_check": _leak_check(inputs.index, merged),
        "diversity": _diversity(inputs.config.rl.diversity_alarm, merged),
        "examples": _examples(inputs, merged),
    }


def write_manifest(output: Path, manifest: dict[str, Any]) -> None:
    """Writes manifest.json. Its presence marks a finished dataset."""
    write_whole(output / "manifest.json", json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")


def read_manifest(output: Path) -> dict[str, Any]:
    """The manifest of a dataset folder. Raises UserError if the folder holds no finished dataset."""
    path = output / "manifest.json"
    if not path.is_file():
        raise UserError(f"{output} is no finished dataset: it has no manifest.json")
    return read_own(path, dict)


def _as_text(name: str) -> str:
    """A path, which need not be UTF-8."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _fields(record: FileCounts | Merged) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__slots__}


def _leak_check(index: BenchmarkIndex, merged: Merged) -> dict[str, Any] | None:
    """Result of the check of the output against `curation.benchmarks`; None where none are named."""
    if not index.items:
        return None
    refused = merged.leaks.total()
    return {
        "benchmarks": {name: len(items) for name, items in index.items.items()},
        "items": sum(map(len, index.items.values())),
        "n": index.ngram,
        **({} if index.embedder is None else {"max_similarity": index.max_similarity}),
        "checked": merged.rows + refused,
        "refused": refused,
        "by_benchmark": dict(merged.leaks),
    }


def _diversity(alarm: float, merged: Merged) -> dict[str, float]:
    """Compression ratios of texts and of their sources (zlib, within a batch); a text that repeats itself has a higher
    one."""
    sizes = merged.sizes
    texts, sources = (sizes[f"{kind}_bytes"] / max(sizes[f"{kind}_packed"], 1) for kind in ("text", "source"))
    if texts > alarm * sources:
        say(
            f"warning: the texts compress {texts:.1f} times, their sources {sources:.1f}: the teacher repeats itself "
            "(more strategies or a higher curation.temperature may help)"
        )
    return {"compression": round(texts, 3), "source_compression": round(sources, 3)}


def _examples(inputs: CurationInputs, merged: Merged) -> list[dict[str, str]]:
    """The dataset's first rewrites with their sources, shortened."""
    curation = inputs.config.curation
    with pq.ParquetFile(curation.output / merged.shards[0]["path"]) as file:
        first = next(file.iter_batches(batch_size=30)).to_pylist()
    shards = {shard.name: shard for shard in inputs.shards}
    examples = []
    with Cleaner(curation) as cleaner:
        for row in [row for row in first if row["strategy"] != RAW][:3]:
            documents = (d for d in read_shard(shards[row["source_file"]]) if isinstance(d, Document))
            source = next(d for d in documents if d.metadata["source_row"] == row["source_row"])
            cleaner.clean(source, known_to_pass=True)
            shortened = {"source": shorten(source.text, 600), "text": shorten(row["text"], 600)}
            examples.append({"id": row["id"], "strategy": row["strategy"], **shortened})
    return examples
