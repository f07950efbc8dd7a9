"""What the teacher and the pipeline cost on a sample of documents, measured by the code that curates."""

import io
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stderr
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from datatrove.data import Document

from configs.errors import RunError, UserError
from configs.schema import Config
from curation.pipeline.curate import curate
from curation.pipeline.dataset import RAW
from curation.pipeline.manifest import read_manifest
from curation.pipeline.preview import lone_step
from curation.pipeline.rewriter import load_rewriter, server
from curation.pipeline.steps import Record, RewriteWithTeacher
from curation.plan.models import model_size, token_counter, why_not_loadable
from curation.plan.quantity import Quantity, exact, mean_of, share_of
from student.engine.models import check_folder

WRITING_SECONDS = 25.0
FEW, MANY = 32, 256
"""Documents of the two curations of which the difference is what one more document costs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherFigures:
    """Of one teacher on one sample. What could not be measured is assumed, and `notes` says so."""

    parameters: Quantity | None
    weights_gb: float | None
    """In bfloat16."""
    source_tokens: Quantity
    """A document."""
    written_tokens: Quantity
    """A rewrite, kept or refused."""
    kept: Quantity
    """Share of the rewrites that pass the gates and the leak check."""
    kept_tokens: Quantity
    """A kept rewrite."""
    rewrites_measured: int
    tokens_per_second: float | None
    """Written on this machine, by the process that curates."""
    at_once: int | None
    """Rewrites in the batch that this was measured on."""
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineFigures:
    """Of the pipeline without its teacher."""

    cpu_ms: Quantity
    """A document."""
    past_filters: Quantity
    """Share of the documents that reach the teacher."""
    bytes_per_character: float
    """Of the dataset's Parquet, provenance included."""


