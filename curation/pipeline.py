"""Curates a corpus: shards in, filters, teacher rewrites, gates, and a dataset folder ready for the Hub out.

    notewright curate CONFIG.yaml curation.input=[shards/*.jsonl.gz] curation.output=runs/mine/dataset

    shard -> preflight -> reader -> filters -> dedup -> decontaminate
          -> teacher -> gates -> leak check -> mix -> Parquet, manifest, card

datatrove runs the steps, one task an input file. Its failure paths lose rows in silence, so what makes a run whole is
ours: every batch is one durable part that holds exactly one terminal record per document and rewrite, a part is named
by its task and its place in the file, and the dataset appears only when the parts hold every document of preflight.
"""

import errno
import hashlib
import math
import shutil
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from configs.errors import RunError, UserError
from configs.load import load_config
from configs.schema import Config
from curation.card import write_card
from curation.dataset import documents_done, merge
from curation.decontaminate import BenchmarkIndex
from curation.dedup import find_duplicates
from curation.documents import Shard, find_shards, read_documents
from curation.filters import is_unknown
from curation.manifest import (
    WORK,
    Checked,
    claim,
    fingerprint,
    hash_folder,
    locked,
    preflight,
    read_manifest,
    refuse_foreign,
    save_preflight,
    write_manifest,
)
from curation.overview import diversity, examples, leak_check
from curation.pen import load_pen
from curation.progress import CurationProgress, say
from curation.rewriting import ReadShard, RewriteWithTeacher
from curation.workers import run_tasks
from student.benchmarks import DocumentQuestions
from student.models import check_folder
from student.records import Question
from teacher.checkpoints import best_checkpoint, latest_checkpoint
from teacher.exams import external_questions
from teacher.gates import GATES
from teacher.questions import questions_file, read_questions
from teacher.strategies import read_strategy, strategy_label

