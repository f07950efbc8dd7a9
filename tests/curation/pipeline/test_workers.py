"""Tasks in worker processes: one that is killed is noticed, and none is left behind."""

import multiprocessing
import os
import threading
import time
from pathlib import Path

import pytest
from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from configs.errors import RunError
from curation.pipeline.executors.local import run_tasks
from tests.processes import kill_when_there


class Dawdle(PipelineStep):
    """Says which process it is in, and works until it is told to end; task 0 ends at once."""

    type, name = "TEST", "Dawdle"

    def __init__(self, folder: Path, fails: bool = False):
        super().__init__()
        self.folder, self.fails = folder, fails

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        (self.folder / f"{rank}.pid").write_text(str(os.getpid()))
        if rank and self.fails:
            raise OSError(28, "No space left on device")
        while rank and not (self.folder / "end").exists():
            time.sleep(0.02)
        yield from ()


def test_a_killed_worker_ends_the_run_which_goes_on(tmp_path: Path) -> None:
    others = multiprocessing.active_children()
    killer = threading.Thread(target=kill_when_there, args=(tmp_path / "1.pid",), daemon=True)
    killer.start()
    with pytest.raises(
        RunError, match=r"a worker process died .*; finished batches are kept, the same command goes on"
    ):
        run_tasks([Dawdle(tmp_path)], tasks=3, workers=2, logs=tmp_path / "logs")
    killer.join()
    assert set(multiprocessing.active_children()) <= set(others)
    (tmp_path / "end").touch()
    assert not (tmp_path / "logs/completions/00001").exists()
    run_tasks([Dawdle(tmp_path)], tasks=3, workers=2, logs=tmp_path / "logs")
    assert len(list((tmp_path / "logs/completions").iterdir())) == 3


def test_an_error_of_a_task_comes_out_and_ends_the_others(tmp_path: Path) -> None:
    others = multiprocessing.active_children()
    with pytest.raises(OSError, match="No space left") as caught:
        run_tasks([Dawdle(tmp_path, fails=True)], tasks=3, workers=2, logs=tmp_path / "logs")
    # The other worker would dawdle for ever.
    assert caught.value.errno == 28
    assert set(multiprocessing.active_children()) <= set(others)
