"""A student's schedule, worked out before it starts: texts as tokens, those of every step, weights and rates."""

import math
from collections import defaultdict
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from configs.schema import Student
from student.engine.encoding import Encoded, encode_text
from student.engine.packing import Piece
from student.records import Lesson


@dataclass(frozen=True, slots=True)
class Schedule:
    """One slot's training, worked out before it starts."""

    texts: list[Encoded]
    owners: list[int]
    """Number of the document each text belongs to."""
    order: list[list[int]]
    """Texts of each step."""
    learning_rate: float
    warmup_steps: int = 0
    decay: str = "constant"

    @property
    def steps(self) -> int:
        return len(self.order)

    def tokens(self) -> int:
        """Tokens met over all steps, repeats counted."""
        return sum(len(self.texts[index]) for step in self.order for index in step)

    def tokens_per_step(self) -> int:
        """Tokens of the largest step."""
        return max((sum(len(self.texts[i]) for i in step) for step in self.order), default=0)


def plan_schedule(tokenizer: PreTrainedTokenizerBase, lesson: Lesson, settings: Student) -> Schedule:
    """A lesson as tokens, with the texts of every step; a lesson without text has no steps."""
    loss_on = lesson.loss_on or settings.loss_on
    encoded = [encode_text(tokenizer, text, loss_on, settings.max_text_tokens) for text in lesson.texts]
    ids = lesson.document_ids or ("",) * len(encoded)
    assert len(ids) == len(encoded), "document_ids are aligned with texts"
    kept = [index for index, text in enumerate(encoded) if len(text.labelled)]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(ids))}
    owners = [numbers[ids[index]] for index in kept]
    order = step_order(
        owners,
        seed=lesson.seed,
        # A lesson's own epochs win over the config's steps; its own steps win over both.
        steps=lesson.steps or (None if lesson.epochs else settings.steps),
        epochs=lesson.epochs or settings.epochs,
        texts_per_step=settings.texts_per_step,
        lengths=[len(encoded[index]) for index in kept] if settings.tokens_per_step else None,
        tokens_per_step=settings.tokens_per_step,
    )
    rate = settings.learning_rate if lesson.learning_rate is None else lesson.learning_rate
    warmup = settings.warmup_steps if lesson.warmup_steps is None else lesson.warmup_steps
    return Schedule(
        [encoded[index] for index in kept], owners, order, rate, warmup, lesson.schedule or settings.schedule
    )


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
    """Which texts each step takes, so that every document is met equally often.

    Each document deals its texts from its own endlessly reshuffled pile, and a step takes equally many from each
    document (or from equally many documents, where there are more documents than texts in a step). With one document
    these are plain shuffled epochs. With `tokens_per_step` the documents deal one text each in turn, and a step ends
    where the tokens of all steps so far (`lengths` are the texts') come nearest to that many a step.
    """
    if not owners:
        return []
    generator = torch.Generator().manual_seed(seed)
    texts_of: dict[int, list[int]] = defaultdict(list)
    for index, owner in enumerate(owners):
        texts_of[owner].append(index)
    piles = {owner: _Pile(texts, generator) for owner, texts in texts_of.items()}
    documents = _Pile(list(texts_of), generator)
    if tokens_per_step is not None:
        assert lengths is not None
        steps = steps or epochs * math.ceil(sum(lengths) / tokens_per_step)
        return _steps_of_tokens(documents, piles, lengths, steps, tokens_per_step)
    largest = max(map(len, texts_of.values()))
    documents_a_step = min(len(texts_of), texts_per_step or len(texts_of))
    texts_a_document = max(1, texts_per_step // documents_a_step) if texts_per_step else largest
    if steps is None:
        steps = epochs * math.ceil(len(texts_of) / documents_a_step) * math.ceil(largest / texts_a_document)
    return [
        [text for owner in documents.deal(documents_a_step) for text in piles[owner].deal(texts_a_document)]
        for _ in range(steps)
    ]


def _steps_of_tokens(
    documents: "_Pile", piles: dict[int, "_Pile"], lengths: list[int], steps: int, tokens_per_step: int
) -> list[list[int]]:
    """Steps of about `tokens_per_step` tokens, at least one text each. A text that a step has already is dealt but not
    trained on twice: in a mean over documents and tokens it would weigh the same."""
    order: list[list[int]] = []
    dealt = 0
    for number in range(1, steps + 1):
        chosen: list[int] = []
        while not chosen or dealt + lengths[chosen[-1]] / 2 < number * tokens_per_step:
            (owner,) = documents.deal(1)
            (text,) = piles[owner].deal(1)
            dealt += lengths[text]
            chosen.append(text)
        order.append(list(dict.fromkeys(chosen)))
    return order


class _Pile:
    """Deals its cards in random order, all of them before any comes again; none twice in one deal."""

    def __init__(self, cards: list[int], generator: torch.Generator):
        self.cards, self.generator, self.left = cards, generator, []  # type: ignore[var-annotated]

    def deal(self, n: int) -> list[int]:
        if not self.left:
            self.left = [self.cards[i] for i in torch.randperm(len(self.cards), generator=self.generator).tolist()]
        # A deal ends with the pile: a text is not met twice in a step, and an epoch is an epoch.
        dealt, self.left = self.left[:n], self.left[n:]
        return dealt


def step_pieces(slot: int, schedule: Schedule, step: int) -> list[Piece]:
    """One slot's texts of one step, weighted so that documents share the update equally and tokens share the
    document's."""
    chosen = schedule.order[step]
    labels: dict[int, int] = defaultdict(int)
    for index in chosen:
        labels[schedule.owners[index]] += len(schedule.texts[index].labelled)
    return [Piece(slot, schedule.texts[i], share=1.0 / (len(labels) * labels[schedule.owners[i]])) for i in chosen]


def learning_rate(schedule: Schedule, step: int) -> float:
    """Linear warm-up, then the slot's schedule, which would reach zero one step after its last."""
    warmup = schedule.warmup_steps
    if step < warmup:
        return schedule.learning_rate * (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, schedule.steps - warmup)
    match schedule.decay:
        case "linear":
            return schedule.learning_rate * (1 - done)
        case "cosine":
            return schedule.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
        case _:
            return schedule.learning_rate
