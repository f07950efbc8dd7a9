"""Curation on Slurm and on Ray: the same dataset as on one machine, whatever ends on the way."""

import os
import signal
import threading
from pathlib import Path

import pytest

from configs.errors import RunError, UserError
from configs.schema import Config
from configs.schema.executor import Ray, Slurm
from curation.cli import main
from curation.corpus.finding import find_shards
from curation.pipeline.curate import curate
from curation.pipeline.executors.ray import run_on_ray
from curation.pipeline.executors.slurm import Queued, run_on_slurm
from curation.pipeline.reader import ReadShard
from tests.curation.datasets import data_bytes, manifest_of, rows, write_jsonl
from tests.curation.pipeline import fake_slurm
from tests.curation.pipeline.test_echo import CONFIG, consistent, echo_config, faulty_corpus
from tests.curation.pipeline.test_workers import Dawdle
from tests.processes import PATIENCE, happens, kill_when_there
from tests.ray_cluster import lose_node

SETTINGS = ("curation.dedup=minhash", "curation.filters.secrets=true", "curation.keep_raw=0.1")


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a Slurm of this machine, whose commands are on the PATH."""
    folder = tmp_path / "slurm"
    monkeypatch.setenv("PATH", f"{fake_slurm.install(folder)}:{os.environ['PATH']}")
    # The package is found by where pytest found it.
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID", raising=False)
    return folder


def submit(tmp_path: Path, files: int, name: str = "notewright-abc", again: bool = True, **settings: object) -> str:
    """What is said of the run's jobs; its task is to read a file."""
    for index in range(files):
        write_jsonl(tmp_path / f"in/{index}.jsonl", rows(2))
    steps = [ReadShard(find_shards([str(tmp_path / "in")]), None)]
    with pytest.raises(Queued) as queued:
        run_on_slurm(
            steps, files, Slurm.model_validate(settings), tmp_path / "logs", name, done=0, total=9, again=again
        )
    return str(queued.value)


def finish(folder: Path) -> None:
    """Waits for all jobs."""

    def under_way() -> bool:
        return any(state in ("PENDING", "RUNNING") for job in fake_slurm.jobs(folder) for state in job["states"])

    assert happens(lambda: not under_way(), pause=0.05), "the jobs do not end"


def test_what_is_submitted(tmp_path: Path, slurm: Path) -> None:
    fake_slurm.hold(slurm)
    said = submit(
        tmp_path, 5, partition="gpu", time="02:00:00", cpus_per_task=8, memory_gb_per_cpu=3, gpus_per_task=1,
        most_at_once=2, max_array_size=3, sbatch={"account": "lab"}, env_command="module load cuda",
    )  # fmt: skip
    first, second = fake_slurm.jobs(slurm)
    options = first["options"]
    expected = {
        "partition": "gpu", "time": "02:00:00", "cpus-per-task": "8", "mem-per-cpu": "3G", "gpus": "1",
        "account": "lab", "array": "0-2%2", "job-name": "notewright-abc",
    }  # fmt: skip
    assert expected.items() <= options.items() and "qos" not in options
    assert "\nmodule load cuda\n" in first["script"]
    assert f"launch_pickled_pipeline {tmp_path / 'logs/executor.pik'}" in first["script"]
    assert second["options"]["dependency"] == "afterany:4000" and second["options"]["export"] == "ALL,RUN_OFFSET=1"
    # The second array is as long as the first; datatrove's jobs beyond the last task end at once.
    assert "0 of 5 tasks" in said and "6 pending" in said and "squeue --name=notewright-abc" in said
    # Nothing is submitted twice.
    assert "6 pending" in submit(tmp_path, 5)
    assert len(fake_slurm.jobs(slurm)) == 2
    fake_slurm.cancel(slurm)


