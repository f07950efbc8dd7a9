"""Curates a corpus: shards in, teacher rewrites, gates, and a dataset folder ready for the Hub out.

    notewright curate CONFIG.yaml curation.input=[shards/*.jsonl.gz] curation.output=runs/mine/dataset

datatrove runs the steps, one task an input file. Its failure paths lose rows in silence, so what makes a run whole is
ours: every batch is one durable part that holds exactly one terminal record per document and rewrite, a part is named
by its task and its place in the file, and the dataset appears only when the parts hold every document of preflight.
"""

import errno
import hashlib
import os
import shutil
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datatrove.data import Document
from datatrove.executor import LocalPipelineExecutor
from transformers.utils import cached_file

from configs.errors import RunError, UserError
from configs.load import load_config
from configs.schema import Config
from curation.card import write_card
from curation.dataset import merge
from curation.documents import Shard, find_shards, read_documents, read_shard
from curation.manifest import (
    WORK,
    Checked,
    claim,
    die_with_parent,
    fingerprint,
    hash_folder,
    locked,
    preflight,
    read_manifest,
    refuse_foreign,
    save_preflight,
    write_manifest,
)
from curation.progress import CurationProgress, say
from curation.rewriting import GATES, ReadShard, RewriteWithTeacher, load_pen
from student.benchmarks import DocumentQuestions
from student.models import check_folder
from student.records import Question
from teacher.reward import external_questions
from teacher.strategies import read_strategy, strategy_label
from teacher.train import latest_checkpoint

FORMAT = 1
"""Version of the rows that this code makes; part of the fingerprint."""
EXAMPLES = 3
EXAMPLE_CHARACTERS = 600