def measure_pipeline(config: Config, sample: Sequence[Document]) -> PipelineFigures:
    """Curates the sample with an echo in the teacher's place, in a folder that goes away. At two sizes, so that what a
    run costs whatever its size is not taken for the cost of documents.

    Raises UserError where the filters refuse the whole sample.
    """
    many = sample[:MANY]
    few = many[: min(FEW, max(1, len(many) // 4))]
    with tempfile.TemporaryDirectory(prefix="notewright-plan-") as name:
        _curate_echo(config, few, Path(name) / "first")  # imports what the filters need
        few_ms, _ = _curate_echo(config, few, Path(name) / "few")
        many_ms, manifest = _curate_echo(config, many, Path(name) / "many")
    if manifest is None:
        raise UserError(f"the filters leave none of {len(many)} sampled documents: look with `notewright preview`")
    a_document = (many_ms - few_ms) / max(1, len(many) - len(few))
    filtered = sum(file["filtered"] + file["failed"] for file in manifest["files"])
    characters = sum(len(document.text) for document in many)
    return PipelineFigures(
        # With few documents the difference is small: the truth lies between it and the whole.
        cpu_ms=Quantity(max(a_document, 0.05), max(a_document, 0.05), many_ms / len(many), "measured"),
        past_filters=share_of(len(many) - filtered, len(many)),
        bytes_per_character=sum(shard["bytes"] for shard in manifest["shards"]) / max(1, characters),
    )


def _curate_echo(config: Config, sample: Sequence[Document], folder: Path) -> tuple[float, dict[str, Any] | None]:
    """Milliseconds of CPU, and the manifest; None where nothing passed."""
    folder.mkdir()
    source = folder / "sample.jsonl"
    source.write_bytes(b"".join(orjson.dumps(_row(d), default=str) + b"\n" for d in sample))
    changes = {
        "input": (str(source),), "output": folder / "dataset", "limit": None, "writer": "echo", "workers": 1,
        "executor": "local", "rewrites_per_document": 1, "strategies": {}, "keep_raw": 0.0,
    }  # fmt: skip
    echo = config.model_copy(
        update={
            "curation": config.curation.model_copy(update=changes),
            # What the teacher writes is gated elsewhere; here a text is refused for what the filters say of it.
            "gates": config.gates.model_copy(update={"min_words": 1, "max_repetition": 1.0, "max_tokens": None}),
            "run": config.run.model_copy(update={"dir": folder / "run"}),
        }
    )
    began = _cpu_seconds()
    try:
        with redirect_stderr(io.StringIO()):
            curate(echo)
    except RunError:
        return 0.0, None
    return 1000 * (_cpu_seconds() - began), read_manifest(echo.curation.output)


def _row(document: Document) -> dict[str, Any]:
    own = {k: v for k, v in document.metadata.items() if k not in ("source_file", "source_row", "source_id")}
    return own | {"id": document.metadata["source_id"], "text": document.text}


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def measure_teacher(
    config: Config, sample: Sequence[Document], parameters: float | None, tell: Callable[[str], None]
) -> TeacherFigures:
    """Writes a few rewrites with the teacher of the config where its weights are on this machine and fit its memory;
    where not, states what is assumed. `parameters` is what the user says of its size."""
    with lone_step(config) as step:
        documents = _past_filters(step, sample)
        if config.curation.writer == "echo":
            return _echo_figures(documents)
        model, notes = config.teacher.model, list[str]()
        check_folder(model)
        size = model_size(model, parameters, notes)
        count, exactly = token_counter(model, notes)
        source = mean_of([count(document.text) for document in documents])
        if not exactly:
            source = source._replace(how="assumed")
        records, last, seconds = list[Record](), list[Record](), 0.0
        why = why_not_loadable(model, size, config.teacher.device, config.teacher.dtype)
        if config.teacher.writer == "endpoint":
            why = None
        if why is None:
            tell(f"writing a few rewrites with {model}")
            try:
                with server(step.config, step.checkpoint, step.work):
                    records, last, seconds = _write(step, documents)
            except (UserError, RunError) as error:
                # A server or a package that is missing: a plan says so and goes on.
                why = str(error)
        if why is not None:
            notes.append(f"the teacher was not run ({why}): nothing about its rewrites is measured")
    written = _tokens(records)
    if written:
        accepted = _tokens(record for record in records if record["reason"] is None)
        length, kept = mean_of(written), share_of(len(accepted), len(records))
        kept_tokens = mean_of(accepted) if accepted else length
    else:
        most = config.teacher.max_new_tokens
        guess = min(source.value, float(most))
        notes.append(f"a rewrite is assumed to be as long as its document, at most {most} tokens, and to be kept")
        length = kept_tokens = Quantity(guess, 0.5 * guess, float(most), "assumed")
        kept = Quantity(1.0, 0.5, 1.0, "assumed")
    return TeacherFigures(
        parameters=size,
        weights_gb=None if size is None else 2 * size.value / 1e9,
        source_tokens=source,
        written_tokens=length,
        kept=kept,
        kept_tokens=kept_tokens,
        rewrites_measured=len(records),
        tokens_per_second=sum(_tokens(last)) / seconds if _tokens(last) else None,
        at_once=len(last) or None,
        notes=tuple(notes),
    )


def _echo_figures(documents: Sequence[Document]) -> TeacherFigures:
    same = mean_of([float(len(document.text.split())) for document in documents])
    return TeacherFigures(
        parameters=None, weights_gb=None, source_tokens=same, written_tokens=same, kept=exact(1.0), kept_tokens=same,
        rewrites_measured=0, tokens_per_second=None, at_once=None, notes=("an echo writes: its tokens are words",),
    )  # fmt: skip


def _past_filters(step: RewriteWithTeacher, sample: Sequence[Document]) -> list[Document]:
    """Copies of the documents that reach the teacher, as the filters leave them, in random order."""
    documents = deepcopy(list(sample))
    for document in documents:
        document.metadata["training_id"] = document.id
    with step.new_cleaner() as cleaner:
        kept = [document for document in documents if step.refusal(document, cleaner) is None]
    random.Random(0).shuffle(kept)
    return kept


def _write(step: RewriteWithTeacher, documents: list[Document]) -> tuple[list[Record], list[Record], float]:
    """Terminal records of all rewrites, those of the last batch, and the seconds that it took.

    The last batch is the largest that fits the time: as a batch costs less than its documents one by one.
    """

    def timed(some: list[Document], batch: int) -> tuple[list[Record], float]:
        began = time.perf_counter()
        with redirect_stderr(io.StringIO()):
            records = step.rewrite(some, batch)
        return [record for record in records if record["strategy"] != RAW], time.perf_counter() - began

    if not documents:
        return [], [], 0.0
    load_rewriter(step.config, step.checkpoint, step.items)
    first, seconds = timed(documents[:1], 0)
    most = max(1, step.config.teacher.batch_size // step.config.curation.rewrites_per_document)
    fits = min(most, len(documents), int(WRITING_SECONDS / seconds))
    if fits < 2:
        return first, first, seconds
    last, seconds = timed(documents[-fits:], 1)
    return [*first, *last], last, seconds


def _tokens(records: Iterable[Record]) -> list[float]:
    """Of the records that have a text: a rewrite on which the teacher failed has none."""
    return [float(record["tokens"]) for record in records if record.get("tokens") is not None]
