"""Every preset loads and can be planned on a machine that has neither its models nor its hardware nor a network."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from configs.errors import UserError
from configs.load import load_config
from curation.plan.models import parameters_in_name
from curation.plan.plan import figures, make_plan

CONFIGS = Path(__file__).parents[3] / "configs"
PRESETS = sorted(path.name for path in CONFIGS.glob("*.yaml"))
SCALES = ["laptop.yaml", "qwen-0.5b-1gpu.yaml", "qwen-7b-8gpu.yaml", "cluster-slurm.yaml", "cluster-ray.yaml"]


@pytest.fixture
def other_machine(tmp_path, monkeypatch):
    """A working directory without anything but 40 documents, in two files."""
    monkeypatch.chdir(tmp_path)
    for name, numbers in (("train", range(24)), ("heldout", range(24, 40))):
        lines = [
            {
                "text": f"Shop {i} sells salt, rope and {i} kinds of glass. It opened in {1900 + i} beside the mill.",
                "questions": [
                    {"question": f"What opened in {1900 + i}?", "answer": f"shop {i}", "split": "reward"},
                    {"question": f"Where is shop {i}?", "answer": "beside the mill", "split": "heldout"},
                ],
            }
            for i in numbers
        ]
        Path(f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_planned_without_models_hardware_or_network(name, other_machine):
    given = ["data.train=[train.jsonl]", "data.heldout=[heldout.jsonl]", "data.limit=null", "data.heldout_limit=null"]
    given += [
        "curation.input=[]",
        "rl.validation_documents=0",
        "rl.patience=null",
        "rl.judged_by=null",
        "questions.model=",
        "reward.retention_texts=null",
    ]
    if name in (
        "seal-rewrites.yaml",
        "validity-seal.yaml",
        "settings-squad.yaml",
        "settings-fictional.yaml",
    ):  # for rewrites that others wrote: they name no teacher
        given.append("teacher.model=models/smollm2-135m-instruct")
    if name == "curate-echo.yaml":
        given = ["curation.input=[train.jsonl]", "curation.output=out"]
    config = load_config(CONFIGS / name, given)
    if config.teacher.model.startswith("models/lab/"):  # minutes away, so that nothing is assumed of it
        with pytest.raises(UserError, match="run `notewright lab CONFIG`"):
            make_plan(config, progress=lambda _: None)
        return
    plan = make_plan(config, progress=lambda _: None)
    if plan.curate is not None:
        assert figures(plan.curate)["documents"].value == 24
        return
    assert plan.train is not None
    planned = figures(plan.train)
    assert (planned["documents"], planned["heldout"]) == (24, 16)
    assert planned["runs"].total > 0 and planned["hours_here"] is None
    if all(parameters_in_name(model) for model in (config.teacher.model, *config.student.names)):
        assert planned["gpu_hours"] is not None and planned["gpu_hours"].value > 0
    assert any("not on this machine" in note for note in plan.notes), "what was not measured is said"


@pytest.mark.parametrize("name", SCALES)
def test_a_presets_header_states_hardware_memory_and_what_plan_says(name, other_machine):
    """With the documents that the preset's limits name, as its header was written."""
    header = " ".join(line.lstrip("# ") for line in (CONFIGS / name).read_text().splitlines() if line.startswith("#"))
    assert "Hardware: " in header and "Memory" in header
    stated_runs = r"Expected \(`notewright plan`\): ([\d,]+) student runs.*? ([\d,]+) rewrites"
    [(students, rewrites)] = re.findall(stated_runs, header)
    plan = figures(make_plan(load_config(CONFIGS / name), progress=lambda _: None).train or ())
    runs = plan["runs"]
    assert (int(students.replace(",", "")), int(rewrites.replace(",", ""))) == (runs.total, runs.rewrites)
    if hours := re.search(r"at least ([\d.]+) \(([\d.]+) to ([\d.]+)\)", header):
        stated = [float(value) for value in hours.groups()]
        planned = [getattr(plan["gpu_hours"], part) for part in ("value", "low", "high")]
        assert stated == pytest.approx(planned, rel=0.06)


