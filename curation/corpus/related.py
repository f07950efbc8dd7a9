"""Finds the passage that is read beside another one, for strategies that write what follows from both
(`teacher.prompting.related`).

A passage of a document that is cut has the next one beside it, the last the one before. A document that is not cut has
the passage of another one that is most like it, among those of an index: its most telling words by tf-idf are searched
for by BM25 (Lucene's "more like this") in SQLite's FTS5, on disk or in memory. So what is beside a passage depends on
its document and the index alone, not on batches or tasks, and memory does not grow with the corpus.
"""

import errno
import math
import os
import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing
from itertools import groupby
from pathlib import Path

from datatrove.data import Document

from curation.corpus.licences import strictest
from student.records import passage_of, whole_id
from student.text.words import overlap_shares, words
from teacher.prompting.related import Related
from teacher.prompting.strategies import reads_related

TERMS = 12
"""Words of a passage that are searched for."""
CANDIDATES = 20
"""Passages that are looked at, the most like first."""
MOST_OVERLAP = 0.5
"""Share of word 4-grams in common at which two texts are versions of one, from which nothing new follows."""

# A file that is torn is not there: nothing in it has to be undone, or to survive.
_TABLES = """
    PRAGMA journal_mode = OFF;
    PRAGMA synchronous = OFF;
    CREATE VIRTUAL TABLE found USING fts5(words, content='', tokenize="unicode61 remove_diacritics 0 tokenchars '_'");
    CREATE TABLE passages(number INTEGER PRIMARY KEY, whole, id, start_index, end_index, licence, text);
"""
_COUNTS = """
    CREATE VIRTUAL TABLE temp.vocabulary USING fts5vocab(main, found, row);
    CREATE TABLE counts(word PRIMARY KEY, passages) WITHOUT ROWID;
    INSERT INTO counts SELECT term, doc FROM temp.vocabulary WHERE doc > 1;
"""


class Neighbours:
    """Finds the passage that is most like another one."""

    def __init__(self, base: sqlite3.Connection) -> None:
        """`base` is what `index` made."""
        self._base = base
        [self._total] = base.execute("SELECT count(*) FROM passages").fetchone()

    @classmethod
    def at(cls, path: Path) -> "Neighbours":
        """On the index in a file. Any number of processes may read it."""
        return cls(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True))

    def beside(self, document: Document, licence: str = "") -> Related | None:
        """The passage of another document that is most like this one, whose licence can be combined with this one's;
        None where there is none."""
        if not (terms := self._terms(document.text)):
            return None
        query = " OR ".join(f'"{term}"' for term in terms)
        rows = self._base.execute(
            "SELECT id, text, start_index, end_index, licence FROM found JOIN passages ON number = found.rowid"
            " WHERE found MATCH ? AND whole != ? ORDER BY rank, number LIMIT ?",
            (query, whole_id(document), CANDIDATES),
        )
        for id, text, start, end, other in rows:
            if strictest([licence, other]) is not None and overlap_shares([document.text, text])[0] <= MOST_OVERLAP:
                return Related(id=id, text=text, start_index=start, end_index=end, licence=other)
        return None

    def _terms(self, text: str) -> list[str]:
        """The words that tell most of a text, of those that another passage may have too."""
        held = Counter(words(text))
        known, counts = list(held), dict[str, int]()
        for start in range(0, len(known), 1000):
            some = known[start : start + 1000]
            marks = ", ".join("?" * len(some))
            counts.update(self._base.execute(f"SELECT word, passages FROM counts WHERE word IN ({marks})", some))
        weights = {word: held[word] * math.log(1 + self._total / count) for word, count in counts.items()}
        return sorted(weights, key=lambda word: (-weights[word], word))[:TERMS]


def index(passages: Iterable[tuple[Document, str]], name: str = ":memory:") -> sqlite3.Connection:
    """An index of passages with their licences, in memory or in the new file `name`, which may be torn until this
    returns."""
    base = sqlite3.connect(name)
    base.executescript(_TABLES)
    for document, licence in passages:
        row = (whole_id(document), document.id, *span_of(document), licence, document.text)
        number = base.execute(
            "INSERT INTO passages(whole, id, start_index, end_index, licence, text) VALUES (?, ?, ?, ?, ?, ?)", row
        ).lastrowid
        base.execute("INSERT INTO found(rowid, words) VALUES (?, ?)", (number, " ".join(words(document.text))))
    base.commit()
    base.executescript(_COUNTS)
    return base


def write_index(path: Path, passages: Iterable[tuple[Document, str]]) -> None:
    """The index of passages in a file, which appears whole or not at all. Raises OSError for a full disk."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with closing(index(passages, str(partial))):
            pass
        os.replace(partial, path)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_FULL:
            raise
        raise OSError(errno.ENOSPC, "the disk is full", str(path)) from None
    finally:
        partial.unlink(missing_ok=True)


def span_of(document: Document) -> tuple[int, int]:
    """The characters of its whole document that it has."""
    passage = passage_of(document)
    return (0, len(document.text)) if passage is None else (passage.start_index, passage.end_index)


def put_beside(passages: Sequence[Document], neighbours: Neighbours | None, licence: str = "") -> None:
    """Gives each of a document's passages the one that is read beside it; a document of one asks the `neighbours`."""
    for number, passage in enumerate(passages):
        related = None if neighbours is None or len(passages) > 1 else neighbours.beside(passage, licence)
        if len(passages) > 1:
            other = passages[number + 1] if number + 1 < len(passages) else passages[number - 1]
            start, end = span_of(other)
            related = Related(id=other.id, text=other.text, start_index=start, end_index=end, licence=licence)
        passage.metadata["related"] = related


def relate(documents: Sequence[Document], strategies: Iterable[str]) -> None:
    """`put_beside` for documents in memory, among themselves, where one of the strategies asks for it."""
    if any(map(reads_related, strategies)):
        with closing(index((document, "") for document in documents)) as base:
            neighbours = Neighbours(base)
            for _, of_one in groupby(documents, whole_id):
                put_beside(list(of_one), neighbours)
