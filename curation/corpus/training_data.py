"""The documents of training and evaluation: read into memory, with questions, and with those of the right split."""

import hashlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Literal

from datatrove.data import Document

from configs.errors import UserError
from configs.schema import Config
from configs.schema.run import Data
from curation.console.progress import say
from curation.corpus.finding import Shard, Skipped, describe_skipped, find_shards
from curation.corpus.inputs import check_inputs, models_of
from curation.corpus.passages import Cutter
from curation.corpus.related import relate
from curation.corpus.shards import BadRow, read_shard
from student.benchmarks.continuation import set_apart
from student.benchmarks.items import HELDOUT_SHARE
from student.benchmarks.sources import DocumentQuestions
from student.engine.models import check_model
from student.records import Split, group_of, passage_of, whole_id, words_of
from teacher.prompting.strategies import needs_model
from teacher.prompting.template import load_tokenizer
from teacher.questions.cache import QuestionsByDocument, attach_questions, ensure_questions


class NoQuestions(UserError):
    """There are documents, and none of them has questions."""


def read_documents(
    patterns: tuple[str, ...],
    limit: int | None = None,
    known: QuestionsByDocument | None = None,
    *,
    heldout_share: float = HELDOUT_SHARE,
    cut: Callable[[Document], list[Document]] = lambda document: [document],
    titles: int | None = None,
    optional: bool = False,
    questions_needed: bool = True,
    limit_each: int | None = None,
    own: Sequence[Path] = (),
) -> list[Document]:
    """The first `limit` documents with questions (all, unless `questions_needed`) under the first `titles` titles, for
    training and evaluation: of the first `limit_each` documents of each file, without what is in folders that are the
    run's `own` (see `find_shards`). Each is what `cut` makes of it (`Cutter.cut`): its passages, of which those with
    questions stay.

    Their ids are `training_id`s. What has no questions gets those that are `known` (teacher.questions.cache),
    `heldout_share` of them held out. Rows that cannot be read and documents without questions are left out, and a
    warning on stderr counts them. Raises UserError if a file is missing and, unless `optional`, if nothing is left
    (NoQuestions: for want of questions).
    """
    documents: list[Document] = []
    unreadable: list[str] = []
    used = without = cut_into = 0
    groups: set[Hashable] = set()
    attach = partial(attach_questions, written=known or {}, heldout_share=heldout_share)
    for document in _read_rows(patterns, unreadable, limit_each, own):
        passages = attach(cut(*attach([document])))
        kept = [p for p in passages if p.metadata.get("questions") or not questions_needed]
        group = group_of(document)
        if kept and (titles is None or group in groups or len(groups) < titles):
            groups.add(group)
            documents += kept
            used += 1
            cut_into += len(passages) if len(passages) > 1 else 0
        without += not kept
        if used == limit:
            break
    names = ", ".join(patterns)
    if unreadable:
        say(f"warning: {len(unreadable)} unreadable in {names}, left out; the first: {unreadable[0]}")
    if not documents and not optional:
        causes = [f"{without} without questions"] * bool(without) + [f"{len(unreadable)} unreadable"] * bool(unreadable)
        error = NoQuestions if without else UserError
        kind = "documents with questions" if questions_needed else "documents"
        raise error(f"no {kind} in {names}: {' and '.join(causes) or 'no rows'}")
    if cut_into:
        whole = sum(passage_of(document) is None for document in documents)
        kind = " with questions" if questions_needed else ""
        say(f"{names}: {used - whole} long documents are {cut_into} passages; {len(documents) - whole}{kind} are used")
    if without:
        effect = "so their leaks cannot be seen" if optional else "left out"
        say(f"warning: {without} documents without questions in {names}, {effect}")
    return documents


def _read_rows(
    patterns: tuple[str, ...], unreadable: list[str], limit: int | None, own: Sequence[Path]
) -> Iterator[Document]:
    """All documents, with `metadata["questions"]` only where it is valid. `unreadable` gets a line for each bad row."""
    skipped: Skipped = {}
    shards = find_shards(patterns, skipped, own)
    if skipped:
        say(f"not read in {', '.join(patterns)}: {describe_skipped(skipped)}")
    for shard in shards:
        for item in read_shard(shard, limit):
            if isinstance(item, BadRow):
                unreadable.append(f"{shard.name}{'' if item.row is None else f' row {item.row}'}: {item.reason}")
                continue
            item.id = training_id(shard, item.metadata["source_row"], item.text)
            if not has_questions(item):
                item.metadata.pop("questions", None)
            yield item


def has_questions(document: Document) -> bool:
    """Whether the document brings questions that can be asked, as far as their fields show."""
    questions = document.metadata.get("questions")
    if not isinstance(questions, list) or not questions or not all(isinstance(q, dict) for q in questions):
        return False
    # Parquet fills the fields that a row lacks with None; for a benchmark a field is there or not.
    questions = [{k: v for k, v in question.items() if v is not None} for question in questions]
    document.metadata["questions"] = questions
    return all("answer" in q and ("question" in q or "prompt" in q) for q in questions)