def test_no_slurm_and_a_refusal_are_one_line(tmp_path: Path, slurm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (slurm / "jobs/refuse").touch()
    steps = [ReadShard(find_shards([str(write_jsonl(tmp_path / "in/a.jsonl", rows(2)))]), None)]
    with pytest.raises(RunError, match="sbatch refused the jobs"):
        run_on_slurm(steps, 1, Slurm(), tmp_path / "logs", "x", done=0, total=2, again=True)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    with pytest.raises(UserError, match="needs 'squeue' on the PATH"):
        run_on_slurm(steps, 1, Slurm(), tmp_path / "logs", "x", done=0, total=2, again=True)


def parts_of(config: Config, task: int) -> int:
    return len(list((config.curation.output / f".notewright/parts/{task:05d}").glob("*.parquet")))


def kill_task(folder: Path, config: Config, task: int) -> None:
    """SIGKILL to all processes of a task of the last job, in the middle of its work."""
    assert happens(lambda: parts_of(config, task) >= 5, pause=0.002), "the task does not come to its work"
    job = fake_slurm.jobs(folder)[-1]
    os.killpg(int((folder / f"jobs/{job['id']}_{task}.pid").read_text()), signal.SIGKILL)


@pytest.mark.slow
def test_the_same_dataset_from_slurm(tmp_path: Path, slurm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    faulty_corpus(tmp_path / "in", 600)
    undisturbed = echo_config(tmp_path / "in", tmp_path / "undisturbed", *SETTINGS, batch_size=1)
    curate(undisturbed)
    config = echo_config(tmp_path / "in", tmp_path / "out", *SETTINGS, batch_size=1)

    def call(*overrides: str) -> tuple[int, str, str]:
        given = [f"curation.input={tmp_path / 'in'}", f"curation.output={tmp_path / 'out'}", "teacher.batch_size=1"]
        given += ["gates.max_repetition=1.0", *SETTINGS, "curation.slurm.poll_seconds=0.2", *overrides]
        code = main(["curate", str(CONFIG), *given])
        said = capsys.readouterr()
        return code, " ".join(said.out.split()), " ".join(said.err.split())

    fake_slurm.hold(slurm)
    code, out, _ = call("curation.executor=slurm")
    assert code == 0 and out.startswith("0 of 3 tasks and 0 of ") and "3 pending" in out
    # The same command submits nothing more, and another executor is kept away.
    code, out, _ = call("curation.executor=slurm")
    assert code == 0 and "3 pending" in out and len(fake_slurm.jobs(slurm)) == 1
    code, _, err = call()
    assert code == 2 and "in Slurm's queue: wait for them, or `scancel --name=notewright-" in err
    # One task cannot read its file, another is killed; the third comes through.
    (tmp_path / "in/b.jsonl").rename(tmp_path / "away")
    fake_slurm.release(slurm)
    kill_task(slurm, config, 2)
    finish(slurm)
    (tmp_path / "away").rename(tmp_path / "in/b.jsonl")
    kept = parts_of(config, 2)
    assert fake_slurm.jobs(slurm)[0]["states"] == ["COMPLETED", "FAILED", "FAILED"] and kept >= 5
    fake_slurm.hold(slurm)
    code, out, err = call("curation.executor=slurm")
    assert code == 0 and out.startswith("1 of 3 tasks") and "2 pending" in out
    assert "2 tasks ended before they were complete (RunError: b.jsonl gave 0 documents, and 1" in err
    assert "No such file" in err and "; 2 FAILED); submitting them again" in err
    assert fake_slurm.jobs(slurm)[-1]["options"]["array"] == "0-1" and parts_of(config, 2) == kept
    # A call that waits takes over, and finishes the dataset.
    fake_slurm.release(slurm)
    code, out, err = call("curation.executor=slurm", "curation.wait=true")
    assert code == 0 and f"dataset: {tmp_path / 'out'}" in out and len(fake_slurm.jobs(slurm)) == 2
    assert data_bytes(config) == data_bytes(undisturbed) and manifest_of(config) == manifest_of(undisturbed)
    assert consistent(manifest_of(config))
    # Now it is there for every executor.
    assert call()[0] == 0


@pytest.mark.slow
def test_waiting_for_slurm_ends_with_the_reason(tmp_path: Path, slurm: Path) -> None:
    write_jsonl(tmp_path / "in/a.jsonl", rows(400))
    options = ("curation.executor=slurm", "curation.wait=true", "curation.slurm.poll_seconds=0.1")
    config = echo_config(tmp_path / "in", tmp_path / "out", *options, batch_size=1)
    killer = threading.Thread(target=kill_task, args=(slurm, config, 0), daemon=True)
    killer.start()
    with pytest.raises(RunError, match=r"1 tasks ended before they were complete \(1 FAILED\); .* submits these"):
        curate(config)
    killer.join()
    summary = curate(config)
    assert summary.rows_out == 400 and 5 <= summary.resumed < 400


@pytest.mark.slow
def test_a_node_of_a_ray_cluster_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    faulty_corpus(tmp_path / "in", 900)
    undisturbed = echo_config(tmp_path / "in", tmp_path / "undisturbed", *SETTINGS, batch_size=1)
    curate(undisturbed)
    options = ("curation.executor=ray", "curation.ray.cpus_per_task=1")
    config = echo_config(tmp_path / "in", tmp_path / "out", *SETTINGS, *options, batch_size=1)
    # The first node has no room for a task: those that die with a node go to the other.
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=2) for _ in range(2)]
    try:
        ray.init(address=cluster.address, log_to_driver=False)
        lost: list[int] = []

        def lose_a_node() -> None:
            happens(lambda: all(parts_of(config, task) > 2 for task in range(3)), pause=0.002)
            lose_node(cluster, nodes[0])
            lost.append(sum(node["Alive"] for node in ray.nodes()))

        losing = threading.Thread(target=lose_a_node, daemon=True)
        losing.start()
        curate(config)
        losing.join(PATIENCE)  # the tasks may end before Ray knows
        assert lost == [2], "no node died while tasks ran"
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert data_bytes(config) == data_bytes(undisturbed) and manifest_of(config) == manifest_of(undisturbed)


@pytest.mark.slow
def test_errors_on_a_ray_cluster_come_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")])
    )
    ray.init(num_cpus=3, log_to_driver=False)
    try:
        (tmp_path / "fails").mkdir()
        # datatrove's Ray executor ends well when a task raised.
        with pytest.raises(OSError, match="No space left") as caught:
            run_on_ray([Dawdle(tmp_path / "fails", fails=True)], 3, Ray(), tmp_path / "logs")
        assert caught.value.errno == 28
        (tmp_path / "dies").mkdir()
        killer = threading.Thread(target=kill_when_there, args=(tmp_path / "dies/1.pid",), daemon=True)
        killer.start()
        with pytest.raises(RunError, match="died again and again"):
            run_on_ray([Dawdle(tmp_path / "dies")], 3, Ray(retries=0), tmp_path / "logs-dies")
        killer.join()
        # Here the task starts again by itself.
        (tmp_path / "retried").mkdir()
        threading.Thread(target=kill_and_end, args=(tmp_path / "retried",), daemon=True).start()
        run_on_ray([Dawdle(tmp_path / "retried")], 2, Ray(most_at_once=1), tmp_path / "logs-retried")
        assert len(list((tmp_path / "logs-retried/completions").iterdir())) == 2
    finally:
        ray.shutdown()


def kill_and_end(folder: Path) -> None:
    """Kills the task once, and lets it end when it is there again."""
    kill_when_there(folder / "1.pid")
    (folder / "1.pid").unlink()
    happens((folder / "1.pid").exists)
    (folder / "end").touch()
