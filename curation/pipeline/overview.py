"""What the manifest tells about the rows: leaks, diversity, examples."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datatrove.data import Document

from configs.format import shorten
from curation.console.progress import say
from curation.corpus.decontaminate import BenchmarkIndex
from curation.corpus.filters import Cleaner
from curation.corpus.shards import Shard, read_shard
from curation.pipeline.dataset import RAW, Merged

EXAMPLES = 3
EXAMPLE_CHARACTERS = 600


def leak_check(index: BenchmarkIndex, merged: Merged) -> dict[str, Any] | None:
    """What the check of the output against `curation.benchmarks` saw; None where none are named."""
    refused = merged.leaks.total()
    if not index.items:
        return None
    return {
        "benchmarks": {name: len(items) for name, items in index.items.items()},
        "items": sum(map(len, index.items.values())),
        "n": index.ngram,
        **({} if index.paraphrases is None else {"max_similarity": index.paraphrases.max_similarity}),
        "checked": merged.rows + refused,
        "refused": refused,
        "by_benchmark": dict(merged.leaks),
    }


def diversity(alarm: float, merged: Merged) -> dict[str, float]:
    """How many times texts and their sources compress (zlib, a batch at a time): more is more of the same."""
    sizes = merged.sizes
    texts, sources = (sizes[f"{kind}_bytes"] / max(sizes[f"{kind}_packed"], 1) for kind in ("text", "source"))
    if texts > alarm * sources:
        say(
            f"warning: the texts compress {texts:.1f} times, their sources {sources:.1f}: the teacher repeats itself "
            "(more strategies or a higher curation.temperature may help)"
        )
    return {"compression": round(texts, 3), "source_compression": round(sources, 3)}


def examples(output: Path, shards: list[Shard], data: list[dict[str, Any]], cleaner: Cleaner) -> list[dict[str, str]]:
    """The dataset's first rewrites beside their sources, shortened."""
    with pq.ParquetFile(output / data[0]["path"]) as file:
        first = next(file.iter_batches(batch_size=10 * EXAMPLES)).to_pylist()
    rows = [row for row in first if row["strategy"] != RAW][:EXAMPLES]
    by_name = {shard.name: shard for shard in shards}
    found = []
    with cleaner:
        for row in rows:
            sources = (d for d in read_shard(by_name[row["source_file"]]) if isinstance(d, Document))
            source = next(d for d in sources if d.metadata["source_row"] == row["source_row"])
            cleaner.clean(source, passed=True)
            example = {"id": row["id"], "strategy": row["strategy"]}
            found.append(
                example
                | {"source": shorten(source.text, EXAMPLE_CHARACTERS), "text": shorten(row["text"], EXAMPLE_CHARACTERS)}
            )
    return found
