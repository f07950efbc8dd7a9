"""A sequence of edits: one student is taught a batch of documents, its adapter merged, and the next batch follows.

After each edit it is asked about the documents of all edits, past and to come (SEAL, arXiv 2506.10943, section 5: after
eight edits it knows less than before the first). With replay some documents of each lesson are those of earlier edits,
at the same tokens and steps.
"""

import json
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from configs.files import write_whole
from configs.seeds import stable_seed
from curation.evaluation.students import ArmStudents, Row, RunKey
from student.records import Job
from teacher.reward.assignment import batches_of
from teacher.reward.student_models import MakePool, StudentFailed, train_and_save
from teacher.run.checkpoints import save_folder

ROWS_FILE = "result.json"
"""In the folder of a merged model: what the student answered after the edit."""


def run_edits(
    students: ArmStudents,
    texts: Mapping[str, Sequence[str]],
    replay: float,
    make_pool: MakePool,
    folder: Path,
    say: Callable[[str], None],
) -> list[Row]:
    """The rows of a sequence of `evaluation.edits` edits with the lessons `texts`, in the setting `sequence`.

    Each finished edit is kept under `folder`, and only the newest merged model. An edit whose student fails ends the
    sequence. Raises RunError."""
    arm = "replay" if replay else "none"
    names = [document.id for document in students.inputs.documents]
    batches = batches_of(len(names), students.config.reward.documents_together)[: students.config.evaluation.edits]
    # The edit, from 1 on, that first teaches each document.
    edit_of = {names[d]: edit for edit, batch in enumerate(batches, start=1) for d in batch}
    jobs = _edit_jobs(students, edit_of, texts, replay)
    # Named by its student and all that it is taught and asked, so that another sequence finds no folder.
    folder /= f"{arm}-{stable_seed(students.pool.fingerprint, [repr(job) for job in jobs]):08x}"
    rows: list[Row] = []
    base = students.settings.model
    for edit, job in enumerate(jobs, start=1):
        kept = folder / f"edit-{edit:02d}"
        if not (kept / ROWS_FILE).is_file():
            say(f"edit {edit}/{len(jobs)}{' with replay' if replay else ''}")
            if not _save_edit(students, edit_of, arm, job, edit, base, make_pool, kept):
                say(f"edit {edit} failed: the sequence ends before it")
                break
        rows += json.loads((kept / ROWS_FILE).read_text(encoding="utf-8"))
        base = str(kept)
        # A merged model is as large as its base; only the newest is needed to go on.
        for weights in folder.glob("edit-*/*.safetensors"):
            if weights.parent != kept:
                weights.unlink()
    return rows


def _edit_jobs(
    students: ArmStudents, edit_of: Mapping[str, int], texts: Mapping[str, Sequence[str]], replay: float
) -> list[Job]:
    """The lesson of each edit; every exam asks about the documents of all edits."""
    jobs, seed = [], students.config.run.seed
    for edit in range(1, max(edit_of.values()) + 1):
        names = [name for name, first in edit_of.items() if first == edit]
        past = [name for name, first in edit_of.items() if first < edit]
        replayed = min(len(past), round(len(names) * replay / (1 - replay)))
        names += random.Random(stable_seed(seed, "replay", edit)).sample(past, replayed)
        taught = [(name, text) for name in names for text in texts.get(name, ())]
        job = students.runs.job(list(edit_of), taught, stable_seed(seed, "edit", edit), "heldout")
        jobs.append(students.with_extra_questions(job))
    return jobs


def _save_edit(
    students: ArmStudents,
    edit_of: Mapping[str, int],
    arm: str,
    job: Job,
    edit: int,
    base: str,
    make_pool: MakePool,
    kept: Path,
) -> bool:
    """Trains, examines and merges one edit of `base` into `kept`, with its rows; False where the student failed."""
    key = RunKey("sequence", arm, students.config.rl.rewrites_per_lesson, 0, 0)
    settings = students.settings.model_copy(update={"model": base, "models": (), "pool": "inline"})
    pool = make_pool(settings)

    def save(partial: Path) -> None:
        outcome = train_and_save(pool, job, settings, base, partial)
        if outcome.error is not None:
            raise StudentFailed(outcome.error)
        # A row's batch is the edit that teaches its document; 0 of items about none.
        rows = [
            row | {"batch": edit_of.get(row["document_id"], 0)} for row in students.rows(key, job, outcome, edit=edit)
        ]
        write_whole(partial / ROWS_FILE, json.dumps(rows, allow_nan=False))

    shutil.rmtree(kept, ignore_errors=True)  # a folder without rows is of an edit that was cut short
    try:
        save_folder(kept, save, "the same command goes on")
    except StudentFailed:
        return False
    return True
