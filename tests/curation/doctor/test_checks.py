"""The doctor on machines that are broken on purpose."""

import json
import sys
from collections import namedtuple
from importlib import metadata
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma2Config, LlamaConfig, MambaConfig

from configs.schema import Config
from curation.cli import main
from curation.doctor import machine
from curation.doctor import models as doctor_models
from curation.doctor import services as doctor_services
from curation.doctor.checks import exit_code
from curation.doctor.examine import examine
from student.engine import models as engine_models
from tests.processes import refusing_port
from tests.teacher.conftest import teacher_folder

assert teacher_folder  # a fixture: a tiny model folder with a tokenizer


@pytest.fixture
def config(teacher_folder, tmp_path, monkeypatch):
    """`config(section={...})`: a training run that this machine can do."""
    monkeypatch.chdir(tmp_path)
    line = {"text": "in the shop", "questions": [{"question": "what?", "answer": "gold"}]}
    Path("train.jsonl").write_text(json.dumps(line) + "\n")

    def make(**sections):
        base = {
            "run": {"dir": tmp_path / "run"},
            "data": {"train": ("train.jsonl",)},
            "student": {"model": str(teacher_folder)},
            "teacher": {"model": str(teacher_folder), "lora": {"rank": 2, "alpha": 4.0}},
        }
        return Config.model_validate({name: base.get(name, {}) | sections.get(name, {}) for name in base | sections})

    return make


def found(config, name, state="fail"):
    """The checks of a name, which are all of this state."""
    checks = [check for check in examine(config) if check.name == name]
    assert checks and {check.state for check in checks} == {state}, checks
    assert state == "ok" or all(check.fix for check in checks), "says what to change"
    return " ".join(f"{check.found} -> {check.fix}" for check in checks)


def test_all_checks_pass_on_a_machine_that_can_run_the_config(config):
    checks = examine(config())
    assert {check.state for check in checks} == {"ok"}, checks
    assert exit_code(checks) == 0
    assert {check.name for check in checks} >= {"versions", "device", "data.train", "teacher.model", "memory", "disk"}


def test_a_missing_model_fails(config, tmp_path, teacher_folder):
    assert "there is no folder" in found(config(teacher={"model": str(tmp_path / "absent")}), "teacher.model")
    text = found(config(student={"model": "Qwen/Qwen2.5-0.5B"}), "student.model")
    assert "not on this machine, and HF_HUB_OFFLINE is set -> copy the folder here" in text
    assert "it is not set" in found(config(teacher={"model": ""}), "teacher.model")
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (bare / name).write_bytes((teacher_folder / name).read_bytes())
    assert "has a config and no weights" in found(config(student={"model": str(bare)}), "student.model")
    assert "`notewright lab" in found(config(teacher={"model": "models/lab/teacher"}), "teacher.model")


def test_an_unreachable_hub_fails(config, monkeypatch):
    monkeypatch.setattr(doctor_models, "hub_problem", lambda: "the Hub (http://127.0.0.1:9) cannot be reached")
    text = found(config(student={"model": "Qwen/Qwen2.5-0.5B"}), "student.model")
    assert "not on this machine, and the Hub (http://127.0.0.1:9) cannot be reached -> copy the folder here" in text


def test_too_little_memory_or_disk_fails(config, monkeypatch, tmp_path):
    free = doctor_models.free_bytes(torch.device("cpu"))
    monkeypatch.setattr(doctor_models, "free_bytes", lambda _: 1000)
    assert "GB free" in found(config(), "memory")
    monkeypatch.setattr(doctor_models, "free_bytes", lambda _: free)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: usage(10**9, 10**9, 10**6))
    assert "0 GB free, 2 checkpoints" in found(config(), "disk")
    (tmp_path / "taken").write_text("a file")
    assert "is no folder" in found(config(run={"dir": tmp_path / "taken/run"}), "disk")


def test_a_teacher_larger_than_the_memory_fails(config, tmp_path, teacher_folder):
    """A config of 10 billion parameters: they are counted without being made."""
    big = tmp_path / "big"
    big.mkdir()
    for path in teacher_folder.iterdir():
        if "token" in path.name:
            (big / path.name).write_bytes(path.read_bytes())
    LlamaConfig(
        hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64
    ).save_pretrained(big)
    (big / "model.safetensors").write_bytes(b"")
    assert "teacher" in found(config(teacher={"model": str(big), "lora": None}), "memory")


@pytest.mark.skipif(torch.cuda.is_available(), reason="about a machine without a GPU")
def test_a_missing_gpu_fails(config):
    assert "student.device is cuda, and torch sees no GPU -> student.device=auto" in found(
        config(student={"device": "cuda"}), "device"
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="about a machine without a GPU")
def test_the_types_of_weights_are_told(config, monkeypatch, tmp_path):
    LlamaConfig(hidden_size=256, num_attention_heads=4).save_pretrained(tmp_path / "wide")
    for module in (machine, doctor_models, engine_models):
        monkeypatch.setattr(module, "has_bfloat16", lambda device_type: False)
    assert "8 times as slow" in found(config(teacher={"dtype": "bfloat16"}), "dtype", "warn")
    wide = {"model": str(tmp_path / "wide")}
    assert "in float32: the processor has no AVX-512 BF16 or AMX" in found(config(student=wide), "student.dtype", "ok")
    for module in (machine, doctor_models, engine_models):
        monkeypatch.setattr(module, "has_bfloat16", lambda device_type: True)
    assert not [check for check in examine(config(teacher={"dtype": "bfloat16"})) if check.name == "dtype"]
    assert "in bfloat16, which this processor computes" in found(config(student=wide), "student.dtype", "ok")
    assert "in float32: bfloat16 is twice as fast only from a width of 256" in found(config(), "student.dtype", "ok")
    assert "all weights vanish" in found(config(student=wide | {"mode": "full"}), "student.dtype", "ok")


