"""Everything that a curation run works from, found and checked before any model is loaded.

This reads every input file once: its documents, its unreadable rows, the hash of its bytes.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson
from datatrove.data import Document

from configs.errors import UserError
from configs.files import Record, read_own, write_whole
from configs.load import load_config
from configs.schema import Config
from curation.console.progress import say
from curation.corpus.decontaminate import BenchmarkIndex, read_benchmarks
from curation.corpus.exam_items import all_evaluation_items
from curation.corpus.filters import Cleaner
from curation.corpus.finding import Shard, Skipped, one_line, open_shard, shard_info
from curation.corpus.inputs import find_curation_input, model_writes
from curation.corpus.licences import is_unknown, licence_of
from curation.corpus.passages import WINDOWS, Cutter
from curation.corpus.shards import read_shard
from curation.corpus.training_data import read_documents
from curation.pipeline.dataset import WORK
from curation.pipeline.fingerprint import fingerprint, run_settings, written_by_endpoint
from student.benchmarks.sources import DocumentQuestions
from student.engine.model_names import check_available
from student.records import Question
from teacher.prompting.strategies import check_related, is_same, strategy_label
from teacher.prompting.template import load_tokenizer
from teacher.questions.cache import questions_file, read_questions
from teacher.reward.best_of import FittedScreen, read_screen
from teacher.reward.student_runs import heldout_items
from teacher.run.checkpoints import SCREEN_FILE, best_checkpoint, latest_checkpoint


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """One input file after preflight."""

    name: str
    version: str
    """Size and time stamp: the file is read again only if they changed."""
    limit: int | None
    sha256: str
    documents: int
    licensed: int
    """Documents that name a licence themselves."""
    bad_rows: int
    reason: str | None
    """Why the file could not be read from some point on, or that it is empty."""
    first_bad: str | None = None
    """The first row that cannot be used, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CurationInputs:
    """What a run works from. Goes to every process that works on it, so it can be pickled."""

    config: Config
    """That of `sampling_config`."""
    shards: tuple[Shard, ...] = ()
    files: tuple[CheckedFile, ...] = ()
    """One a shard."""
    checkpoint: Path | None
    """None: the untrained teacher writes, an endpoint's, or the echo."""
    unbeaten: bool
    """The run in `run.dir` has rounds, and its untrained teacher validated best."""
    items: tuple[Question, ...]
    """Questions that no rewrite may hold, for the gate `leak`."""
    index: BenchmarkIndex
    """Items of `curation.benchmarks`, which neither a document nor a row may hold."""
    settings: dict[str, Any]
    """Everything that changes the rows (`run_settings`)."""
    screen: FittedScreen | None = None
    """What chooses among `curation.best_of` samples."""
    skipped: Skipped = field(default_factory=dict)
    """What was found beside the shards, and is not read."""

    @property
    def work(self) -> Path:
        """The folder of the unfinished run."""
        return self.config.curation.output / WORK

    @property
    def fingerprint(self) -> str:
        """Names the run: equal fingerprints give equal rows (greedy: equal bytes)."""
        return fingerprint(self.settings)

    @property
    def documents(self) -> int:
        return sum(file.documents for file in self.files)


def read_inputs(config: Config, shards: Sequence[Shard]) -> tuple[CurationInputs, list[Record] | None]:
    """The inputs, and the rows that cannot be read (None where `check_files` knows the shards from an earlier call).
    Raises UserError for input without documents or licences, a teacher that does not exist, makes no prompts or is not
    the one that the run in `run.dir` trained, and benchmarks that cannot be read."""
    curation = config.curation
    # Raise where a filter is impossible, which a task would find out in the middle of the run, or a choice is.
    Cleaner(curation)
    fitted_screen(config)
    files, bad_rows = check_files(shards, curation.limit, curation.output / WORK)
    if is_unknown(curation.licence) and not curation.allow_unknown_licence and not any(f.licensed for f in files):
        raise UserError(
            "no document names its licence: set curation.licence to theirs, or curation.allow_unknown_licence=true"
        )
    if model_writes(config):
        if not config.teacher.chooses_only:
            check_available(config.teacher.model, config.lab.dir)
        load_tokenizer(config.teacher, config.serving, config.teacher.model)  # for its checks, before tasks start
    inputs = rewriting_inputs(config)
    hashes = {file.name: file.sha256 for file in files}
    settings = run_settings(inputs.config, inputs.checkpoint, hashes, inputs.items, inputs.index, inputs.screen)
    return replace(inputs, shards=tuple(shards), files=tuple(files), settings=settings), bad_rows


