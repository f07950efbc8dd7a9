"""The documents of a run: what it trains on, validates on, and takes in each round."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from configs.errors import UserError
from configs.schema import Config
from configs.schema.plans import PLAN
from configs.seeds import stable_seed
from student.benchmarks.items import Continuation
from student.benchmarks.sources import DocumentQuestions
from student.records import Document
from teacher.prompting.plans import check_plans
from teacher.prompting.strategies import (
    brought_names,
    check_related,
    check_strategy,
    check_trainable,
    contents_of,
    planned_names,
)
from teacher.ready.brought import check_brought
from teacher.ready.plans import named_plan
from teacher.reward.assignment import batches_of
from teacher.reward.student_runs import students_at_once

LEAST_STUDENTS = 64
"""Students of a sampled batch, unless `rl.documents_per_batch` says otherwise: enough to keep a pool busy."""


def check_documents(config: Config, train: Sequence[Document], heldout: Sequence[Document]) -> None:
    """Raises UserError for mistakes in documents and settings that show before a model is loaded."""
    if not train:
        raise UserError("no training documents: set data.train to JSONL or Parquet files with `text` and `questions`")
    if config.teacher.temperature == 0:
        raise UserError("teacher.temperature 0 makes all rewrites of a group equal; training needs it above 0")
    if config.rl.algorithm == "grpo" and config.teacher.top_p < 1:
        raise UserError("teacher.top_p below 1 cuts what is sampled, but not what GRPO learns from: set it to 1")
    if config.rl.algorithm == "grpo" and config.teacher.continuations:
        raise UserError("teacher.continuations: GRPO samples each rewrite in one call: set 0, or more max_new_tokens")
    twice = [name for name, count in Counter(document.id for document in [*train, *heldout]).items() if count > 1]
    if twice:
        raise UserError(f"document id {twice[0]!r} occurs more than once in data.train and data.heldout")
    texts = {document.text: document.id for document in train}
    same = next((document for document in heldout if document.text in texts), None)
    if same is not None:
        raise UserError(
            f"data.heldout: document {same.id!r} is the same text as {texts[same.text]!r} of data.train: what is learnt"
            " from it would be counted as held out"
        )
    check_trainable(config.teacher)
    check_related(config.teacher)
    for name in config.teacher.strategies if config.teacher.prompting == "strategy" else ():
        check_strategy(name)
    check_brought(brought_names(config.teacher.strategies), train)
    distill = config.student.objective == "distill"
    check_plans(config.teacher, config.teacher.strategies, [*train, *heldout], "teacher.strategies", distill=distill)
    for name in planned_names(config.teacher.strategies):
        steps = named_plan(name).steps
        if steps is not None and (config.reward.screen.steps or 0) >= steps:
            raise UserError(f"reward.screen.steps are fewer than the {steps} steps of {PLAN}{name}")
    benchmark = DocumentQuestions(config.student.prompt_template)
    for documents, split, key in ((train, "reward", "train"), (heldout, "heldout", "heldout")):
        for document in documents:
            if not any(question.split == split for question in benchmark.exam(document).questions):
                raise UserError(f"data.{key}: document {document.id!r} has no {split} questions to ask a student")


def data_hash(config: Config, train: Sequence[Document], heldout: Sequence[Document]) -> str:
    """A hash of documents, questions, and the files that the config names: strategies, retention texts, benchmarks."""
    content: list[object] = [
        [d.id, d.text, d.metadata.get("questions")] for documents in (train, heldout) for d in documents
    ]
    asked = (document.metadata.get("continuation") for document in (*train, *heldout))
    content += [items for items in asked if isinstance(items, Continuation)]
    content += contents_of(config.teacher.strategies)
    if brought_names(config.teacher.strategies):
        content += [d.metadata.get("rewrites") for documents in (train, heldout) for d in documents]
    files = [spec.partition(":")[2] for spec in config.reward.benchmarks] + [config.reward.retention_texts or ""]
    content += [hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in files if Path(name).is_file()]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def split_validation(config: Config, documents: Sequence[Document]) -> tuple[list[Document], list[Document]]:
    """The documents to train on, and `rl.validation_documents` others, chosen by the seed.

    Where documents share students, there are more validation documents, so that the last student has as many as the
    others: one with fewer would learn them better. Raises UserError where nothing is left to train on.
    """
    together = config.reward.documents_together
    count = -(-config.rl.validation_documents // together) * together
    if count >= len(documents):
        raise UserError(
            f"rl.validation_documents={config.rl.validation_documents} sets {count} of {len(documents)} documents of"
            " data.train apart: none is left to train on"
        )
    generator = torch.Generator().manual_seed(stable_seed(config.run.seed, "validation"))
    chosen = set(torch.randperm(len(documents), generator=generator)[:count].tolist())
    validation = [document for d, document in enumerate(documents) if d in chosen]
    # A text that occurs twice must not be trained on and validated on.
    texts = {document.text for document in validation}
    return [document for document in documents if document.text not in texts], validation


def round_documents(config: Config, train: Sequence[Document], round: int) -> list[Document]:
    """The documents of a round, dealt from a deck that is shuffled anew whenever it is empty: all documents come
    equally often, and none twice in a round."""
    size = min(config.rl.documents_per_round, len(train))
    generator = torch.Generator().manual_seed(stable_seed(config.run.seed, "deck"))
    deck: list[int] = []
    hand: list[int] = []
    for _ in range(round):
        hand = []
        while len(hand) < size:
            if not deck:
                deck = torch.randperm(len(train), generator=generator).tolist()
                deck.sort(key=hand.__contains__)  # cards that are in the hand already go under the deck
            hand.append(deck.pop(0))
    return [train[card] for card in hand]


def sampling_batches(config: Config, documents: int) -> list[range]:
    """The batches in which a round's `documents` are sampled: while students learn one, the next is sampled.

    Documents that share students are in one batch, so `rl.documents_per_batch` is rounded up to a multiple of
    `reward.documents_together`. Where it is not set, a batch has at least `LEAST_STUDENTS` students and as many as a
    pool takes at once, where the round has so many. The last batch may be smaller.
    """
    reward, rl = config.reward, config.rl
    together = reward.documents_together
    if rl.documents_per_batch is not None:
        return batches_of(documents, math.ceil(rl.documents_per_batch / together) * together)
    students_together = rl.group_size * reward.students_per_lesson(rl.rewrites_per_lesson) * reward.full_repeats
    least = math.ceil(max(LEAST_STUDENTS, students_at_once(config.student)) / students_together)
    # In units of documents that share students.
    count = len(batches_of(documents, together))
    return batches_of(documents, math.ceil(count / max(1, count // least)) * together)
