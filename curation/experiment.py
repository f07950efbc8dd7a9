"""A config's training run: reads the documents that it names, and trains its teacher on students of this process."""

from datatrove.data import Document
from transformers import AutoConfig, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from configs.errors import UserError
from configs.schema import Config
from curation.documents import read_documents
from curation.progress import say
from student.models import check_folder
from student.pool import InlinePool
from student.records import Split
from teacher.reward import document_questions
from teacher.summary import TrainSummary
from teacher.train import train_teacher


def train_from_config(config: Config) -> TrainSummary:
    """Trains, or goes on training, the teacher in `run.dir`; progress goes to stderr.

    Documents and models are looked at before anything is written. Raises UserError and RunError.
    """
    disable_progress_bar()  # a bar for every model loaded would drown our own lines
    if not config.data.train:
        raise UserError("data.train is not set: name JSONL or Parquet files with `text` and `questions`")
    try:
        train = _askable(config, "train", read_documents(config.data.train, config.data.limit), "reward")
        heldout = []
        if config.data.heldout:
            heldout = read_documents(config.data.heldout, config.data.heldout_limit)
            heldout = _askable(config, "heldout", heldout, "heldout")
        check_model("teacher.model", config.teacher.model)
        check_model("student.model", config.student.model)
        pool = InlinePool(config.student)
    except UserError as error:
        missing = str(config.lab.dir) in str(error) and not config.lab.dir.exists()
        raise UserError(f"{error}; `notewright lab CONFIG.yaml` builds it") if missing else error from None
    if not heldout:
        say("data.heldout is not set: the gain of the trained teacher will not be measured")
    return train_teacher(config, train, heldout, pool, progress=say)


def _askable(config: Config, key: str, documents: list[Document], split: Split) -> list[Document]:
    """The documents that have a question of this split; the split is a hash, so of few questions it may take none."""
    benchmark = document_questions(config)
    kept = [d for d in documents if any(question.split == split for question in benchmark.exam(d).questions)]
    if not kept:
        raise UserError(
            f"data.{key}: none of {len(documents)} documents has a {split} question; a `split` in the data sets it"
        )
    if len(kept) < len(documents):
        left_out = len(documents) - len(kept)
        say(f"warning: data.{key}: {left_out} of {len(documents)} documents have no {split} question, left out")
    return kept


def check_model(key: str, name: str) -> None:
    """Raises UserError if `name` is no model, from its config and tokenizer alone: the weights may be large."""
    try:
        check_folder(name)
        AutoConfig.from_pretrained(name)
        AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise UserError(f"{key} {name!r} cannot be loaded: {str(error).splitlines()[0]}") from None
