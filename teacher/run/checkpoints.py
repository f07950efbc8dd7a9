"""Where a run keeps its teacher: `teacher/checkpoint-NNNN`, a model or adapter folder for each finished round, and
`teacher/best.json`, the round that validated best; `teacher/screen.json`, see `teacher.reward.best_of`."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import PreTrainedTokenizerBase

from configs.errors import RunError
from configs.files import read_own, write_whole
from configs.schema import Teacher
from student.engine.models import generation_config

OPTIMIZER_FILE = "optimizer.pt"
BEST_FILE = "best.json"
SCREEN_FILE = "screen.json"


def latest_checkpoint(run_dir: Path) -> Path | None:
    """`teacher/checkpoint-NNNN` of the last finished round; None before the first."""
    return latest_numbered(run_dir / "teacher", "checkpoint")


def latest_numbered(parent: Path, name: str) -> Path | None:
    """The folder `parent/<name>-NNNN` of the highest number; None where there is none."""
    folders = (path for path in parent.glob(f"{name}-*") if re.fullmatch(rf"{name}-\d{{4,}}", path.name))
    return max(folders, key=_number_of, default=None)


def best_checkpoint(run_dir: Path) -> Path | None:
    """The teacher to use: the checkpoint of the round that validated best, or the latest one of a run that validates
    nothing. None before the first round, and where no round gained more than the untrained teacher."""
    best = best_round(run_dir)
    return latest_checkpoint(run_dir) if best is None else checkpoint_of(run_dir, best)


def best_round(run_dir: Path) -> int | None:
    """The round that validated best so far, 0 for the untrained teacher; None for a run that validates nothing."""
    path = run_dir / "teacher" / BEST_FILE
    return read_own(path, lambda best: int(best["round"])) if path.is_file() else None


def write_best(run_dir: Path, round: int, reward: float) -> None:
    """Records the best round and its reward on the validation documents."""
    write_whole(run_dir / "teacher" / BEST_FILE, json.dumps({"round": round, "reward": reward}) + "\n")


def checkpoint_of(run_dir: Path, round: int) -> Path | None:
    """The checkpoint folder of a round, there or not; None for round 0, the teacher's start."""
    return run_dir / "teacher" / f"checkpoint-{round:04d}" if round else None


def is_adapter(checkpoint: Path | None) -> bool:
    """Whether a checkpoint is an adapter's folder, and no whole model."""
    return checkpoint is not None and (checkpoint / "adapter_config.json").is_file()


def finished_rounds(run_dir: Path) -> int:
    """Rounds that have a checkpoint."""
    checkpoint = latest_checkpoint(run_dir)
    return 0 if checkpoint is None else _number_of(checkpoint)


def save_checkpoint(
    run_dir: Path,
    round: int,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    settings: Teacher,
    optimizer: torch.optim.Optimizer | None,
) -> Path:
    """Saves model (or adapter) and tokenizer under their final name, whole or not at all, with a generation config by
    which others sample what a curation by `settings` would. Raises RunError."""
    if not all(torch.isfinite(p).all() for p in model.parameters() if p.requires_grad):
        raise RunError(
            f"round {round} made the teacher's weights non-finite: lower rl.learning_rate; earlier rounds are kept"
        )

    evaluated = settings.evaluation_temperature
    generation = generation_config(
        model,
        tokenizer,
        temperature=settings.temperature if evaluated is None else evaluated,
        top_p=settings.top_p,
        max_new_tokens=settings.max_new_tokens,
    )

    def save(folder: Path) -> None:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        generation.save_pretrained(folder)
        if optimizer is not None:
            torch.save(optimizer.state_dict(), folder / OPTIMIZER_FILE)

    folder = checkpoint_of(run_dir, round)
    assert folder is not None
    return save_folder(folder, save, f"the same command resumes round {round}")


def _number_of(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


def save_folder(folder: Path, save: Callable[[Path], None], advice: str) -> Path:
    """`folder` as `save` writes it, whole or not at all: written beside its place and renamed. Raises RunError where it
    cannot be written, and what else `save` raises."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    try:
        save(partial)
    except Exception as error:
        shutil.rmtree(partial, ignore_errors=True)
        # A full disk is an OSError for Python, but not for safetensors and torch.save, which write on their own.
        if isinstance(error, OSError | SafetensorError | RuntimeError):
            raise RunError(f"cannot save {folder}: {error}; {advice}") from error
        raise
    os.rename(partial, folder)
    return folder
