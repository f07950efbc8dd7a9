"""A student's training, planned before it starts: texts as tokens, the texts of every step, weights, learning rates."""

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from transformers import PreTrainedTokenizerBase

from configs.schema import Student
from student.engine.encoding import Encoded, context_ids, encode_text, in_context
from student.engine.packing import Piece, Targets
from student.records import Lesson, LessonText


@dataclass(frozen=True, slots=True)
class Schedule:
    """One student's training."""

    texts: list[Encoded]
    owners: list[int]
    """Number of the document that each text belongs to."""
    order: list[list[int]]
    """Indices of the texts of each step; one that comes twice counts twice in the step's mean loss."""
    learning_rate: float
    """Peak."""
    warmup_steps: int = 0
    decay: str = "constant"
    """Schedule of the learning rate after the warm-up: `constant`, `linear` or `cosine`."""
    steps_cut: int = 0
    """Steps that were left out at the end, since there were too many tokens in them."""
    in_context: list[Encoded] = field(default_factory=list)
    """For each text the same with its document before it, by which the base sets the targets; empty where students
    learn the texts."""
    targets: list[Targets] = field(default_factory=list)
    """For each text, once `Scorer.with_targets` has set them."""
    problem: str | None = None
    """Why no student can be trained on it."""

    @property
    def steps(self) -> int:
        return len(self.order)

    def tokens(self) -> int:
        """Tokens trained on in all steps; a text counts as often as it comes."""
        return sum(len(self.texts[index]) for step in self.order for index in step)

    def computed_tokens(self) -> list[int]:
        """Tokens of each step that pass through the model: a text that comes twice is computed once."""
        return [sum(len(self.texts[index]) for index in set(step)) for step in self.order]

    def largest_step(self) -> int:
        """The most of `computed_tokens`; 0 without steps."""
        return max(self.computed_tokens(), default=0)


def plan_schedule(tokenizer: PreTrainedTokenizerBase, lesson: Lesson, settings: Student) -> Schedule:
    """A lesson's texts as tokens, without those that have no token to learn, and the order of its steps."""
    loss_on = lesson.loss_on or settings.loss_on
    ids = lesson.document_ids or ("",) * len(lesson.texts)
    numbers = {name: number for number, name in enumerate(dict.fromkeys(ids))}
    texts: list[Encoded] = []
    owners: list[int] = []
    contexts = []
    units: list[list[int]] = []
    before = {context: context_ids(tokenizer, context) for context in dict.fromkeys(lesson.contexts)}
    for text, document_id, context in zip(lesson.texts, ids, lesson.contexts or [None] * len(ids), strict=True):
        parts = [p for p in encode_text(tokenizer, text, loss_on, settings.max_text_tokens) if len(p.labelled)]
        places = list(range(len(texts), len(texts) + len(parts)))
        # A step of so many texts takes a long one with all its parts, so that the steps of a lesson are as many as were
        # planned for its texts, and an epoch is an epoch. A step of so many tokens takes single parts.
        units += [[place] for place in places] if settings.tokens_per_step else [places] if places else []
        texts += parts
        owners += [numbers[document_id]] * len(parts)
        contexts += [] if context is None else [in_context(tokenizer, before[context], part) for part in parts]
    steps = step_order(
        [owners[unit[0]] for unit in units],
        seed=lesson.seed,
        # A lesson's own epochs win over the config's steps; its own steps win over both.
        steps=lesson.steps or (None if lesson.epochs else settings.steps),
        epochs=lesson.epochs or settings.epochs,
        texts_per_step=settings.texts_per_step,
        lengths=[len(text) for text in texts] if settings.tokens_per_step else None,
        tokens_per_step=settings.tokens_per_step,
    )
    order = [[place for unit in step for place in units[unit]] for step in steps]
    rate = settings.learning_rate if lesson.learning_rate is None else lesson.learning_rate
    warmup = settings.warmup_steps if lesson.warmup_steps is None else lesson.warmup_steps
    kept = _within(order, [len(text) for text in texts], settings.max_lesson_tokens)
    cut = len(order) - len(kept)
    problem = "a document is empty: nothing is to be distilled" if [] in before.values() else None
    return Schedule(
        texts, owners, kept, rate, warmup, lesson.schedule or settings.schedule, cut, contexts, problem=problem
    )


def _within(order: list[list[int]], lengths: list[int], max_tokens: int | None) -> list[list[int]]:
    """The first steps that have at most so many tokens together."""
    if max_tokens is None:
        return order
    totals = itertools.accumulate(sum(lengths[index] for index in step) for step in order)
    return order[: sum(total <= max_tokens for total in totals)]


class Step(NamedTuple):
    """One optimiser step that is given: its texts, and which of their segments are learnt."""

    texts: tuple[LessonText, ...]
    loss_on: str


