"""Rows of whole documents: the rewrites of a document's passages put together (`curation.rows: document`)."""

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any


def document_rows(records: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows of whole documents from the records of their passages, in order. A rewrite that no passage has is no
    row; a passage whose own text may not stand in for it (`stands_in` is null) is left out. The own text of a document
    is a row where none of its passages was refused."""
    for row, of_document in groupby(records, lambda record: record["source_row"]):
        of_rewrite: dict[int | None, list[dict[str, Any]]] = {}
        for record in of_document:
            of_rewrite.setdefault(record["rewrite"], []).append(record)
        for number, parts in of_rewrite.items():
            passed = [record for record in parts if record["reason"] is None]
            if not passed or (number is None and len(passed) < len(parts)):
                continue
            if parts[0]["passages"] == 1:
                yield from passed
                continue
            raw = [record | {"text": record["stands_in"], "tokens": record["source_tokens"]}
                   for record in parts if record["reason"] is not None and record["stands_in"] is not None]  # fmt: skip
            there = sorted([*passed, *raw], key=lambda record: record["passage"])
            source_tokens = sum(record["source_tokens"] for record in there)
            id = f"{parts[0]['source_file']}#{row}"
            id += passed[0]["id"].removeprefix(f"{id}/{passed[0]['passage']}")
            yield passed[0] | {
                "id": id,
                "text": "".join(record["text"] for record in there) if number is None else _joined(there),
                "passage": None,
                "start_index": 0,
                "end_index": parts[-1]["end_index"],
                "headings": [],
                "sources": [
                    {
                        "id": f"{parts[0]['source_file']}#{row}",
                        "start_index": 0,
                        "end_index": parts[-1]["end_index"],
                        "licence": parts[0]["licence"],
                    }
                ],
                # Passages are dealt their own.
                "temperature": passed[0]["temperature"] if len({r["temperature"] for r in passed}) == 1 else None,
                "continuations": None if number is None else sum(record["continuations"] or 0 for record in passed),
                "strategy": ", ".join(dict.fromkeys(record["strategy"] for record in passed)),
                "gates": [gate for gate in passed[0]["gates"] if all(gate in record["gates"] for record in passed)],
                "tokens": sum(
                    record["tokens"] if record["reason"] is None else record["source_tokens"] for record in there
                ),
                "source_tokens": source_tokens,
                "raw_share": None if number is None else sum(r["source_tokens"] for r in raw) / max(1, source_tokens),
                **dict.fromkeys(("predicted_gain", "predicted_low", "predicted_high")),
            }


def _joined(records: Iterable[dict[str, Any]]) -> str:
    """The texts of passages as paragraphs. Own texts that stand beside each other remain as they were in the document:
    a cut may be within a word, or before indented code."""
    blocks: list[str] = []
    raw_passage = None
    for record in records:
        is_raw = record["reason"] is not None
        if is_raw and raw_passage == record["passage"] - 1:
            blocks[-1] += record["text"]
        else:
            blocks.append(record["text"] if is_raw else record["text"].strip())
        raw_passage = record["passage"] if is_raw else None
    return "\n\n".join(block.strip("\r\n") for block in blocks)
