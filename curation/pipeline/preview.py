"""`notewright preview`: a few documents before and after, with every verdict, and nothing written.

    notewright preview CONFIG.yaml --documents 5

The documents go through the pipeline's own step (curation.pipeline.steps), one at a time: read, filters,
decontamination,
teacher, gates, leak check. Two things only a whole run can do: find duplicates, and draw the very random numbers of its
batches, so that at a temperature above 0 it writes other samples of the same teacher.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from datatrove.data import Document
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from transformers.utils.logging import disable_progress_bar

from configs.schema import Config
from curation.console.progress import say
from curation.corpus.decontaminate import BenchmarkIndex
from curation.corpus.filters import Refusal
from curation.corpus.shards import BadRow, Shard, read_shard
from curation.corpus.training_data import training_id
from curation.pipeline.dataset import RAW
from curation.pipeline.fingerprint import benchmark_items, sampling_config, shards_of, teacher_checkpoint
from curation.pipeline.manifest import WORK
from curation.pipeline.rewriter import load_rewriter, server
from curation.pipeline.steps import RewriteWithTeacher

CHARACTERS = 1500
"""Shown of a text."""
COLOURS = {None: "green", "read": "red", "filter": "yellow", "step": "yellow", "gate": "red", "leak_check": "magenta",
           "teacher": "bold red"}  # fmt: skip
"""Of a verdict, by the stage that gave it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What became of one row of the input."""

    id: str
    before: str
    """The row's text as it was read; of one that cannot be read, as much as there is."""
    cleaned: str | None = None
    """What the filters made of it, where that is another text."""
    refusal: Refusal | None = None
    """Why it did not reach the teacher; stage `read` where it could not be read."""
    source_tokens: int | None = None
    records: tuple[dict[str, Any], ...] = ()
    """Its terminal records, as a run has them: a rewrite each, and its own text where that is mixed in."""


@contextmanager
def lone_step(config: Config) -> Iterator[RewriteWithTeacher]:
    """The pipeline's step, outside a run: to refuse and rewrite documents with, not to write parts. Loads no model yet;
    what a server of ours leaves goes to a folder that ends with the block, not to `curation.output`.

    Raises UserError where the config's teacher or benchmarks are not there.
    """
    with TemporaryDirectory(prefix="notewright-") as name:
        sampled = sampling_config(config)
        elsewhere = sampled.curation.model_copy(update={"output": Path(name)})
        sampled = sampled.model_copy(update={"curation": elsewhere})
        # Of the settings a record only repeats these; the hashes name a run's rows, and there are none.
        settings = {"seed": config.run.seed, "teacher_name": config.teacher.model}
        settings |= dict.fromkeys(("teacher_hash", "adapter_hash"))
        items = benchmark_items(sampled)
        step = RewriteWithTeacher(sampled, teacher_checkpoint(config), settings, items, [], Path(name) / WORK)
        step.index = BenchmarkIndex(sampled)
        try:
            yield step
        finally:
            load_rewriter.cache_clear()


def preview(config: Config, documents: int) -> Iterator[Seen]:
    """What becomes of `documents` documents of `curation.input`, spread over its files, and of the rows before them
    that cannot be read; each as soon as it is done.

    Raises UserError for missing input or a teacher that is not there.
    """
    shards = shards_of(config)
    with lone_step(config) as step, step.new_cleaner() as cleaner, server(step.config, step.checkpoint, step.work):
        for number, item in enumerate(_spread(shards, documents, config.curation.limit)):
            if isinstance(item, Seen):
                yield item
                continue
            before = item.text
            refusal = step.refusal(item, cleaner)
            records = [] if refusal else step.rewrite([item], number)
            yield Seen(
                id=item.id,
                before=before,
                cleaned=None if item.text == before else item.text,
                refusal=refusal,
                source_tokens=records[0]["source_tokens"] if records else None,
                records=tuple(records),
            )


