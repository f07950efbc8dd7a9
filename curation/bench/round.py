"""One training round and one curation on this machine, and how their time divides between the parts.

    notewright bench round --dir runs/bench-round student.pool=ray rl.documents_per_round=64

The preset is `configs/qwen-0.5b-1gpu.yaml` with SmolLM2-135M (`make smollm2`) in the place of both models: a complete
round on SQuAD passages, then `curate` of 600 of them with the teacher of that round. Only time is measured: a raw 135M
model answers next to nothing without the passage.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from configs.errors import UserError
from configs.files import read_json_lines
from configs.load import load_config
from curation.console.progress import say
from curation.console.tables import markdown
from curation.pipeline.curate import curate
from curation.train import train_from_config
from student.bench.inputs import environment
from student.engine.models import pick_device
from teacher.run.clock import Clock

PRESET = Path(__file__).parents[2] / "configs/qwen-0.5b-1gpu.yaml"
PASSAGES = "../shared/data/squad_passages.jsonl"
MODEL = "models/smollm2-135m-instruct"
SCALED = (
    f"teacher.model={MODEL}", f"student.model={MODEL}", f"data.train=[{PASSAGES}]", "data.heldout=[]",
    "data.limit=256", "rl.rounds=1", "rl.documents_per_round=128", "rl.validation_documents=0",
    "reward.minimum_reliability=0", "serving.context_tokens=2048", f"curation.input=[{PASSAGES}]", "curation.limit=600",
    "curation.allow_unknown_licence=true",
)  # fmt: skip
"""The preset at the size of the models that are at hand."""


def run_bench(folder: Path, overrides: Sequence[str] = (), *, progress: Callable[[str], None] = say) -> dict[str, Any]:
    """Trains one round in `folder/run` and curates into `folder/dataset`; the seconds of both as plain values.

    Raises UserError where the folder is there already: work that an earlier run has finished would not be measured.
    """
    if folder.exists():
        raise UserError(f"{folder} exists: a run that goes on measures nothing; name another --dir")
    folders = f"run.dir={folder / 'run'}", f"curation.output={folder / 'dataset'}"
    config = load_config(PRESET, [*SCALED, *folders, *overrides])
    rl = config.rl
    progress(f"training {rl.rounds} round on {rl.documents_per_round} passages")
    start = time.perf_counter()
    summary = train_from_config(config)
    train_seconds = time.perf_counter() - start
    journal = config.run.dir / "journal"
    [update] = [line for line in read_json_lines(journal / "metrics.jsonl") if line["kind"] == "update"]
    progress("curating")
    with Clock() as clock:
        curated = curate(config)
        gpu_idle = clock.figures().get("idle_share/gpu")
    machine = environment(pick_device("auto"), torch.float32)
    gpus = torch.cuda.device_count()
    return {
        "machine": f"{gpus} x {machine['device']}" if gpus else f"{machine['threads']} threads, {machine['device']}",
        "setting": {
            "teacher": config.teacher.model,
            "writer": config.teacher.writer,
            "student": config.student.model,
            "pool": config.student.pool,
            "device": pick_device(config.student.device).type,
            "documents": rl.documents_per_round,
            "documents_per_batch": rl.documents_per_batch,
            "group_size": rl.group_size,
            "repeats": config.reward.repeats,
            "torch": machine["torch"],
        },
        "train": {
            **{name: value for name, value in update.items() if name.startswith(("seconds/", "idle_share/"))},
            "seconds": train_seconds,
            "students": summary.student_runs,
            "rewrites": sum(line["arm"] == "train" for line in read_json_lines(journal / "rewrites.jsonl")),
        },
        "curate": {
            "seconds": curated.seconds,
            "documents": curated.documents_in,
            "rows": curated.rows_out,
            "tokens": curated.tokens_out,
            "idle_share/gpu": gpu_idle,
        },
    }


def table(result: dict[str, Any]) -> str:
    """The measurement as Markdown, for teacher/RESULTS.md."""
    train, curated, setting = result["train"], result["curate"], result["setting"]
    wall = train["seconds/round"]
    phases = {
        "sample": "sampling", "students": "students", "update": "update", "idle": "idle",
        "overlap": "sampling and students at once",
    }  # fmt: skip
    rows = [
        [label, f"{train[f'seconds/{name}']:.1f}", f"{train[f'seconds/{name}'] / wall:.0%}"]
        for name, label in phases.items()
    ]
    lines = [
        f"{result['machine']}, torch {setting['torch']}: {setting['documents']} documents in batches of"
        f" {setting['documents_per_batch']}, G={setting['group_size']}, {setting['repeats']} repeats; writer"
        f" {setting['writer']}, students {setting['pool']} on {setting['device']}.",
        "",
        markdown(["a round", "seconds", "share"], [*rows, ["**the round**", f"{wall:.1f}", ""]]),
        "",
        f"{train['rewrites']} rewrites, {train['students']} student runs"
        f" ({train['students'] / max(train['seconds/students'], 1e-9):.1f} a second of students);"
        f" {train['seconds']:.1f} s with loading and starting.{_idle(train)}",
        "",
        f"`curate` of {curated['documents']} passages: {curated['seconds']:.1f} s, {curated['rows']} rows,"
        f" {curated['tokens']} tokens ({curated['tokens'] / curated['seconds']:.0f} a second).{_idle(curated)}",
    ]
    return "\n".join(lines)


def _idle(figures: dict[str, Any]) -> str:
    share = figures.get("idle_share/gpu")
    return "" if share is None else f" The GPU stood idle {share:.0%} of the time."
