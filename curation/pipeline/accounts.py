"""What becomes of every document, every passage and every source token: in = out + filtered + quarantined + failed."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from curation.pipeline.diversity import Samples

OUTCOMES = ("in", "out", "filtered", "quarantined", "failed", "reached")
"""Keys of an account: the first is the sum of the next four."""
DOCUMENTS = {
    "in": "documents_in", "out": "documents_out", "filtered": "filtered", "quarantined": "quarantined",
    "failed": "failed",
}  # fmt: skip
"""The fields of `FileCounts` for documents, by their outcome."""
Begun = dict[int, set[tuple[bool, str | None]]]
"""Of a document that goes on in the next part, by its row: whether a record is of an own text, and its stage."""


@dataclass(slots=True)
class FileCounts:
    """What became of one input file's documents; `documents_in` is the sum of the four counts after it. `passages` and
    `source_tokens` have the same five, where a document that was not cut, or could not be read, is one passage; and
    `reached`, what the teacher was asked about."""

    path: str
    documents_in: int
    documents_out: int = 0
    filtered: int = 0
    quarantined: int = 0
    failed: int = 0
    reason: str | None = None
    filter_reasons: Counter[str] = field(default_factory=Counter)
    passages: Counter[str] = field(default_factory=Counter)
    source_tokens: Counter[str] = field(default_factory=Counter)
    """In the teacher's tokens, in words where there is none. What cannot be read has none."""

    def __post_init__(self) -> None:
        for counts, unreadable in ((self.passages, self.quarantined), (self.source_tokens, 0)):
            counts.update({**dict.fromkeys(OUTCOMES, 0), "in": unreadable, "quarantined": unreadable})


@dataclass(slots=True)
class Merged:
    """Totals over all rows and records, for the manifest."""

    rows: int = 0
    rewrites: int = 0
    """Rewrites attempted: those that passed and refused ones."""
    passed: int = 0
    """Rewrites that passed. A row of a whole document is made of several."""
    own_texts: int = 0
    """Own texts of passages and documents that passed beside the rewrites."""
    several_sources: int = 0
    """Rows of more than one source."""
    bytes_in_memory: int = 0
    """Size of the rows in Arrow, which the card gives as the size of the dataset."""
    tokens: int = 0
    source_tokens: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    """Refused rewrites by their reason."""
    leaks: Counter[str] = field(default_factory=Counter)
    """Rewrites that the leak check refused, by benchmark."""
    filter_reasons: Counter[str] = field(default_factory=Counter)
    strategies: Counter[str] = field(default_factory=Counter)
    licences: Counter[str] = field(default_factory=Counter)
    shards: list[dict[str, Any]] = field(default_factory=list)
    samples: Samples = field(default_factory=Samples)
    """Not part of the manifest; its figures and examples are."""


def _outcome(stages: set[str | None]) -> str:
    """What became of a document or passage; with a row it is out, whatever became of its other rewrites."""
    if None in stages:
        return "out"
    if "filter" in stages:
        return "filtered"
    return "quarantined" if stages & {"gate", "leak_check", "prompt"} else "failed"


def count_passages(table: pa.Table, file: FileCounts, numbers: dict[str, int]) -> None:
    """Adds the outcomes of a part's passages, and of their tokens, to the counts."""
    stages: dict[tuple[int, int], set[str | None]] = {}
    tokens: dict[tuple[int, int], int] = {}
    for record in table.select(["source_row", "passage", "stage", "source_tokens"]).to_pylist():
        place = record["source_row"], record["passage"]
        stages.setdefault(place, set()).add(record["stage"])
        tokens[place] = record["source_tokens"]
    for place, of_passage in stages.items():
        for name in (_outcome(of_passage), *["reached"] * bool(of_passage - {"filter", "step", "prompt"})):
            file.passages[name] += 1
            file.source_tokens[name] += tokens[place]
    file.passages["in"] += numbers["passages"]
    file.source_tokens["in"] += numbers["source_tokens"]
    assert len(stages) == numbers["passages"] and sum(tokens.values()) == numbers["source_tokens"], "a passage is lost"


def count_outcomes(
    table: pa.Table, file: FileCounts, merged: Merged, begun: Begun, *, ends_within: bool, whole_documents: bool = False
) -> int:
    """Adds the outcomes of a part's documents and refused rewrites to the counts; returns the documents that end in it.
    The part `ends_within` a document, or not; it goes to `begun`, where the next part finds it. Of `whole_documents`
    the own text is a row where none of its passages was refused, see `document_rows`."""
    stages = begun.copy()
    begun.clear()
    for record in table.select(["source_row", "rewrite", "stage", "reason", "detail"]).to_pylist():
        stage, reason = record["stage"], record["reason"]
        own = record["rewrite"] is None
        stages.setdefault(record["source_row"], set()).add((own, stage))
        merged.rewrites += not own
        if stage == "filter":
            file.filter_reasons[reason] += 1
            merged.filter_reasons[reason] += 1
        elif reason is None:
            merged.passed += not own
            merged.own_texts += own
        else:
            merged.reasons[reason] += 1
            if stage == "leak_check":
                merged.leaks[record["detail"]] += 1
    if ends_within:
        last = max(stages)
        begun[last] = stages.pop(last)
    for of_document in stages.values():
        refused = any(own and stage not in (None, "filter", "step") for own, stage in of_document)
        lost = {(True, None)} if whole_documents and refused else set()
        match _outcome({stage for _, stage in of_document - lost}):
            case "out":
                file.documents_out += 1
            case "filtered":
                file.filtered += 1
            case "quarantined":
                file.quarantined += 1
            case "failed":
                file.failed += 1
    return len(stages)


def accounts(files: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """What became of documents, passages and source tokens, over a manifest's files; nothing where it was made before
    documents were cut."""
    if not all("passages" in file for file in files):
        return {}
    total = {"documents": {name: sum(file[key] for file in files) for name, key in DOCUMENTS.items()}}
    for key in ("passages", "source_tokens"):
        total[key.replace("_", " ")] = {name: sum(file[key][name] for file in files) for name in OUTCOMES}
    return total