def test_what_the_engine_shows_of_itself_is_told(config, tmp_path, teacher_folder):
    assert "base weights in float32; packed rows are exact" in found(config(), "student.engine", "ok")
    tokenizer = AutoTokenizer.from_pretrained(teacher_folder)
    small = {"vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 2, "initializer_range": 0.2}
    attention = {"intermediate_size": 48, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
    for name, model_config in {
        "mamba": MambaConfig(**small, state_size=8),
        "gemma2": Gemma2Config(**small, **attention),
    }.items():
        AutoModelForCausalLM.from_config(model_config).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    shown = found(config(student={"model": str(tmp_path / "mamba")}), "student.engine", "warn")
    assert "one text a row" in shown and "dt_proj cannot carry adapters" in shown
    refused = found(config(student={"model": str(tmp_path / "gemma2")}), "student.engine", "fail")
    assert "(Gemma2ForCausalLM) cannot be a student: it changes its logits after the output layer" in refused


def test_a_wrong_or_missing_package_fails(config, monkeypatch):
    real = metadata.version
    monkeypatch.setattr(machine.metadata, "version", lambda name: "0.9.0" if name == "trl" else real(name))
    assert "trl 0.9.0 instead of ==1.16.*" in found(config(), "versions")

    def absent(name):
        if name == "peft":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(machine.metadata, "version", absent)
    assert "peft is missing" in found(config(), "versions")


def test_missing_data_fails(config):
    text = found(config(data={"train": ("absent.jsonl",)}), "data.train")
    assert "absent.jsonl" in text
    text = found(config(curation={"input": ("models/lab/shards",)}), "curation.input")
    assert "`notewright lab CONFIG` builds" in text


def test_settings_that_exclude_each_other_fail(config):
    endpoint = {"teacher": {"writer": "endpoint"}, "serving": {"url": "http://x/v1", "model": "m"}}
    assert "cannot be trained -> its weights are not here" in found(config(**endpoint), "settings")
    promoted = {"student": {"model": "teacher"}, "rl": {"promotion_threshold": 0.1, "validation_documents": 1}}
    assert "student.model cannot be 'teacher'" in found(config(**promoted), "settings")


def test_a_missing_or_broken_vllm_fails(config, monkeypatch, tmp_path):
    monkeypatch.setattr(doctor_services, "find_vllm", lambda: sys.executable)
    (tmp_path / "broken/vllm").mkdir(parents=True)
    (tmp_path / "broken/vllm/__init__.py").write_text("raise ImportError('libcudart.so.12: cannot open')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "broken"))
    vllm = config(teacher={"writer": "vllm"})
    assert "ImportError: libcudart.so.12: cannot open" in found(vllm, "vllm")
    monkeypatch.undo()
    monkeypatch.setattr("teacher.writers.vllm_server.sys.prefix", str(tmp_path))
    monkeypatch.setattr("teacher.writers.vllm_server.importlib.util.find_spec", lambda name: None)
    assert "make vllm" in found(vllm, "vllm")


def test_a_vllm_that_trl_does_not_support_fails(config, monkeypatch, tmp_path):
    monkeypatch.setattr(doctor_services, "find_vllm", lambda: sys.executable)
    package = tmp_path / "old/vllm/entrypoints/openai"
    package.mkdir(parents=True)
    (tmp_path / "old/vllm/__init__.py").write_text("__version__ = '0.3.0+cpu'\n")
    (package / "api_server.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "old"))
    grpo = config(teacher={"writer": "vllm"}, rl={"algorithm": "grpo"})
    assert "vLLM 0.3.0+cpu" in found(grpo, "vllm") and "made for others" in found(grpo, "vllm")


def test_a_ray_cluster_that_does_not_answer_fails(config, monkeypatch):
    ray = config(student={"model": config().student.model, "pool": "ray"})
    with refusing_port() as port:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
        assert f"RAY_ADDRESS 127.0.0.1:{port}: Connection refused" in found(ray, "ray")
    monkeypatch.delenv("RAY_ADDRESS")
    found(ray, "ray", "ok")


def test_a_missing_or_broken_compiler_fails(config, monkeypatch):
    compiled = config(student={"model": config().student.model, "compile": True})
    monkeypatch.setenv("CXX", "false")
    assert "false builds nothing" in found(compiled, "compiler")
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", "")
    assert "there is none" in found(compiled, "compiler")


def test_missing_slurm_commands_fail(config, monkeypatch, tmp_path):
    curating = config(curation={"input": ("train.jsonl",), "executor": "slurm", "slurm": {"partition": "gpu"}})
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "sbatch, squeue, sacct not found" in found(curating, "slurm")


def test_the_verb_prints_a_table_or_json_and_its_exit_code_tells_the_outcome(config, capsys, tmp_path):
    from configs.load import save_config

    save_config(config(), tmp_path / "good.yaml")
    assert main(["doctor", str(tmp_path / "good.yaml")]) == 0
    assert "0 to change" in capsys.readouterr().out
    assert main(["doctor", str(tmp_path / "good.yaml"), "teacher.model=absent/folder/of/mine", "--json"]) == 1
    text = json.loads(capsys.readouterr().out)
    assert text["exit_code"] == 1
    [failed] = [check for check in text["checks"] if check["state"] == "fail"]
    assert failed["name"] == "teacher.model" and failed["fix"]
    assert main(["doctor", str(tmp_path / "good.yaml"), "teacher.modle=x"]) == 2
