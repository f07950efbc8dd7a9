"""Texts that documents bring, mostly in their `rewrites`: the one place that reads that field."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from configs.errors import UserError, nearest
from student.records import Document

PREFIX = "brought:"
"""Begins the strategy that takes a document's own texts of a name: `brought:implications`."""
UNNAMED = "rewrite"
"""The name of a text that brings none."""

FORM = "`rewrites` must be a list of non-empty strings, or of objects with `text` and `strategy`"


class BroughtText(NamedTuple):
    """A text that a document brings."""

    strategy: str
    """Its name, without `PREFIX`."""
    text: str


def read_brought(rewrites: Any) -> list[BroughtText]:
    """The value of a document's field `rewrites`: texts, or objects with `text` and its `strategy` (or `prompt`).
    Nothing (None) brings none. Raises ValueError with what is wrong."""
    if rewrites is None:
        return []
    if not isinstance(rewrites, list):
        raise ValueError(FORM)
    brought = []
    for entry in rewrites:
        entry = {"text": entry} if isinstance(entry, str) else entry
        text = entry.get("text") if isinstance(entry, dict) else None
        if not isinstance(text, str) or not text.strip():
            raise ValueError(FORM)
        # Parquet fills the fields that an entry lacks with None.
        brought.append(BroughtText(str(entry.get("strategy") or entry.get("prompt") or UNNAMED), text))
    return brought


def brought_texts(document: Document) -> list[BroughtText]:
    """What a document brings. Raises UserError where its `rewrites` are none."""
    try:
        return read_brought(document.metadata.get("rewrites"))
    except ValueError as error:
        raise UserError(f"document {document.id!r}: {error}") from None


def texts_named(document: Document, name: str) -> list[str]:
    """The different texts of that name (without `PREFIX`): of the document's `rewrites`, else of a field of that name
    that is a list of texts, such as `paraphrases: [...]`. None where `rewrites` cannot be read: in a corpus that is no
    reason to stop."""
    try:
        own = brought_texts(document)
    except UserError:
        return []
    texts = [brought.text for brought in own if brought.strategy == name]
    # `rewrites` itself is no name: its texts have names of their own.
    field = document.metadata.get(name) if name != "rewrites" else None
    if not texts and isinstance(field, list) and all(isinstance(text, str) and text.strip() for text in field):
        texts = field
    return list(dict.fromkeys(texts))


def check_brought(names: Iterable[str], documents: Iterable[Document], key: str = "teacher.strategies") -> None:
    """Raises UserError for a name (without `PREFIX`) of which no document brings a text."""
    names = dict.fromkeys(names)
    if not names:
        return
    documents = list(documents)
    known = {brought.strategy for document in documents for brought in brought_texts(document)}
    for name in names:
        if name not in known and not any(texts_named(document, name) for document in documents):
            advice = nearest(name, sorted(known)) if known else "none has any `rewrites`"
            raise UserError(f"{key}: no document brings a text {PREFIX + name!r}: {advice}")
