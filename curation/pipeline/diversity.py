"""How varied a dataset's texts are, beside their sources: by a sample, in constant time and memory.

Documents are sampled by a hash of their place, and the rows of these once more by a hash of their id, so that the
sample depends neither on batches and tasks nor on their order. Every figure of this kind depends on how much text it is
taken from (arXiv 2403.00553), so all are taken from equal amounts, and a strategy with less text has none:

* distinct-n: the share of different n-grams (arXiv 1510.03055), in windows of equally many words;
* self-BLEU: how much of a text the others hold too (arXiv 1802.01886), of equally many texts;
* compression: bytes by bytes of gzip's algorithm (arXiv 2403.00553), in blocks of equally many bytes;
* near-duplicates: texts like another one of the sample, by the rule of `curation.dedup: minhash`.
"""

import math
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import numpy as np
import xxhash

from configs.files import Record
from configs.seeds import stable_seed
from student.text.words import ngrams, overlap_shares, words

DOCUMENTS = 1000
"""Expected number of sampled documents."""
ROWS, STRATEGY_ROWS = 500, 200
"""Most rows that figures are taken from: over the whole, and for one strategy."""
CHARACTERS = 3000
"""What is kept of a sampled text and of its source."""
WINDOW_WORDS, BLOCK_BYTES, MOST_WINDOWS = 5000, 32 << 10, 10
BLEU_TEXTS, BLEU_WORDS, BLEU_ORDER = 100, 200, 4
BLEU_FLOOR = 0.1
"""Counted where no n-gram of an order is found elsewhere, as Texygen does by NLTK's first smoothing."""
SIMILAR, SHINGLE, PERMUTATIONS = 0.8, 5, 64
EXAMPLES, CANDIDATES = 3, 12
SHOWN = frozenset(
    {"empty", "truncated", "chat_tokens", "copy_of_prompt", "markers", "assistant_talk", "unrelated", "repetition"}
    | {"over_length", "overlap", "language", "gopher_repetition", "gopher_quality", "c4", "fineweb", "duplicate"}
)
"""Reasons of which examples may be published: they say something about a text's form. What was refused for a secret, a
leak, its licence or an instruction to the model is never shown, nor is any reason that is not named here."""


def is_sampled(file: str, row: int, documents: int) -> bool:
    """Whether a document is in the sample of a corpus of so many."""
    return stable_seed("diversity", file, row) * documents < DOCUMENTS * 2**31


@dataclass(slots=True)
class Lowest:
    """The `most` items with the lowest hashes, whatever order they come in."""

    most: int
    items: dict[int, Record] = field(default_factory=dict)

    def add(self, id: str, item: Record) -> None:
        self.items[stable_seed("diversity", id)] = item
        if len(self.items) > self.most:
            del self.items[max(self.items)]

    def __iter__(self) -> Iterator[Record]:
        return (self.items[key] for key in sorted(self.items))


@dataclass(slots=True)
class Samples:
    """What a merger keeps of all terminal records, for the figures and examples of the manifest."""

    documents: set[tuple[str, int]] = field(default_factory=set)
    rows: Lowest = field(default_factory=lambda: Lowest(ROWS))
    strategies: defaultdict[str, Lowest] = field(default_factory=lambda: defaultdict(lambda: Lowest(STRATEGY_ROWS)))
    refused: defaultdict[str, Lowest] = field(default_factory=lambda: defaultdict(lambda: Lowest(CANDIDATES)))
    shared: list[float] = field(default_factory=list)
    """Of each sampled document with several rewrites: the share of a rewrite's 4-grams that its others hold too."""

    def add_rows(self, records: Sequence[Record]) -> None:
        """Adds the rows of one part that are of sampled documents."""
        together: defaultdict[tuple[str, int, str], list[str]] = defaultdict(list)
        for record in records:
            self.documents.add((record["source_file"], record["source_row"]))
            kept = {name: record[name] for name in ("id", "strategy", "rewrite")}
            source = record["source_file"], record["source_row"], record["source_text"]
            kept |= {"text": record["text"][:CHARACTERS], "source": source}
            self.rows.add(record["id"], kept)
            self.strategies[record["strategy"]].add(record["id"], kept)
            if record["rewrite"] is not None:
                together[source].append(kept["text"])
        self.shared += [fmean(overlap_shares(texts[:20])) for texts in together.values() if len(texts) > 1]

    def add_refused(self, record: Record) -> None:
        if record["text"] and record["reason"].partition("/")[0] in SHOWN:
            kept = {"id": record["id"], "text": record["text"][:CHARACTERS], "licence": record["licence"]}
            self.refused[record["reason"]].add(f"{record['id']} {record['rewrite']}", kept)


