"""Settings of a run as a whole: its folder and seed, its documents, the embedded lab, and tracking."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from configs.schema.section import Named, Section


class Run(Section):
    dir: Path = Path("runs/experiment")
    """Folder of the run: config, journal, checkpoints, report."""
    seed: int = 0
    """Seed of sampling, order of documents and initial adapters. On a CPU it fixes the result to the last bit."""


class Data(Section):
    train: tuple[Named, ...] = ()
    """Documents with questions that the teacher learns on: JSONL or Parquet files, or globs."""
    heldout: tuple[Named, ...] = ()
    """Documents that the teacher never learns on; the gains at the end are measured on them."""
    passage_tokens: int | None = Field(default=1024, ge=16)
    """A document of more tokens (of the teacher; of more words where no model writes) is cut into passages of so many
    at most and a quarter of it at least, where headings, paragraphs or sentences end. Training, evaluation, previews,
    plans and curation then work on passages as on documents. A shorter document is one passage. A document that brings
    texts of its own (`rewrites`), and a task of grids, are not cut. null cuts none: what does not fit into
    the teacher's context is then lost at the document's end."""
    passages_per_document: int | None = Field(default=None, ge=1)
    """Train and measure on so many passages of each document, spread evenly over it, so that no long one outweighs the
    others and no questions are written that are never asked. Curation rewrites all passages."""
    continuation: float = Field(default=0.0, ge=0, le=0.9)
    """Share of each document, at its end, that the teacher does not see and its students are asked for: an exam that
    needs no questions, for `reward.measure: bits`. Only where texts are measured; curation rewrites whole documents."""
    limit: int | None = Field(default=None, ge=1)
    """Use only the first `limit` documents of `train`."""
    titles: int | None = Field(default=None, ge=1)
    """Use only documents of `train` under the first so many titles (a document without a `title` counts as one), so
    that a file in which titles are mixed has others left for the warm-up of a student."""
    heldout_limit: int | None = Field(default=None, ge=1)
    """Use only the first `heldout_limit` documents of `heldout`."""
    heldout_titles: int | None = Field(default=None, ge=1)
    """The same as `titles`, of `heldout`."""
    apart: bool = False
    """Leave out documents of `heldout` whose title or text is one of `train`'s, and texts that come again. Both may
    then name the same files: `train` takes the first documents or titles, `heldout` what these leave."""


class Lab(Section):
    """The embedded worlds (curation/lab): documents, and small models that are trained from scratch."""

    world: Literal["people", "grids"] = "people"
    """`people`: biographies of fictional people, with two students and a teacher. `grids`: tasks of small grids, with a
    student that has met other rules."""
    dir: Path = Path("models/lab")
    """Folder of its documents and models; what is there already is used again."""
    base_people: int = Field(default=240, ge=16)
    """People whom the students know from pretraining."""
    train_people: int = Field(default=192, ge=8)
    heldout_people: int = Field(default=96, ge=8)
    """People whom no teacher learns on: eight share a student, so that 96 make twelve independent batches."""
    curate_people: int = Field(default=64, ge=8)
    train_tasks: int = Field(default=216, ge=8)
    """Tasks of 36 rules that neither the student nor the held-out tasks have."""
    heldout_tasks: int = Field(default=108, ge=8)
    """Tasks of 36 other rules."""
    effort: float = Field(default=1.0, gt=0, le=1)
    """Share of the usual training steps of the lab's models. Models of less effort are poor, and enough for tests."""
    seed: int = 0


class Tracking(Section):
    wandb: Literal["disabled", "offline", "online"] = "disabled"
    """Whether metrics.jsonl, which is always written, is also sent to wandb. `disabled` never imports it."""
    project: str = "notewright"
