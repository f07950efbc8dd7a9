import hashlib
from pathlib import PurePosixPath

from datatrove.data import Document

from configs.errors import UserError
from configs.schema import Config
from curation.console.progress import say
from curation.corpus.inputs import check_inputs, models_of
from curation.corpus.shards import BadRow, Shard, find_shards, read_shard
from student.benchmarks.sources import DocumentQuestions
from student.engine.models import check_model
from student.records import Split
from teacher.questions.cache import Known, attach_questions, ensure_questions


def read_documents(
    patterns: tuple[str, ...], limit: int | None = None, known: Known | None = None, *, optional: bool = False
) -> list[Document]:
    """The first `limit` documents with questions, in memory, for training and evaluation.

    Their ids are `training_id`s. A document that brings no questions gets those that are `known`
    (teacher.questions.cache).
    Rows that cannot be read and documents without questions are left out, and said on stderr with their number. Raises
    UserError if a file is missing or, unless `optional`, nothing is left.
    """
    documents: list[Document] = []
    bad: list[str] = []
    without = 0
    for shard in find_shards(patterns):
        for item in read_shard(shard):
            if isinstance(item, BadRow):
                bad.append(f"{shard.name}{'' if item.row is None else f' row {item.row}'}: {item.reason}")
                continue
            item.id = training_id(shard, item.metadata["source_row"], item.text)
            if not _has_questions(item):
                item.metadata.pop("questions", None)
                [item] = attach_questions([item], known or {})
            if item.metadata.get("questions"):
                documents.append(item)
            else:
                without += 1
            if len(documents) == limit:
                break
        if len(documents) == limit:
            break
    what = ", ".join(patterns)
    if bad:
        say(f"warning: {len(bad)} unreadable in {what}, left out; the first: {bad[0]}")
    if not documents and not optional:
        causes = [f"{without} without questions"] * bool(without) + [f"{len(bad)} unreadable"] * bool(bad)
        raise UserError(f"no documents with questions in {what}: {' and '.join(causes) or 'no rows'}")
    if without:
        so = "no leak of theirs can be seen" if optional else "left out"
        say(f"warning: {without} documents without questions in {what}, {so}")
    return documents


def _has_questions(document: Document) -> bool:
    questions = document.metadata.get("questions")
    if not isinstance(questions, list) or not questions or not all(isinstance(q, dict) for q in questions):
        return False
    # Parquet fills the fields that a row lacks with None; to us a field is there or not.
    questions = [{k: v for k, v in question.items() if v is not None} for question in questions]
    document.metadata["questions"] = questions
    return all("answer" in q and ("question" in q or "prompt" in q) for q in questions)


def training_id(shard: Shard, row: int, text: str) -> str:
    """The id that `read_documents` gives a row: `file#row@` and a hash of its text, wherever the file lies.

    Seeds hang on it, so that a run repeats on another machine. The same text in the same place of two files of one name
    is one document, and training refuses to learn on it and to be measured on it.
    """
    return f"{PurePosixPath(shard.url).name}#{row}@{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def read_splits(config: Config) -> tuple[list[Document], list[Document]]:
    """The documents of `data.train` and `data.heldout` that have questions of their split.

    Documents and models are looked at before anything is written. Documents without questions get theirs from
    `questions.model`, where that is set. Raises UserError.
    """
    check_inputs(config)
    train = _read(config, config.data.train, config.data.limit)
    heldout = _read(config, config.data.heldout, config.data.heldout_limit) if config.data.heldout else []
    unasked = any("questions" not in document.metadata for document in [*train, *heldout])
    if not unasked:
        train, heldout = _askable_both(config, train, heldout)
    for key, name in models_of(config).items():
        check_model(key, name)
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
    benchmark = DocumentQuestions(config.student.prompt_template)
    kept = [d for d in documents if any(question.split == split for question in benchmark.exam(d).questions)]
    if not kept:
        raise UserError(
            f"data.{key}: none of {len(documents)} documents has a {split} question; a `split` in the data sets it"
        )
    if len(kept) < len(documents):
        left_out = len(documents) - len(kept)
        say(f"warning: data.{key}: {left_out} of {len(documents)} documents have no {split} question, left out")
    return kept
