"""What the teacher and the pipeline cost on a sample of documents, measured by the code that curates."""

import io
import random
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stderr
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import orjson
from datatrove.data import Document

from configs.errors import RunError, UserError
from configs.files import Record
from configs.processes import cpu_seconds
from configs.schema import Config
from curation.corpus.filters import Cleaner
from curation.corpus.inputs import model_writes
from curation.corpus.related import relate
from curation.pipeline.curate import curate
from curation.pipeline.dataset import RAW
from curation.pipeline.manifest import read_manifest
from curation.pipeline.preview import standalone_step
from curation.pipeline.rewriter import rewriting
from curation.pipeline.steps import RewriteWithTeacher
from curation.plan.models import model_size, parameters_in_name, planned_cutter, token_counter, why_not_loadable
from curation.plan.quantity import Quantity, exact, mean_of, share_of
from student.engine.model_names import MissingFolder, check_name
from student.text.words import count_words
from teacher.prompting.strategies import by_label, is_ready, tag_of

WRITING_SECONDS = 25.0
FEW, MANY = 32, 256
"""Documents of the two curations of which the difference is what one more document costs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherCost:
    """The cost of one teacher on one sample. What could not be measured is assumed, and `notes` says so."""

    parameters: Quantity | None
    weights_gb: float | None
    """In bfloat16."""
    source_tokens: Quantity
    """Tokens of a passage."""
    passages: Quantity
    """Passages of a document that reaches the teacher."""
    rewrite_tokens: Quantity
    """Tokens of a rewrite, kept or refused."""
    sampled_tokens: Quantity
    """Tokens of it that the teacher samples: none of a ready text, or the tag by which it is chosen."""
    kept: Quantity
    """Share of the rewrites that pass the gates and the leak check."""
    kept_tokens: Quantity
    rewrites_measured: int
    tokens_per_second: float | None
    """Written on this machine, by the process that curates."""
    at_once: int | None
    """Rewrites in the batch that this was measured on."""
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineCost:
    """The cost of the pipeline without its teacher."""

    cpu_ms: Quantity
    """CPU time of a document."""
    past_filters: Quantity
    """Share of the documents that reach the teacher."""
    bytes_per_character: float
    """Bytes of the dataset's Parquet, provenance included."""


