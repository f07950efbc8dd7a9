"""Settings of a run as a whole: its folder and seed, its documents, the embedded lab, and tracking."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from configs.schema.section import Section


class Run(Section):
    dir: Path = Path("runs/experiment")
    """Where everything of this run goes: config, journal, checkpoints, report."""
    seed: int = 0
    """Seed of sampling, data order and adapter initialisation. The same seed gives the same bits on CPU."""


class Data(Section):
    train: tuple[str, ...] = ()
    """Documents with questions that the teacher learns on: JSONL or Parquet files, or globs."""
    heldout: tuple[str, ...] = ()
    """Documents the teacher never learns on; the gains reported at the end are measured here."""
    limit: int | None = Field(default=None, ge=1)
    """Use only the first `limit` documents of `train`."""
    heldout_limit: int | None = Field(default=None, ge=1)
    """Use only the first `heldout_limit` documents of `heldout`."""


class Lab(Section):
    """The embedded world of fictional people (curation/lab)."""

    dir: Path = Path("models/lab")
    """Where the world's shards and base models are kept and found again."""
    base_people: int = Field(default=240, ge=16)
    """People the students know from pretraining."""
    train_people: int = Field(default=192, ge=8)
    heldout_people: int = Field(default=48, ge=8)
    curate_people: int = Field(default=64, ge=8)
    effort: float = Field(default=1.0, gt=0, le=1)
    """Share of the usual training steps of the lab's models; less is for trying the plumbing, the models are poor."""
    seed: int = 0


class Tracking(Section):
    wandb: Literal["disabled", "offline", "online"] = "disabled"
    """metrics.jsonl is always written; this mirrors it. `disabled` never imports wandb."""
    project: str = "notewright"
