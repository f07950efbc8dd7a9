"""Sampling beside students gives the same results, and the wall clock says what was idle."""

import os
import threading
import time

import pytest
import torch

from configs.files import read_json_lines
from teacher.run.clock import Clock, ahead, length
from teacher.training.data import sampling_batches
from teacher.training.loop import train_teacher
from tests.processes import happens
from tests.teacher.killing import same


def test_seconds_are_counted_once():
    assert length([]) == 0
    assert length([(5, 6), (0, 2), (1, 3), (1, 2)]) == 4


def test_a_round_is_split_into_its_phases():
    clock = Clock()
    with clock("update"):  # GRPO samples and asks inside of its update
        with clock("sample"):
            time.sleep(0.05)
        with clock("students"):
            time.sleep(0.1)
        time.sleep(0.02)
    time.sleep(0.03)
    figures = clock.figures()
    seconds = {name.removeprefix("seconds/"): value for name, value in figures.items() if name.startswith("seconds/")}
    assert seconds["sample"] >= 0.05 and seconds["students"] >= 0.1 and seconds["update"] >= 0.02
    assert seconds["idle"] >= 0.03 and seconds["overlap"] == pytest.approx(0, abs=1e-9)
    assert sum(seconds[name] for name in ("sample", "students", "update", "idle")) == pytest.approx(seconds["round"])
    assert figures["idle_share/students"] == pytest.approx(1 - seconds["students"] / seconds["round"])
    clock.restart()
    assert clock.figures()["seconds/sample"] == 0


def test_tasks_that_run_ahead_come_in_order_and_stop_with_their_consumer():
    ran, first_taken = [], threading.Event()

    def task(number):
        def run():
            ran.append(number)
            if number == 1:
                first_taken.wait(10)
            return number

        return run

    results = ahead([task(number) for number in range(4)], overlap=True)
    assert next(results) == 0
    results.close()  # as when the students of the first batch raise
    first_taken.set()
    time.sleep(0.05)
    assert ran in ([0, 1], [0]), "what was not begun is not run"

    def broken():
        raise ValueError("no more")

    for overlap in (True, False):
        results = ahead([task(9), broken], overlap=overlap)
        assert next(results) == 9
        with pytest.raises(ValueError, match="no more"):
            next(results)


@pytest.mark.parametrize(
    ("sections", "documents", "sizes"),
    [
        ({}, 48, [48]),  # 12 batches of 4 students: no more than a pool takes at once
        ({"rl": {"documents_per_batch": 5}}, 20, [8, 8, 4]),  # whole batches of documents that share students
        ({"reward": {"credit": "document"}, "rl": {"documents_per_batch": 5}}, 12, [5, 5, 2]),
        ({"rl": {"group_size": 16}}, 64, [16] * 4),
        ({"rl": {"group_size": 16}, "reward": {"repeats": 2}}, 20, [12, 8]),
        ({"rl": {"group_size": 16}}, 10, [10]),
    ],
)
def test_batches_are_whole_and_keep_a_pool_busy(make_config, sections, documents, sizes):
    config = make_config(student={"device": "cpu"}, **sections)
    assert [len(batch) for batch in sampling_batches(config, documents)] == sizes


@pytest.fixture
def slow_pool(gold_pool):
    """Students elsewhere: they take their time, and draw nothing from this process's random state."""

    class Slow(gold_pool):
        def examine(self, jobs, on_done=None):
            time.sleep(0.3)
            outcomes = [self._outcome(job) for job in jobs]
            if on_done is not None:
                on_done(dict(enumerate(outcomes)))
            return outcomes

    return Slow


@pytest.mark.parametrize("reward", [{"repeats": 2}, {"pool_strategies": True}, {"repeats": 3, "adaptive": True}])
def test_results_do_not_depend_on_what_overlaps(make_config, make_documents, slow_pool, tmp_path, reward):
    results, overlapped = {}, {}
    for pool in ("inline", "ray"):
        config = make_config(
            tmp_path / pool, student={"pool": pool}, rl={"documents_per_batch": 4, "documents_per_round": 12},
            reward=reward,
        )  # fmt: skip
        train_teacher(config, make_documents(16), [], lambda _: slow_pool(0.1), lambda _: None)
        metrics = read_json_lines(config.run.dir / "journal/metrics.jsonl")
        lines = [
            {k: v for k, v in x.items() if not k.startswith(("time", "seconds", "students_per", "idle"))}
            for x in metrics
        ]
        weights = (config.run.dir / "teacher/checkpoint-0002/model.safetensors").read_bytes()
        results[pool] = (lines, read_json_lines(config.run.dir / "journal/rewrites.jsonl"), weights)
        overlapped[pool] = [line["seconds/overlap"] for line in metrics if line["kind"] == "update"]
        assert len(list((config.run.dir / "journal/samples").glob("round-0002*.json"))) == 3
    assert results["inline"] == results["ray"]
    assert overlapped["inline"] == pytest.approx([0, 0], abs=1e-6)
    assert all(seconds > 0 for seconds in overlapped["ray"])


def test_batches_that_are_sampled_ahead_survive_kill_9(run_and_kill):
    """Killed in the sampling of the second batch, among the students of both, and before the update."""
    kills = ["sampling=1", "sampling=2", "students=1", "students=2", "rest_em=1", "rename=1"]
    whole, killed = run_and_kill(kills, rl={"documents_per_batch": 4, "rounds": 1}, reward={"repeats": 2})
    same(whole, killed)


def test_the_idle_share_of_gpus_comes_from_the_driver(tmp_path, monkeypatch):
    """A driver's program that reports two GPUs, one of which works half of the time."""
    program = tmp_path / "nvidia-smi"
    reports = "for _ in $(seq 20); do echo 50; echo 0; echo '[N/A]'; done"
    program.write_text(f'#!/bin/sh\necho "$@" > $0.called\n{reports}\nexec sleep 3600\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with Clock() as clock:
        assert happens(lambda: len(clock._gpu_busy) == 40)
        assert clock.figures()["idle_share/gpu"] == pytest.approx(0.75)
        assert "--id 0,1" in (tmp_path / "nvidia-smi.called").read_text()
        clock.restart()
        assert "idle_share/gpu" not in clock.figures(), "nothing was measured since"
