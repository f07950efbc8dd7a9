"""Curation under everything at once: bad input, a writer with faults, a full disk, and 20 kills."""

import gzip
import itertools
import multiprocessing
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from configs import processes
from configs.schema import Config
from curation.pipeline.curate import curate
from tests.curation.datasets import data_bytes, lines, manifest_of, rows
from tests.curation.pipeline.test_echo import (
    consistent,
    curate_with_faults,
    echo_config,
    faulty_corpus,
    terminal_records,
)
from tests.processes import PATIENCE, happens

SETTINGS = (
    "curation.dedup=minhash",
    "curation.filters.secrets=true",
    "curation.keep_raw=0.1",
    "data.passage_tokens=64",
)
DOCUMENTS = 3000


def chaotic_corpus(folder: Path) -> None:
    """Four files: equal ids, undecodable and torn rows, repeats, documents that the writer fails on, and an
    archive that breaks off."""
    faulty_corpus(folder, 2400)
    torn = (folder / "b.jsonl").read_bytes().splitlines(keepends=True)
    torn[100] = torn[100][: len(torn[100]) // 2].rstrip() + b"\n"
    (folder / "b.jsonl").write_bytes(b"".join(torn).rstrip(b"\n}"))
    noisy = [
        row | {"id": "the same", "noise": random.Random(i).randbytes(32).hex()}
        for i, row in enumerate(rows(900, 50_000))
    ]
    packed = gzip.compress(b"".join(orjson.dumps(row) + b"\n" for row in noisy), mtime=0)
    (folder / "d.jsonl.gz").write_bytes(packed[: len(packed) * 3 // 4])


def forked_run(config: Config) -> None:
    """A run of its own group of processes, whose workers are forks: spawned ones would take longer to import torch than
    the work between two kills takes."""
    os.setsid()
    processes.multiprocessing = Forks
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    curate_with_faults(config)


class Forks:
    """The multiprocessing that `configs.processes` sees."""

    parent_process = staticmethod(multiprocessing.parent_process)

    @staticmethod
    def get_context(_: str) -> Any:
        return multiprocessing.get_context("fork")


def start(config: Config) -> Any:
    process = multiprocessing.get_context("fork").Process(target=forked_run, args=(config,))
    process.start()
    return process


def wait_until(process: Any, there: Callable[[], bool]) -> None:
    assert happens(there, alive=process.is_alive, pause=0.001), "ended or stalled before it could be killed"


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def kill(process: Any, whom: str, generator: random.Random) -> None:
    """One SIGKILL: to the run's parent, to all of it, or to one of its workers, which the parent has to notice."""
    workers_of = children_of(process.pid)
    match whom:
        case "worker" if workers_of:
            os.kill(generator.choice(workers_of), signal.SIGKILL)
        case "group":
            os.killpg(process.pid, signal.SIGKILL)
        case _:
            process.kill()
    process.join(PATIENCE)
    assert process.exitcode not in (None, 0), f"goes on although the {whom} was killed"


@contextmanager
def small_disk(folder: Path) -> Iterator[Callable[[int], None] | None]:
    """A disk of its own, and what gives it so many free bytes; None where none may be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        yield None
        return

    def leave(free: int) -> None:
        stat = os.statvfs(folder)
        used = (stat.f_blocks - stat.f_bfree) * stat.f_frsize
        subprocess.run(["mount", "-o", f"remount,size={used + free}", str(folder)], check=True)

    try:
        yield leave
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_chaos(tmp_path: Path) -> None:
    generator = random.Random(11)
    chaotic_corpus(tmp_path / "in")
    undisturbed = echo_config(tmp_path / "in", tmp_path / "undisturbed", *SETTINGS, batch_size=2)
    curate_with_faults(undisturbed)
    with small_disk(tmp_path / "disk") as leave_free:
        config = echo_config(tmp_path / "in", tmp_path / "disk/out", *SETTINGS, "curation.workers=2", batch_size=2)
        work = config.curation.output / ".notewright"

        def parts() -> int:
            return len(list((work / "parts").glob("*/*.parquet")))

        whom = itertools.cycle(("parent", "worker", "group"))
        # While files are checked, and in the search for duplicates.
        for pause in (0.0, 0.1, 0.3, 0.5):
            run = start(config)
            time.sleep(pause * generator.random())
            kill(run, next(whom), generator)
        for _ in range(3):
            run = start(config)
            wait_until(run, (work / "dedup").exists)
            time.sleep(0.3 * generator.random())
            kill(run, next(whom), generator)
        most = [parts()]
        for number in range(10):
            run = start(config)
            wanted = parts() + generator.randint(1, 50)
            wait_until(run, lambda wanted=wanted: parts() >= wanted)
            kill(run, next(whom), generator)
            most.append(parts())
            if number == 4 and leave_free is not None:
                leave_free(1_000_000)  # room for some dozens of parts, and for what starts anew beside them
                run = start(config)
                run.join(PATIENCE)
                assert run.exitcode == 1, "a full disk ends the run"
                assert parts() > most[-1]
                leave_free(1 << 28)
        # Once the dataset is put together.
        for _ in range(3):
            run = start(config)
            wait_until(run, (work / "merged").exists)
            time.sleep(0.01 * generator.random())
            kill(run, "parent", generator)
        run = start(config)
        run.join(PATIENCE)
        assert run.exitcode == 0
        summary = curate(config)
        assert sorted(most) == most, "finished parts were lost"
        assert data_bytes(config) == data_bytes(undisturbed)
        assert manifest_of(config) == manifest_of(undisturbed)
        for name in ("quarantine", "filtered"):
            assert lines(config, name) == lines(undisturbed, name)
        ended = terminal_records(config)
    assert consistent(manifest_of(undisturbed)) and set(ended.values()) == {1}
    files = {file["path"]: file for file in manifest_of(undisturbed)["files"]}
    assert [files[f"{name}.jsonl"]["documents_in"] for name in "abc"] == [800, 800, 800]
    assert 600 < files["d.jsonl.gz"]["documents_in"] < 900 and "truncated" in files["d.jsonl.gz"]["reason"]
    # The break of the archive has a record too.
    assert summary.documents_in == len({place[:2] for place in ended}) - 1 >= DOCUMENTS
    assert sum(passage > 5 for _, _, passage, _ in ended if passage is not None) > 500, "long documents were cut"
    assert all(count > 0 for count in (summary.filtered, summary.quarantined, summary.failed))
