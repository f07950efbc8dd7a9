"""The teacher as a curating process holds it: a batch of documents in, a completion for each rewrite out."""

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from datatrove.data import Document

from configs.errors import RunError
from configs.schema import Config, Curation, Gates, Teacher
from curation.pipeline.dataset import WORK
from curation.pipeline.inputs import CurationInputs
from student.records import Question
from student.text.words import count_words
from teacher.gates.checks import Gate, build_gates, gate_names
from teacher.prompting.prompts import build_prompt
from teacher.prompting.strategies import spread, tag_of
from teacher.records import Completion, Writer
from teacher.writers.endpoint import load_endpoint
from teacher.writers.local import load_teacher
from teacher.writers.vllm_server import serving, state_file

GOLDEN_RATIO = (math.sqrt(5) - 1) / 2

_loaded: list[Any] = []
"""What the teacher of this process was loaded from, and its Rewriter; empty where none is loaded."""


class RewriteRequest(NamedTuple):
    """One rewrite to be written. Without a strategy the teacher chooses."""

    document: Document
    number: int
    strategy: str | None


@dataclass(frozen=True, slots=True)
class Rewriter:
    """What writes (None: the echo), and the gates that a text must pass."""

    writer: Writer | None
    gates: tuple[Gate, ...]

    @property
    def leak_gates(self) -> list[Gate]:
        """The gate that texts which nobody wrote pass too: a document's own text may hold items about others."""
        return [gate for gate in self.gates if gate.name == "leak"]

    def count_tokens(self, text: str) -> int:
        """Length in the teacher's tokens; the echo counts words."""
        return count_words(text) if self.writer is None else self.writer.count_tokens(text)


@contextmanager
def rewriting(inputs: CurationInputs) -> Iterator[None]:
    """A block in which processes of this machine write. A vLLM server runs meanwhile where the config wants one, with
    its log in `inputs.work`; at the end the teacher that this process loaded is freed."""
    echo = inputs.config.curation.writer == "echo"
    try:
        with nullcontext() if echo else serving(inputs.config, inputs.checkpoint, inputs.work / "vllm"):
            yield
    finally:
        _loaded.clear()


def load_rewriter(config: Config, checkpoint: Path | None, items: tuple[Question, ...]) -> Rewriter:
    """Loads the teacher once a process, however many tasks the process runs. No rewrite may hold one of `items`."""
    if _loaded and _loaded[0] == (config, checkpoint, items):
        return _loaded[1]
    _loaded.clear()  # frees another teacher before this one is loaded
    writer = None if config.curation.writer == "echo" else _load_writer(config, checkpoint)
    names, template = rewriter_gates(config.curation, config.gates), config.student.prompt_template
    gates = build_gates(config.gates, config.teacher, writer and writer.tokenizer, items, template, names)
    _loaded[:] = (config, checkpoint, items), Rewriter(writer, tuple(gates))
    return _loaded[1]


def _load_writer(config: Config, checkpoint: Path | None) -> Writer:
    match config.teacher.writer:
        case "transformers":
            return load_teacher(config.teacher, checkpoint)
        case "vllm":
            state = state_file(config, checkpoint, config.curation.output / WORK / "vllm")
            return load_endpoint(config.teacher, config.serving, checkpoint, state)
        case "endpoint":
            return load_endpoint(config.teacher, config.serving)


def rewriter_gates(curation: Curation, gates: Gates) -> tuple[str, ...]:
    """Names of the gates that a rewrite passes."""
    if curation.writer != "echo":
        return gate_names(gates)
    # The echo passes gates too, so that it measures their cost. Without `max_tokens` the limit is a model's.
    return tuple(name for name in gate_names(gates, model=False) if name != "over_length" or gates.max_tokens)


def rewrite_requests(curation: Curation, teacher: Teacher, documents: Sequence[Document]) -> list[RewriteRequest]:
    """The rewrites of documents, `rewrites_per_document` each, with their strategies."""
    n = curation.rewrites_per_document
    requests = []
    for document in documents:
        row = document.metadata["source_row"]
        strategies: Sequence[str | None]
        if curation.writer == "echo":
            strategies = ["echo"] * n
        elif curation.strategies:
            strategies = strategies_by_share(curation.strategies, n, row)
        elif teacher.prompting == "policy":
            strategies = [None] * n
        else:
            # Rotated by the row, so that with one rewrite a document each strategy gets its share too.
            strategies = spread(teacher.strategies, n, offset=row * n)
        requests += [RewriteRequest(document, number, strategy) for number, strategy in enumerate(strategies)]
    return requests


def strategies_by_share(shares: dict[str, float], n: int, row: int) -> list[str]:
    """`n` strategies for a row. Each gets `n` times its share, give or take one, and its share over any run of rows.

    Systematic sampling, from a starting point that the golden ratio moves from row to row.
    """
    total = sum(shares.values())
    ends = list(accumulate(share / total for share in shares.values()))
    ends[-1] = 1.0
    names = list(shares)
    points = [((row * GOLDEN_RATIO) % 1 + j) / n for j in range(n)]
    return [names[bisect_right(ends, point)] for point in points]


def write(
    rewriter: Rewriter, teacher: Teacher, requests: Sequence[RewriteRequest], seed: int
) -> tuple[list[str], list[Completion]]:
    """The prompts, and for each its completion.

    Raises RunError if all fail: then the teacher is at fault, not the documents.
    """
    writer = rewriter.writer
    if writer is None:
        texts = [request.document.text for request in requests]
        return texts, [Completion(text, True) for text in texts]
    policy = teacher.prompting == "policy"
    prompts = [
        build_prompt(
            writer.tokenizer, teacher, request.document, None if policy else request.strategy, writer.max_prompt_tokens
        )
        for request in requests
    ]
    # A policy teacher chooses by the tag that it opens with: a strategy is set by beginning the completion.
    openings = [tag_of(request.strategy) if policy and request.strategy else "" for request in requests]
    written = [completion for [completion] in writer.attempt(prompts, 1, seed, openings)]
    errors = [completion.error for completion in written if completion.error is not None]
    if len(errors) == len(written) > 1:
        raise RunError(
            f"the teacher fails on every document of a batch ({type(errors[0]).__name__}: {errors[0]}); finished "
            "batches are kept, the same command goes on from there"
        )
    return prompts, written
