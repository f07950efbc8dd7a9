"""One training round and one curation on the machine at hand, and where their wall clock went.

    notewright bench round --dir runs/bench-round
    notewright bench round --dir runs/bench-round student.pool=ray rl.documents_per_round=64

The preset is `configs/qwen-0.5b-1gpu.yaml` with SmolLM2-135M (`make smollm2`) in the place of both models: a complete
ReST-EM round on SQuAD passages, then `curate` of 600 of them with the teacher of that round. What is measured is time
alone: a raw 135M model answers next to nothing without the passage.
"""

import platform
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from configs.errors import UserError
from configs.files import read_json_lines
from configs.load import load_config
from configs.schema import Config
from curation.console.progress import say
from curation.pipeline.curate import curate
from curation.train import train_from_config
from student.engine.models import pick_device
from teacher.run.clock import Clock

CONFIG = Path(__file__).parents[2] / "configs/qwen-0.5b-1gpu.yaml"
PASSAGES = "../shared/data/squad_passages.jsonl"
MODEL = "models/smollm2-135m-instruct"
PHASES = {"sample": "sampling", "students": "students", "update": "update", "idle": "idle"}
SCALED = (
    f"teacher.model={MODEL}", f"student.model={MODEL}", f"data.train=[{PASSAGES}]", "data.heldout=[]",
    "data.limit=256", "rl.rounds=1", "rl.documents_per_round=128", "rl.validation_documents=0",
    "reward.minimum_reliability=0", "serving.context_tokens=2048", f"curation.input=[{PASSAGES}]", "curation.limit=600",
    "curation.allow_unknown_licence=true",
)  # fmt: skip
"""The preset at the size of the models that are at hand."""


def run_bench(
    folder: Path, overrides: Sequence[str] = (), *, config: Path = CONFIG, tell: Callable[[str], None] = say
) -> dict[str, Any]:
    """Trains one round in `folder/run` and curates into `folder/dataset`; the seconds of both as plain values.

    Raises UserError where the folder holds an earlier measurement: what is finished would be found on disk.
    """
    if folder.exists():
        raise UserError(f"{folder} exists: a run that goes on measures nothing; name another --dir")
    settings = load_config(
        config, [*SCALED, f"run.dir={folder / 'run'}", f"curation.output={folder / 'dataset'}", *overrides]
    )
    tell(f"training {settings.rl.rounds} round on {settings.rl.documents_per_round} passages")
    began = time.perf_counter()
    summary = train_from_config(settings)
    train_seconds = time.perf_counter() - began
    lines = read_json_lines(settings.run.dir / "journal/metrics.jsonl")
    [update] = [line for line in lines if line["kind"] == "update"]
    rewrites = read_json_lines(settings.run.dir / "journal/rewrites.jsonl")
    tell("curating")
    with Clock() as clock:
        curated = curate(settings)
        gpu_idle = clock.figures().get("idle_share/gpu")
    return {
        "machine": _machine(),
        "setting": _setting(settings),
        "train": {name: value for name, value in update.items() if name.startswith(("seconds/", "idle_share/"))}
        | {
            "seconds": train_seconds,
            "students": summary.student_runs,
            "rewrites": len([line for line in rewrites if line["arm"] == "train"]),
        },
        "curate": {
            "seconds": curated.seconds,
            "documents": curated.documents_in,
            "rows": curated.rows_out,
            "tokens": curated.tokens_out,
            "idle_share/gpu": gpu_idle,
        },
    }


def _machine() -> str:
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        return f"{len(names)} x {names[0]}"
    return f"{torch.get_num_threads()} threads, {platform.processor() or platform.machine()}"


def _setting(config: Config) -> dict[str, Any]:
    return {
        "teacher": config.teacher.model,
        "writer": config.teacher.writer,
        "student": config.student.model,
        "pool": config.student.pool,
        "device": pick_device(config.student.device).type,
        "documents": config.rl.documents_per_round,
        "documents_per_batch": config.rl.documents_per_batch,
        "group_size": config.rl.group_size,
        "repeats": config.reward.repeats,
        "torch": metadata.version("torch"),
    }


def table(found: dict[str, Any]) -> str:
    """The measurement as Markdown, for teacher/RESULTS.md."""
    train, curated, setting = found["train"], found["curate"], found["setting"]
    wall = train["seconds/round"]
    lines = [
        f"{found['machine']}, torch {setting['torch']}: {setting['documents']} documents in batches of"
        f" {setting['documents_per_batch']}, G={setting['group_size']}, {setting['repeats']} repeats; writer"
        f" {setting['writer']}, students {setting['pool']} on {setting['device']}.",
        "",
        "| a round | seconds | share |",
        "|---|---|---|",
        *(f"| {label} | {train[f'seconds/{name}']:.1f} | {train[f'seconds/{name}'] / wall:.0%} |"
          for name, label in PHASES.items()),
        f"| sampling and students at once | {train['seconds/overlap']:.1f} | {train['seconds/overlap'] / wall:.0%} |",
        f"| **the round** | {wall:.1f} | |",
        "",
        f"{train['rewrites']} rewrites, {train['students']} student runs"
        f" ({train['students'] / max(train['seconds/students'], 1e-9):.1f} a second of students);"
        f" {train['seconds']:.1f} s with loading and starting.{_idle(train)}",
        "",
        f"`curate` of {curated['documents']} passages: {curated['seconds']:.1f} s, {curated['rows']} rows,"
        f" {curated['tokens']} tokens ({curated['tokens'] / curated['seconds']:.0f} a second).{_idle(curated)}",
    ]  # fmt: skip
    return "\n".join(lines)


def _idle(figures: dict[str, Any]) -> str:
    share = figures.get("idle_share/gpu")
    return "" if share is None else f" The GPU stood idle {share:.0%} of the time."
