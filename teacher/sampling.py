"""Documents in, gated rewrites out: what training, curation and previews share."""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from configs.schema import Config, Rl, Teacher
from student.records import Document, Question
from teacher.gates.checks import ABSENT, Gate, check
from teacher.gates.checks import VERSION as GATES_VERSION
from teacher.prompting.plans import INVALID, lesson_plan
from teacher.prompting.prompts import build_prompt
from teacher.prompting.related import NO_RELATED, as_read, lacks_related, related_of
from teacher.prompting.strategies import (
    Part,
    by_label,
    check_answered_once,
    contents_of,
    is_ready,
    opening_tag,
    parse_completion,
    parts_of,
    prompts_of,
    reads_related,
    spread,
    strategy_label,
    tag_of,
)
from teacher.prompting.thinking import without_thinking
from teacher.ready.texts import ReadyTexts
from teacher.records import Completion, Rewrite, Writer
from teacher.run.samples import read_rewrites, write_rewrites

SAMPLING_VERSION = 4
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


def kept_rewrites(
    path: Path,
    config: Config,
    documents: Sequence[Document],
    strategies: Sequence[str],
    secret_items: Sequence[Question],
    more: Mapping[str, Any],
    write: Callable[[], list[list[Rewrite]]],
) -> list[list[Rewrite]]:
    """The rewrites of every document, sampled once by `write` and read again by later calls. They are kept as
    `path`-<hash>.json; the hash names all that they depend on: teacher and gates of the config, the documents, the
    contents of the `strategies`, the `secret_items` of the gates, and `more`, as JSON."""
    depends = {
        "sampling": SAMPLING_VERSION,
        "teacher": config.teacher.model_dump(mode="json", exclude={"gradient_checkpointing"}),
        "gates": [GATES_VERSION, config.gates.model_dump(mode="json")],
        "seed": config.run.seed,
        "documents": [[document.id, document.text] for document in documents],
        "strategies": contents_of(strategies),
        "items": [asdict(item) for item in secret_items],
        **more,
    }
    if any(part.kind != "prompt" for name in strategies for part in parts_of(name)):
        depends["ready"] = [document.metadata.get("rewrites") for document in documents]
    if any(map(reads_related, strategies)):
        depends["related"] = [(related := related_of(document)) and related.text for document in documents]
    digest = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:12]
    kept = path.with_name(f"{path.name}-{digest}.json")
    if not kept.is_file():
        write_rewrites(kept, write())
    return read_rewrites(kept)


def sample_rewrites(
    writer: Writer, documents: Sequence[Document], sampling: Sampling, gates: Iterable[Gate]
) -> list[list[Rewrite]]:
    """The gated rewrites of every document, in the order of `documents`. Under `strategy` prompting a document's
    samples are spread evenly over the strategies, and the first of them rotates from document to document. Under
    `policy` prompting the teacher chooses, except in the lessons that are dealt. Ready texts ask nothing of
    the writer."""
    gates, n, first = list(gates), sampling.rewrites, sampling.first
    settings = writer.settings
    if sampling.strategies is not None:
        settings = settings.model_copy(update={"strategies": sampling.strategies})
    if settings.prompting == "policy":
        check_answered_once(settings.strategies)
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
    asked: list[list[str]] = []
    """The prompts of each sample: one under `policy` prompting, else one for each prompt of its strategy."""
    for document, names in zip(documents, strategies, strict=True):
        by_prompt = {
            prompt: build_prompt(writer.tokenizer, settings, document, prompt, writer.max_prompt_tokens)
            for prompt in {prompt for name in names for prompt in asked_prompts(settings, document, name)}
        }
        asked += [[by_prompt[prompt] for prompt in asked_prompts(settings, document, name)] for name in names]
    prompts = list(chain.from_iterable(asked))
    opened = list(chain.from_iterable(openings)) if settings.prompting == "policy" else [""] * len(prompts)
    completions = chain.from_iterable(writer.write(prompts, 1, sampling.seed, opened) if prompts else ())
    ready = [ReadyTexts(document, sampling.seed) for document in documents]
    rewrites = [
        make_rewrite(settings, ready[i // n], of_one, list(islice(completions, len(of_one))), name, gates)
        for i, (of_one, name) in enumerate(zip(asked, chain.from_iterable(strategies), strict=True))
    ]
    return [rewrites[d * n : (d + 1) * n] for d in range(len(documents))]


def asked_prompts(settings: Teacher, document: Document, strategy: str) -> tuple[str, ...]:
    """What `build_prompt` takes for the prompts of a sample; the one prompt of a policy names no strategy. None where
    the strategy wants a related passage that the document does not have."""
    if settings.prompting == "policy":
        return ("",)
    return () if lacks_related(document, strategy) else prompts_of(strategy)


def make_rewrite(
    settings: Teacher,
    ready: ReadyTexts,
    prompts: Sequence[str],
    completions: Sequence[Completion],
    strategy: str,
    gates: Iterable[Gate],
) -> Rewrite:
    """The record of one sample: its strategy, its lesson text and the first gate that refuses it.

    `prompts` and `completions` are those that the strategy has prompts for; `ready` gives the other parts of the text.
    Under `policy` prompting there is one of each, and the completion's tag says the strategy.
    """
    if settings.prompting == "strategy" and lacks_related(ready.document, strategy):
        name = strategy_label(strategy)
        return Rewrite(
            document_id=ready.document.id, strategy=name, text="", completion="", prompt="", rejected=NO_RELATED
        )
    chosen: str | None = strategy
    answered = zip(prompts, completions, strict=True)
    spoken = [without_thinking(one.text, settings.thinking_tags, prompt) for prompt, one in answered]
    label, texts = strategy_label(strategy), [text.strip() for text in spoken]
    written = "\n\n".join(completion.text for completion in completions)
    ended = bool(completions) and all(completion.ended for completion in completions)
    if settings.prompting == "policy":
        label, text = parse_completion(spoken[0], settings.strategies)
        chosen, texts = by_label(label, settings.strategies), [text]
        if chosen is not None and is_ready(chosen) and not settings.plans:
            written, ended = opening_tag(written, [tag_of(chosen)]) or written, False
    planned = lesson_plan(settings, chosen, texts)
    parts: list[str] = []
    rejected, answers = INVALID if planned.invalid else None, iter(planned.texts)
    for part in parts_of(chosen) if chosen is not None else (Part("prompt", label),):
        if part.kind == "plan":
            continue
        if part.kind == "prompt":
            made: str | None = next(answers)
            if planned.plan is not None and not made:
                continue  # the plan is all that it wrote, which is checked below
        else:
            made = ready.of(part.kind, part.name)
        parts += [] if made is None else [made]
        came_to_end = ended or part.kind != "prompt"
        read = as_read(ready.document, part.name) if part.kind == "prompt" else ready.document
        refused = ABSENT if made is None else check(read, made, gates, came_to_end, part)
        rejected = rejected or refused
    text, reason = "\n".join(parts), planned.invalid or ""
    if planned.plan is not None and rejected is None:
        try:
            planned.plan.check(ready.document.text, text)
        except ValueError as error:
            rejected, reason = INVALID, str(error)
    return Rewrite(
        document_id=ready.document.id,
        strategy=label,
        text=text,
        completion=written,
        prompt="\n\n".join(prompts),
        ended=ended,
        rejected=rejected,
        plan="" if planned.plan is None else str(planned.plan),
        reason=reason,
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
