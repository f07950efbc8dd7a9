"""Curates a corpus: shards in, filters, teacher rewrites, gates, and a dataset folder ready for the Hub out.

    notewright curate CONFIG.yaml curation.input=[shards/*.jsonl.gz] curation.output=runs/mine/dataset

    shard -> preflight -> reader -> filters -> dedup -> decontaminate
          -> teacher -> gates -> leak check -> mix -> Parquet, manifest, card

datatrove runs the steps, one task an input file. Some of its failures lose rows in silence, so the guarantee that a run
is whole is our own: every batch is one durable part that holds exactly one terminal record per document and rewrite, a
part is named by its task and its place in the file, and the dataset appears only when the parts hold every document
that preflight counted.
"""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from datatrove.pipeline.base import PipelineStep
from rich.table import Table
from rich.text import Text

from configs.errors import RunError, UserError
from configs.files import is_full, locked, make_folder, write_whole
from configs.schema import Config
from curation.console.progress import CurationProgress, say
from curation.console.tables import stdout_console
from curation.corpus.finding import Shard, Skipped, describe_skipped
from curation.corpus.inputs import model_writes
from curation.pipeline.accounts import FileCounts
from curation.pipeline.card import dataset_card
from curation.pipeline.dataset import WORK, documents_done, merge
from curation.pipeline.dedup import find_duplicates
from curation.pipeline.executors.local import run_tasks
from curation.pipeline.executors.ray import run_on_ray
from curation.pipeline.executors.slurm import Queued, job_name, refuse_queued, run_on_slurm, wait_for_jobs
from curation.pipeline.fingerprint import acquire_output, refuse_foreign
from curation.pipeline.inputs import CurationInputs, find_input, read_inputs, save_preflight
from curation.pipeline.manifest import make_manifest, read_manifest, write_manifest
from curation.pipeline.reader import ReadShard
from curation.pipeline.related import index_corpus
from curation.pipeline.rewriter import rewriting
from curation.pipeline.steps import INDEX, RewriteWithTeacher


@dataclass(frozen=True, slots=True, kw_only=True)
class CurateSummary:
    """Counts of a finished dataset; `documents_in` is the sum of out, filtered, quarantined and failed. Tokens are the
    teacher's."""

    output: Path
    teacher: str
    trained: bool
    unbeaten: bool
    """The teacher is untrained because no round of the run in `run.dir` gained more."""
    documents_in: int
    documents_out: int
    filtered: int
    quarantined: int
    failed: int
    rows_out: int
    tokens_out: int
    shards: int
    resumed: int
    """Documents that earlier, unfinished calls had done; all of them where the dataset was complete already."""
    seconds: float


def curate(config: Config) -> CurateSummary:
    """Curates `curation.input` into the dataset folder `curation.output`; see the module's text.

    Takes the best checkpoint of `run.dir`, or says why the teacher is untrained. Goes on where an interrupted call
    stopped; returns at once if the dataset is complete. Raises Queued where the tasks are in Slurm's queue (without
    `curation.wait`): the same call finishes the dataset later. Raises UserError for missing or wholly empty input, a
    folder that holds something else and a run that is going on; RunError if the disk is full, a worker dies, the
    teacher fails on a whole batch or nothing passes.
    """
    started = time.monotonic()
    output, work = config.curation.output, config.curation.output / WORK
    skipped: Skipped = {}
    shards = find_input(config, skipped)
    if skipped:
        say(f"not read: {describe_skipped(skipped)}")
    queued = None
    try:
        refuse_foreign(output)
        make_folder(output)
        while True:
            try:
                with locked(work / "lock"):
                    return _curate(config, shards, skipped, started, queued)
            except Queued as waiting:
                if not config.curation.wait:
                    raise
                queued = queued or waiting
                say(str(waiting))
            # The lock is free meanwhile, so that another call may ask how the jobs stand.
            with _progress(work, documents_done(work / "parts"), queued.total):
                wait_for_jobs(queued.name, config.curation.slurm.poll_seconds)
    except BlockingIOError:
        raise UserError(f"another curation is writing to {output}: wait, or name another curation.output") from None
    except OSError as error:
        if not is_full(error):
            raise
        done = documents_done(work / "parts")
        raise RunError(
            f"the disk is full at {output}: {done} documents are finished and kept in {work}; free some space "
            "and run the same command again to go on"
        ) from None


def _progress(work: Path, done: int, total: int) -> CurationProgress:
    log = work / "progress.jsonl"
    log.unlink(missing_ok=True)
    return CurationProgress(log, done, total)