def rewriting_inputs(config: Config) -> CurationInputs:
    """What filters and teacher need, without shards, and with settings that name the teacher but do not hash it."""
    checkpoint, unbeaten = teacher_checkpoint(config)
    settings: dict[str, Any] = {"seed": config.run.seed, "teacher_name": config.teacher.model}
    return CurationInputs(
        config=sampling_config(config),
        checkpoint=checkpoint,
        unbeaten=unbeaten,
        items=benchmark_items(config),
        index=read_benchmarks(config.curation, config.gates.leak_ngram, config.student.prompt_template),
        screen=fitted_screen(config),
        settings=settings | dict.fromkeys(("teacher_hash", "adapter_hash")),
    )


def find_input(config: Config, skipped: Skipped | None = None) -> list[Shard]:
    """The input files, one task each; `skipped` is filled with what is not read. Raises UserError as
    `find_curation_input` does, and where the config asks for rewrites that would all be the same."""
    curation, teacher = config.curation, sampling_config(config).teacher
    shards = find_curation_input(config, skipped)
    check_related(teacher)
    if curation.writer == "echo":
        different: float = 1
    elif any(curation.temperatures(config.teacher)) and not all(map(is_same, teacher.strategies)):
        different = math.inf
    elif shares := curation.strategies:
        # With more rewrites a document gets the strategy with the largest share twice.
        different = math.floor(sum(shares.values()) / max(shares.values()))
    else:
        different = 1 if teacher.prompting == "policy" else len(set(teacher.strategies))
    different *= sum(WINDOWS[name] for name in set(curation.windows))
    if curation.rewrites_per_document * curation.best_of > different:
        more = "set curation.temperature above 0" if model_writes(config) else "add strategies"
        of = f", curation.best_of={curation.best_of}" if curation.best_of > 1 else ""
        raise UserError(
            f"curation.rewrites_per_document={curation.rewrites_per_document}{of} would write the same text again: at "
            f"most {different}, or {more}"
        )
    return shards


def sampling_config(config: Config) -> Config:
    """The config with the temperature and the strategies that curation samples with."""
    curation = config.curation
    teacher = config.teacher
    temperatures = curation.temperatures(teacher)
    strategies = ("echo",) if curation.writer == "echo" else tuple(curation.strategies) or teacher.strategies
    changes = {
        "temperature": temperatures[0],
        "strategies": strategies,
        # Where no model writes, none chooses.
        "prompting": teacher.prompting if model_writes(config) else "strategy",
    }
    curation = curation.model_copy(update={"temperature": temperatures})
    return config.model_copy(update={"teacher": teacher.model_copy(update=changes), "curation": curation})


def fitted_screen(config: Config) -> FittedScreen | None:
    """What chooses among `curation.best_of` samples; None where a row has one. Raises UserError where the run in
    `run.dir` fitted no screen, or one that tells too little of what is sampled here."""
    run, asked, floor = config.run.dir, f"curation.best_of={config.curation.best_of}", config.reward.screen.floor
    if config.curation.best_of == 1:
        return None
    path = run / "teacher" / SCREEN_FILE
    if not path.is_file():
        raise UserError(
            f"{asked} chooses by what a training run learnt of its students, and there is no {path}: train there with"
            " reward.credit 'document' or 'shared' and one rewrite a lesson, or leave best_of out"
        )
    screen, teacher = read_screen(path), sampling_config(config).teacher
    if not screen.correlation.low > floor:
        raise UserError(
            f"{asked}: the screen of {run} is off, with a {screen.told} and reward.screen.floor={floor:g}: leave"
            " best_of out, or train with other reward.screen.signs"
        )
    unseen = [name for name in map(strategy_label, teacher.strategies) if name not in screen.strategies]
    if unseen and teacher.prompting == "strategy":
        raise UserError(f"{asked}: the screen of {run} has seen no lesson of strategy {unseen[0]!r}")
    if screen.student is not None:
        check_available(config.student.names[0], config.lab.dir)
    return screen


def teacher_checkpoint(config: Config) -> tuple[Path | None, bool]:
    """The checkpoint to write with (None: the base model), and whether the run has rounds of which none gained
    more than the untrained teacher. The model itself need not be on this machine. Raises UserError if the run trained
    another teacher."""
    if not model_writes(config) or written_by_endpoint(config):
        return None, False
    trained = latest_checkpoint(config.run.dir) is not None
    if trained:
        check_same_teacher(config)
    checkpoint = best_checkpoint(config.run.dir)
    return checkpoint, trained and checkpoint is None


def check_same_teacher(config: Config) -> None:
    """Raises UserError if the run in `run.dir` had another teacher than this config. A checkpoint that was copied there
    has no config beside it, and is taken as it is."""
    path = config.run.dir / "config.yaml"
    trained = load_config(path) if path.is_file() else config
    for key in ("model", "prompting", "strategies", "lora"):
        old, new = getattr(trained.teacher, key), getattr(config.teacher, key)
        if old != new:
            raise UserError(f"{config.run.dir} trained another teacher (teacher.{key}: {old} -> {new})")