def _spread(shards: list[Shard], documents: int, limit: int | None) -> Iterator[Document | Seen]:
    """The first documents of files that lie evenly over the input, equally many of each; where files are too short,
    more of those behind them."""
    files = min(documents, len(shards))
    chosen = [shards[i * len(shards) // files] for i in range(files)]
    left = documents
    for number, shard in enumerate(chosen):
        share = -(-left // (files - number))
        most = share if limit is None else min(share, limit)
        for item in read_shard(shard, most):
            if isinstance(item, BadRow):
                where = shard.name if item.row is None else f"{shard.name}#{item.row}"
                yield Seen(id=where, before=item.text, refusal=Refusal("read", item.reason))
                continue
            item.metadata["training_id"] = training_id(shard, item.metadata["source_row"], item.text)
            left -= 1
            yield item


def print_preview(config: Config, documents: int, console: Console | None = None) -> None:
    """Shows `preview`, document by document, and counts at the end. Colours and columns on a terminal, plain lines
    elsewhere."""
    disable_progress_bar()  # of the weights
    console = console or Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, soft_wrap=True, file=console.file)
    seen: list[Seen] = []
    if config.curation.writer == "teacher":
        say(f"the teacher is {teacher_checkpoint(config) or config.teacher.model}")
    for one in preview(config, documents):
        seen.append(one)
        for part in _columns(one) if console.is_terminal else _plain(one):
            console.print(part)
    console.print(_summary(config, seen))


def verdict(stage: str | None, reason: str | None, detail: str | None = None) -> Text:
    """`kept`, or who refused it and why."""
    if reason is None:
        return Text("kept", style=COLOURS[None])
    who = {"read": "cannot be read", "filter": "filtered", "step": "a filter failed", "gate": "refused by gate",
           "leak_check": "leak", "teacher": "the teacher failed"}.get(stage or "", stage or "")  # fmt: skip
    what = f": {reason}" if reason != stage else ""
    return Text(f"{who}{what}{f' ({detail})' if detail else ''}", style=COLOURS.get(stage, "red"))


def _head(one: Seen) -> Text:
    head = Text(one.id, style="bold")
    if one.source_tokens is not None:
        head.append(f" · {one.source_tokens} tokens", style="dim")
    if one.refusal is not None:
        head.append(" · ").append_text(verdict(*one.refusal))
    return head


def _label(record: dict[str, Any]) -> Text:
    name = "its own text" if record["strategy"] == RAW else str(record.get("strategy") or "a rewrite")
    label = Text(name, style="bold")
    if record.get("tokens") is not None:
        label.append(f" · {record['tokens']} tokens", style="dim")
    return label.append(" · ").append_text(verdict(record["stage"], record["reason"], record["detail"]))


def _columns(one: Seen) -> Iterator[RenderableType]:
    """Before on the left; on the right each rewrite, below its verdict."""
    left: list[RenderableType] = [Text(_shown(one.before))]
    if one.cleaned is not None:
        left += [Text("as the filters leave it", style="bold"), Text(_shown(one.cleaned))]
    right: list[RenderableType] = []
    for record in one.records:
        right += [_label(record), Text(_shown(record.get("text") or "")), Text()]
    grid = Table.grid(expand=True, padding=(0, 2))
    grid.add_column(ratio=1)
    grid.add_column(ratio=1)
    grid.add_row(Group(*left), Group(*right))
    yield Panel(grid if right else Group(*left), title=_head(one), title_align="left")


def _plain(one: Seen) -> Iterator[RenderableType]:
    yield _head(one)
    yield Text(f"  before: {_indented(one.before)}")
    if one.cleaned is not None:
        yield Text(f"  filtered to: {_indented(one.cleaned)}")
    for record in one.records:
        yield Text("  ").append_text(_label(record))
        if record.get("text"):
            yield Text(f"    {_indented(record['text'])}")
    yield Text()


def _indented(text: str) -> str:
    return _shown(text).replace("\n", "\n    ")


def _shown(text: str) -> str:
    """A text for the eye: cut, and without control characters, by which a document could command the terminal."""
    cut = text[:CHARACTERS]
    more = f" ... ({len(text) - CHARACTERS} more characters)" if len(text) > CHARACTERS else ""
    return "".join(c if c in "\n\t" or c.isprintable() else "�" for c in cut) + more


def _summary(config: Config, seen: list[Seen]) -> RenderableType:
    refusals = Counter(str(verdict(*one.refusal)) for one in seen if one.refusal is not None)
    rewrites = [record for one in seen for record in one.records if record["strategy"] != RAW]
    refused = Counter(str(verdict(r["stage"], r["reason"])) for r in rewrites if r["reason"] is not None)
    kept = [record for record in rewrites if record["reason"] is None]
    source = sum(one.source_tokens or 0 for one in seen)
    lines = [
        f"{len(seen)} rows: {sum(bool(one.records) for one in seen)} reached the teacher{_counted(refusals)}",
        f"{len(rewrites)} rewrites: {len(kept)} kept{_counted(refused)}",
        f"tokens: {source} in, {sum(record['tokens'] for record in kept)} out (kept rewrites)",
    ]
    if config.curation.dedup != "none":
        lines.append(f"duplicates ({config.curation.dedup}) are only found by `notewright curate`, in the whole input")
    return Text("\n".join(lines))


def _counted(reasons: Counter[str]) -> str:
    return "".join(f", {count} {reason}" for reason, count in reasons.most_common())
