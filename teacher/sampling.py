"""Documents in, gated rewrites out: what training, curation and previews share."""

import math
from collections.abc import Iterable, Sequence

from transformers import PreTrainedTokenizerBase

from configs.schema import Config, Teacher
from student.records import Document
from teacher.gates.checks import Gate, check
from teacher.prompting.prompts import build_prompt
from teacher.prompting.strategies import parse_completion, spread, tag_of
from teacher.records import Completion, Rewrite, Writer


def sample_rewrites(
    writer: Writer,
    tokenizer: PreTrainedTokenizerBase,
    settings: Teacher,
    documents: Sequence[Document],
    n: int,
    seed: int,
    gates: Iterable[Gate],
    max_prompt_tokens: int | None = None,
    explore: float = 0.0,
    rewrites_per_lesson: int = 1,
    first: int = 0,
) -> list[list[Rewrite]]:
    """`n` rewrites of every document, gated, in the order of `documents`, of which `first` others came before.

    Under `strategy` prompting a document's samples are spread evenly over the strategies, and the first of them rotates
    from document to document. Under `policy` prompting the teacher chooses by itself, but for the share `explore` of
    the lessons, see `deal`.
    """
    gates = list(gates)
    if settings.prompting == "policy":
        ways = [[""] * n for _ in documents]
        prompts = [[build_prompt(tokenizer, settings, d, None, max_prompt_tokens)] * n for d in documents]
        every = deal(settings.strategies, first + len(documents), n, rewrites_per_lesson, explore, offset=seed)
        openings = every[first:]
    else:
        assert not explore, "'strategy' prompting deals every strategy"
        ways = [spread(settings.strategies, n, offset) for offset in range(first, first + len(documents))]
        prompts = [
            [build_prompt(tokenizer, settings, document, name, max_prompt_tokens) for name in names]
            for document, names in zip(documents, ways, strict=True)
        ]
        openings = [[""] * n for _ in documents]
    flat = writer.write([p for row in prompts for p in row], 1, seed, [opening for row in openings for opening in row])
    return [
        [make_rewrite(settings, document, prompts[d][j], flat[d * n + j][0], ways[d][j], gates) for j in range(n)]
        for d, document in enumerate(documents)
    ]


def make_rewrite(
    settings: Teacher,
    document: Document,
    prompt: str,
    completion: Completion,
    strategy: str,
    gates: Iterable[Gate],
) -> Rewrite:
    """The record of one completion: its strategy, lesson text and the first gate's verdict."""
    known = settings.strategies if settings.prompting == "policy" else (strategy,)
    name, text = parse_completion(settings.prompting, completion.text, known)
    return Rewrite(
        document_id=document.id,
        strategy=name,
        text=text,
        completion=completion.text,
        prompt=prompt,
        ended=completion.ended,
        rejected=check(document, text, gates, completion.ended),
    )


def explore_share(config: Config, round: int) -> float:
    """Share of a round's lessons whose strategy is dealt: `rl.explore` in round 1, and from there in a straight line to
    0 after `rl.explore_rounds`."""
    return config.rl.explore * max(0.0, 1 - (round - 1) / config.rl.explore_rounds)


def deal(
    strategies: Sequence[str], documents: int, n: int, rewrites_per_lesson: int, explore: float, offset: int = 0
) -> list[list[str]]:
    """What each of `n` completions of each document opens with: the tag of a dealt strategy, or nothing.

    Whole lessons are dealt, so that different lessons of a document stand for different strategies; their number comes
    nearest to the share `explore` over all documents. Strategies are dealt in turn across documents, from `offset` on,
    and so are the places in a group, since the lessons of one place may share a student.
    """
    lessons = n // rewrites_per_lesson
    assert lessons * rewrites_per_lesson == n, f"{n} rewrites are no whole lessons of {rewrites_per_lesson}"
    openings = []
    dealt = 0
    for d in range(documents):
        tags = [""] * lessons
        # Floor of the running total: a share of half a lesson deals one to every second document.
        for i in range(math.floor((d + 1) * lessons * explore + 1e-9) - dealt):
            tags[(d + i) % lessons] = tag_of(strategies[(offset + dealt + i) % len(strategies)])
        dealt += lessons - tags.count("")
        openings.append([tag for tag in tags for _ in range(rewrites_per_lesson)])
    return openings