def schedule_of_steps(
    tokenizer: PreTrainedTokenizerBase, blocks: Iterable[Sequence[Step]], settings: Student, tokens: int
) -> Schedule:
    """Steps that are given, in their order: whole blocks of them as long as they have at most so many `tokens`, and the
    first in any case. In a step all tokens to be learnt weigh the same. There may be endless blocks, but not without
    tokens."""
    numbers: dict[tuple[LessonText, str], list[int]] = {}
    texts: list[Encoded] = []

    def numbers_of(text: LessonText, loss_on: str) -> list[int]:
        if (text, loss_on) not in numbers:
            parts = encode_text(tokenizer, text, loss_on, settings.max_text_tokens)
            learnt = [part for part in parts if len(part.labelled)]
            numbers[text, loss_on] = list(range(len(texts), len(texts) + len(learnt)))
            texts.extend(learnt)
        return numbers[text, loss_on]

    order: list[list[int]] = []
    done = 0
    for block in blocks:
        added = [[number for text in step.texts for number in numbers_of(text, step.loss_on)] for step in block]
        done += sum(len(texts[number]) for step in added for number in step)
        if order and done > tokens:
            break
        order += added
    owners = [0] * len(texts)
    return Schedule(texts, owners, order, settings.learning_rate, settings.warmup_steps, settings.schedule)


def step_order(
    owners: list[int],
    *,
    seed: int,
    steps: int | None,
    epochs: int,
    texts_per_step: int | None,
    lengths: list[int] | None = None,
    tokens_per_step: int | None = None,
) -> list[list[int]]:
    """The texts of each step, such that every document is trained on equally often; no steps without texts.

    Each document gives its texts in random order, all of them before any comes again, and a step takes equally many
    from each document (or from equally many documents, if there are more documents than texts in a step). With one
    document these are plain shuffled epochs. With `tokens_per_step` (which needs the texts' `lengths`) the documents
    give one text each in turn, and a step ends where the tokens of all steps so far come nearest to that many a step: a
    lesson with fewer tokens than a step comes several times in it.
    """
    if not owners:
        return []
    generator = torch.Generator().manual_seed(seed)
    texts_of: dict[int, list[int]] = defaultdict(list)
    for index, owner in enumerate(owners):
        texts_of[owner].append(index)
    cycles = {owner: _ShuffledCycle(texts, generator) for owner, texts in texts_of.items()}
    documents = _ShuffledCycle(list(texts_of), generator)
    if tokens_per_step is not None:
        assert lengths is not None
        steps = steps or epochs * math.ceil(sum(lengths) / tokens_per_step)
        return _steps_of_tokens(documents, cycles, lengths, steps, tokens_per_step)
    largest = max(map(len, texts_of.values()))
    documents_per_step = min(len(texts_of), texts_per_step or len(texts_of))
    texts_per_document = max(1, texts_per_step // documents_per_step) if texts_per_step else largest
    if steps is None:
        steps = epochs * math.ceil(len(texts_of) / documents_per_step) * math.ceil(largest / texts_per_document)
    return [
        [text for owner in documents.take(documents_per_step) for text in cycles[owner].take(texts_per_document)]
        for _ in range(steps)
    ]


def _steps_of_tokens(
    documents: "_ShuffledCycle", cycles: dict[int, "_ShuffledCycle"], lengths: list[int], steps: int, step_tokens: int
) -> list[list[int]]:
    """Steps of about `step_tokens` tokens and at least one text each."""
    order: list[list[int]] = []
    tokens = 0
    for number in range(1, steps + 1):
        chosen: list[int] = []
        while not chosen or tokens + lengths[chosen[-1]] / 2 < number * step_tokens:
            (owner,) = documents.take(1)
            (text,) = cycles[owner].take(1)
            tokens += lengths[text]
            chosen.append(text)
        order.append(chosen)
    return order


class _ShuffledCycle:
    """Gives its items in random order, all of them before any comes again."""

    def __init__(self, items: list[int], generator: torch.Generator):
        self.items, self.generator = items, generator
        self.remaining: list[int] = []

    def take(self, n: int) -> list[int]:
        """The next n items, fewer at the end of a pass: no call gives an item twice, and an epoch is an epoch."""
        if not self.remaining:
            self.remaining = [self.items[i] for i in torch.randperm(len(self.items), generator=self.generator).tolist()]
        taken, self.remaining = self.remaining[:n], self.remaining[n:]
        return taken


def step_pieces(slot: int, schedule: Schedule, step: int) -> list[Piece]:
    """A slot's texts of one step: documents have equal shares of the update, and a document's labelled tokens have
    equal shares of the document's. A text that comes twice is one piece of twice the share: the same loss and gradient
    as those of two copies, at the cost of one."""
    times = Counter(schedule.order[step])
    labels: dict[int, int] = defaultdict(int)
    for index, n in times.items():
        labels[schedule.owners[index]] += n * len(schedule.texts[index].labelled)
    return [
        Piece(
            slot, schedule.texts[index], share=n / (len(labels) * labels[schedule.owners[index]]),
            targets=schedule.targets[index] if schedule.targets else None,
        )
        for index, n in times.items()
    ]  # fmt: skip


def learning_rate(schedule: Schedule, step: int) -> float:
    """Linear warm-up, then the decay, which would reach zero one step after the last."""
    peak, warmup = schedule.learning_rate, schedule.warmup_steps
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, schedule.steps - warmup)
    match schedule.decay:
        case "linear":
            return peak * (1 - done)
        case "cosine":
            return peak * 0.5 * (1 + math.cos(math.pi * done))
        case _:
            return peak
