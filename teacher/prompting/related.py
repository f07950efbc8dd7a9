"""A second passage beside the document's own, for prompts that ask what follows from both (`{related}` in a file of
`teacher/strategies/`; EntiGraph, arXiv 2409.07431, and active reading, 2508.09494, write so across a corpus).

Who reads documents puts it into `metadata["related"]` (curation.corpus.related); prompts, gates and rows find it there.
"""

import copy
from dataclasses import dataclass

from student.records import Document
from teacher.prompting.strategies import prompts_of, reads_related

NO_RELATED = "no_related"
"""The reason in a gate's place for a document that has no related passage, where the strategy wants one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Related:
    """A passage, or a whole document, that is read beside another one."""

    id: str
    text: str
    start_index: int
    end_index: int
    """It is `text[start_index:end_index]` of its document."""
    licence: str


def related_of(document: Document) -> Related | None:
    """What is read beside the document; None where nothing was found. A field of that name that the row itself has is
    none."""
    related = document.metadata.get("related")
    return related if isinstance(related, Related) else None


def lacks_related(document: Document, strategy: str) -> bool:
    """Whether the strategy wants a related passage that the document does not have."""
    return related_of(document) is None and any(map(reads_related, prompts_of(strategy)))


def as_read(document: Document, prompt: str) -> Document:
    """The document as the teacher reads it in this prompt: with the text of its related passage where that stands there
    too, for gates that compare a rewrite with what it was made of."""
    related = related_of(document)
    if related is None or not reads_related(prompt):
        return document
    both = copy.copy(document)
    both.text = f"{document.text}\n\n{related.text}"
    return both