def record(folder: Path, *names: str) -> None:
    """Puts programs of these names into a folder that note how they are called. `srun` runs what it is to run, as often
    as it is to, and `ray status` names a node for each start."""
    folder.mkdir()
    for name in names:
        script = f'#!/bin/bash\necho "{name} $* | cuda=$CUDA_VISIBLE_DEVICES ray=$RAY_ADDRESS" >> "$CALLS"\n'
        if name == "srun":
            script += "while [[ $1 == --* ]]; do [[ $1 == --ntasks=* ]] && tasks=${1#*=}; shift; done\n"
            script += 'for _ in $(seq "$tasks"); do "$@"; done\n'
        if name == "ray":
            script += '[[ $1 == status ]] && echo Active: && sed -n "s/^ray start/ 1 node_/p" "$CALLS"; true\n'
        if name == "scontrol":
            script += "echo node1; echo node2; echo node3\n"
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)


@pytest.fixture
def slurm_job(tmp_path):
    """`slurm_job(**variables)`: runs the job on three nodes of four GPUs; how it ended, and the calls that it made."""
    programs, calls = tmp_path / "programs", tmp_path / "calls"
    record(programs, "srun", "scontrol", "ray", "notewright")
    environment = os.environ | {
        "PATH": f"{programs}:{os.environ['PATH']}", "CALLS": str(calls), "SLURM_JOB_NODELIST": "node[1-3]",
        "SLURM_JOB_NUM_NODES": "3", "SLURM_GPUS_ON_NODE": "4", "SLURM_SUBMIT_DIR": str(tmp_path),
    }  # fmt: skip
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    script = CONFIGS / "jobs/cluster-slurm.sbatch"

    def run(**variables):
        command = ["bash", script, "c.yaml", "rl.rounds=1"]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, env=environment | variables)
        return done, calls.read_text().splitlines()

    return run


def test_the_slurm_job_starts_ray_on_every_node_and_keeps_a_gpu_for_the_teacher(slurm_job):
    done, lines = slurm_job()
    assert done.returncode == 0
    [head] = [line for line in lines if line.startswith("ray start --head")]
    worker, other = (line for line in lines if line.startswith("ray start --address=node1:6379"))
    [train] = [line for line in lines if line.startswith("notewright")]
    assert "--num-gpus=3" in head and "cuda=1,2,3" in head
    assert "--num-gpus=4" in worker and worker == other
    assert max(map(lines.index, (head, worker))) < lines.index(train), "training begins when all nodes are there"
    assert train == "notewright train c.yaml rl.rounds=1 | cuda=0 ray=node1:6379"
    assert any(line.startswith("srun --overlap --nodes=2 --ntasks=2 --exclude=node1") for line in lines)
    assert any(line.startswith("ray stop") for line in lines[lines.index(train) :]), "nothing is left on the nodes"


def test_the_slurm_job_trains_on_all_its_nodes_or_says_so(slurm_job):
    done, lines = slurm_job(SLURM_JOB_NUM_NODES="1", JOIN_SECONDS="60")
    assert done.returncode == 0 and not any("--address" in line for line in lines)
    done, lines = slurm_job(SLURM_JOB_NUM_NODES="1", JOIN_SECONDS="0", CALLS="/dev/null")
    assert done.returncode == 1 and done.stderr == "error: 0 of 1 nodes joined the Ray cluster in 0 s\n"


def test_the_ray_job_names_the_cluster_and_asks_for_the_teachers_gpu(tmp_path):
    record(tmp_path / "programs", "ray")
    (tmp_path / ".venv").mkdir()
    (tmp_path / "programs").rename(tmp_path / ".venv/bin")
    script, calls = CONFIGS / "jobs/cluster-ray.sh", tmp_path / "calls"
    environment = os.environ | {"CALLS": str(calls), "RAY_ADDRESS": "http://head:8265"}
    subprocess.run(["bash", script, "train", "c.yaml", "rl.rounds=1"], check=True, env=environment, cwd=tmp_path)
    [line] = calls.read_text().splitlines()
    assert line.startswith("ray job submit --address http://head:8265 --entrypoint-num-gpus 1 -- bash -c")
    assert f"{tmp_path} train c.yaml rl.rounds=1" in line
    environment.pop("RAY_ADDRESS")
    done = subprocess.run(["bash", script, "train"], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode != 0 and "set it to the dashboard of the cluster" in done.stderr
