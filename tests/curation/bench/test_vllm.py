"""Curating with vLLM itself, where `make vllm` and `make smollm2` were run."""

import os
import signal
import sys
import threading
from collections import Counter
from pathlib import Path

import psutil
import pytest
import torch

from configs.schema import Config
from curation.bench import vllm as vllm_bench
from curation.models.smollm2 import FOLDER
from curation.pipeline.curate import curate
from teacher.run.checkpoints import save_checkpoint
from teacher.writers.local import load_teacher
from teacher.writers.vllm_server import FOLDER_VARIABLE
from tests.curation.datasets import data_rows, manifest_of, write_jsonl
from tests.curation.pipeline.test_echo import consistent, terminal_records
from tests.processes import happens

MODEL = Path(__file__).parents[3] / FOLDER
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(
        not (Path(sys.prefix) / "vllm/.ready").is_file() or not MODEL.is_dir(), reason="needs `make vllm smollm2`"
    ),
]
DOCUMENTS = 24


def config_of(folder: Path, source: Path, output: str) -> Config:
    return Config.model_validate(
        {
            "run": {"dir": str(folder / "run")},
            "teacher": {
                "model": str(MODEL), "writer": "vllm", "strategies": ["rewrite"], "max_new_tokens": 24,
                "temperature": 0.0, "batch_size": 4, "lora": {"rank": 8, "alpha": 16},
            },
            "serving": {"context_tokens": 512, "start_seconds": 600, "arguments": ["--enforce-eager"]},
            "gates": {"truncated": False, "min_shared": 0.0, "min_words": 1, "max_repetition": 1.0},
            "curation": {"input": [str(source)], "output": str(folder / output), "allow_unknown_licence": True},
        }
    )  # fmt: skip


def trained(config: Config) -> Path:
    """A checkpoint whose adapter is not where it started."""
    writer = load_teacher(config.teacher, train_seed=config.run.seed)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in writer.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.01)
    return save_checkpoint(config.run.dir, 1, writer.model, writer.tokenizer, writer.settings, None)


def server_in(folder: Path) -> list[psutil.Process]:
    """What runs for the server of an output folder."""
    found = []
    for process in psutil.process_iter():
        try:
            started = process.environ().get(FOLDER_VARIABLE, "").startswith(str(folder))
            if started and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_a_curation_is_whole_though_its_server_was_killed(tmp_path: Path) -> None:
    texts = list(vllm_bench._texts(3, DOCUMENTS))
    source = write_jsonl(tmp_path / "in/a.jsonl", [{"text": text} for text in texts])
    undisturbed, config = (config_of(tmp_path, source, name) for name in ("undisturbed", "out"))
    checkpoint = trained(config)
    curate(undisturbed)
    rows = data_rows(undisturbed)
    assert {row["teacher"] for row in rows} == {f"{MODEL.name}+{checkpoint.name}"}
    assert all(row["adapter_hash"] and row["teacher_hash"] for row in rows)
    # The adapter wrote, not its base: the texts are those that local transformers sample.
    local = config.model_copy(update={"teacher": config.teacher.model_copy(update={"writer": "transformers"})})
    local = local.model_copy(update={"curation": local.curation.model_copy(update={"output": tmp_path / "local"})})
    curate(local)
    local_texts = {row["id"]: row["text"] for row in data_rows(local)}
    assert sum(local_texts.get(row["id"]) == row["text"] for row in rows) >= 0.9 * len(local_texts)

    parts = config.curation.output / ".notewright/parts/00000"
    killed: list[int] = []

    def kill() -> None:
        happens(lambda: len(list(parts.glob("*.parquet"))) >= 2)
        for process in server_in(config.curation.output):
            if "vllm.entrypoints.openai.api_server" in process.cmdline() and "-P" not in process.cmdline():
                process.kill()
                killed.append(process.pid)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    summary = curate(config)
    killer.join()
    assert killed and not server_in(config.curation.output)
    assert summary.documents_in == DOCUMENTS and summary.failed == 0 and consistent(manifest_of(config))
    assert set(terminal_records(config).values()) == {1} and len(terminal_records(config)) == DOCUMENTS
    again = {row["id"]: row["text"] for row in data_rows(config)}
    assert sum(again.get(row["id"]) == row["text"] for row in rows) >= 0.9 * len(rows)


def test_a_killed_run_leaves_no_server_and_goes_on(tmp_path: Path) -> None:
    import multiprocessing

    source = write_jsonl(tmp_path / "in/a.jsonl", [{"text": text} for text in vllm_bench._texts(4, DOCUMENTS)])
    config = config_of(tmp_path, source, "out")
    parts = config.curation.output / ".notewright/parts/00000"
    run = multiprocessing.get_context("spawn").Process(target=curate, args=(config,))
    run.start()
    assert run.pid is not None
    assert happens(lambda: len(list(parts.glob("*.parquet"))) >= 2, alive=run.is_alive), "it does not come to its work"
    os.kill(run.pid, signal.SIGKILL)
    run.join()
    summary = curate(config)
    assert summary.resumed >= 8 and summary.documents_in == DOCUMENTS
    assert Counter(terminal_records(config).values()) == {1: DOCUMENTS} and not server_in(config.curation.output)


def test_the_bench_measures_both_arms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_bench, "FOLDER", MODEL)
    monkeypatch.setattr(vllm_bench, "TURNS", 1)
    monkeypatch.setattr(vllm_bench, "DOCUMENTS", 8)
    said: list[str] = []
    found = vllm_bench.measure(said.append)
    [turn] = found["vllm"]["turns"]
    assert turn["rows_in"] == 8 and turn["tokens"] > 0 and turn["bare_tokens"] > 0 and len(said) == 1
    # Greedy on the same prompts: about the same tokens. How fast is for the bench itself to say.
    assert turn["tokens"] == pytest.approx(turn["bare_tokens"], rel=0.1)
    assert 0.05 < found["vllm_ratio"] < 2