def measure_pipeline(config: Config, sample: Sequence[Document]) -> PipelineCost:
    """Curates the sample with an echo in the teacher's place, in a temporary folder. It does so at two sizes, so that
    the fixed cost of a run is not taken for the cost of documents.

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
    ms_a_document = max((many_ms - few_ms) / max(1, len(many) - len(few)), 0.05)
    filtered = sum(file["filtered"] + file["failed"] for file in manifest["files"])
    characters = sum(len(document.text) for document in many)
    return PipelineCost(
        # With few documents the difference is small: the truth lies between it and the whole.
        cpu_ms=Quantity(ms_a_document, ms_a_document, many_ms / len(many), "measured"),
        past_filters=share_of(len(many) - filtered, len(many)),
        bytes_per_character=sum(shard["bytes"] for shard in manifest["shards"]) / max(1, characters),
    )


def _curate_echo(config: Config, sample: Sequence[Document], folder: Path) -> tuple[float, dict[str, Any] | None]:
    """Milliseconds of CPU, and the manifest; None where no document passed."""
    folder.mkdir()
    source = folder / "sample.jsonl"
    # Reading adds these three; a row has to be as it was before.
    added = ("source_file", "source_row", "source_id")
    rows = (
        {key: value for key, value in document.metadata.items() if key not in added}
        | {"id": document.metadata["source_id"], "text": document.text}
        for document in sample
    )
    source.write_bytes(b"".join(orjson.dumps(row, default=str) + b"\n" for row in rows))
    changes = {
        "input": (str(source),), "output": folder / "dataset", "limit": None, "writer": "echo", "workers": 1,
        "executor": "local", "rewrites_per_document": 1, "best_of": 1, "strategies": {}, "keep_raw": 0.0,
    }  # fmt: skip
    curation, run = config.curation.model_copy(update=changes), config.run.model_copy(update={"dir": folder / "run"})
    # The teacher's texts are gated elsewhere; here a text is refused only for what the filters say of it.
    gates = config.gates.model_copy(update={"min_words": 1, "max_repetition": 1.0, "max_tokens": None})
    echo = config.model_copy(update={"curation": curation, "gates": gates, "run": run})
    start = cpu_seconds()
    try:
        with redirect_stderr(io.StringIO()):
            curate(echo)
    except RunError:
        return 0.0, None
    return 1000 * (cpu_seconds() - start), read_manifest(echo.curation.output)


def measure_teacher(
    config: Config, sample: Sequence[Document], parameters: float | None, progress: Callable[[str], None]
) -> TeacherCost:
    """Writes a few rewrites with the teacher of the config where its weights are on this machine and fit its memory;
    where not, states what is assumed. `parameters` is its size as the user states it."""
    with standalone_step(config) as step:
        step.cutter = planned_cutter(step.inputs.config, notes := list[str](), model_writes(step.inputs.config))
        documents, passages = _passages_for_teacher(step, sample)
        if not model_writes(step.inputs.config) or config.teacher.chooses_only:
            records = step.rewrite(documents[:MANY], 0)
            words = mean_of([float(count_words(document.text)) for document in documents])
            lengths, kept_lengths, kept = _lengths([record for record in records if record["strategy"] != RAW], words)
            return TeacherCost(
                parameters=model_size(config.teacher.model) if config.teacher.chooses_only else None, weights_gb=None,
                source_tokens=words, passages=passages, rewrite_tokens=lengths,
                sampled_tokens=exact(0.0), kept=kept, kept_tokens=kept_lengths, rewrites_measured=len(records),
                tokens_per_second=None, at_once=None, notes=("no model writes: tokens are words",),
            )  # fmt: skip
        teacher, model = config.teacher, config.teacher.model
        try:
            check_name(model)
        except MissingFolder:
            # A size is enough to plan with; without one the command in the error is the better answer.
            if parameters is None and parameters_in_name(model) is None:
                raise
        size = model_size(model, parameters, notes)
        count_tokens, exactly = token_counter(model, notes)
        source_tokens = mean_of([count_tokens(document.text) for document in documents])
        if not exactly:
            source_tokens = replace(source_tokens, how="assumed")
        records, last_batch, seconds, problem = list[Record](), list[Record](), 0.0, None
        if teacher.writer != "endpoint":
            problem = why_not_loadable(model, size, teacher.device, teacher.dtype)
        if problem is None:
            progress(f"writing a few rewrites with {model}")
            try:
                with rewriting(step.inputs):
                    records, last_batch, seconds = _write_rewrites(step, documents)
            except (UserError, RunError) as error:
                # A server or a package is missing: the plan says so and goes on.
                problem = str(error)
        if problem is not None:
            notes.append(f"the teacher was not run ({problem}): nothing about its rewrites is measured")
        sampled, last_sampled = (_sampled_tokens(step, some) for some in (records, last_batch))
    if _token_counts(records):
        rewrite_tokens, kept_tokens, kept = _lengths(records, source_tokens)
        sampled_tokens = mean_of(sampled)
    else:
        most = float(teacher.max_new_tokens)
        guess = min(source_tokens.value, most)
        notes.append(f"a rewrite is assumed to be as long as its document, at most {most:.0f} tokens, and to be kept")
        rewrite_tokens = sampled_tokens = kept_tokens = Quantity(guess, 0.5 * guess, most, "assumed")
        kept = Quantity(1.0, 0.5, 1.0, "assumed")
    last_tokens = sum(last_sampled)
    return TeacherCost(
        parameters=size, weights_gb=None if size is None else 2 * size.value / 1e9,
        source_tokens=source_tokens, passages=passages,
        rewrite_tokens=rewrite_tokens, sampled_tokens=sampled_tokens, kept=kept, kept_tokens=kept_tokens,
        rewrites_measured=len(records), tokens_per_second=last_tokens / seconds if last_tokens else None,
        at_once=len(last_batch) or None, notes=tuple(notes),
    )  # fmt: skip


def _passages_for_teacher(step: RewriteWithTeacher, sample: Sequence[Document]) -> tuple[list[Document], Quantity]:
    """The passages of copies of the documents that reach the teacher, as the filters leave them, in random order, and
    how many a document has."""
    documents = deepcopy(list(sample))
    for document in documents:
        document.metadata["training_id"] = document.id
    with Cleaner(step.inputs.config.curation) as cleaner:
        kept = [step.cutter.cut(document) for document in documents if step.refusal(document, cleaner) is None]
    passages = list(chain.from_iterable(kept))
    relate(passages, step.inputs.config.teacher.strategies)
    random.Random(0).shuffle(passages)
    return passages, mean_of([float(len(of_document)) for of_document in kept])


def _write_rewrites(step: RewriteWithTeacher, documents: list[Document]) -> tuple[list[Record], list[Record], float]:
    """Terminal records of all rewrites, those of the last batch, and the seconds that it took. It is the largest that
    fits the time, since a batch costs less than its documents one by one."""

    def timed(batch: list[Document], number: int) -> tuple[list[Record], float]:
        start = time.perf_counter()
        with redirect_stderr(io.StringIO()):
            records = step.rewrite(batch, number)
        return [record for record in records if record["strategy"] != RAW], time.perf_counter() - start

    if not documents:
        return [], [], 0.0
    step.load_rewriter()  # so that the first batch's time is writing alone
    first, seconds = timed(documents[:1], 0)
    config = step.inputs.config
    most = max(1, config.teacher.batch_size // config.curation.rewrites_per_document)
    fits = min(most, len(documents), int(WRITING_SECONDS / seconds))
    if fits < 2:
        return first, first, seconds
    last, seconds = timed(documents[-fits:], 1)
    return [*first, *last], last, seconds


def _lengths(records: Sequence[Record], otherwise: Quantity) -> tuple[Quantity, Quantity, Quantity]:
    """Tokens of a rewrite and of a kept one, `otherwise` where there is none, and the share that is kept."""
    written = _token_counts(records)
    accepted = _token_counts(record for record in records if record["reason"] is None)
    length = mean_of(written) if written else otherwise
    return length, mean_of(accepted) if accepted else length, share_of(len(accepted), max(1, len(records)))


def _sampled_tokens(step: RewriteWithTeacher, records: Iterable[Record]) -> list[float]:
    """What the teacher sampled for each record that has a text. Of a joined text it is taken to be all."""
    teacher, count = step.inputs.config.teacher, step.load_rewriter().count_tokens if records else None
    tokens = []
    for record in records:
        if record.get("tokens") is None:
            continue
        chosen = by_label(record["strategy"], teacher.strategies)
        ready, policy = chosen is not None and is_ready(chosen), teacher.prompting == "policy"
        assert count is not None, "there are records"
        tokens.append(float(record["tokens"] if not ready else count(tag_of(chosen)) if policy and chosen else 0))
    return tokens


def _token_counts(records: Iterable[Record]) -> list[float]:
    """Tokens of the records that have a text: a rewrite on which the teacher failed has none."""
    return [float(record["tokens"]) for record in records if record.get("tokens") is not None]
