"""Training with vLLM itself, where `make vllm` and `make smollm2` were run: each round samples from its own adapter."""

import json
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from configs.files import read_json_lines
from teacher.run.checkpoints import save_checkpoint
from teacher.run.samples import read_rewrites
from teacher.training.loop import train_teacher
from teacher.writers.by_round import Writers
from teacher.writers.local import load_teacher
from teacher.writers.vllm_server import FOLDER_VARIABLE

MODEL = Path(__file__).parents[3] / "models/smollm2-135m-instruct"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(
        not (Path(sys.prefix) / "vllm/.ready").is_file() or not MODEL.is_dir(), reason="needs `make vllm smollm2`"
    ),
]
PROMPTS = ["The capital of France is", "Water boils at a temperature of", "In the shop they sell"]


@pytest.fixture
def smollm2(make_config, tmp_path):
    """The model ships sampling settings of its own, as instruction models do: neither writer takes them."""
    folder = tmp_path / "smollm2"
    folder.mkdir()
    for file in MODEL.iterdir():
        (folder / file.name).symlink_to(file)
    shipped = json.loads((folder / "generation_config.json").read_bytes())
    (folder / "generation_config.json").unlink()
    (folder / "generation_config.json").write_text(json.dumps(shipped | {"repetition_penalty": 1.3, "top_k": 5}))

    def make(**sections):
        teacher = {
            "model": str(folder), "writer": "vllm", "prompting": "strategy", "strategies": ("rewrite", "faq"),
            "max_new_tokens": 16, "lora": {"rank": 8, "alpha": 16.0}, "temperature": 1.0,
        }  # fmt: skip
        return make_config(
            teacher=teacher | sections.pop("teacher", {}),
            serving={"context_tokens": 1024, "start_seconds": 600, "arguments": ("--enforce-eager",)},
            gates={"truncated": False, "min_shared": 0.0, "min_words": 1, "max_repetition": 1.0},
            **sections,
        )

    return make


def moved(config, round, seed):
    """A checkpoint of `round` whose adapter is far from its start."""
    writer = load_teacher(config.teacher, train_seed=config.run.seed)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in writer.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02)
    return save_checkpoint(config.run.dir, round, writer.model, writer.tokenizer, writer.settings, None)


def test_the_adapter_of_each_round_writes_as_it_does_here(smollm2):
    """Greedy completions of base and two adapters equal those of local transformers, and an adapter that is loaded into
    the running server is there in a fraction of a start."""
    config = smollm2(teacher={"temperature": 0.0})
    checkpoints = [None, moved(config, 1, 1), moved(config, 2, 2)]
    expected = [load_teacher(config.teacher, checkpoint).write(PROMPTS, 1, 0) for checkpoint in checkpoints]
    assert expected[0] != expected[1] != expected[2]
    seconds = []
    with Writers(config, on_server=True) as writers:
        for round in range(3):
            started = time.perf_counter()
            writer = writers.of(round)
            seconds.append(time.perf_counter() - started)
            assert writer.write(PROMPTS, 1, 0) == expected[round], f"round {round}"
        opened = writers.of(2).write(PROMPTS, 1, 0, ["<faq>", "", ""])
        assert opened == load_teacher(config.teacher, checkpoints[2]).write(PROMPTS, 1, 0, ["<faq>", "", ""])

        [server] = [p for p in psutil.process_iter() if _serves(p, config.run.dir / "vllm")]
        server.kill()
        assert writers.of(2).write(PROMPTS, 1, 0) == expected[2], "the adapter came back with the server"
    print(f"start {seconds[0]:.1f} s, adapters {seconds[1]:.2f} and {seconds[2]:.2f} s")
    assert max(seconds[1:]) < 0.2 * seconds[0]


def _serves(process, folder):
    try:
        command = process.cmdline()
        return (
            process.environ().get(FOLDER_VARIABLE) == str(folder) and "vllm.entrypoints.openai.api_server" in command
            and "-P" not in command
        )  # fmt: skip
    except psutil.Error:
        return False


def test_a_run_of_two_rounds(smollm2, make_documents, gold_pool):
    config = smollm2(
        rl={"documents_per_round": 4, "documents_per_batch": 2, "learning_rate": 0.001, "rest_em": {"epochs": 1}},
        reward={"documents_per_student": 2}, student={"device": "cpu"},
    )  # fmt: skip
    summary = train_teacher(config, make_documents(4), [], lambda _: gold_pool(0.3), lambda _: None)
    assert (summary.checkpoint / "adapter_config.json").is_file()
    samples = config.run.dir / "journal/samples"
    assert len(list(samples.glob("round-000[12]*.json"))) == 4
    texts = {rewrite.text for group in read_rewrites(samples / "round-0002-0002-0004.json") for rewrite in group}
    assert len(texts) > 4, "samples differ"
    updates = [x for x in read_json_lines(config.run.dir / "journal/metrics.jsonl") if x["kind"] == "update"]
    assert all(line["seconds/sample"] > 0.1 and line["kept"] > 0 for line in updates)
