"""The teacher as a curating process holds it: a batch of documents in, a completion for each rewrite out."""

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from datatrove.data import Document

from configs.errors import RunError
from configs.schema import Config, Curation, Teacher
from configs.seeds import stable_seed
from curation.corpus.inputs import model_writes
from curation.corpus.passages import WINDOWS, window
from curation.pipeline.dataset import WORK
from curation.pipeline.inputs import CurationInputs
from student.pools import make_pool
from student.records import StudentPool, passage_of
from teacher.gates.checks import Gate, build_gates, gate_names
from teacher.prompting.prompts import PromptTooLong, build_prompt
from teacher.prompting.strategies import PartKind, parts_of, spread, tag_of
from teacher.records import Completion, Writer
from teacher.sampling import asked_prompts
from teacher.writers.endpoint import load_endpoint
from teacher.writers.local import load_teacher
from teacher.writers.no_model import NoModel
from teacher.writers.vllm_server import serving, state_file

GOLDEN_RATIO = (math.sqrt(5) - 1) / 2

_loaded: list[Any] = []
"""What the teacher of this process was loaded from, and its Rewriter; empty where none is loaded."""


class Deal(NamedTuple):
    """How one rewrite is written, beside its strategy."""

    temperature: float
    part: int
    """1 is the first of the passage's parts."""
    parts: int


class RewriteRequest(NamedTuple):
    """One text to be written for the rewrite `number`. Without a strategy the teacher chooses."""

    document: Document
    """The passage, or the part of it that the teacher reads."""
    number: int
    strategy: str | None
    temperature: float
    window: str | None = None
    """`2/3` is the second third; None: all of the passage."""
    start: int = 0
    """The passage's character with which the part begins."""


class Written(NamedTuple):
    """What the teacher was asked for a rewrite, and its answers: none where the text is ready."""

    prompts: list[str]
    completions: list[Completion]
    too_long: bool = False
    """No prompt fits into the teacher's context, so none was asked."""


@dataclass(frozen=True, slots=True)
class Rewriter:
    """What writes, and the gates that a text must pass."""

    writer: Writer
    gates: tuple[Gate, ...]
    students: StudentPool | None = None
    """The untouched student, where the screen of `curation.best_of` asks it."""

    @property
    def leak_gates(self) -> list[Gate]:
        """The gate that texts which nobody wrote pass too: a document's own text may hold items about others."""
        return [gate for gate in self.gates if gate.name == "leak"]

    def count_tokens(self, text: str) -> int:
        """Length in the teacher's tokens, in words where there is no teacher."""
        return self.writer.count_tokens(text)


@contextmanager
def rewriting(inputs: CurationInputs) -> Iterator[None]:
    """A block in which processes of this machine write. A vLLM server runs meanwhile where the config wants one, with
    its log in `inputs.work`; at the end the teacher that this process loaded is freed."""
    model = model_writes(inputs.config)
    try:
        with serving(inputs.config, inputs.checkpoint, inputs.work / "vllm") if model else nullcontext():
            yield
    finally:
        _unload()


def load_rewriter(inputs: CurationInputs) -> Rewriter:
    """Loads the teacher once a process, however many tasks the process runs. Raises RunError where the students are not
    those that the screen was fitted on."""
    config, checkpoint, items, screen = inputs.config, inputs.checkpoint, inputs.items, inputs.screen
    if _loaded and _loaded[0] == (config, checkpoint, items, screen):
        return _loaded[1]
    _unload()  # frees another teacher before this one is loaded
    students = None
    if screen is not None and screen.student is not None:
        # A pool forks its helpers, which has to be done before a teacher starts threads.
        model = config.student.names[0]
        students = make_pool(config.student.model_copy(update={"pool": "inline", "model": model, "models": ()}))
        if students.fingerprint != screen.student:
            raise RunError(f"the screen of {config.run.dir} was fitted on other students than those of {model}")
    writer = _load_writer(config, checkpoint) if model_writes(config) else NoModel(config.teacher)
    gates = build_gates(config.gates, config.teacher, writer.tokenizer, items, config.student.prompt_template)
    _loaded[:] = (config, checkpoint, items, screen), Rewriter(writer, tuple(gates), students)
    return _loaded[1]


def _unload() -> None:
    if _loaded and _loaded[1].students is not None:
        _loaded[1].students.close()
    _loaded.clear()


def _load_writer(config: Config, checkpoint: Path | None) -> Writer:
    match config.teacher.writer:
        case "transformers":
            return load_teacher(config.teacher, checkpoint)
        case "vllm":
            state = state_file(config, checkpoint, config.curation.output / WORK / "vllm")
            return load_endpoint(config.teacher, config.serving, checkpoint, state)
        case "endpoint":
            return load_endpoint(config.teacher, config.serving, kept=config.curation.output / WORK / "replies")


def rewriter_gates(config: Config) -> tuple[str, ...]:
    """Names of the gates that judge the rewrites of a run."""
    return gate_names(config.gates, kinds_of(config.teacher.strategies, config.teacher.prompting))


def kinds_of(strategies: Iterable[str], prompting: str = "strategy") -> set[PartKind]:
    """Where the texts of these strategies come from. A policy writes what it likes if it opens with no known tag."""
    kinds = {part.kind for strategy in strategies for part in parts_of(strategy)}
    return kinds | {"prompt"} if prompting == "policy" else kinds


