"""`notewright preview`: a few documents before and after, with every verdict, and nothing written.

    notewright preview CONFIG.yaml --documents 5

The documents go through the pipeline's own step (curation.pipeline.steps), one at a time: read, filters,
decontamination, teacher, gates, leak check. Only a whole run can find duplicates and draw the random numbers of its
batches, so at a temperature above 0 a preview shows other samples of the same teacher.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from datatrove.data import Document
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Column, Table
from rich.text import Text
from transformers.utils.logging import disable_progress_bar

from configs.files import Record
from configs.format import number as figure
from configs.schema import Config
from curation.console.progress import say
from curation.corpus.filters import Cleaner, Refusal
from curation.corpus.finding import Shard
from curation.corpus.inputs import model_writes
from curation.corpus.related import Neighbours, index
from curation.corpus.shards import BadRow, read_shard
from curation.corpus.training_data import training_id
from curation.pipeline.dataset import RAW
from curation.pipeline.inputs import find_input, rewriting_inputs, teacher_checkpoint
from curation.pipeline.rewriter import rewriting
from curation.pipeline.steps import RewriteWithTeacher
from student.engine.model_names import check_name
from teacher.prompting.prompts import context_line

PASSAGES = 3
"""Most passages of a document that are shown."""
INDEXED = 200
"""Documents among which a preview looks for related passages; a run looks among all."""
CHARACTERS = 1500
"""Most characters of a text that are shown."""
VERDICTS = {
    "read": ("cannot be read", "red"),
    "filter": ("filtered", "yellow"),
    "step": ("a filter failed", "yellow"),
    "gate": ("refused by gate", "red"),
    "leak_check": ("leak", "magenta"),
    "prompt": ("no room in the prompt", "red"),
    "teacher": ("the teacher failed", "bold red"),
}
"""The words and the colour of a refusal, by the stage that refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewedRow:
    """What became of a row of the input, or of a passage of it, whose text was `before` as far as it could be read."""

    id: str
    before: str
    cleaned: str | None = None
    """The text after the filters, where they changed it."""
    refusal: Refusal | None = None
    """Why it did not reach the teacher. Stage `read`: it could not be read."""
    source_tokens: int | None = None
    place: str = ""
    """Which passage it is of a document that is cut."""
    records: tuple[Record, ...] = ()
    """Its terminal records, as a run has them: one a rewrite, and its own text where that is mixed in."""


@contextmanager
def standalone_step(config: Config) -> Iterator[RewriteWithTeacher]:
    """The pipeline's step outside a run, to refuse and rewrite documents, not to write parts. Loads no model yet. Files
    of a vLLM server go to a folder that is removed with the block, not to `curation.output`. Raises UserError where the
    config's teacher or benchmarks do not exist."""
    with TemporaryDirectory(prefix="notewright-") as name:
        elsewhere = config.curation.model_copy(update={"output": Path(name)})
        # Hashing large weights for a whole run's settings would take longer than the preview.
        yield RewriteWithTeacher(rewriting_inputs(config.model_copy(update={"curation": elsewhere})))


def preview(config: Config, documents: int) -> Iterator[PreviewedRow]:
    """The result of `documents` documents of `curation.input`, spread over its files, and of the rows before them that
    cannot be read; each as soon as it is done. Raises UserError for missing input or a teacher that does not exist."""
    shards = find_input(config)
    if model_writes(config) and not config.teacher.chooses_only:
        check_name(config.teacher.model, config.lab.dir)
    with standalone_step(config) as step, Cleaner(config.curation) as cleaner, rewriting(step.inputs):
        if step.reads_related:
            step.neighbours = Neighbours(index(_first_passages(step, cleaner, shards)))
        for number, item in enumerate(_spread(shards, documents, config.curation.limit)):
            if isinstance(item, PreviewedRow):
                yield item
                continue
            before = item.text
            if (refusal := step.refusal(item, cleaner)) is not None:
                cleaned = None if item.text == before else item.text
                yield PreviewedRow(id=item.id, before=before, cleaned=cleaned, refusal=refusal)
                continue
            for passage in (passages := step.passages(item))[:PASSAGES]:
                records = step.rewrite([passage], number)
                whole = len(passages) == 1
                yield PreviewedRow(
                    id=passage.id,
                    before=before if whole else passage.text,
                    cleaned=None if not whole or item.text == before else item.text,
                    place="" if whole else _place(passage, len(passages)),
                    source_tokens=records[0]["source_tokens"],
                    records=tuple(records),
                )


def _first_passages(step: RewriteWithTeacher, cleaner: Cleaner, shards: list[Shard]) -> Iterator[tuple[Document, str]]:
    """Those of a few documents, among which related ones are looked for, with their licences."""
    for item in _spread(shards, INDEXED, step.inputs.config.curation.limit):
        if isinstance(item, Document) and step.refusal(item, cleaner) is None:
            for passage in step.cutter.cut(item):
                yield passage, step.licence(item)


def _place(passage: Document, of: int) -> str:
    line = context_line(passage)
    return f"passage {passage.id.rpartition('/')[2]} of {of}, of which {min(of, PASSAGES)} are shown {line}".rstrip()


