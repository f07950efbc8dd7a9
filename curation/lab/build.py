"""Builds the lab once: shards of fictional people, a teacher, two students. `notewright lab CONFIG.yaml`.

Each part stands in a folder of its own with a mark of what it was built from. A part is built beside its place and
renamed into it when it is whole, so that a build killed at any moment leaves nothing half made and the next one goes on
with what is missing. A part whose mark does not fit the settings is built anew.
"""

import fcntl
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from configs.errors import RunError
from configs.schema import Lab
from curation.lab import world

VERSION = 1
"""Raised whenever the code would build something else from the same settings."""

MODELS = ("teacher", "student-augmented", "student-fixed")
"""Slowest first: they are trained beside each other where there are cores."""

MARK = "lab.json"
SHARDS = ("train", "heldout", "curate")
RETENTION_TEXTS = 64


@dataclass(frozen=True, slots=True)
class LabPaths:
    """Where the lab's parts are. Shards are JSONL lines `{id, text, questions, licence}`, retention texts `{text}`."""

    train: Path
    heldout: Path
    curate: Path
    retention: Path
    student_fixed: Path
    student_augmented: Path
    teacher: Path


def lab_paths(folder: Path) -> LabPaths:
    """Where the parts of a lab in `folder` are, built or not."""
    shards = folder / "shards"
    return LabPaths(
        **{name: shards / f"{name}.jsonl" for name in (*SHARDS, "retention")},
        **{name.replace("-", "_"): folder / name for name in MODELS},
    )


def build_lab(lab: Lab, *, progress: Callable[[str], None] = print) -> LabPaths:
    """Builds what is missing of the lab in `lab.dir`; returns at once where all is there.

    Training runs in processes of their own, as many at a time as there are cores. `progress` is called from this thread
    with plain lines. Raises RunError where a model's training ends badly; what was finished is kept.
    """
    if any(not _is_built(lab, part) for part in ("shards", *MODELS)):
        lab.dir.mkdir(parents=True, exist_ok=True)
        with _only_builder(lab.dir, progress):
            for leftover in lab.dir.glob(".building-*"):
                shutil.rmtree(leftover)
            if not _is_built(lab, "shards"):
                with _placed(lab, "shards") as folder:
                    _write_shards(lab, folder)
                progress(f"shards: {lab.train_people + lab.heldout_people + lab.curate_people} people written")
            _train([name for name in MODELS if not _is_built(lab, name)], lab, progress)
    return lab_paths(lab.dir)


def _fingerprint(lab: Lab, part: str) -> str:
    """Names what a part is built from. The students depend on the base people alone."""
    relevant = {"seed", "base_people", "effort"} if part.startswith("student") else None
    settings = lab.model_dump(mode="json", include=relevant, exclude={"dir"})
    return hashlib.sha256(json.dumps([VERSION, part, settings], sort_keys=True).encode()).hexdigest()[:16]


def _is_built(lab: Lab, part: str) -> bool:
    mark = lab.dir / part / MARK
    return mark.is_file() and json.loads(mark.read_text())["fingerprint"] == _fingerprint(lab, part)


@contextmanager
def _only_builder(folder: Path, progress: Callable[[str], None]) -> Iterator[None]:
    """Waits while another process builds here; the lock goes with the process that holds it."""
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"another process builds the lab in {folder}: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _placed(lab: Lab, part: str) -> Iterator[Path]:
    """A folder to build in, which takes the part's place when the block ends well."""
    folder = Path(tempfile.mkdtemp(prefix=f".building-{part}-", dir=lab.dir))
    try:
        yield folder
        (folder / MARK).write_text(json.dumps({"fingerprint": _fingerprint(lab, part), "version": VERSION}) + "\n")
        folder.chmod(0o755)
        shutil.rmtree(lab.dir / part, ignore_errors=True)
        folder.rename(lab.dir / part)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_shards(lab: Lab, folder: Path) -> None:
    start = lab.base_people
    for name, count in zip(SHARDS, (lab.train_people, lab.heldout_people, lab.curate_people), strict=True):
        people = world.make_people(lab.seed, start, count)
        rows = [world.document(person, f"lab-{name}-{number:05d}") for number, person in enumerate(people)]
        world.write_jsonl(folder / f"{name}.jsonl", rows)
        start += count
    rng = random.Random(f"retention {lab.seed}")
    # Every other base person: those whose questions both students have read.
    known = world.make_people(lab.seed, 0, lab.base_people)[: 2 * RETENTION_TEXTS : 2]
    texts = [world.raw(p) if n % 2 else world.question_answer(p, rng, ("reward",)) for n, p in enumerate(known)]
    world.write_jsonl(folder / "retention.jsonl", [{"text": text} for text in texts])


def _train(names: list[str], lab: Lab, progress: Callable[[str], None]) -> None:
    """Trains the models, each in a process of its own and at most one a core."""
    lines: SimpleQueue[str | BaseException | None] = SimpleQueue()
    cores = len(os.sched_getaffinity(0))
    room = threading.Semaphore(cores)
    threads = max(1, cores // max(1, len(names)))
    running: list[subprocess.Popen[str]] = []
    stopped = threading.Event()

    def work(name: str) -> None:
        with room:
            if not stopped.is_set():
                try:
                    _train_one(name, lab, threads, running, lines)
                except (RunError, OSError) as error:
                    lines.put(error)
        lines.put(None)

    workers = [threading.Thread(target=work, args=(name,)) for name in names]
    for worker in workers:
        worker.start()
    failures, left = [], len(workers)
    try:
        while left:
            line = lines.get()
            left -= line is None
            if isinstance(line, BaseException):
                failures.append(line)
            elif line is not None:
                progress(line)
    finally:
        stopped.set()
        for process in running:
            process.kill()
    if failures:
        raise failures[0]


def _train_one(name: str, lab: Lab, threads: int, running: list[subprocess.Popen[str]], lines: SimpleQueue) -> None:
    repository = str(Path(__file__).parents[2])
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [repository, os.environ.get("PYTHONPATH")])),
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
    }
    with _placed(lab, name) as folder, tempfile.TemporaryFile("w+") as errors:
        command = [sys.executable, "-m", "curation.lab.models", name, lab.model_dump_json(), str(folder)]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True)
        running.append(process)
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(f"{name}: {line.rstrip()}")
        if process.wait() != 0:
            errors.seek(0)
            said = errors.read().strip().splitlines() or [f"exit status {process.returncode}"]
            raise RunError(f"training the lab's {name} failed ({said[-1]}); {lab.dir} keeps what is done: call again")