_running = False
# datatrove's manager process is forked and would outlive a killed parent for ever.
os.register_at_fork(after_in_child=lambda: die_with_parent() if _running else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class CurateSummary:
    """What came out. `documents_in` is the sum of out, filtered, quarantined and failed."""

    output: Path
    teacher: str
    trained: bool
    documents_in: int
    documents_out: int
    filtered: int
    quarantined: int
    failed: int
    rows_out: int
    tokens_out: int
    """Tokens of the rows' texts, the teacher's tokenizer."""
    shards: int
    resumed: int
    """Documents that earlier, unfinished calls had done; all of them where the dataset was complete already."""
    seconds: float


def curate(config: Config) -> CurateSummary:
    """Curates `curation.input` into the dataset folder `curation.output`; see the module's text.

    Takes the newest checkpoint of `run.dir`, or says that the teacher is untrained. Goes on where an interrupted call
    stopped; returns at once if the dataset is complete. Raises UserError for missing or wholly empty input, a folder
    that holds something else and a run that is going on; RunError if the disk is full, the teacher fails on a whole
    batch or no rewrite passes the gates.
    """
    started = time.monotonic()
    output = config.curation.output
    shards = _shards(config)
    refuse_foreign(output)
    try:
        output.mkdir(parents=True, exist_ok=True)
        with locked(output / WORK / "lock"):
            return _curate(config, shards, started)
    except BlockingIOError:
        raise UserError(f"another curation is writing to {output}: wait, or name another curation.output") from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        done = _documents_done(output / WORK / "parts", config.curation.rewrites_per_document)
        raise RunError(
            f"the disk is full at {output}: {done} documents are finished and kept in {output / WORK}; free some space "
            "and run the same command again to go on"
        ) from None


def _shards(config: Config) -> list[Shard]:
    if not config.curation.input:
        raise UserError("curation.input names no shards: name JSONL or Parquet files, e.g. curation.input=[a.jsonl]")
    if not config.teacher.model:
        raise UserError("teacher.model is not set: a folder or a Hub id of a causal language model")
    if _sampling(config).teacher.temperature == 0 and config.curation.rewrites_per_document > _prompts(config):
        raise UserError(
            f"curation.rewrites_per_document={config.curation.rewrites_per_document} at temperature 0 would write the "
            f"same text again: at most {_prompts(config)}, or set curation.temperature"
        )
    return find_shards(config.curation.input)


def _prompts(config: Config) -> int:
    return 1 if config.teacher.prompting == "policy" else len(set(config.teacher.strategies))


def _sampling(config: Config) -> Config:
    """The config with the temperature that curation samples at."""
    if config.curation.temperature is None:
        return config
    teacher = config.teacher.model_copy(update={"temperature": config.curation.temperature})
    return config.model_copy(update={"teacher": teacher})


def _curate(config: Config, shards: list[Shard], started: float) -> CurateSummary:
    config = _sampling(config)
    output, work = config.curation.output, config.curation.output / WORK
    n = config.curation.rewrites_per_document
    checked, bad_rows = preflight(shards, config.curation.limit, work)
    checkpoint = latest_checkpoint(config.run.dir)
    check_folder(config.teacher.model)
    if checkpoint is not None:
        check_same_teacher(config)
    items = benchmark_items(config)
    settings = _settings(config, checkpoint, checked, items)
    claim(output, settings)
    if (output / "manifest.json").exists():
        _clean(work)
        return _summary(output, resumed=None, seconds=time.monotonic() - started)
    if bad_rows is not None:
        save_preflight(work, checked, bad_rows)
    if checkpoint is None:
        say(f"no trained teacher in {config.run.dir}: curating with {config.teacher.model} as it is")
    done, total = _documents_done(work / "parts", n), sum(c.documents for c in checked)
    if done:
        say(f"going on: {done} of {total} documents are finished")
    log = work / "progress.jsonl"
    log.unlink(missing_ok=True)
    with CurationProgress(log, done, total):
        _run(config, shards, RewriteWithTeacher(config, checkpoint, settings, items, work))
    files = [c.counts() for c in checked]
    try:
        merged = merge(work / "parts", files, work / "bad_rows.jsonl", output, work / "merged")
    finally:
        shutil.rmtree(work / "merged", ignore_errors=True)
    manifest = {
        "fingerprint": fingerprint(settings),
        "settings": settings,
        "versions": {name: version(name) for name in ("torch", "transformers", "datatrove", "pyarrow")},
        "files": [_plain(file) for file in files],
        **_plain(merged),
        "gates": GATES,
        "examples": _examples(output, shards, merged.shards),
    }
    write_card(output, manifest)
    write_manifest(output, manifest)
    _clean(work)
    return _summary(output, resumed=done, seconds=time.monotonic() - started)


def check_same_teacher(config: Config) -> None:
    """Raises UserError if the run that trained the checkpoint had another teacher than this config.

    A checkpoint that was put there by hand has no config beside it, and is taken as it is.
    """
    path = config.run.dir / "config.yaml"
    trained = load_config(path) if path.is_file() else config
    for key in ("model", "prompting", "strategies", "lora"):
        theirs, ours = getattr(trained.teacher, key), getattr(config.teacher, key)
        if theirs != ours:
            raise UserError(f"{config.run.dir} trained another teacher (teacher.{key}: {theirs} -> {ours})")


def _settings(config: Config, checkpoint: Path | None, checked: list[Checked], items: list[Question]) -> dict[str, Any]:
    """Everything that changes the rows, as JSON; what only changes their speed is left out."""
    prompted = config.teacher.strategies if config.teacher.prompting == "strategy" else ()
    strategies = {s: read_strategy(s) for s in prompted}
    labels = [strategy_label(s) for s in config.teacher.strategies]
    name = Path(config.teacher.model).name if Path(config.teacher.model).is_dir() else config.teacher.model
    curation = config.curation.model_dump(mode="json", exclude={"input", "output", "workers", "temperature"})
    return {
        "format": FORMAT,
        "seed": config.run.seed,
        "teacher_name": f"{name}+{checkpoint.name}" if checkpoint else name,
        "teacher_hash": teacher_hash(config, checkpoint),
        "trained": checkpoint is not None,
        "teacher": config.teacher.model_dump(mode="json", exclude={"model", "lora"}) | {"strategies": labels},
        "strategies": {strategy_label(s): hashlib.sha256(text.encode()).hexdigest() for s, text in strategies.items()},
        "gates": config.gates.model_dump(mode="json"),
        "benchmark_items": hashlib.sha256(repr([(q.prompt, q.answer) for q in items]).encode()).hexdigest(),
        "curation": curation,
        "input": {c.name: c.sha256 for c in checked},
    }


def teacher_hash(config: Config, checkpoint: Path | None) -> str:
    """SHA-256 of the weights that write: the checkpoint's, and where it is an adapter also its base model's. A base
    model from the Hub is named by its commit."""
    parts = [] if checkpoint is None else [hash_folder(checkpoint)]
    if checkpoint is None or (checkpoint / "adapter_config.json").is_file():
        folder = Path(config.teacher.model)
        if folder.is_dir():
            parts.append(hash_folder(folder))
        else:
            try:
                parts.append(Path(str(cached_file(config.teacher.model, "config.json"))).parent.name)
            except OSError as error:
                raise UserError(f"cannot load model {config.teacher.model!r}: {str(error).splitlines()[0]}") from None
    return parts[0] if len(parts) == 1 else hashlib.sha256("\n".join(parts).encode()).hexdigest()


def benchmark_items(config: Config) -> list[Question]:
    """The questions that no rewrite may carry: those of `data.heldout`, and the held-out ones of all others."""
    benchmark = DocumentQuestions(config.student.prompt_template)
    heldout = read_documents(config.data.heldout) if config.data.heldout else []
    train = read_documents(config.data.train) if config.data.train else []
    items = [q for document in heldout for q in benchmark.exam(document).questions]
    others = [q for document in train for q in benchmark.exam(document).questions] + [*external_questions(config)]
    return items + [question for question in others if question.split == "heldout"]


def _run(config: Config, shards: list[Shard], rewrite: "RewriteWithTeacher") -> None:
    global _running
    workers = min(config.curation.workers, len(shards))
    executor = LocalPipelineExecutor(
        pipeline=[ReadShard(shards, config.curation.limit), rewrite],
        tasks=len(shards),
        workers=workers,
        logging_dir=str(rewrite.work / "datatrove"),
        # Not datatrove's forkserver: a worker's parent is then this process, whose death must be its own.
        start_method="spawn",
    )
    _running = True
    try:
        executor.run()
    finally:
        _running = False
        load_pen.cache_clear()


def _documents_done(parts: Path, rewrites: int) -> int:
    return sum(pq.read_metadata(path).num_rows for path in parts.glob("*/*.parquet")) // rewrites


def _examples(output: Path, shards: list[Shard], data: list[dict[str, Any]]) -> list[dict[str, str]]:
    """The dataset's first rows beside their sources, shortened."""
    with pq.ParquetFile(output / data[0]["path"]) as file:
        rows = next(file.iter_batches(batch_size=EXAMPLES)).to_pylist()
    by_name = {shard.name: shard for shard in shards}
    examples = []
    for row in rows:
        sources = (d for d in read_shard(by_name[row["source_file"]]) if isinstance(d, Document))
        source = next(d.text for d in sources if d.metadata["source_row"] == row["source_row"])
        example = {"id": row["id"], "strategy": row["strategy"]}
        examples.append(example | {"source": _shortened(source), "text": _shortened(row["text"])})
    return examples


def _shortened(text: str) -> str:
    return text if len(text) <= EXAMPLE_CHARACTERS else text[:EXAMPLE_CHARACTERS].rsplit(" ", 1)[0] + " ..."


def _plain(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__slots__}


def _clean(work: Path) -> None:
    """Removes what only an unfinished run needs."""
    for name in ("parts", "tasks", "datatrove"):
        shutil.rmtree(work / name, ignore_errors=True)
    for name in ("bad_rows.jsonl", "progress.jsonl"):
        (work / name).unlink(missing_ok=True)


def _summary(output: Path, resumed: int | None, seconds: float) -> CurateSummary:
    manifest = read_manifest(output)
    for shard in manifest["shards"]:
        path = output / shard["path"]
        if not path.is_file() or path.stat().st_size != shard["bytes"]:
            raise RunError(f"{path} is missing or not as manifest.json has it: delete {output} and curate again")
    names = ("documents_in", "documents_out", "filtered", "quarantined", "failed")
    counts = {name: sum(file[name] for file in manifest["files"]) for name in names}
    return CurateSummary(
        output=output,
        teacher=manifest["settings"]["teacher_name"],
        trained=manifest["settings"]["trained"],
        **counts,
        rows_out=manifest["rows"],
        tokens_out=manifest["tokens"],
        shards=len(manifest["shards"]),
        resumed=counts["documents_in"] if resumed is None else resumed,
        seconds=seconds,
    )