def _spread(shards: list[Shard], documents: int, limit: int | None) -> Iterator[Document | PreviewedRow]:
    """The first documents of files that are spread evenly over the input, equally many of each. Where a file is too
    short, the files after it give more."""
    files, remaining = min(documents, len(shards)), documents
    for number in range(files):
        shard = shards[number * len(shards) // files]
        # What earlier files did not give is shared among the rest, rounded up.
        share = -(-remaining // (files - number))
        for item in read_shard(shard, share if limit is None else min(share, limit)):
            if isinstance(item, BadRow):
                id = shard.name if item.row is None else f"{shard.name}#{item.row}"
                yield PreviewedRow(id=id, before=item.text, refusal=Refusal("read", item.reason))
                continue
            item.metadata["training_id"] = training_id(shard, item.metadata["source_row"], item.text)
            remaining -= 1
            yield item


def print_preview(config: Config, documents: int, console: Console | None = None) -> None:
    """Shows `preview` and counts at the end; colours and columns on a terminal, plain lines elsewhere."""
    disable_progress_bar()  # the one shown while weights load
    console = console or Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, soft_wrap=True, file=console.file)
    rows: list[PreviewedRow] = []
    if model_writes(config):
        checkpoint, _ = teacher_checkpoint(config)
        say(f"the teacher is {checkpoint or config.teacher.model}")
    for row in preview(config, documents):
        rows.append(row)
        for part in _columns(row) if console.is_terminal else _plain(row):
            console.print(part)
    console.print(_summary(config, rows))


def verdict(stage: str | None, reason: str | None, detail: str | None = None) -> Text:
    """`kept`, or which stage refused it and why."""
    if stage is None or reason is None:
        return Text("kept", style="green")
    words, colour = VERDICTS[stage]
    why = f": {reason}" if reason != stage else ""
    return Text(f"{words}{why}{f' ({detail})' if detail else ''}", style=colour)


def _heading(name: str, tokens: int | None, *refusal: str | None, place: str = "") -> Text:
    """Name, length and verdict in a line; without a `refusal` no verdict."""
    heading = Text(name, style="bold")
    if place:
        heading.append(f" · {place}", style="dim")
    if tokens is not None:
        heading.append(f" · {tokens} tokens", style="dim")
    if refusal:
        heading.append(" · ").append_text(verdict(*refusal))
    return heading


def _heading_of(record: Record) -> Text:
    name = "its own text" if record["strategy"] == RAW else str(record["strategy"] or "a rewrite")
    if window := record.get("window"):
        name += f" of part {window}"
    for source in record["sources"][1:]:
        name += f" with {source['id']}"
    if (gain := record.get("predicted_gain")) is not None:
        name += f" · predicted {figure(gain, sign=True)} above the other samples"
    return _heading(name, record.get("tokens"), record["stage"], record["reason"], record["detail"])


def _columns(row: PreviewedRow) -> Iterator[RenderableType]:
    """The source on the left; on the right each rewrite, below its verdict."""
    left: list[RenderableType] = [Text(_shown(row.before))]
    if row.cleaned is not None:
        left += [Text("as the filters leave it", style="bold"), Text(_shown(row.cleaned))]
    right: list[RenderableType] = []
    for record in row.records:
        right += [_heading_of(record), Text(_shown(record.get("text") or "")), Text()]
    grid = Table.grid(Column(ratio=1), Column(ratio=1), expand=True, padding=(0, 2))
    grid.add_row(Group(*left), Group(*right))
    title = _heading(row.id, row.source_tokens, *row.refusal or (), place=row.place)
    yield Panel(grid if right else Group(*left), title=title, title_align="left")


def _plain(row: PreviewedRow) -> Iterator[RenderableType]:
    def indented(text: str) -> str:
        return _shown(text).replace("\n", "\n    ")

    yield _heading(row.id, row.source_tokens, *row.refusal or (), place=row.place)
    yield Text(f"  before: {indented(row.before)}")
    if row.cleaned is not None:
        yield Text(f"  filtered to: {indented(row.cleaned)}")
    for record in row.records:
        yield Text("  ").append_text(_heading_of(record))
        if record.get("text"):
            yield Text(f"    {indented(record['text'])}")
    yield Text()


def _shown(text: str) -> str:
    """A text cut to CHARACTERS, and without control characters, which could command the terminal."""
    more = f" ... ({len(text) - CHARACTERS} more characters)" if len(text) > CHARACTERS else ""
    return "".join(c if c in "\n\t" or c.isprintable() else "�" for c in text[:CHARACTERS]) + more


def _summary(config: Config, rows: list[PreviewedRow]) -> RenderableType:
    def counted(reasons: Iterable[Text]) -> str:
        return "".join(f", {count} {reason}" for reason, count in Counter(map(str, reasons)).most_common())

    refusals = counted(verdict(*row.refusal) for row in rows if row.refusal is not None)
    rewrites = [record for row in rows for record in row.records if record["strategy"] != RAW]
    refused = counted(verdict(r["stage"], r["reason"]) for r in rewrites if r["reason"] is not None)
    kept = [record for record in rewrites if record["reason"] is None]
    source = sum(row.source_tokens or 0 for row in rows)
    lines = [
        f"{len(rows)} rows: {sum(bool(row.records) for row in rows)} reached the teacher{refusals}",
        f"{len(rewrites)} rewrites: {len(kept)} kept{refused}",
        f"tokens: {source} in, {sum(record['tokens'] for record in kept)} out (kept rewrites)",
    ]
    if config.curation.dedup != "none":
        lines.append(f"duplicates ({config.curation.dedup}) are only found by `notewright curate`, in the whole input")
    return Text("\n".join(lines))
