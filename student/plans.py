"""Plans: how a student makes its own training data of a task, and how it trains on it (SEAL's second kind of self-edit,
arXiv 2506.10943, section 3.2; the data as in arXiv 2411.07279, section 3).

A plan is one JSON object:

    {"augmentations": {"identity": 1, "rotate-90": 1, "colours": 4}, "leave_out": 1, "learning_rate": 0.001,
     "steps": 40, "loss_on": "outputs"}

Each view of a task (`student.grids.augmentations`) is as many texts as the task has pairs: the other pairs, in an order
that is drawn, then one input, and its output as the answer. The pairs are those that the document shows: what its
questions ask is not in it, so that no text can hold it.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np

from configs.errors import nearest
from configs.schema.plans import Plans
from configs.seeds import stable_seed
from student.grids.augmentations import AUGMENTATIONS, draw_view, names_of
from student.grids.grid import ANSWER, Pair, grid_text, read_pairs
from student.records import Lesson, LessonText, Segment

LossOn = Literal["all", "outputs", "answer"]
LEARNT = "output"
"""The kind of the segments that carry the loss, unless it is on all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How one student learns one task."""

    augmentations: dict[str, int]
    """Views of the task, by the augmentation or chain of them (`transpose+colours`) that makes them. `identity` is the
    task as it is; two of it are two orders of its pairs."""
    learning_rate: float
    steps: int | None = None
    epochs: int | None = None
    """Passes over all texts. A plan has either steps or epochs."""
    leave_out: int = 1
    """Pairs that a text does not show before its question, the one that is asked among them: 1 is leave-one-out, 2
    leave-two-out; with as many as the task has, a text is its question alone."""
    loss_on: LossOn = "outputs"
    """`all` tokens, the `outputs` of all pairs of a text, or the `answer` to its question alone."""

    def __str__(self) -> str:
        """The plan as `read_plan` reads it, in one line."""
        return json.dumps({name: value for name, value in asdict(self).items() if value is not None})

    def texts(self, pairs: Sequence[Pair], seed: int, max_characters: int) -> list[LessonText]:
        """The training texts that it makes of a task's pairs. Pairs are left out from the front of a text that would be
        longer than `max_characters`, and the text where its question alone is. The same seed gives the same chance,
        whatever other augmentations the plan has."""
        texts: list[LessonText] = []
        for chain, count in self.augmentations.items():
            for number in range(count):
                rng = np.random.default_rng(stable_seed(seed, chain, number))
                view = draw_view(chain, rng, len(pairs)).pairs(pairs)
                for asked in range(len(view)):
                    others = rng.permutation([i for i in range(len(view)) if i != asked])
                    shown = others[: max(0, len(view) - self.leave_out)]
                    text = self._text([*(view[i] for i in shown), view[asked]], max_characters)
                    texts += [text] if text else []
        return texts

    def _text(self, pairs: Sequence[Pair], max_characters: int) -> LessonText:
        parts = [(grid_text(pair.input) + ANSWER, grid_text(pair.output)) for pair in pairs]
        while parts and sum(len(part) + len(answer) + 1 for part, answer in parts) > max_characters:
            parts = parts[1:]
        segments: list[Segment] = []
        for number, (part, answer) in enumerate(parts, 1):
            last = number == len(parts)
            learnt = last or self.loss_on != "answer"
            segments += [
                Segment("input", part),
                Segment(LEARNT if learnt else "input", answer if last else f"{answer}\n"),
            ]
        return tuple(segments)

    def lesson(
        self, document_id: str, text: str, seed: int, max_characters: int, steps: int | None = None,
        warmup_steps: int | None = None,
    ) -> Lesson:  # fmt: skip
        """What a student of a document is trained on; `text` is the document's, pairs of grids. `steps` takes the place
        of the plan's."""
        texts = self.texts(read_pairs(text), seed, max_characters)
        return Lesson(
            texts=tuple(texts), document_ids=(document_id,) * len(texts), learning_rate=self.learning_rate,
            steps=steps or self.steps, epochs=self.epochs, warmup_steps=warmup_steps, seed=seed,
            loss_on="all" if self.loss_on == "all" else LEARNT,
        )  # fmt: skip


FIELDS = tuple(Plan.__dataclass_fields__)


def read_plan(text: str, bounds: Plans) -> Plan:
    """The plan that a text of JSON holds. Raises ValueError with the reason, in one line."""
    try:
        fields = json.loads(text, object_pairs_hook=_each_once, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("is nested too deep") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"is no JSON ({error})") from None
    if not isinstance(fields, dict):
        raise ValueError("is no JSON object")
    for name in fields:
        if name not in FIELDS:
            raise ValueError(f"has an unknown field {name!r}: {nearest(name, list(FIELDS))}")
    for name in ("augmentations", "learning_rate"):
        if name not in fields:
            raise ValueError(f"lacks {name!r}")
    if ("steps" in fields) == ("epochs" in fields):
        raise ValueError("needs one of 'steps' and 'epochs'" + (", and has both" if "steps" in fields else ""))
    _whole("steps", fields.get("steps", 1), bounds.max_steps)
    _whole("epochs", fields.get("epochs", 1), bounds.max_epochs)
    _whole("leave_out", fields.get("leave_out", 1), None)
    rate, (low, high) = fields["learning_rate"], bounds.learning_rates
    if type(rate) not in (int, float) or not low <= rate <= high:
        raise ValueError(f"has 'learning_rate' {rate!r:.40}: a number from {low:g} to {high:g} is allowed")
    if fields.get("loss_on", "all") not in get_args(LossOn):
        raise ValueError(f"has 'loss_on' {fields['loss_on']!r:.40}: valid: {', '.join(get_args(LossOn))}")
    _check_augmentations(fields["augmentations"], bounds.max_views)
    return Plan(**fields)


def _check_augmentations(counts: Any, most: int) -> None:
    if not isinstance(counts, dict) or not counts:
        raise ValueError("has 'augmentations' that are no object of names with counts, e.g. {\"identity\": 1}")
    for chain, count in counts.items():
        try:
            names_of(chain)
        except ValueError as error:
            name = str(error)
            raise ValueError(f"has an unknown augmentation {name!r}: {nearest(name, list(AUGMENTATIONS))}") from None
        _whole(chain, count, most)
    if (views := sum(counts.values())) > most:
        raise ValueError(f"has {views} views, more than plans.max_views={most}")


def _whole(name: str, value: Any, most: int | None) -> None:
    if type(value) is not int or value < 1 or (most is not None and value > most):
        allowed = "a whole number from 1 on" if most is None else f"a whole number from 1 to {most}"
        raise ValueError(f"has {name!r} {value!r:.40}: {allowed} is allowed")


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"has {next(name for name in names if names.count(name) > 1)!r} twice")
    return fields


def _no_number(name: str) -> float:
    raise ValueError(f"holds {name}, which is no number of JSON")
