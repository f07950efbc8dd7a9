"""Where a run keeps its teacher: `teacher/checkpoint-NNNN`, a model or adapter folder for each finished round."""

import os
import re
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError

from configs.errors import RunError
from teacher.writer import TransformersWriter

OPTIMIZER_FILE = "optimizer.pt"


def latest_checkpoint(run_dir: Path) -> Path | None:
    """`teacher/checkpoint-NNNN` of the last finished round; None before the first."""
    folders = (run_dir / "teacher").glob("checkpoint-*")
    found = (folder for folder in folders if re.fullmatch(r"checkpoint-\d{4,}", folder.name))
    return max(found, key=_round_of, default=None)


def finished_rounds(run_dir: Path) -> int:
    """Rounds that have a checkpoint."""
    checkpoint = latest_checkpoint(run_dir)
    return 0 if checkpoint is None else _round_of(checkpoint)


def save_checkpoint(
    run_dir: Path, round: int, writer: TransformersWriter, optimizer: torch.optim.Optimizer | None
) -> Path:
    """Saves model (or adapter) and tokenizer under their final name, whole or not at all. Raises RunError."""
    if not all(torch.isfinite(p).all() for p in writer.model.parameters() if p.requires_grad):
        raise RunError(
            f"round {round} made the teacher's weights non-finite: lower rl.learning_rate; earlier rounds are kept"
        )
    folder = run_dir / "teacher" / f"checkpoint-{round:04d}"
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        writer.model.save_pretrained(partial)
        writer.tokenizer.save_pretrained(partial)
        if optimizer is not None:
            torch.save(optimizer.state_dict(), partial / OPTIMIZER_FILE)
    except (OSError, SafetensorError, RuntimeError) as error:
        # A full disk is an OSError for Python, but not for safetensors and torch.save, which write on their own.
        shutil.rmtree(partial, ignore_errors=True)
        raise RunError(f"cannot save {folder}: {error}; the same command resumes round {round}") from error
    os.rename(partial, folder)
    return folder


def _round_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))
