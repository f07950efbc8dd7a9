"""Builds the lab once: shards of documents and small models. `notewright lab CONFIG.yaml`.

`lab.world: people` has fictional people, a teacher and two students; `grids` has tasks of grids and a student.

The students differ in one thing, and so in what helps them. `student-fixed` read each biography in one wording and
learns new people from questions with answers; `student-augmented` read each in 24 wordings and learns new people best
from prose (`STUDENTS` in curation.lab.models). The teacher starts with good and bad ways of rewriting.

Each part stands in a folder of its own with a mark of what it was built from; one whose mark does not fit the settings
is built anew. A part is built beside its place and renamed into it when it is whole: a build that is killed at any
moment leaves nothing half made, and the next one goes on with what is missing.
"""

import hashlib
import json
import multiprocessing
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from configs.errors import RunError
from configs.files import locked, read_own, write_json_lines
from configs.processes import worker_pool
from configs.schema import Lab
from curation.lab import grids, world
from student.records import Split

VERSION = {"people": 2, "grids": 3}
"""Of a world: raised whenever the code would build something else from the same settings."""

MODELS = ("teacher", "student-augmented", "student-fixed")
"""Of the people's world, slowest first: they are trained beside each other where there are cores."""
GRID_STUDENT = "student-grids"

MARK = "lab.json"
RETENTION_TEXTS = 64


def build_lab(lab: Lab, *, progress: Callable[[str], None] = print) -> None:
    """Builds what is missing of the lab in `lab.dir`: a folder for each of its models, and JSONL files in `shards`:
    lines `{id, text, questions, licence}` in train, heldout and (of people) curate, `{text}` in retention. The people
    of train and heldout are in a folder `rewrites` too, each with a text by every strategy of the world in the field
    `rewrites`, for teachers that choose and write nothing.

    Training runs in processes of their own, as many at a time as there are cores. `progress` is called from this thread
    with plain lines. Raises RunError where a model's training ends badly; what was finished is kept.
    """
    models = (GRID_STUDENT,) if lab.world == "grids" else MODELS
    texts = {"shards": _write_tasks} if lab.world == "grids" else {"shards": _write_people, "rewrites": _write_rewrites}
    if all(_is_built(lab, part) for part in (*texts, *models)):
        return
    lab.dir.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(lab.dir / ".lock"))
        except BlockingIOError:
            progress(f"another process builds the lab in {lab.dir}: waiting for it")
            # The lock goes with the process that holds it.
            stack.enter_context(locked(lab.dir / ".lock", wait=True))
        for leftover in lab.dir.glob(".building-*"):
            shutil.rmtree(leftover)
        for part, write in texts.items():
            if not _is_built(lab, part):
                with _placed(lab, part) as folder:
                    progress(f"{part}: {write(lab, folder)}")
        if missing := [name for name in models if not _is_built(lab, name)]:
            _train(missing, lab, progress)


def _fingerprint(lab: Lab, part: str) -> str:
    """Names what a part is built from. The students depend on the base people alone, that of grids on none."""
    of_people = {"base_people", "train_people", "heldout_people", "curate_people", "seed", "effort"}
    if part == GRID_STUDENT:
        relevant = {"seed", "effort"}
    elif lab.world == "grids":
        relevant = {"seed", "world", "train_tasks", "heldout_tasks"}
    else:
        relevant = {"seed", "base_people", "effort"} if part.startswith("student") else of_people
    settings = lab.model_dump(mode="json", include=relevant)
    return hashlib.sha256(json.dumps([VERSION[lab.world], part, settings], sort_keys=True).encode()).hexdigest()[:16]


def _is_built(lab: Lab, part: str) -> bool:
    mark = lab.dir / part / MARK
    return mark.is_file() and read_own(mark, lambda built: built["fingerprint"]) == _fingerprint(lab, part)