def training_id(shard: Shard, row: int, text: str) -> str:
    """The id that `read_documents` gives a row: `file#row@` and a hash of its text, the same in every folder. Seeds
    depend on it, so that a run repeats on another machine. The same text in the same row of two files of one name is
    one document, and training refuses to learn from it and to be measured on it."""
    return f"{PurePosixPath(shard.name).name}#{row}@{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def read_splits(config: Config) -> tuple[list[Document], list[Document]]:
    """The documents of `data.train` and `data.heldout` that have questions of their split; those that lack any get them
    where `questions` says so. Documents and models are checked before that. Raises UserError."""
    check_inputs(config)
    data = config.data
    train = _read(config, data.train, data.limit, data.titles)
    if config.questions.replace and config.questions.asked_kinds:
        for document in train:
            document.metadata.pop("questions", None)
    heldout = _read_heldout(config, train) if data.heldout else []
    questions_missing = not _text_alone(config) and any("questions" not in d.metadata for d in [*train, *heldout])
    if not questions_missing:
        train, heldout = _with_split(config, "train", train), _with_split(config, "heldout", heldout)
    for key, name in models_of(config).items():
        check_model(key, name)
    if needs_model(config.teacher):
        load_tokenizer(config.teacher, config.serving, config.teacher.model)  # for its checks
    if questions_missing:
        # Both at once, so that the model that writes is loaded once.
        with_questions = {d.id: d for d in ensure_questions(config, [*train, *heldout], say)}
        train, heldout = ([with_questions[d.id] for d in part if d.id in with_questions] for part in (train, heldout))
        train, heldout = _with_split(config, "train", train), _with_split(config, "heldout", heldout)
    return train, heldout


def read_asked(
    config: Config, patterns: tuple[str, ...], limit: int | None, titles: int | None = None
) -> list[Document]:
    """The first `limit` documents, under the first `titles` titles, with questions: their own, or those
    that are written. Raises UserError."""
    return _with_questions(config, _read(config, patterns, limit, titles))


def read_evaluated(config: Config) -> list[Document]:
    """The documents of `data.heldout` with questions, where no teacher is trained. Raises UserError."""
    data = config.data
    train = _read(config, data.train, data.limit, data.titles) if data.apart else []
    return _with_questions(config, _read_heldout(config, train))


def _read_heldout(config: Config, train: Sequence[Document]) -> list[Document]:
    """The first `data.heldout_limit` documents, with `data.apart` of those that share nothing with `train`."""
    data = config.data
    if not data.apart:
        return _read(config, data.heldout, data.heldout_limit, data.heldout_titles)
    read = _read(config, data.heldout, None, None)
    kept = apart_from(train, read, data)
    if not kept:
        raise UserError("data.apart: no document of data.heldout has a title and a text that none of data.train has")
    say(f"data.apart: {len(kept)} held-out documents of {len(read)} have titles and texts of their own")
    return kept


def apart_from(train: Sequence[Document], documents: Sequence[Document], data: Data) -> list[Document]:
    """The first `data.heldout_limit` documents under `data.heldout_titles` titles, without those whose title or text is
    one of `train`'s, and without texts that came before."""
    groups, texts = {group_of(document) for document in train}, {words_of(document) for document in train}
    kept: list[Document] = []
    titles: set[Hashable] = set()
    wholes: set[str] = set()
    for document in documents:
        group, text = group_of(document), words_of(document)
        whole, full = whole_id(document), group not in titles and len(titles) == data.heldout_titles
        full |= whole not in wholes and len(wholes) == data.heldout_limit
        if group in groups or text in texts or full:
            continue
        titles.add(group)
        wholes.add(whole)
        texts.add(text)
        kept.append(document)
    return kept


def _read(config: Config, patterns: tuple[str, ...], limit: int | None, titles: int | None) -> list[Document]:
    """The first `limit` documents: all where questions can be written or text is asked for, else those with
    questions."""
    share, most, cutter = config.data.continuation, config.data.passages_per_document, Cutter(config)

    def cut(document: Document) -> list[Document]:
        passages = cutter.cut(document)
        count = min(most or len(passages), len(passages))
        return [passages[(2 * i + 1) * len(passages) // (2 * count)] for i in range(count)]

    try:
        needed = not config.questions.asked_kinds and not share
        documents = read_documents(patterns, limit, cut=cut, titles=titles, questions_needed=needed)
        documents = [set_apart(document, share) for document in documents] if share else documents
        relate(documents, config.written_strategies)
        return documents
    except NoQuestions as error:
        raise NoQuestions(
            f"{error}; set questions.model to a model that writes them, or to 'teacher', or questions.kinds=[cloze]"
        ) from None


def _text_alone(config: Config) -> bool:
    """Whether documents need no questions, since their ends are asked for."""
    return bool(config.data.continuation) and not config.questions.asked_kinds


def _with_questions(config: Config, documents: list[Document]) -> list[Document]:
    return documents if _text_alone(config) else ensure_questions(config, documents, say)


def _with_split(config: Config, key: Literal["train", "heldout"], documents: list[Document]) -> list[Document]:
    """The documents of `data.KEY` that have a question of its split. The split of a question is a hash, so a document
    with few questions may have none."""
    if not getattr(config.data, key):
        return []
    split: Split = "reward" if key == "train" else "heldout"
    benchmark = DocumentQuestions(config.student.prompt_template)
    kept = [d for d in documents if any(question.split == split for question in benchmark.exam(d).questions)]
    if not kept:
        raise UserError(
            f"data.{key}: none of {len(documents)} documents has a {split} question; a `split` in the data sets it"
        )
    if left_out := len(documents) - len(kept):
        say(f"warning: data.{key}: {left_out} of {len(documents)} documents have no {split} question, left out")
    return kept
