"""The teacher as a curating process holds it: a batch of documents in, a completion for each rewrite out."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from datatrove.data import Document

from configs.errors import RunError
from configs.schema import Config
from curation.pipeline.manifest import WORK
from student.records import Question
from teacher.gates.checks import Gate, build_gates, gate_names
from teacher.prompting.prompts import build_prompt
from teacher.prompting.strategies import spread, tag_of
from teacher.records import Completion, Writer
from teacher.writers.endpoint import load_endpoint
from teacher.writers.local import load_teacher
from teacher.writers.vllm_server import serving, state_file

ECHO = "echo"
"""The strategy of what the echo writes."""
GOLDEN = (math.sqrt(5) - 1) / 2

Written = Completion | Exception


class RewriteRequest(NamedTuple):
    """One rewrite to be written."""

    document: Document
    number: int
    strategy: str | None
    """None: the teacher chooses."""


@dataclass(frozen=True, slots=True)
class Rewriter:
    """Who writes (None: the echo), and what a text must pass."""

    writer: Writer | None
    gates: tuple[Gate, ...]

    def count_tokens(self, text: str) -> int:
        """Length in the teacher's tokens; the echo has words."""
        return len(text.split()) if self.writer is None else self.writer.count_tokens(text)


@lru_cache(maxsize=1)
def load_rewriter(config: Config, checkpoint: Path | None, items: tuple[Question, ...]) -> Rewriter:
    """Loads the teacher once a process, whatever the number of its tasks. `items` may not reach a rewrite."""
    writer = None if config.curation.writer == "echo" else _load_writer(config, checkpoint)
    gates = build_gates(
        config.gates, config.teacher, writer and writer.tokenizer, items, config.student.prompt_template,
        rewriter_gates(config),
    )  # fmt: skip
    return Rewriter(writer, tuple(gates))


def server(config: Config, checkpoint: Path | None, work: Path) -> AbstractContextManager[str | None]:
    """The vLLM that writes for every process of this machine, where the config wants one; its log lies in `work`."""
    if config.curation.writer == "echo":
        return nullcontext()
    return serving(config, checkpoint, work / "vllm")


def _load_writer(config: Config, checkpoint: Path | None) -> Writer:
    match config.teacher.writer:
        case "transformers":
            return load_teacher(config.teacher, checkpoint)
        case "vllm":
            state = state_file(config, checkpoint, config.curation.output / WORK / "vllm")
            return load_endpoint(config.teacher, config.serving, checkpoint, state)
        case "endpoint":
            return load_endpoint(config.teacher, config.serving)


def rewriter_gates(config: Config) -> tuple[str, ...]:
    """Names of the gates that a text of the config's rewriter passes."""
    if config.curation.writer != "echo":
        return gate_names(config.gates)
    # Those of a teacher, as far as they need no tokenizer: what they cost is part of the pipeline's cost.
    over_length = ("over_length",) if config.gates.max_tokens else ()
    return "empty", "chat_tokens", "repetition", *over_length, "leak"


def rewrite_requests(config: Config, documents: Sequence[Document]) -> list[RewriteRequest]:
    """The rewrites of documents, `rewrites_per_document` each, with their strategies."""
    curation, n = config.curation, config.curation.rewrites_per_document
    result = []
    for document in documents:
        row = document.metadata["source_row"]
        ways: Sequence[str | None]
        if curation.writer == "echo":
            ways = [ECHO] * n
        elif curation.strategies:
            ways = shared(curation.strategies, n, row)
        elif config.teacher.prompting == "policy":
            ways = [None] * n
        else:
            # Rotated by the row, so that each strategy gets its share also with one rewrite a document.
            ways = spread(config.teacher.strategies, n, offset=row * n)
        result += [RewriteRequest(document, number, way) for number, way in enumerate(ways)]
    return result


def shared(shares: dict[str, float], n: int, row: int) -> list[str]:
    """`n` strategies for a row: each gets `n` times its share, give or take one, and its share over any run of rows.

    Systematic sampling from a starting point that the golden ratio moves from row to row.
    """
    total = sum(shares.values())
    ends, end = [], 0.0
    for share in shares.values():
        end += share / total
        ends.append(end)
    ends[-1] = 1.0
    names = list(shares)
    points = [((row * GOLDEN) % 1 + j) / n for j in range(n)]
    return [names[next(i for i, end in enumerate(ends) if point < end)] for point in points]


def write(
    rewriter: Rewriter, config: Config, requests: Sequence[RewriteRequest], seed: int
) -> tuple[list[str], list[Written]]:
    """The prompts, and for each a completion, or the error that the writer ended in."""
    if rewriter.writer is None:
        return [request.document.text for request in requests], [Completion(o.document.text, True) for o in requests]
    teacher, writer = config.teacher, rewriter.writer
    policy = teacher.prompting == "policy"
    limit = writer.max_prompt_tokens
    prompts = [
        build_prompt(writer.tokenizer, teacher, request.document, None if policy else request.strategy, limit)
        for request in requests
    ]
    # Under `policy` a share is dealt by beginning the completion.
    openings = [tag_of(request.strategy) if policy and request.strategy else "" for request in requests]
    return prompts, _write_all(writer, prompts, openings, seed)


def _write_all(writer: Writer, prompts: list[str], openings: list[str], seed: int) -> list[Written]:
    """One completion a prompt, with an error in the place of each that could not be had. If all fail it is the teacher
    that is at fault, and RunError is raised."""
    if not prompts:
        return []
    results = [result for [result] in writer.attempt(prompts, 1, seed, openings if any(openings) else None)]
    if len(results) > 1 and all(isinstance(result, Exception) for result in results):
        raise RunError(
            f"the teacher fails on every document of a batch ({type(results[0]).__name__}: {results[0]}); finished "
            "batches are kept, the same command goes on from there"
        )
    return results