@contextmanager
def _placed(lab: Lab, part: str) -> Iterator[Path]:
    """A folder to build in, which takes the part's place when the block ends well."""
    folder = Path(tempfile.mkdtemp(prefix=f".building-{part}-", dir=lab.dir))
    try:
        yield folder
        mark = {"fingerprint": _fingerprint(lab, part), "version": VERSION[lab.world]}
        (folder / MARK).write_text(json.dumps(mark) + "\n")
        folder.chmod(0o755)
        shutil.rmtree(lab.dir / part, ignore_errors=True)
        folder.rename(lab.dir / part)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_tasks(lab: Lab, folder: Path) -> str:
    parts: list[tuple[str, int, Split]] = [
        ("train", lab.train_tasks, "reward"),
        ("heldout", lab.heldout_tasks, "heldout"),
    ]
    for group, count, split in parts:
        rows = [task.row(split, family.name) for family, task in grids.make_tasks(group, count, lab.seed)]
        write_json_lines(folder / f"{group}.jsonl", [row | {"licence": "cc0-1.0"} for row in rows])
    return f"{lab.train_tasks + lab.heldout_tasks} tasks written"


def _write_people(lab: Lab, folder: Path) -> str:
    start = lab.base_people  # the students have read of the people before these
    for name, count in ("train", lab.train_people), ("heldout", lab.heldout_people), ("curate", lab.curate_people):
        people = world.make_people(lab.seed, start, count)
        rows = [world.document(person, f"lab-{name}-{number:05d}") for number, person in enumerate(people)]
        write_json_lines(folder / f"{name}.jsonl", rows)
        start += count
    rng = random.Random(f"retention {lab.seed}")
    # Every other base person: those whose questions both students have read.
    known = world.make_people(lab.seed, 0, lab.base_people)[: 2 * RETENTION_TEXTS : 2]
    texts = [
        world.raw(person) if number % 2 else world.question_answer(person, rng, ("reward",))
        for number, person in enumerate(known)
    ]
    write_json_lines(folder / "retention.jsonl", [{"text": text} for text in texts])
    return f"{lab.train_people + lab.heldout_people + lab.curate_people} people written"


def _write_rewrites(lab: Lab, folder: Path) -> str:
    start = lab.base_people
    for name, count in ("train", lab.train_people), ("heldout", lab.heldout_people):
        rows = []
        for number, person in enumerate(world.make_people(lab.seed, start, count)):
            rng = random.Random(f"rewrites {lab.seed} {name} {number}")
            texts = [{"strategy": s, "text": world.rewrite(s, person, rng)} for s in world.STRATEGIES]
            rows.append(world.document(person, f"lab-{name}-{number:05d}") | {"rewrites": texts})
        write_json_lines(folder / f"{name}.jsonl", rows)
        start += count
    return f"{len(world.STRATEGIES)} texts of {lab.train_people + lab.heldout_people} people written"


def _train(names: list[str], lab: Lab, progress: Callable[[str], None]) -> None:
    """Trains the models, each in a process of its own and at most one a core."""
    cores = len(os.sched_getaffinity(0))
    # A simple queue, since its `put` returns when the line is sent: none is missing when a worker is done.
    lines = multiprocessing.get_context("spawn").SimpleQueue()
    killed = f"training the lab's models failed (a process was killed); {lab.dir} keeps what is done: call again"
    tasks = [partial(_train_one, name, lab) for name in names]
    start = (_start, (lines, max(1, cores // len(names))))
    with worker_pool(min(cores, len(names)), tasks, *start, if_killed=killed) as futures:
        # All of them are waited for, also where one fails: what the others made is kept.
        while not all(future.done() for future in futures) or not lines.empty():
            if lines.empty():
                time.sleep(0.1)
            else:
                progress(lines.get())
        for future in futures:
            future.result()


_lines: Any = None
"""In a worker: the queue of its lines of progress."""


def _start(lines: Any, threads: int) -> None:
    global _lines
    import torch

    _lines = lines
    torch.set_num_threads(threads)


def _train_one(name: str, lab: Lab) -> None:
    from curation.lab.grid_student import train_grid_student
    from curation.lab.models import train_model

    try:
        with _placed(lab, name) as folder:
            train = train_grid_student if name == GRID_STUDENT else partial(train_model, name)
            train(lab, folder, lambda line: _lines.put(f"{name}: {line}"))
    except Exception as error:
        problem = f"training the lab's {name} failed ({error or type(error).__name__})"
        raise RunError(f"{problem}; {lab.dir} keeps what is done: call again") from error
