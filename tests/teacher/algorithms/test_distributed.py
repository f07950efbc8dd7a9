"""Several processes train one teacher: here two on the CPU, met through gloo, as `accelerate launch` starts them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from configs.errors import UserError
from configs.files import read_json_lines
from configs.load import save_config
from teacher.training.loop import train_teacher

PROCESS = """
# One rank: trains on the doubles of sys.argv[2], and notes after each round what its own copy of the teacher is.
import hashlib, importlib.util, os, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
spec = importlib.util.spec_from_file_location("doubles", sys.argv[2])
doubles = importlib.util.module_from_spec(spec); spec.loader.exec_module(doubles)
from configs.load import load_config
from dataclasses import replace
from teacher.algorithms import table
from teacher.training import loop as train

config, rank = load_config(sys.argv[1]), os.environ["RANK"]
train_round = table.ALGORITHMS["grpo"].train_round

def noting(round):
    result = train_round(round)
    weights = b"".join(p.detach().numpy().tobytes() for p in round.writer.model.parameters())
    with config.run.dir.with_suffix(f".rank{rank}").open("a") as file:
        file.write(f"{round.number} {hashlib.sha256(weights).hexdigest()}\\n")
    return result

table.ALGORITHMS["grpo"] = replace(table.ALGORITHMS["grpo"], train_round=noting)
pool = doubles.GoldPool(0.1)

def make_pool(settings):
    assert rank == "0", "students are rank 0's"
    return pool

train.train_teacher(config, doubles._documents(12), doubles._documents(4, "heldout"), make_pool)
print("rank", rank, "has the summary", "and examined", len(pool.jobs), flush=True)
"""


@pytest.fixture
def launched(monkeypatch):
    """As if `accelerate launch` had started this process as one of two."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")


@pytest.mark.parametrize(
    ("rl", "environment", "message"),
    [
        ({"algorithm": "rest_em"}, {}, r"2 processes, and rl\.algorithm 'rest_em' trains in one"),
        ({"algorithm": "grpo"}, {"ACCELERATE_USE_FSDP": "true"}, "with FSDP.*take DDP"),
        ({"algorithm": "grpo", "group_size": 3}, {}, "make rl.group_size a multiple of 2"),
    ],
)
def test_what_several_processes_cannot_train_is_refused(
    make_config, make_documents, gold_pool, launched, monkeypatch, rl, environment, message
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    config = make_config(rl=rl)
    with pytest.raises(UserError, match=message):
        train_teacher(config, make_documents(8), [], lambda _: gold_pool(), print)
    assert not config.run.dir.exists()


@pytest.mark.slow
def test_two_processes_train_one_teacher_and_keep_one_journal(make_config, tmp_path):
    config = make_config(
        teacher={"lora": {"rank": 4, "alpha": 8.0}},
        rl={"algorithm": "grpo", "explore": 0.5, "grpo": {"kl": 0.01}, "validation_documents": 4},
    )
    save_config(config, tmp_path / "config.yaml")
    (tmp_path / "process.py").write_text(PROCESS)
    doubles = Path(__file__).parents[1] / "conftest.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(tmp_path / "process.py"), str(tmp_path / "config.yaml"), str(doubles)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "rank 0 has the summary" in done.stdout and "rank 1 has" not in done.stdout
    assert done.stdout.count("held-out trained") == 1, "rank 0 alone prints"

    weights = [config.run.dir.with_suffix(f".rank{rank}").read_text().splitlines() for rank in (0, 1)]
    assert weights[0] == weights[1] and len(set(weights[0])) == 2, "both have the same teacher after each round"
    metrics = read_json_lines(config.run.dir / "journal/metrics.jsonl")
    steps = [line["step"] for line in metrics if line["kind"] == "step"]
    assert steps == [1, 2, 3, 4], "8 documents a round, 4 a step"
    rewrites = [line for line in read_json_lines(config.run.dir / "journal/rewrites.jsonl") if line["arm"] == "train"]
    assert len(rewrites) == 2 * 8 * 4
    groups = [rewrites[start : start + 4] for start in range(0, len(rewrites), 4)]
    halves = [({x["text"] for x in group[:2]}, {x["text"] for x in group[2:]}) for group in groups]
    assert sum(a != b for a, b in halves) > len(groups) / 2, "the processes draw other samples"
    assert (config.run.dir / "teacher/checkpoint-0002/adapter_config.json").is_file()
