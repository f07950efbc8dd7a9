"""The teacher of a round on a vLLM server: here the stand-in of test_vllm_server.py.

`test_vllm_training.py` does the same with vLLM itself.
"""

import re

import pytest

from configs.errors import RunError, UserError
from configs.files import read_json_lines
from teacher.run.checkpoints import finished_rounds, save_checkpoint
from teacher.training.loop import train_teacher
from teacher.writers.by_round import Writers
from teacher.writers.local import load_teacher
from tests.processes import happens
from tests.teacher.writers.test_vllm_server import left, server_of, stand_in

assert stand_in  # a fixture

LORA = {"rank": 4, "alpha": 8.0}


@pytest.fixture
def vllm_config(make_config):
    """`vllm_config(lora, rl={...})`: a teacher that writes through the stand-in, which samples its prompts' words."""

    def make(lora=LORA, **sections):
        return make_config(
            teacher={"writer": "vllm", "lora": lora},
            serving={"arguments": ("--sampling",), "start_seconds": 300, "concurrency": 2},
            **sections,
        )

    return make


def asked(run_dir):
    """The models that completions were asked of, in the order of their first request; and the adapters that came and
    went."""
    log = (run_dir / "vllm/vllm.log").read_text()
    return list(dict.fromkeys(re.findall(r"asked for (\S+)", log))), re.findall(r"adapter /v1/(\w+) (\S+)", log)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"teacher": {"writer": "endpoint"}, "serving": {"url": "http://x/v1", "model": "m"}}, "cannot be trained"),
        ({"teacher": {"writer": "vllm"}, "rl": {"algorithm": "grpo"}}, "needs an NVIDIA GPU.*'rest_em' or 'dpo'"),
    ],
)
def test_a_writer_that_cannot_be_trained_is_refused_before_anything_is_written(
    make_config, make_documents, gold_pool, sections, message
):
    config = make_config(**sections)
    with pytest.raises(UserError, match=message):
        train_teacher(config, make_documents(8), [], lambda _: gold_pool(), print)
    assert not config.run.dir.exists()


def test_each_round_samples_from_its_own_adapter_on_one_server(
    vllm_config, make_documents, gold_pool, stand_in, tmp_path
):
    config = vllm_config(rl={"documents_per_batch": 4})
    train_teacher(config, make_documents(8), make_documents(4, "heldout"), lambda _: gold_pool(0.1), lambda _: None)
    models, adapters = asked(config.run.dir)
    assert models == ["base", "checkpoint-0001", "checkpoint-0002"]
    assert adapters == [
        ("load_lora_adapter", "checkpoint-0001"),
        ("load_lora_adapter", "checkpoint-0002"),
        ("unload_lora_adapter", "checkpoint-0001"),
    ]
    assert not left(config.run.dir / "vllm"), "the server ends with the run"
    updates = [x for x in read_json_lines(config.run.dir / "journal/metrics.jsonl") if x["kind"] == "update"]
    for line in updates:
        parts = sum(line[f"seconds/{name}"] for name in ("sample", "students", "update", "idle"))
        assert parts - line["seconds/overlap"] == pytest.approx(line["seconds/round"])
        assert line["seconds/sample"] > 0 and 0 <= line["idle_share/all"] <= 1

    # Everything is on disk: the same command starts no server.
    (config.run.dir / "vllm/vllm.log").unlink()
    train_teacher(config, make_documents(8), make_documents(4, "heldout"), lambda _: gold_pool(0.1), lambda _: None)
    assert not (config.run.dir / "vllm/vllm.log").exists()


def test_a_teacher_without_adapters_needs_another_server(vllm_config, make_documents, gold_pool, stand_in):
    config = vllm_config(lora=None, rl={"rounds": 1})
    train_teacher(config, make_documents(8), make_documents(4, "heldout"), lambda _: gold_pool(0.1), lambda _: None)
    assert finished_rounds(config.run.dir) == 1
    assert asked(config.run.dir) == (["base"], []), "whatever it was started with"


def test_a_server_that_starts_again_loads_its_adapter(vllm_config, stand_in):
    config = vllm_config()
    for round in (1, 2):
        writer = load_teacher(config.teacher, train_seed=config.run.seed)
        save_checkpoint(config.run.dir, round, writer.model, writer.tokenizer, writer.settings, None)
    folder = config.run.dir / "vllm"
    with Writers(config, on_server=True) as writers:
        writers.of(2).write(["gold iron salt"], 2, 0)
        before = server_of(folder)
        before.kill()
        assert len(writers.of(2).write(["gold iron salt"], 2, 0)[0]) == 2
        assert happens(lambda: len(left(folder)) == 3)
        assert server_of(folder).pid != before.pid
        writers.of(1).write(["gold iron salt"], 1, 0)
        with pytest.raises(RunError, match=r"knows no model 'checkpoint-0002'.* \(HTTP 404\)"):
            writers._on_server(2).write(["gold iron salt"], 1, 0)
    assert not left(folder)
    assert asked(config.run.dir)[1].count(("load_lora_adapter", "checkpoint-0002")) == 2


def test_a_prompt_that_the_server_refuses_ends_the_run_in_one_line(make_config, make_documents, gold_pool, stand_in):
    config = make_config(
        teacher={"writer": "vllm", "lora": LORA}, serving={"arguments": ("--refuse",), "start_seconds": 300}
    )
    with pytest.raises(RunError, match=r"gave no completion of a prompt: HTTP 422.*the same command goes on"):
        train_teacher(config, make_documents(8), [], lambda _: gold_pool(), lambda _: None)
    assert not left(config.run.dir / "vllm")
