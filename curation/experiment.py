"""A config's training run: reads the documents that it names, and trains its teacher on students of this process."""

from functools import partial

from datatrove.data import Document
from transformers import AutoConfig, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from configs.errors import UserError
from configs.schema import Config
from curation.documents import BadRow, _has_questions, find_shards, read_documents, read_shard, training_id
from curation.progress import say
from student.models import check_folder
from student.pools import make_pool
from student.records import Split
from teacher.exams import document_questions
from teacher.question_writer import TEACHER
from teacher.questions import ensure_questions
from teacher.ranks import Ranks
from teacher.summary import TrainSummary
from teacher.train import train_teacher


def train_from_config(config: Config) -> TrainSummary:
    """Trains, or goes on training, the teacher in `run.dir`; progress goes to stderr. Raises UserError and RunError."""
    disable_progress_bar()  # a bar for every model loaded would drown our own lines
    ranks = Ranks()
    ranks.check(config)
    ranks.start()
    with ranks.first():  # questions may be written on the way
        train, heldout = read_splits(config)
    if not heldout and not ranks.follows:
        say("data.heldout is not set: the gain of the trained teacher will not be measured")
    pools = partial(make_pool, sharing=len(config.student.names))
    return train_teacher(config, train, heldout, pools, progress=say)


def read_splits(config: Config) -> tuple[list[Document], list[Document]]:
    """The documents of `data.train` and `data.heldout` that have questions of their split.

    Documents and models are looked at before anything is written. Documents without questions get theirs from
    `questions.model`, where that is set. Raises UserError.
    """
    if not config.data.train:
        raise UserError("data.train is not set: name JSONL or Parquet files with `text` and `questions`")
    try:
        train = _read(config, config.data.train, config.data.limit)
        heldout = _read(config, config.data.heldout, config.data.heldout_limit) if config.data.heldout else []
        unasked = any("questions" not in document.metadata for document in [*train, *heldout])
        if not unasked:
            train, heldout = _askable_both(config, train, heldout)
        check_models(config)
    except UserError as error:
        missing = str(config.lab.dir) in str(error) and not config.lab.dir.exists()
        raise UserError(f"{error}; `notewright lab CONFIG.yaml` builds it") if missing else error from None
    if unasked:
        # Both at once: the writing model is loaded once.
        asked = {document.id: document for document in ensure_questions(config, [*train, *heldout], say)}
        train, heldout = ([asked[d.id] for d in part if d.id in asked] for part in (train, heldout))
        train, heldout = _askable_both(config, train, heldout)
    return train, heldout


def read_asked(config: Config, patterns: tuple[str, ...], limit: int | None) -> list[Document]:
    """The first `limit` documents with questions: their own, or those of `questions.model`. Raises UserError."""
    return ensure_questions(config, _read(config, patterns, limit), say)


def _read(config: Config, patterns: tuple[str, ...], limit: int | None) -> list[Document]:
    """The first `limit` documents: all where `questions.model` is set, else those with questions."""
    if not config.questions.model:
        try:
            return read_documents(patterns, limit)
        except UserError as error:
            if "without questions" not in str(error):
                raise
            raise UserError(f"{error}; set questions.model to a model that writes them, or to 'teacher'") from None
    documents: list[Document] = []
    bad: list[str] = []
    for shard in find_shards(patterns):
        for item in read_shard(shard, None if limit is None else limit - len(documents)):
            if isinstance(item, BadRow):
                bad.append(f"{shard.name}{'' if item.row is None else f' row {item.row}'}: {item.reason}")
                continue
            if not _has_questions(item):
                item.metadata.pop("questions", None)
            item.id = training_id(shard, item.metadata["source_row"], item.text)
            documents.append(item)
        if len(documents) == limit:
            break
    if bad:
        say(f"warning: {len(bad)} unreadable in {', '.join(patterns)}, left out; the first: {bad[0]}")
    if not documents:
        raise UserError(f"no documents in {', '.join(patterns)}: {f'{len(bad)} unreadable' if bad else 'no rows'}")
    return documents


def _askable_both(
    config: Config, train: list[Document], heldout: list[Document]
) -> tuple[list[Document], list[Document]]:
    train = _askable(config, "train", train, "reward")
    return train, _askable(config, "heldout", heldout, "heldout") if config.data.heldout else []


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


def check_models(config: Config) -> None:
    """Raises UserError if the teacher, a student or the model that writes questions is no model. `teacher` is one."""
    check_model("teacher.model", config.teacher.model)
    for name in config.student.names:
        if name != TEACHER:
            check_model("student.models" if config.student.models else "student.model", name)
    if config.questions.model not in ("", TEACHER):
        check_model("questions.model", config.questions.model)


def check_model(key: str, name: str) -> None:
    """Raises UserError if `name` is no model, from its config and tokenizer alone: the weights may be large."""
    try:
        check_folder(name)
        AutoConfig.from_pretrained(name)
        AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise UserError(f"{key} {name!r} cannot be loaded: {str(error).splitlines()[0]}") from None
