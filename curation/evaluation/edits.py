"""A sequence of edits: one student is taught a batch of documents, its adapter merged, and the next batch follows.

After each edit it is asked about the documents of all edits, past and to come (SEAL, arXiv 2506.10943, section 5: after
eight edits it knows less than before the first). With replay some documents of each lesson are those of earlier edits,
at the same tokens and steps.
"""

import json
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from configs.errors import UserError
from configs.files import write_whole
from configs.schema import Config
from configs.seeds import stable_seed
from curation.evaluation.measure import Row, RunKey, StudentBench
from student.records import Job
from teacher.reward.assignment import batches_of
from teacher.reward.student_models import Keeping, MakePool, StudentFailed, train_and_save
from teacher.run.checkpoints import save_folder

KEPT = "result.json"


def run_edits(
    bench: StudentBench,
    texts: Mapping[str, Sequence[str]],
    replay: float,
    make_pool: MakePool,
    folder: Path,
    say: Callable[[str], None],
) -> list[Row]:
    """The rows of a sequence of `evaluation.edits` edits with the lessons `texts`, in the setting `sequence`.

    Each finished edit is kept under `folder`, and only the newest merged model. Edit 0 is the never-edited student. An
    edit whose student fails ends the sequence, which is then shorter. Raises UserError where the pool's students cannot
    be saved, and RunError.
    """
    arm = "replay" if replay else "none"
    found: list[Row] = []
    base = bench.config.student.model
    jobs = edit_jobs(bench, texts, replay)
    for number, job in enumerate(jobs, start=1):
        kept = folder / f"edit-{number:02d}"
        if not (kept / KEPT).is_file():
            say(f"edit {number}/{len(jobs)}{' with replay' if replay else ''}")
            rows = _edit(bench, job, number, arm, base, make_pool, kept)
            if rows is None:
                say(f"edit {number} failed: the sequence ends before it")
                break
        found += json.loads((kept / KEPT).read_text(encoding="utf-8"))
        base = str(kept)
        for earlier in folder.glob("edit-*/*.safetensors"):
            if earlier.parent != kept:
                earlier.unlink()
    return found


def edit_of(bench: StudentBench) -> dict[str, int]:
    """The edit, from 1 on, that first teaches each document."""
    names = [document.id for document in bench.documents]
    batches = batches_of(len(names), bench.config.reward.documents_together)[: bench.config.evaluation.edits]
    return {names[d]: number for number, batch in enumerate(batches, start=1) for d in batch}


def edit_jobs(bench: StudentBench, texts: Mapping[str, Sequence[str]], replay: float) -> list[Job]:
    """The lesson of each edit; every exam asks about the documents of all edits."""
    config = bench.config
    edits = edit_of(bench)
    everyone = list(edits)
    extra = tuple(question for items in bench.extra.values() for question in items)
    jobs = []
    for number in range(1, max(edits.values()) + 1):
        ids = [name for name, edit in edits.items() if edit == number]
        past = [name for name, edit in edits.items() if edit < number]
        again = min(len(past), round(len(ids) * replay / (1 - replay)))
        ids += random.Random(stable_seed(config.run.seed, "replay", number)).sample(past, again)
        taught = [(name, text) for name in ids for text in texts.get(name, ())]
        job = bench.runs.job(everyone, taught, stable_seed(config.run.seed, "edit", number), "heldout")
        jobs.append(replace(job, exam=replace(job.exam, questions=(*job.exam.questions, *extra))))
    return jobs


def _edit(
    bench: StudentBench, job: Job, number: int, arm: str, base: str, make_pool: MakePool, kept: Path
) -> list[Row] | None:
    """Trains, examines and merges one edit of `base` into `kept`; returns its rows, None where the student failed."""
    settings = bench.config.student.model_copy(update={"model": base, "models": (), "pool": "inline"})
    pool = make_pool(settings)
    if not isinstance(pool, Keeping):
        raise UserError("evaluation.edits merges students, and those of this pool cannot be saved: set it to 0")
    rows: list[Row] = []

    def save(partial: Path) -> None:
        outcome = train_and_save(pool, job, settings, base, partial)
        if outcome.error is not None:
            raise StudentFailed(outcome.error)
        place = RunKey("sequence", arm, bench.config.rl.rewrites_per_lesson, 0, 0)
        edits = edit_of(bench)
        # A row's batch is the edit that teaches its document; 0 of items about none.
        rows.extend(
            row | {"batch": edits.get(row["document_id"], 0)} for row in bench.rows(place, job, outcome, edit=number)
        )
        write_whole(partial / KEPT, json.dumps(rows, allow_nan=False))

    shutil.rmtree(kept, ignore_errors=True)  # a folder without its result is of another edit that was cut short
    try:
        save_folder(kept, save, "the same command goes on")
    except StudentFailed:
        return None
    return rows


def edits_folder(config: Config, bench: StudentBench, texts: Mapping[str, Sequence[str]], replay: float) -> Path:
    """Where a sequence is kept: named by its student and all that it is taught and asked, so that another one finds no
    folder."""
    digest = stable_seed(bench.pool.fingerprint, [repr(job) for job in edit_jobs(bench, texts, replay)])
    name = f"{'replay' if replay else 'none'}-{digest:08x}"
    return config.run.dir / "evaluation" / "students" / bench.label.replace("/", "-") / "edits" / name
