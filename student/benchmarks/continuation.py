"""Exams of text alone: how much likelier a student finds the end of a document when it has learnt from its beginning.

The teacher reads the beginning. The end is asked sentence by sentence, each after a few words of what stands before it,
in bits per byte: the pretraining objective itself, for corpora that bring no questions.
"""

import re
from typing import TypeVar

from configs.seeds import item_hash
from student.benchmarks.items import CONTINUATION, Continuation, split_of
from student.records import Document
from student.text.sentences import split_sentences

AnyDocument = TypeVar("AnyDocument", bound=Document)

CONTEXT_CHARACTERS = 64
"""Of the text before a sentence that are given: enough to know who and what it goes on with."""
MOST = 8
"""Sentences of a document that are asked, evenly spaced: an exam costs as much as they are long."""
_BORDER = re.compile(r"(?<=[.!?…])[\"'”’»)\]]*\s+|(?<=[。！？।])\s*|\n+")


def set_apart(document: AnyDocument, share: float) -> AnyDocument:
    """The document without about the last `share` of its characters, and these as items of its exam in
    `metadata["continuation"]`, some in each split. Changes the document. One whose text is a single sentence is left as
    it is."""
    text = document.text.strip()
    borders = [match.end() for match in _BORDER.finditer(text) if match.end() < len(text)]
    cut = min(borders, key=lambda place: abs(place - (1 - share) * len(text)), default=0)
    asked = _items(text, cut) if text[:cut].strip() else []
    if asked:
        document.text = text[:cut].rstrip()
        document.metadata["continuation"] = Continuation(asked)
    return document


def _items(text: str, cut: int) -> list[dict[str, str]]:
    sentences = split_sentences(text[cut:])
    if len(sentences) == 1:  # each split needs some
        words = sentences[0].split(" ")
        sentences = [part for part in (" ".join(words[: len(words) // 2]), " ".join(words[len(words) // 2 :])) if part]
    before = " ".join(text[:cut].split())
    items = []
    for sentence in sentences:
        items.append({"prompt": _last_words(before), "answer": sentence, "kind": CONTINUATION})
        before = f"{before} {sentence}"
    items = [items[i * len(items) // min(len(items), MOST)] for i in range(min(len(items), MOST))]
    items.sort(key=lambda item: item_hash(item["prompt"], item["answer"]))
    first = ("reward", "heldout")
    return [
        item | {"split": first[i] if i < len(first) else split_of(item["prompt"], item["answer"])}
        for i, item in enumerate(items)
    ]


def _last_words(text: str) -> str:
    end = text[-CONTEXT_CHARACTERS:]
    return end.split(" ", 1)[1] if len(text) > len(end) and " " in end[: len(end) // 2] else end