def _curate(
    config: Config, shards: Sequence[Shard], skipped: Skipped, started: float, queued: Queued | None
) -> CurateSummary:
    """`queued` are the jobs that this call has waited for."""
    inputs, bad_rows = read_inputs(config, shards)
    inputs = replace(inputs, skipped=skipped)
    curation, output, work = inputs.config.curation, config.curation.output, inputs.work
    acquire_output(output, inputs.settings)
    if (output / "manifest.json").exists():
        return _summary(inputs, resumed=None, started=started)
    if bad_rows is not None:
        save_preflight(work, inputs.files, bad_rows)
    done = documents_done(work / "parts")
    if queued is None:
        if inputs.checkpoint is None and model_writes(config):
            why = "no round gained more than the untrained teacher" if inputs.unbeaten else "no trained teacher"
            say(f"{why} in {config.run.dir}: curating with {config.teacher.model} as it is")
        if inputs.screen is not None:
            say(f"of {curation.best_of} texts that is kept which the run's screen predicts best: {inputs.screen.told}")
        if done:
            say(f"going on: {done} of {inputs.documents} documents are finished")
    read = ReadShard(list(shards), curation.limit, [file.documents for file in inputs.files])
    if curation.dedup != "none":
        find_duplicates(inputs, read)
    index_corpus(inputs, read)
    _run(inputs, [read, RewriteWithTeacher(inputs)], done, first=queued is None)
    # The bad rows are quarantined already; the merger counts the documents.
    files = [
        FileCounts(file.name, file.documents + file.bad_rows, quarantined=file.bad_rows, reason=file.reason)
        for file in inputs.files
    ]
    try:
        merged = merge(work, files, output, curation.shard_megabytes << 20, whole_documents=curation.rows == "document")
    finally:
        shutil.rmtree(work / "merged", ignore_errors=True)
    manifest = make_manifest(inputs, files, merged)
    write_whole(output / "README.md", str(dataset_card(output.resolve().name, manifest)))
    write_manifest(output, manifest)
    return _summary(inputs, resumed=queued.done if queued else done, started=started)


def _run(inputs: CurationInputs, steps: list[PipelineStep], done: int, first: bool) -> None:
    """Runs the tasks to their end, or raises Queued. `first`: this call has not waited for the queue yet."""
    curation, tasks, total = inputs.config.curation, len(inputs.shards), inputs.documents
    # One folder for all executors: a task that one of them completed is complete for the others.
    logs = inputs.work / "datatrove"
    if curation.executor == "slurm":
        name = job_name(curation.output, inputs.fingerprint)
        run_on_slurm(steps, tasks, curation.slurm, logs, name, done=done, total=total, again=first)
        return
    refuse_queued(logs)
    with _progress(inputs.work, done, total):
        if curation.executor == "ray":
            run_on_ray(steps, tasks, curation.ray, logs)
        else:
            with rewriting(inputs):
                run_tasks(steps, tasks, curation.workers, logs)


def _summary(inputs: CurationInputs, resumed: int | None, started: float) -> CurateSummary:
    """The summary of a finished dataset; also removes what only an unfinished one needs."""
    output = inputs.config.curation.output
    for name in ("parts", "tasks", "datatrove", "dedup", "duplicates", "vllm", "replies"):
        shutil.rmtree(inputs.work / name, ignore_errors=True)
    for name in ("bad_rows.jsonl", "progress.jsonl", INDEX):
        (inputs.work / name).unlink(missing_ok=True)
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
        unbeaten=inputs.unbeaten,
        **counts,
        rows_out=manifest["rows"],
        tokens_out=manifest["tokens"],
        shards=len(manifest["shards"]),
        resumed=counts["documents_in"] if resumed is None else resumed,
        seconds=time.monotonic() - started,
    )


def print_curation(summary: CurateSummary) -> None:
    """Shows what went in, what came out, and where it is."""
    table = Table("curation", "")
    untrained = "no round gained more than the untrained teacher" if summary.unbeaten else "untrained"
    table.add_row("teacher", Text(f"{summary.teacher} ({'trained' if summary.trained else untrained})"))
    table.add_row("documents in", f"{summary.documents_in}")
    table.add_row("documents out", f"{summary.documents_out}")
    table.add_row("filtered, quarantined, failed", f"{summary.filtered}, {summary.quarantined}, {summary.failed}")
    table.add_row("rows out", f"{summary.rows_out} ({summary.tokens_out} tokens, {summary.shards} shards)")
    done_now = summary.documents_in - summary.resumed
    speed = f", {done_now / summary.seconds:.1f} documents/s" if done_now > 0 and summary.seconds > 0 else ""
    table.add_row("time", f"{summary.seconds:.0f} s{speed}")
    console = stdout_console()
    console.print(table)
    console.print(f"dataset: {summary.output}", markup=False)
