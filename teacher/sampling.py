"""Documents in, gated rewrites out: what training, curation and previews share."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

from configs.schema import Rl, Teacher
from student.records import Document
from teacher.gates.checks import Gate, check
from teacher.prompting.prompts import build_prompt
from teacher.prompting.strategies import parse_completion, spread, tag_of
from teacher.prompting.thinking import without_thinking
from teacher.records import Completion, Rewrite, Writer

SAMPLING_VERSION = 3
"""Part of the key of kept texts; raised whenever the same config would sample other texts from the same teacher."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How many rewrites a document gets, with which random numbers, and who chooses their strategies."""

    rewrites: int
    """Rewrites of each document."""
    seed: int
    strategies: tuple[str, ...] | None = None
    """The strategies to write with; None takes those of the writer's settings."""
    explore: float = 0.0
    """Share of the lessons whose strategy is dealt, under `policy` prompting, see `deal`."""
    rewrites_per_lesson: int = 1
    first: int = 0
    """Documents of the same stream that came before these."""


def sample_rewrites(
    writer: Writer, documents: Sequence[Document], sampling: Sampling, gates: Iterable[Gate]
) -> list[list[Rewrite]]:
    """The gated rewrites of every document, in the order of `documents`. Under `strategy` prompting a document's
    samples are spread evenly over the strategies, and the first of them rotates from document to document. Under
    `policy` prompting the teacher chooses, except in the lessons that are dealt."""
    gates, n, first = list(gates), sampling.rewrites, sampling.first
    settings = writer.settings
    if sampling.strategies is not None:
        settings = settings.model_copy(update={"strategies": sampling.strategies})
    if settings.prompting == "policy":
        strategies = [[""] * n for _ in documents]
        # Dealt for the whole stream, of which these documents take their part.
        openings = deal(
            settings.strategies, first + len(documents), n, sampling.rewrites_per_lesson, sampling.explore,
            offset=sampling.seed,
        )[first:]  # fmt: skip
    else:
        assert not sampling.explore, "'strategy' prompting deals every strategy"
        strategies = [spread(settings.strategies, n, first + d) for d in range(len(documents))]
        openings = [[""] * n for _ in documents]
    prompts: list[str] = []
    for document, names in zip(documents, strategies, strict=True):
        by_strategy = {
            name: build_prompt(writer.tokenizer, settings, document, name, writer.max_prompt_tokens)
            for name in set(names)
        }
        prompts += [by_strategy[name] for name in names]
    completions = writer.write(prompts, 1, sampling.seed, list(chain.from_iterable(openings)))
    rows = zip(prompts, completions, chain.from_iterable(strategies), strict=True)
    rewrites = [
        make_rewrite(settings, documents[i // n], prompt, completion, strategy, gates)
        for i, (prompt, [completion], strategy) in enumerate(rows)
    ]
    return [rewrites[d * n : (d + 1) * n] for d in range(len(documents))]


def make_rewrite(
    settings: Teacher, document: Document, prompt: str, completion: Completion, strategy: str, gates: Iterable[Gate]
) -> Rewrite:
    """The record of one completion: its strategy, its lesson text and the first gate that refuses it. `strategy` is the
    prompt's; under `policy` prompting the completion's tag counts."""
    known = settings.strategies if settings.prompting == "policy" else (strategy,)
    spoken = without_thinking(completion.text, settings.thinking_tags, prompt)
    name, text = parse_completion(settings.prompting, spoken, known)
    return Rewrite(
        document_id=document.id,
        strategy=name,
        text=text,
        completion=completion.text,
        prompt=prompt,
        ended=completion.ended,
        rejected=check(document, text, gates, completion.ended),
    )


def explore_share(rl: Rl, round: int) -> float:
    """Share of a round's lessons whose strategy is dealt: `rl.explore` in round 1, and from there in a straight line to
    0 after `rl.explore_rounds`."""
    return rl.explore * max(0.0, 1 - (round - 1) / rl.explore_rounds)


def deal(
    strategies: Sequence[str], documents: int, n: int, rewrites_per_lesson: int, explore: float, offset: int = 0
) -> list[list[str]]:
    """What each of `n` completions of each document opens with: the tag of a dealt strategy, or nothing.

    Whole lessons are dealt, so that different lessons of a document stand for different strategies. Over all documents
    their number comes nearest to the share `explore`. Strategies are dealt in turn across documents, from `offset` on,
    and so are the places in a group, since the lessons of one place may share a student.
    """
    lessons = n // rewrites_per_lesson
    assert lessons * rewrites_per_lesson == n, f"{n} rewrites are no whole lessons of {rewrites_per_lesson}"
    openings = []
    dealt = 0
    for d in range(documents):
        tags = [""] * lessons
        # Floor of the running total: a share of half a lesson deals one to every second document.
        due = math.floor((d + 1) * lessons * explore + 1e-9) - dealt
        for i in range(due):
            tags[(d + i) % lessons] = tag_of(strategies[(offset + dealt + i) % len(strategies)])
        dealt += lessons - tags.count("")
        openings.append([tag for tag in tags for _ in range(rewrites_per_lesson)])
    return openings