FORMAT = 2
"""Version of the rows that this code makes; part of the fingerprint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CurateSummary:
    """What came out. `documents_in` is the sum of out, filtered, quarantined and failed."""

    output: Path
    teacher: str
    trained: bool
    unbeaten: bool
    """The teacher is untrained because no round of the run in `run.dir` beat it."""
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

    Takes the best checkpoint of `run.dir`, or says why the teacher is untrained. Goes on where an interrupted call
    stopped; returns at once if the dataset is complete. Raises UserError for missing or wholly empty input, a folder
    that holds something else and a run that is going on; RunError if the disk is full, a worker dies, the teacher fails
    on a whole batch or nothing passes.
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
        done = documents_done(output / WORK / "parts")
        raise RunError(
            f"the disk is full at {output}: {done} documents are finished and kept in {output / WORK}; free some space "
            "and run the same command again to go on"
        ) from None


def _shards(config: Config) -> list[Shard]:
    if not config.curation.input:
        raise UserError("curation.input names no shards: name JSONL or Parquet files, e.g. curation.input=[a.jsonl]")
    if not config.teacher.model and config.curation.writer == "teacher":
        raise UserError("teacher.model is not set: a folder or a Hub id of a causal language model")
    n = config.curation.rewrites_per_document
    most = _different(_sampling(config))
    if n > most:
        raise UserError(
            f"curation.rewrites_per_document={n} would write the same text again: at most {most}, or set "
            "curation.temperature above 0"
        )
    return find_shards(config.curation.input)


def _different(config: Config) -> float:
    """How many rewrites of a document can differ."""
    if config.curation.writer == "echo":
        return 1
    if config.teacher.temperature > 0:
        return math.inf
    if shares := config.curation.strategies:
        # Beyond this the likeliest strategy comes twice.
        return math.floor(sum(shares.values()) / max(shares.values()))
    return 1 if config.teacher.prompting == "policy" else len(set(config.teacher.strategies))


def _sampling(config: Config) -> Config:
    """The config with the temperature and the strategies that curation samples with."""
    curation = config.curation
    changes: dict[str, Any] = {}
    for temperature in (config.teacher.evaluation_temperature, curation.temperature):
        if temperature is not None:
            changes["temperature"] = temperature
    if curation.strategies:
        changes["strategies"] = tuple(curation.strategies)
    return config.model_copy(update={"teacher": config.teacher.model_copy(update=changes)})


def _curate(config: Config, shards: list[Shard], started: float) -> CurateSummary:
    trained_as, config = config, _sampling(config)
    output, work = config.curation.output, config.curation.output / WORK
    checked, bad_rows = preflight(shards, config.curation.limit, work)
    _check_licences(config, checked)
    checkpoint = _teacher(trained_as)
    items = benchmark_items(config)
    index = BenchmarkIndex(config)
    settings = _settings(config, checkpoint, checked, items, index)
    claim(output, settings)
    if (output / "manifest.json").exists():
        _clean(work)
        return _summary(config, resumed=None, seconds=time.monotonic() - started)
    if bad_rows is not None:
        save_preflight(work, checked, bad_rows)
    if checkpoint is None and config.curation.writer == "teacher":
        why = "no round beat the untrained teacher" if _unbeaten(config) else "no trained teacher"
        say(f"{why} in {config.run.dir}: curating with {config.teacher.model} as it is")
    done, total = documents_done(work / "parts"), sum(c.documents for c in checked)
    if done:
        say(f"going on: {done} of {total} documents are finished")
    rewrite = RewriteWithTeacher(config, checkpoint, settings, items, shards, work)
    _run(config, shards, rewrite, done, total)
    files = [c.counts() for c in checked]
    try:
        shard_bytes = config.curation.shard_megabytes << 20
        merged = merge(work / "parts", files, work / "bad_rows.jsonl", output, work / "merged", shard_bytes)
    finally:
        shutil.rmtree(work / "merged", ignore_errors=True)
    manifest = {
        "fingerprint": fingerprint(settings),
        "settings": settings,
        "unbeaten": _unbeaten(config),
        "versions": {name: version(name) for name in ("torch", "transformers", "datatrove", "pyarrow")},
        "files": [_plain(file) for file in files],
        **_plain(merged),
        "gates": GATES,
        "leak_check": leak_check(index, merged),
        "diversity": diversity(config.rl.diversity_alarm, merged),
        "examples": examples(output, shards, merged.shards, rewrite.new_cleaner()),
    }
    write_card(output, manifest)
    write_manifest(output, manifest)
    _clean(work)
    return _summary(config, resumed=done, seconds=time.monotonic() - started)


def _check_licences(config: Config, checked: list[Checked]) -> None:
    """Raises UserError where no document would be left."""
    curation = config.curation
    if is_unknown(curation.licence) and not curation.allow_unknown_licence and not any(c.licensed for c in checked):
        raise UserError(
            "no document names its licence: set curation.licence to theirs, or curation.allow_unknown_licence=true"
        )


def _teacher(config: Config) -> Path | None:
    """The checkpoint to write with. Raises UserError if there is no such teacher."""
    if config.curation.writer == "echo":
        return None
    checkpoint = best_checkpoint(config.run.dir)
    check_folder(config.teacher.model)
    if latest_checkpoint(config.run.dir) is not None:
        check_same_teacher(config)
    return checkpoint


def _unbeaten(config: Config) -> bool:
    """Whether the run has rounds, and its untrained teacher validated best."""
    run = config.run.dir
    return config.curation.writer != "echo" and best_checkpoint(run) is None and latest_checkpoint(run) is not None


def check_same_teacher(config: Config) -> None:
    """Raises UserError if the run in `run.dir` had another teacher than this config.

    A checkpoint that was put there by hand has no config beside it, and is taken as it is.
    """
    path = config.run.dir / "config.yaml"
    trained = load_config(path) if path.is_file() else config
    for key in ("model", "prompting", "strategies", "lora"):
        theirs, ours = getattr(trained.teacher, key), getattr(config.teacher, key)
        if theirs != ours:
            raise UserError(f"{config.run.dir} trained another teacher (teacher.{key}: {theirs} -> {ours})")


def _settings(
    config: Config, checkpoint: Path | None, checked: list[Checked], items: list[Question], index: BenchmarkIndex
) -> dict[str, Any]:
    """Everything that changes the rows, as JSON; what only changes their speed is left out."""
    echo = config.curation.writer == "echo"
    prompted = config.teacher.strategies if config.teacher.prompting == "strategy" and not echo else ()
    strategies = {s: read_strategy(s) for s in prompted}
    labels = [strategy_label(s) for s in config.teacher.strategies]
    name = Path(config.teacher.model).name if Path(config.teacher.model).is_dir() else config.teacher.model
    elsewhere = {"input", "output", "workers", "temperature", "benchmarks"}
    not_sampled = {"model", "lora", "evaluation_temperature"}  # `temperature` is what curation samples at
    adapter = checkpoint is not None and (checkpoint / "adapter_config.json").is_file()
    return {
        "format": FORMAT,
        "seed": config.run.seed,
        "teacher_name": "echo" if echo else f"{name}+{checkpoint.name}" if checkpoint else name,
        "teacher_hash": None if echo else teacher_hash(config, checkpoint),
        "adapter_hash": hash_folder(checkpoint) if checkpoint is not None and adapter else None,
        "trained": checkpoint is not None,
        "teacher": config.teacher.model_dump(mode="json", exclude=not_sampled) | {"strategies": labels},
        "strategies": {strategy_label(s): hashlib.sha256(text.encode()).hexdigest() for s, text in strategies.items()},
        "gates": config.gates.model_dump(mode="json"),
        "benchmarks": list(index.items),
        "benchmark_items": _items_hash(items, index),
        "curation": config.curation.model_dump(mode="json", exclude=elsewhere),
        "input": {c.name: c.sha256 for c in checked},
    }


def _items_hash(items: list[Question], index: BenchmarkIndex) -> str:
    gated = hashlib.sha256(repr([(q.prompt, q.answer) for q in items]).encode()).hexdigest()
    return hashlib.sha256(f"{gated}\n{index.sha256}".encode()).hexdigest() if index.items else gated


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
    """The questions that no rewrite may carry: those of `data.heldout`, and the held-out ones of all others.

    Documents without questions have those that were written for training, if any were. Raises UserError.
    """
    benchmark = DocumentQuestions(config.student.prompt_template)
    known = read_questions(questions_file(config)) if config.data.train or config.data.heldout else {}

    def asked(patterns: tuple[str, ...]) -> list[Question]:
        documents = read_documents(patterns, known=known, optional=True) if patterns else []
        return [question for document in documents for question in benchmark.exam(document).questions]

    items, others = asked(config.data.heldout), [*asked(config.data.train), *external_questions(config)]
    return items + [question for question in others if question.split == "heldout"]


def _run(config: Config, shards: list[Shard], rewrite: RewriteWithTeacher, done: int, total: int) -> None:
    curation, work = config.curation, rewrite.work
    read = ReadShard(shards, curation.limit)
    try:
        if curation.dedup != "none":
            say(f"looking for {curation.dedup} duplicates among {total} documents")
            find_duplicates(curation, read, rewrite.new_cleaner, len(shards), work)
        log = work / "progress.jsonl"
        log.unlink(missing_ok=True)
        with CurationProgress(log, done, total):
            run_tasks([read, rewrite], len(shards), curation.workers, work / "datatrove")
    finally:
        load_pen.cache_clear()


def _plain(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__slots__}


def _clean(work: Path) -> None:
    """Removes what only an unfinished run needs."""
    for name in ("parts", "tasks", "datatrove", "dedup", "duplicates"):
        shutil.rmtree(work / name, ignore_errors=True)
    for name in ("bad_rows.jsonl", "progress.jsonl"):
        (work / name).unlink(missing_ok=True)


def _summary(config: Config, resumed: int | None, seconds: float) -> CurateSummary:
    output = config.curation.output
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
        unbeaten=_unbeaten(config),
        **counts,
        rows_out=manifest["rows"],
        tokens_out=manifest["tokens"],
        shards=len(manifest["shards"]),
        resumed=counts["documents_in"] if resumed is None else resumed,
        seconds=seconds,
    )
