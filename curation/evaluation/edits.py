"""Sequences of edits: a student is taught a batch of documents, its adapter merged, and the next batch follows.

After each edit it is asked about all documents of its sequence, taught or not (SEAL, arXiv 2506.10943, section 5: after
eight edits it knows less than before the first). With replay some documents of each lesson are those of earlier edits,
at the same tokens and steps. Sequences differ in which documents come together, in what order, and in the seeds; each
is run without replay and with it, and both have the first edit in common. After it every student has a base of its own,
so that edits cannot share the batches of the stacked engine: they are trained one after another.
"""

import json
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from configs.files import read_own, write_whole
from configs.seeds import stable_seed
from curation.evaluation.records import ITEM_COLUMNS
from curation.evaluation.students import ArmStudents, Row, RunKey
from student.plans import TaughtText
from student.records import Job
from teacher.reward.assignment import batches_of
from teacher.reward.student_models import MakePool, StudentFailed, train_and_save
from teacher.run.checkpoints import save_folder

ROWS_FILE = "result.json"
"""In the folder of an edit: what the student answered after it; no rows where it failed."""


def run_edits(
    students: ArmStudents,
    texts: Mapping[str, Sequence[TaughtText]],
    make_pool: MakePool,
    folder: Path,
    say: Callable[[str], None],
    *,
    distill: bool = False,
) -> list[Row]:
    """The rows of all `evaluation.sequences`, in the setting `sequence`, with the lessons `texts`.

    What the students answered is kept under `folder`; a merged model is as large as its base, and only those that are
    needed to go on are kept. An edit whose student fails ends its sequence. Raises RunError."""
    settings = students.config.evaluation
    rows: list[Row] = []
    for sequence in range(settings.sequences):
        say(f"sequence {sequence + 1}/{settings.sequences} of {settings.edits} edits")
        edit_of = _edits_of_documents(students, sequence)
        jobs_of = {
            "replay" if replay else "none": _edit_jobs(students, edit_of, texts, replay, sequence, distill)
            for replay in (0.0, settings.replay)
        }
        # Named by its student, all that it is taught and asked, and what is kept of it, so that another sequence finds
        # no folder.
        digest = stable_seed(
            students.pool.fingerprint, ITEM_COLUMNS.names, [repr(job) for jobs in jobs_of.values() for job in jobs]
        )
        kept = folder / f"{sequence}-{digest:08x}"
        for arm, jobs in jobs_of.items():
            key = RunKey("sequence", arm, students.config.rl.rewrites_per_lesson, sequence, 0)
            base = students.settings.model
            for edit, job in enumerate(jobs, start=1):
                # The first edit is trained by whichever comes first.
                place = kept / ("edit-01" if edit == 1 else f"{arm}-{edit:02d}")
                if not (place / ROWS_FILE).is_file():
                    _save_edit(students, edit_of, key, job, edit, base, make_pool, place)
                answers = read_own(place / ROWS_FILE, list)
                if not answers:
                    say(f"edit {edit} of sequence {sequence + 1} ({arm}) failed: the sequence ends before it")
                    break
                # The first edit's were written under the name of the other one.
                rows += [answer | {"arm": arm} for answer in answers]
                if Path(base) not in (kept / "edit-01", Path(students.settings.model)):
                    _drop_weights(Path(base))
                base = str(place)
        for place in kept.iterdir():
            _drop_weights(place)
    return rows


def _drop_weights(folder: Path) -> None:
    for weights in folder.glob("*.safetensors"):
        weights.unlink()


def _edits_of_documents(students: ArmStudents, sequence: int) -> dict[str, int]:
    """The edit, from 1 on, that first teaches each document of a sequence: drawn anew for each sequence."""
    names = [document.id for document in students.inputs.documents]
    random.Random(stable_seed(students.config.run.seed, "sequence", sequence)).shuffle(names)
    batches = batches_of(len(names), students.config.reward.documents_together)[: students.config.evaluation.edits]
    return {names[d]: edit for edit, batch in enumerate(batches, start=1) for d in batch}


def _edit_jobs(
    students: ArmStudents,
    edit_of: Mapping[str, int],
    texts: Mapping[str, Sequence[TaughtText]],
    replay: float,
    sequence: int,
    distill: bool,
) -> list[Job]:
    """The lesson of each edit; every exam asks about the documents of all edits."""
    jobs, seed = [], students.config.run.seed
    for edit in range(1, max(edit_of.values()) + 1):
        names = [name for name, first in edit_of.items() if first == edit]
        past = [name for name, first in edit_of.items() if first < edit]
        replayed = min(len(past), round(len(names) * replay / (1 - replay)))
        names += random.Random(stable_seed(seed, "replay", sequence, edit)).sample(past, replayed)
        taught = [(name, text) for name in names for text in texts.get(name, ())]
        chance = stable_seed(seed, "edit", sequence, edit)
        job = students.runs.job(list(edit_of), taught, chance, "heldout", distill=distill)
        jobs.append(students.with_extra_questions(job))
    return jobs


def _save_edit(
    students: ArmStudents,
    edit_of: Mapping[str, int],
    key: RunKey,
    job: Job,
    edit: int,
    base: str,
    make_pool: MakePool,
    kept: Path,
) -> None:
    """Trains, examines and merges one edit of `base` into `kept`, with its rows; without rows where it failed."""
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
        kept.mkdir()
        write_whole(kept / ROWS_FILE, "[]")