def deal_rewrites(
    strategies: Sequence[str | None], temperatures: Sequence[float], windows: Sequence[str], *seed: object
) -> list[Deal]:
    """A temperature and a part of the passage for each of a document's rewrites, whose strategies are given.

    The rewrites of one strategy go along the diagonals of the table of temperatures x parts, from a seeded place on: no
    cell comes twice before all have come, and after any number of rewrites no temperature has come more than once more
    than another. (Dealt as SPA, arXiv 2603.22213, found diversity decisive, at no cost in rewrites.)
    """
    parts = [(part, WINDOWS[name]) for name in windows for part in range(1, WINDOWS[name] + 1)]
    diagonal = math.lcm(len(temperatures), len(parts))
    dealt: Counter[str | None] = Counter()
    deals = []
    for strategy in strategies:
        step = (stable_seed(*seed, strategy) + dealt[strategy]) % (len(temperatures) * len(parts))
        dealt[strategy] += 1
        deals.append(Deal(temperatures[step % len(temperatures)], *parts[(step + step // diagonal) % len(parts)]))
    return deals


def part_of(document: Document, strategies: Iterable[str], deal: Deal) -> tuple[Document, str | None, int]:
    """What the teacher reads of a passage for a text of one of these strategies, which part that is, and where it
    begins."""
    whole = not kinds_of(strategies).isdisjoint(("brought", "plan"))
    start, end = (0, len(document.text)) if whole else window(document.text, deal.part, deal.parts)
    if (start, end) == (0, len(document.text)):
        return document, None, 0
    return replace(document, text=document.text[start:end]), f"{deal.part}/{deal.parts}", start


def rewrite_requests(
    curation: Curation, teacher: Teacher, documents: Sequence[Document], seed: int = 0
) -> list[RewriteRequest]:
    """What is written of documents for `rewrites_per_document` rewrites each, `best_of` texts for one, with their
    strategies, temperatures and parts of the passage. The texts among which one is chosen share the last two."""
    wanted, best_of = curation.rewrites_per_document, curation.best_of
    n = wanted * best_of
    requests = []
    for document in documents:
        passage = passage_of(document)
        row = document.metadata["source_row"] + (0 if passage is None else passage.number - 1)
        strategies: Sequence[str | None]
        if curation.strategies and curation.writer == "teacher":
            # The shares are of rewrites, so the texts among which one is chosen have its strategy.
            strategies = [s for s in strategies_by_share(curation.strategies, wanted, row) for _ in range(best_of)]
        elif teacher.prompting == "policy":
            strategies = [None] * n
        else:
            # Rotated by the row and the passage, so that with one rewrite a document each strategy gets its share too.
            strategies = spread(teacher.strategies, n, offset=row * n)
        deals = deal_rewrites(
            strategies[::best_of], curation.temperatures(teacher), curation.windows, seed, document.id
        )
        for i, strategy in enumerate(strategies):
            deal = deals[i // best_of]
            part, name, start = part_of(document, teacher.strategies if strategy is None else [strategy], deal)
            requests.append(RewriteRequest(part, i // best_of, strategy, deal.temperature, name, start))
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
    rewriter: Rewriter, teacher: Teacher, requests: Sequence[RewriteRequest], seed: int, *, cut: bool = True
) -> list[Written]:
    """What was asked and answered for each request. A document that is too long for the teacher is cut at its end, or
    where `cut` is False not asked about.

    Raises RunError if all fail: then the teacher is at fault, not the documents.
    """
    writer, policy = rewriter.writer, teacher.prompting == "policy"
    asked = [asked_prompts(teacher, request.document, request.strategy or "") for request in requests]

    def built(request: RewriteRequest, of_one: Sequence[str]) -> list[str] | None:
        longest = writer.max_prompt_tokens
        try:
            return [build_prompt(writer.tokenizer, teacher, request.document, p, longest, cut=cut) for p in of_one]
        except PromptTooLong:
            return None

    prompts = [built(request, of_one) for request, of_one in zip(requests, asked, strict=True)]
    # A policy teacher chooses by the tag that it opens with: a strategy is set by beginning the completion.
    openings = [
        tag_of(request.strategy) if policy and request.strategy else ""
        for request, of_one in zip(requests, prompts, strict=True)
        for _ in of_one or ()
    ]
    asked_at = [request.temperature for request, of_one in zip(requests, prompts, strict=True) for _ in of_one or ()]
    every = [prompt for of_one in prompts for prompt in of_one or ()]
    answers = writer.attempt(every, 1, seed, openings, asked_at) if every else []
    completions = chain.from_iterable(answers)
    written = [
        Written([], [], too_long=True) if of_one is None else Written(of_one, list(islice(completions, len(of_one))))
        for of_one in prompts
    ]
    errors = [completion.error for completion in chain.from_iterable(answers) if completion.error is not None]
    if len(errors) == len(answers) > 1:
        raise RunError(
            f"the teacher fails on every document of a batch ({type(errors[0]).__name__}: {errors[0]}); finished "
            "batches are kept, the same command goes on from there"
        )
    return written
