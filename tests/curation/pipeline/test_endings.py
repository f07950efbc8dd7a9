"""A curation that is told to end, or loses what it runs on: one line, and the same rows from the same command."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from configs.schema import Config
from curation.pipeline.curate import curate
from tests.curation.datasets import data_bytes, manifest_of
from tests.curation.pipeline.test_echo import CONFIG, echo_config, faulty_corpus
from tests.processes import PATIENCE, gone, happens

SETTINGS = ("curation.filters.secrets=true", "curation.keep_raw=0.1")
ON_RAY = ("curation.executor=ray", "curation.ray.cpus_per_task=1")
GOES_ON = "the same command goes on from there"


def started(config: Config, *options: str) -> subprocess.Popen[str]:
    """The curation of `config` in a process and a group of its own."""
    curation = config.curation
    overrides = (f"curation.input={curation.input[0]}", f"curation.output={curation.output}", *SETTINGS, *options)
    overrides += ("teacher.batch_size=1", "gates.max_repetition=1.0")
    command = [sys.executable, "-m", "curation.cli", "curate", str(CONFIG), *overrides]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, process_group=0)


def parts(config: Config) -> int:
    return len(list((config.curation.output / ".notewright/parts").glob("*/*.parquet")))


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Its exit code and its last line, empty where it said nothing."""
    _, errors = process.communicate(timeout=PATIENCE)
    return process.returncode, ["", *errors.strip().splitlines()][-1]


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A corpus with faults; and its undisturbed curation."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    faulty_corpus(tmp_path / "in", 900)
    config = echo_config(tmp_path / "in", tmp_path / "undisturbed", *SETTINGS, batch_size=1)
    curate(config)
    return config


def disturbed(
    corpus: Config, tmp_path: Path, options: tuple[str, ...], disturb: Callable[[subprocess.Popen[str]], Any]
) -> tuple[Config, int, str]:
    config = echo_config(tmp_path / "in", tmp_path / "out", *SETTINGS, batch_size=1)
    run = started(config, *options)
    assert happens(lambda: parts(config) > 10, alive=lambda: run.poll() is None), run.communicate()[1]
    disturb(run)
    return config, *ended(run)


@pytest.mark.slow
@pytest.mark.parametrize("whole_group", [False, True])
@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_ends_a_run_in_a_line(corpus: Config, tmp_path: Path, workers: int, whole_group: bool) -> None:
    options, workers_of = (f"curation.workers={workers}",), []

    def terminate(run: subprocess.Popen[str]) -> None:
        children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
        workers_of.extend(map(int, children))
        (os.killpg if whole_group else os.kill)(run.pid, signal.SIGTERM)

    config, code, line = disturbed(corpus, tmp_path, options, terminate)
    assert (code, GOES_ON in line) in ((130, True), (1, True)) and gone(workers_of)
    assert 10 < parts(config) < 900
    assert ended(started(config, *options))[0] == 0
    assert data_bytes(config) == data_bytes(corpus) and manifest_of(config) == manifest_of(corpus)


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["driver", "raylet", "head"])
def test_a_ray_cluster_loses_a_part(corpus: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str) -> None:
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    def new_cluster() -> tuple[Any, list[Any]]:
        # The head has no room for a task.
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        nodes = [cluster.add_node(num_cpus=2) for _ in range(2)]
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        return cluster, nodes

    cluster, nodes = new_cluster()

    def disturb(run: subprocess.Popen[str]) -> None:
        match lost:
            case "driver":
                run.terminate()
            case "raylet":
                nodes[0].kill_raylet(check_alive=False)
            case "head":
                cluster.head_node.kill_all_processes(check_alive=False, allow_graceful=False)

    try:
        config, code, line = disturbed(corpus, tmp_path, ON_RAY, disturb)
        if lost == "raylet":
            assert code == 0
        else:
            # Where no head answers for a minute Ray ends the process with a line of its own; tasks that run already may
            # end before.
            assert (code, GOES_ON in line) == (130, True) if lost == "driver" else code in (0, 1)
            if lost == "head":
                cluster.shutdown()
                cluster, nodes = new_cluster()
            assert ended(started(config, *ON_RAY))[0] == 0
    finally:
        cluster.shutdown()
    assert data_bytes(config) == data_bytes(corpus) and manifest_of(config) == manifest_of(corpus)
