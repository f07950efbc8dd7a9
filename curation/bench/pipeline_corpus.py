"""The corpus of `notewright bench curate`: documents of a web corpus's lengths, with known faults in known rows."""

import gzip
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
FILES = 8
MEDIAN_WORDS, SPREAD, MOST_WORDS = 250, 0.6, 3000
"""Lengths are log-normal: half of the documents have 250 words or fewer, the mean is 300."""

QUIZ_ROWS = 200
UNREADABLE, SHORT, REPEATED, CONTAMINATED, CREDENTIAL = 17, 31, 47, 59, 73
"""Places in every hundred rows: one row of each kind."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """Files of shards, a file of benchmark items, and the counts that a curation of them must come to."""

    folder: Path
    quiz: Path
    rows: int
    quarantined: int
    """Rows that cannot be read, and documents whose rewrite the gates refuse."""
    filtered: int
    """Repeated documents, contaminated ones and those with a credential."""


def write_corpus(folder: Path, rows: int, seed: int = 0) -> Corpus:
    """Writes `rows` rows to `folder/shards`, in files of every kind that the pipeline reads but WARC. Equal calls give
    equal texts."""
    rng = np.random.default_rng(seed)
    words = _vocabulary(rng)
    quiz = [" ".join(rng.choice(words, 12)) + "?" for _ in range(QUIZ_ROWS)]
    shards = folder / "shards"
    shards.mkdir(parents=True)
    items = folder / "quiz.jsonl"
    items.write_bytes(b"".join(orjson.dumps({"question": q, "answer": words[i]}) + b"\n" for i, q in enumerate(quiz)))
    texts = _texts(rng, words, quiz)
    for file in range(FILES):
        share = range(rows * file // FILES, rows * (file + 1) // FILES)
        suffix = SUFFIXES[file % len(SUFFIXES)]
        _write(shards / f"part-{file}{suffix}", list(zip(share, itertools.islice(texts, len(share)), strict=True)))
    quarantined, filtered = (
        sum(len(range(place, rows, 100)) for place in places)
        for places in ((UNREADABLE, SHORT), (REPEATED, CONTAMINATED, CREDENTIAL))
    )
    return Corpus(shards, items, rows, quarantined, filtered)


def row_places(output: Path, manifest: Mapping[str, Any]) -> list[tuple[str, int]]:
    """File and row of every record of a finished dataset with one rewrite a passage: of its rows, the quarantined and
    the filtered; of a document that is cut its first passage. A corpus was curated exactly if each of its rows is here
    once."""
    places: list[tuple[str, int]] = []
    for shard in manifest["shards"]:
        table = pq.read_table(output / shard["path"], columns=["source_file", "source_row", "passage"]).to_pylist()
        places += ((row["source_file"], row["source_row"]) for row in table if row["passage"] == 1)
    for name in ("filtered", "quarantine"):
        with (output / f"{name}.jsonl").open("rb") as file:
            places += (
                (record["source_file"], record["source_row"])
                for record in map(orjson.loads, file)
                if record.get("passage", 1) == 1
            )
    return places


def _vocabulary(rng: np.random.Generator, size: int = 20_000) -> np.ndarray:
    syllables = np.array([f"{c}{v}" for c in "bdfgklmnprstvz" for v in ("a", "e", "i", "o", "u", "an", "er", "is")])
    words: dict[str, None] = {}  # a set that keeps the order
    while len(words) < size:
        words["".join(rng.choice(syllables, rng.integers(1, 5)))] = None
    return np.array(list(words))


def _texts(rng: np.random.Generator, words: np.ndarray, quiz: list[str]) -> Iterator[str | None]:
    """The rows' texts, without end; None where a row is to be unreadable."""
    # Frequencies follow Zipf's law, like those of a language's words.
    weights = 1 / np.arange(1, len(words) + 1)
    cumulative = np.cumsum(weights / weights.sum())
    text = ""
    for row in itertools.count():
        place = row % 100
        if place != REPEATED:
            count = int(np.clip(rng.lognormal(np.log(MEDIAN_WORDS), SPREAD), 20, MOST_WORDS))
            drawn = words[np.searchsorted(cumulative, rng.random(count)).clip(max=len(words) - 1)].tolist()
            text = " ".join(f"{word}." if i % 15 == 14 else word for i, word in enumerate(drawn))
        if place == CONTAMINATED:
            text = f"{text} {quiz[row // 100 % len(quiz)]}"
        elif place == CREDENTIAL:
            text = f"{text} aws_key AKIA{''.join(rng.choice(list('ABCDEFGHIJKLMNOP234567'), 16))}"
        yield None if place == UNREADABLE else f"row {row}" if place == SHORT else text


def _write(path: Path, rows: list[tuple[int, str | None]]) -> None:
    if path.suffix == ".parquet":
        columns = {"id": [f"row-{row}" for row, _ in rows], "text": [text for _, text in rows]}
        pq.write_table(pa.table(columns, schema=pa.schema({"id": pa.string(), "text": pa.string()})), path)
        return
    lines = (
        b'{"text": "not UTF-8: \xff"}\n' if text is None else orjson.dumps({"id": f"row-{row}", "text": text}) + b"\n"
        for row, text in rows
    )
    content = b"".join(lines)
    if path.suffix == ".gz":
        content = gzip.compress(content, compresslevel=1)
    elif path.suffix == ".zst":
        content = zstandard.compress(content)
    path.write_bytes(content)
