"""manifest.json: what a dataset was made from, what became of every document, and what its texts are like."""

import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.files import read_own, write_whole
from configs.format import shorten
from curation.console.progress import say
from curation.corpus.decontaminate import BenchmarkIndex
from curation.corpus.secrets import find_secrets
from curation.pipeline.accounts import FileCounts, Merged
from curation.pipeline.diversity import EXAMPLES, Samples, diversity
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
        "skipped": {reason: {"count": len(names), "first": names[:20]} for reason, names in inputs.skipped.items()},
        **_fields(merged),
        "gates": rewriter_gates(inputs.config),
        "leak_check": _leak_check(inputs.index, merged),
        "diversity": _diversity(inputs.config.rl.diversity_alarm, merged.samples),
        "examples": _examples(merged.samples),
        "refused_examples": dict(_refused_examples(inputs, merged)),
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


def _fields(record: FileCounts | Merged) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__slots__ if name != "samples"}


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
        "checked": merged.passed + merged.own_texts + refused,
        "refused": refused,
        "by_benchmark": dict(merged.leaks),
    }


def _diversity(alarm: float, samples: Samples) -> dict[str, Any] | None:
    found = diversity(samples)
    if found is not None:
        texts, sources = (found[kind]["compression"] or 0.0 for kind in ("rows", "sources"))
        if texts > alarm * sources:
            say(
                f"warning: the texts compress {texts:.1f} times, their sources {sources:.1f}: the teacher repeats "
                "itself (more strategies or a higher curation.temperature may help)"
            )
    return found


def _examples(samples: Samples) -> list[dict[str, str]]:
    """Some rewrites with their sources, shortened."""
    rewrites = [row for row in samples.rows if row["rewrite"] is not None]
    return [
        {
            "id": row["id"],
            "strategy": row["strategy"],
            "source": shorten(row["source"][-1], 600),
            "text": shorten(row["text"], 600),
        }
        for row in rewrites[:EXAMPLES]
    ]


def _refused_examples(inputs: CurationInputs, merged: Merged) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """By reason the beginnings of refused texts that may be published as the rows may: under a licence of theirs,
    without secrets and benchmark items, which whatever refused them may not have looked for."""
    gates, template = inputs.config.gates, inputs.config.student.prompt_template
    heldout = BenchmarkIndex({"heldout": inputs.items}, gates.leak_ngram, template, None, 1.0)
    for reason, refused in sorted(merged.samples.refused.items()):
        safe = [
            {"id": record["id"], "text": shorten(" ".join(record["text"].split()), 160)}
            for record in refused
            if record["licence"] in merged.licences
            and not find_secrets(record["text"])
            and not any(index.benchmark_in(record["text"]) for index in (inputs.index, heldout))
        ]
        if safe:
            yield reason, safe[:EXAMPLES]
