"""Curates a corpus: shards in, filters, teacher rewrites, gates, and a dataset folder ready for the Hub out.

    notewright curate CONFIG.yaml curation.input=[shards/*.jsonl.gz] curation.output=runs/mine/dataset

    shard -> preflight -> reader -> filters -> dedup -> decontaminate
          -> teacher -> gates -> leak check -> mix -> Parquet, manifest, card

datatrove runs the steps, one task an input file. Its failure paths lose rows in silence, so what makes a run whole is
ours: every batch is one durable part that holds exactly one terminal record per document and rewrite, a part is named
by its task and its place in the file, and the dataset appears only when the parts hold every document of preflight.
"""

import errno
import shutil
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from configs.errors import RunError, UserError
from configs.files import locked
from configs.schema import Config
from curation.console.progress import CurationProgress, say
from curation.console.tables import stdout_console
from curation.corpus.decontaminate import BenchmarkIndex
from curation.corpus.filters import is_unknown
from curation.corpus.shards import Shard
from curation.pipeline.card import write_card
from curation.pipeline.dataset import documents_done, merge
from curation.pipeline.dedup import find_duplicates
from curation.pipeline.executors.local import run_tasks
from curation.pipeline.executors.ray import run_on_ray
from curation.pipeline.executors.slurm import Queued, job_name, refuse_queued, run_on_slurm, wait_for_jobs
from curation.pipeline.fingerprint import (
    acquire_output,
    benchmark_items,
    fingerprint,
    is_unbeaten,
    refuse_foreign,
    run_settings,
    sampling_config,
    shards_of,
    teacher_checkpoint,
)
from curation.pipeline.manifest import WORK, read_manifest, write_manifest
from curation.pipeline.overview import diversity, examples, leak_check
from curation.pipeline.preflight import Checked, preflight, save_preflight
from curation.pipeline.rewriter import load_rewriter, server
from curation.pipeline.steps import ReadShard, RewriteWithTeacher


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
    stopped; returns at once if the dataset is complete. Raises Queued where the tasks are left to Slurm (without
    `curation.wait`): the same call finishes the dataset later. Raises UserError for missing or wholly empty input, a
    folder that holds something else and a run that is going on; RunError if the disk is full, a worker dies, the
    teacher fails on a whole batch or nothing passes.
    """
    started = time.monotonic()
    output = config.curation.output
    shards = shards_of(config)
    refuse_foreign(output)
    queued = None
    try:
        output.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                with locked(output / WORK / "lock"):
                    return _curate(config, shards, started, queued)
            except Queued as waiting:
                if not config.curation.wait:
                    raise
                queued = queued or waiting
                say(str(waiting))
            # Without the lock: another call may ask how the jobs stand.
            _wait(config, queued)
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


def _wait(config: Config, queued: Queued) -> None:
    work = config.curation.output / WORK
    log = work / "progress.jsonl"
    log.unlink(missing_ok=True)
    with CurationProgress(log, documents_done(work / "parts"), queued.total):
        wait_for_jobs(queued.name, config.curation.slurm.poll_seconds)


def _curate(config: Config, shards: list[Shard], started: float, queued: Queued | None) -> CurateSummary:
    """`queued` is what this call waited for."""
    trained_as, config = config, sampling_config(config)
    output, work = config.curation.output, config.curation.output / WORK
    checked, bad_rows = preflight(shards, config.curation.limit, work)
    _check_licences(config, checked)
    checkpoint = teacher_checkpoint(trained_as)
    items = benchmark_items(config)
    index = BenchmarkIndex(config)
    settings = run_settings(config, checkpoint, checked, items, index)
    acquire_output(output, settings)
    if (output / "manifest.json").exists():
        _clean(work)
        return _summary(config, resumed=None, seconds=time.monotonic() - started)
    if bad_rows is not None:
        save_preflight(work, checked, bad_rows)
    if checkpoint is None and config.curation.writer == "teacher" and queued is None:
        why = "no round beat the untrained teacher" if is_unbeaten(config) else "no trained teacher"
        say(f"{why} in {config.run.dir}: curating with {config.teacher.model} as it is")
    done, total = documents_done(work / "parts"), sum(c.documents for c in checked)
    if done and queued is None:
        say(f"going on: {done} of {total} documents are finished")
    rewrite = RewriteWithTeacher(config, checkpoint, settings, items, shards, work)
    read = ReadShard(shards, config.curation.limit, [c.documents for c in checked])
    if config.curation.dedup != "none" and not (work / "duplicates/complete").exists():
        say(f"looking for {config.curation.dedup} duplicates among {total} documents")
        find_duplicates(config.curation, read, rewrite.new_cleaner, len(shards), work)
    _run(config, read, rewrite, done, total, first=queued is None)
    files = [c.counts() for c in checked]
    try:
        shard_bytes = config.curation.shard_megabytes << 20
        merged = merge(work / "parts", files, work / "bad_rows.jsonl", output, work / "merged", shard_bytes)
    finally:
        shutil.rmtree(work / "merged", ignore_errors=True)
    manifest = {
        "fingerprint": fingerprint(settings),
        "settings": settings,
        "unbeaten": is_unbeaten(config),
        "versions": {name: version(name) for name in ("torch", "transformers", "datatrove", "pyarrow")},
        "files": [_plain(file) for file in files],
        **_plain(merged),
        "gates": rewrite.gates,
        "leak_check": leak_check(index, merged),
        "diversity": diversity(config.rl.diversity_alarm, merged),
        "examples": examples(output, shards, merged.shards, rewrite.new_cleaner()),
    }
    write_card(output, manifest)
    write_manifest(output, manifest)
    _clean(work)
    return _summary(config, resumed=queued.done if queued else done, seconds=time.monotonic() - started)


def _check_licences(config: Config, checked: list[Checked]) -> None:
    """Raises UserError where no document would be left."""
    curation = config.curation
    if is_unknown(curation.licence) and not curation.allow_unknown_licence and not any(c.licensed for c in checked):
        raise UserError(
            "no document names its licence: set curation.licence to theirs, or curation.allow_unknown_licence=true"
        )


def _run(config: Config, read: ReadShard, rewrite: RewriteWithTeacher, done: int, total: int, first: bool) -> None:
    """Runs the tasks to their end, or raises Queued. `first`: not after this call has waited for the queue."""
    curation, work = config.curation, rewrite.work
    steps, tasks = [read, rewrite], len(read.shards)
    # One folder for all executors: a task that one completed is complete for the others.
    logs, log = work / "datatrove", work / "progress.jsonl"
    if curation.executor == "slurm":
        name = job_name(curation.output, fingerprint(rewrite.settings))
        run_on_slurm(steps, tasks, curation.slurm, logs, name, done=done, total=total, again=first)
        return
    refuse_queued(logs)
    log.unlink(missing_ok=True)
    try:
        with CurationProgress(log, done, total):
            if curation.executor == "ray":
                run_on_ray(steps, tasks, curation.ray, logs)
            else:
                with server(config, rewrite.checkpoint, work):
                    run_tasks(steps, tasks, curation.workers, logs)
    finally:
        load_rewriter.cache_clear()


def _plain(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__slots__}


def _clean(work: Path) -> None:
    """Removes what only an unfinished run needs."""
    for name in ("parts", "tasks", "datatrove", "dedup", "duplicates", "vllm"):
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
        unbeaten=is_unbeaten(config),
        **counts,
        rows_out=manifest["rows"],
        tokens_out=manifest["tokens"],
        shards=len(manifest["shards"]),
        resumed=counts["documents_in"] if resumed is None else resumed,
        seconds=seconds,
    )


def print_curation(summary: "CurateSummary") -> None:
    """What went in, what came out, and where it is."""
    table = Table("curation", "", title_justify="left")
    untrained = "no round beat the untrained teacher" if summary.unbeaten else "untrained"
    table.add_row("teacher", Text(f"{summary.teacher} ({'trained' if summary.trained else untrained})"))
    table.add_row("documents in", f"{summary.documents_in}")
    table.add_row("documents out", f"{summary.documents_out}")
    table.add_row("filtered, quarantined, failed", f"{summary.filtered}, {summary.quarantined}, {summary.failed}")
    table.add_row("rows out", f"{summary.rows_out} ({summary.tokens_out} tokens, {summary.shards} shards)")
    fresh = summary.documents_in - summary.resumed
    pace = f", {fresh / summary.seconds:.1f} documents/s" if fresh > 0 and summary.seconds > 0 else ""
    table.add_row("time", f"{summary.seconds:.0f} s{pace}")
    console = stdout_console()
    console.print(table)
    console.print(f"dataset: {summary.output}", markup=False)