def benchmark_items(config: Config) -> tuple[Question, ...]:
    """The questions that no rewrite may hold: those of `data.heldout`, the held-out ones of all others, and what
    `evaluate` asks beside them. A document without questions has those that were written for training, if any were.
    Raises UserError."""
    benchmark = DocumentQuestions(config.student.prompt_template)
    known = read_questions(questions_file(config)) if config.data.train or config.data.heldout else {}

    def documents(patterns: tuple[str, ...]) -> list[Document]:
        if not patterns:
            return []
        share = config.questions.heldout_share
        return read_documents(patterns, known=known, heldout_share=share, cut=Cutter(config).cut, optional=True)

    asked = [question for document in documents(config.data.heldout) for question in benchmark.exam(document).questions]
    return (*asked, *heldout_items(config, documents(config.data.train)), *all_evaluation_items(config))


def check_files(
    shards: Sequence[Shard], limit: int | None, work: Path
) -> tuple[list[CheckedFile], list[Record] | None]:
    """The files, and the quarantine records of what cannot be read; None where `work` already has them, because
    shards that are unchanged since `save_preflight` are not read again. Prints a line for each file with a defect.
    Raises UserError if no shard has a document, and then leaves their reasons in quarantine.jsonl."""
    state = work / "checked.json"
    versions = [_version(shard) for shard in shards]
    known = read_own(state, lambda files: [CheckedFile(**file) for file in files]) if state.exists() else []
    wanted = [(shard.name, version, limit) for shard, version in zip(shards, versions, strict=True)]
    if [(file.name, file.version, file.limit) for file in known] == wanted:
        return known, None
    bad_rows: list[Record] = []
    files = [_check_file(shard, version, limit, bad_rows) for shard, version in zip(shards, versions, strict=True)]
    for file in files:
        if file.reason:
            usable = f"; {file.documents} documents before that are used" if file.documents else ""
            say(f"{file.name}: {file.reason}{usable}")
        if file.bad_rows:
            rows = file.documents + file.bad_rows
            say(f"{file.name}: {file.bad_rows} of {rows} rows cannot be used and go to quarantine; {file.first_bad}")
    if not any(file.documents for file in files):
        causes = "; ".join(f"{file.name}: {file.reason or file.first_bad}" for file in files[:3])
        where = _keep_refused(work, bad_rows)
        raise UserError(f"no documents in {len(files)} input file{'s' * (len(files) > 1)} ({causes}){where}")
    return files, bad_rows


def _keep_refused(work: Path, bad_rows: list[Record]) -> str:
    """Leaves the rows of an input without documents in the quarantine of the output folder, unless another run has its
    work there; returns where they are, for a message."""
    path = work.parent / "quarantine.jsonl"
    if (work.parent / "manifest.json").exists() or (work / "settings.json").exists():
        return ""
    write_whole(path, b"".join(orjson.dumps(record) + b"\n" for record in bad_rows))
    return f"; every row's reason is in {path}"


def save_preflight(work: Path, files: Sequence[CheckedFile], bad_rows: list[Record]) -> None:
    """Keeps what `check_files` returned; only for a folder that is acquired: before that it may be another run's."""
    write_whole(work / "bad_rows.jsonl", b"".join(orjson.dumps(record) + b"\n" for record in bad_rows))
    write_whole(work / "checked.json", json.dumps([asdict(file) for file in files], indent=1))


def _check_file(shard: Shard, version: str, limit: int | None, bad_rows: list[Record]) -> CheckedFile:
    """Adds the quarantine records to `bad_rows`."""
    documents = unusable = licensed = 0
    reason = first_bad = None
    for item in read_shard(shard, limit):
        if isinstance(item, Document):
            documents += 1
            licensed += not is_unknown(licence_of(item.metadata, ""))
            continue
        record = {"source_file": shard.name, "source_row": item.row, "source_id": None, "rewrite": None}
        bad_rows.append({**record, "stage": "read", "reason": item.reason, "strategy": None, "text": item.text})
        if item.row is None:
            reason = item.reason
        else:
            unusable += 1
            first_bad = first_bad or f"row {item.row}: {item.reason}"
    if not documents and not unusable:
        reason = reason or "empty"
    return CheckedFile(
        shard.name, version, limit, _content_hash(shard), documents, licensed, unusable, reason, first_bad
    )


def _version(shard: Shard) -> str:
    try:
        info = shard_info(shard)
    except OSError as error:
        return one_line(error)
    stamp = next((info[key] for key in ("mtime", "ETag", "LastModified", "updated") if info.get(key)), "")
    return f"{info.get('size')} {stamp}"


def _content_hash(shard: Shard) -> str:
    """The hash that a remote store already has of the content, else its SHA-256."""
    try:
        info = shard_info(shard)
        known = next((info[key] for key in ("lfs", "blob_id", "ETag", "md5Hash") if info.get(key)), None)
        if known is not None:
            return str(getattr(known, "sha256", known))
        with open_shard(shard) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        # `read_shard` has reported the reason already; the file takes part with unknown content.
        return f"unreadable: {one_line(error)}"