def diversity(samples: Samples) -> dict[str, Any] | None:
    """The figures of all rows, of their sources, and by strategy; None where no document of the sample has a row."""
    if not samples.rows.items:
        return None
    texts = [row["text"] for row in samples.rows]
    # Each once, in the order of its rows.
    sources = [text for _, _, text in dict.fromkeys(row["source"] for row in samples.rows)]
    # Of a small dataset a strategy of a quarter of the rows has figures too.
    window = min(WINDOW_WORDS, *(sum(len(words(text)) for text in group) // 4 for group in (texts, sources)))
    block = min(BLOCK_BYTES, *(len(_joined(group)) // 4 for group in (texts, sources)))
    most = min(BLEU_TEXTS, len(texts) // 4, len(sources) // 4)
    return {
        "documents": len(samples.documents),
        "window_words": window,
        "block_bytes": block,
        "self_bleu_texts": most,
        "rows": figures(texts, window, block, most),
        "sources": figures(sources, window, block, most),
        "strategies": {
            name: figures([row["text"] for row in rows], window, block, most)
            for name, rows in sorted(samples.strategies.items())
        },
        "within_documents": round(fmean(samples.shared), 4) if samples.shared else None,
    }


def figures(texts: Sequence[str], window: int, block: int, most: int) -> dict[str, Any]:
    """The figures of some texts; None for one that there is too little text for."""
    tokens = [words(text) for text in texts]
    stream = [word for text in tokens for word in text]
    windows = [stream[start : start + window] for start in _starts(len(stream), window)]
    joined, compared = _joined(texts), 1 < most <= len(texts)
    blocks = [joined[start : start + block] for start in _starts(len(joined), block)]
    return {
        "texts": len(texts),
        "distinct": [round(fmean(distinct(part, n) for part in windows), 4) if windows else None for n in (1, 2, 3, 4)],
        "self_bleu": round(self_bleu([text[:BLEU_WORDS] for text in tokens[:most]]), 4) if compared else None,
        "compression": round(fmean(len(part) / len(zlib.compress(part)) for part in blocks), 3) if blocks else None,
        "near_duplicates": near_duplicates(tokens),
    }


def _joined(texts: Sequence[str]) -> bytes:
    return "\n".join(texts).encode()


def _starts(length: int, size: int) -> list[int]:
    return list(range(0, length - size + 1, size))[:MOST_WINDOWS] if size else []


def distinct(tokens: Sequence[str], n: int) -> float:
    """Share of different n-grams among all; 1 where there is none."""
    grams = list(ngrams(tokens, n))
    return len(set(grams)) / len(grams) if grams else 1.0


def self_bleu(texts: Sequence[Sequence[str]]) -> float:
    """Mean BLEU-4 (0 ... 1) of each text with all others as its references; higher is less varied. 0 for one text.

    Of every n-gram only the two texts that hold it most often matter, so the cost is linear in the texts.
    """
    if len(texts) < 2:
        return 0.0
    logs = np.zeros(len(texts))
    for n in range(1, BLEU_ORDER + 1):
        counts = [Counter(zip(*(text[i:] for i in range(n)), strict=False)) for text in texts]
        # Most and second most often in one text, and which text holds it most often.
        most: dict[tuple[str, ...], tuple[int, int, int]] = {}
        for index, grams in enumerate(counts):
            for gram, count in grams.items():
                first, owner, second = most.get(gram, (0, -1, 0))
                most[gram] = (count, index, first) if count > first else (first, owner, max(second, count))
        for index, grams in enumerate(counts):
            found = 0
            for gram, count in grams.items():
                first, owner, second = most[gram]
                found += min(count, second if owner == index else first)
            logs[index] += math.log((found or BLEU_FLOOR) / max(grams.total(), 1)) / BLEU_ORDER
    lengths = np.array([len(text) for text in texts])
    for index, length in enumerate(lengths):
        others = np.delete(lengths, index)
        closest = others[np.lexsort((others, abs(others - length)))[0]]
        logs[index] += min(0.0, 1 - closest / max(length, 1))
    return float(np.exp(logs).mean())


def near_duplicates(texts: Sequence[Sequence[str]]) -> int:
    """How many texts are like an earlier one: MinHash finds that they have `SIMILAR` of their 5-grams in common."""
    signatures = np.array([_signature(text) for text in texts if text])
    return sum(
        bool(((signatures[:index] == signature).mean(axis=1) >= SIMILAR).any())
        for index, signature in enumerate(signatures)
        if index
    )


_MULTIPLIERS = np.random.default_rng(0).integers(2**62, size=PERMUTATIONS, dtype=np.uint64) * 2 + 1


def _signature(text: Sequence[str]) -> np.ndarray:
    """uint64 (PERMUTATIONS): the least hash of the 5-grams under each."""
    shingles = [" ".join(text[start : start + SHINGLE]) for start in range(max(1, len(text) - SHINGLE + 1))]
    hashes_N = np.array([xxhash.xxh3_64_intdigest(shingle) for shingle in shingles], dtype=np.uint64)
    mixed_PN = _MULTIPLIERS[:, None] * (hashes_N ^ (hashes_N >> np.uint64(29)))
    return (mixed_PN ^ (mixed_PN >> np.uint64(32))).min(axis=1)
