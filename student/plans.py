"""Plans: how one student learns one document, which a teacher may choose beside or instead of a text.

On a task of grids a plan says which training data the student makes of the task (SEAL's second kind of self-edit, arXiv
2506.10943, section 3.2; the data as in arXiv 2411.07279, section 3):

    {"augmentations": {"identity": 1, "rotate-90": 1, "colours": 4}, "leave_out": 1, "learning_rate": 0.001,
     "steps": 40, "loss_on": "outputs"}

Each view of a task (`student.grids.augmentations`) is as many texts as the task has pairs: the other pairs, in an order
that is drawn, then one input, and its output as the answer. The pairs are those that the document shows: what its
questions ask is not in it, so that no text can hold it.

On any other document it says how the student learns the lesson's texts, and how much of the document beside them:

    {"learning_rate": 0.001, "steps": 40, "loss_on": "all", "raw_share": 0.25}
"""

import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple, get_args

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


MOST_COPIES = 8
"""Of a text in a pass, to come near a share of the raw text."""
_QUESTION = re.compile(r"[^.!?？؟。！\n]*[?？؟]+")


class Planned(NamedTuple):
    """What one student is taught, with a plan of its own."""

    text: str
    """Empty where the plan makes all data."""
    plan: str
    """As `str(plan)` writes it."""


TaughtText = str | Planned
"""A text as it is, or one with a plan. No text is taken for a plan, whatever it holds."""


def plain(taught: Sequence[TaughtText]) -> list[str]:
    """The texts without their plans."""
    return [one.text if isinstance(one, Planned) else one for one in taught]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How one student learns one document."""

    augmentations: dict[str, int] = field(default_factory=dict)
    """Views of a task, by the augmentation or chain of them (`transpose+colours`) that makes them. `identity` is the
    task as it is; two of it are two orders of its pairs. Empty for documents that are no tasks."""
    leave_out: int = 1
    """Pairs of a task that a text does not show before its question, the one that is asked among them: 1 is
    leave-one-out, 2 leave-two-out; with as many as the task has, a text is its question alone."""
    learning_rate: float
    steps: int | None = None
    epochs: int | None = None
    """Passes over all texts. A plan has either steps or epochs."""
    loss_on: LossOn = "outputs"
    """Of a task: `all` tokens, the `outputs` of all pairs of a text, or the `answer` to its question alone. Of other
    texts: `all` tokens (what is read where a plan does not say it), or as `outputs` all that is no question."""
    raw_share: float = 0.0
    """Share of the characters that are learnt which the document itself has beside a lesson's texts, as near as up to
    eight copies of each come to it; 1 teaches the document alone."""

    def __str__(self) -> str:
        """The plan as `read_plan` reads it, in one line."""
        unused = OF_TEXTS if self.augmentations else OF_TASKS
        return json.dumps(
            {name: value for name, value in asdict(self).items() if value is not None and name not in unused}
        )

    def check(self, document: str, text: str) -> None:
        """Raises ValueError, with the reason in one line, where no student of the document could follow the plan beside
        a lesson's text."""
        if self.augmentations:
            try:
                read_pairs(document)
            except ValueError as error:
                raise ValueError(f"has 'augmentations', which tasks of grids have, and the document {error}") from None
            if text.strip():
                raise ValueError("makes all data by its 'augmentations', and has a text beside it")
        elif not text.strip() and self.raw_share < 1:
            raise ValueError("has neither 'augmentations' nor a text to be learnt beside it")
        elif self.loss_on == "outputs" and self.raw_share == 0 and not _QUESTION.sub("", text).strip():
            raise ValueError("has 'loss_on' 'outputs', and its text is questions alone")

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

    def mixed(self, texts: Sequence[str], document: str) -> list[LessonText]:
        """The texts of a lesson, and the document as often as its share asks for. Where questions carry no loss they
        stand in segments of their own."""
        if self.raw_share == 1:
            mixed = [document]
        else:
            size, raw_size, counts = sum(map(len, texts)), len(document), range(1, MOST_COPIES + 1)
            copies, raw_copies = min(
                itertools.product(counts, counts if self.raw_share else [0]),
                key=lambda n: (abs(n[1] * raw_size / (n[0] * size + n[1] * raw_size) - self.raw_share), sum(n)),
            )
            mixed = [*texts] * copies + [document] * raw_copies
        return [text if self.loss_on == "all" else _segments(text) for text in mixed]

    def lesson(
        self, document_id: str, document: str, taught: Sequence[str], seed: int, max_characters: int,
        steps: int | None = None, warmup_steps: int | None = None,
    ) -> Lesson:  # fmt: skip
        """What a student of a document is trained on, beside the texts that it is `taught`. Texts that are made of a
        task have at most `max_characters`. `steps` takes the place of the plan's."""
        if self.augmentations:
            texts = self.texts(read_pairs(document), seed, max_characters)
        else:
            texts = self.mixed(taught, document)
        return Lesson(
            texts=tuple(texts), document_ids=(document_id,) * len(texts), learning_rate=self.learning_rate,
            steps=steps or self.steps, epochs=self.epochs, warmup_steps=warmup_steps, seed=seed,
            loss_on="all" if self.loss_on == "all" else LEARNT,
        )  # fmt: skip


def _segments(text: str) -> LessonText:
    """A text cut before and behind its questions."""
    segments, end = [], 0
    for question in _QUESTION.finditer(text):
        segments += [Segment(LEARNT, text[end : question.start()]), Segment("input", question[0])]
        end = question.end()
    return tuple(segment for segment in [*segments, Segment(LEARNT, text[end:])] if segment.text) if end else text


FIELDS = tuple(Plan.__dataclass_fields__)
OF_TASKS, OF_TEXTS = ("augmentations", "leave_out"), ("raw_share",)
"""Fields that plans of tasks alone have, and plans of texts alone."""


def split_plan(reply: str) -> tuple[str, str]:
    """The JSON object with which a reply begins, be it in a fence of Markdown, and the text behind it. Raises
    ValueError."""
    text = _FENCE.sub(r"\g<1>", reply.strip())
    _, end = _object(text)
    return text[:end], text[end:].strip()


_FENCE = re.compile(r"\A```(?:json)?\s*(\{.*?\})\s*```", re.DOTALL)


def read_plan(text: str, bounds: Plans, base: "Plan | None" = None) -> Plan:
    """The plan that a text of JSON holds; fields that it lacks are those of `base`. Raises ValueError with the reason,
    in one line."""
    fields, end = _object(text.strip())
    if text.strip()[end:]:
        raise ValueError("is no JSON (more stands behind it)")
    for name in fields:
        if name not in FIELDS:
            raise ValueError(f"has an unknown field {name!r}: {nearest(name, list(FIELDS))}")
    if base is not None:
        lengths = {"steps", "epochs"} if {"steps", "epochs"} & fields.keys() else set()
        fields = {name: value for name, value in json.loads(str(base)).items() if name not in lengths} | fields
    if "learning_rate" not in fields:
        raise ValueError("lacks 'learning_rate'")
    if ("steps" in fields) == ("epochs" in fields):
        raise ValueError("needs one of 'steps' and 'epochs'" + (", and has both" if "steps" in fields else ""))
    _whole("steps", fields.get("steps", 1), bounds.max_steps)
    _whole("epochs", fields.get("epochs", 1), bounds.max_epochs)
    _whole("leave_out", fields.get("leave_out", 1), None)
    _number("learning_rate", fields["learning_rate"], *bounds.learning_rates)
    _number("raw_share", fields.get("raw_share", 0.0), 0.0, 1.0)
    if fields.get("loss_on", "all") not in get_args(LossOn):
        raise ValueError(f"has 'loss_on' {fields['loss_on']!r:.40}: valid: {', '.join(get_args(LossOn))}")
    if "augmentations" in fields:
        _check_augmentations(fields["augmentations"], bounds.max_views)
    else:
        fields.setdefault("loss_on", "all")
    kind, others = ("with", OF_TEXTS) if "augmentations" in fields else ("without", OF_TASKS)
    if other := next((name for name in others if name in fields), None):
        raise ValueError(f"has {other!r}, which a plan {kind} 'augmentations' does not have")
    if kind == "without" and fields.get("loss_on") == "answer":
        raise ValueError(
            "has 'loss_on' 'answer', which a plan without 'augmentations' does not have: valid: all, outputs"
        )
    return Plan(**fields)


def plan_schema(bounds: Plans, task: bool) -> dict[str, Any]:
    """The JSON schema of plans within bounds, for documents that are tasks or others: what a teacher is shown, and held
    to where its server can."""
    fields: dict[str, Any] = {
        "augmentations": {
            "description": "views of the task that training texts are made of, and how many of each",
            "type": "object",
            "properties": {name: _numbers("integer", 1, bounds.max_views) for name in AUGMENTATIONS},
            "additionalProperties": False,
            "minProperties": 1,
        },
        "leave_out": {"description": "pairs that a text does not show, at least the asked one"}
        | _numbers("integer", 1, 9),
        "learning_rate": _numbers("number", *bounds.learning_rates),
        "steps": {"description": "optimiser steps"} | _numbers("integer", 1, bounds.max_steps),
        "loss_on": {
            "description": "what is learnt: all tokens, outputs of pairs, or the last answer"
            if task
            else "what is learnt: all tokens, or as outputs all but questions",
            "enum": [name for name in get_args(LossOn) if task or name != "answer"],
        },
        "raw_share": {"description": "share of the passage itself beside your text"} | _numbers("number", 0, 1),
    }
    used = {name: value for name, value in fields.items() if name not in (OF_TEXTS if task else OF_TASKS)}
    return {"type": "object", "properties": used, "required": list(used), "additionalProperties": False}


def _numbers(kind: str, least: float, most: float) -> dict[str, Any]:
    return {"type": kind, "minimum": least, "maximum": most}


def _object(text: str) -> tuple[dict[str, Any], int]:
    """The JSON object at the start of a text, and where it ends."""
    try:
        fields, end = json.JSONDecoder(object_pairs_hook=_each_once, parse_constant=_no_number).raw_decode(text)
    except RecursionError:
        raise ValueError("is nested too deep") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"is no JSON ({error})") from None
    if not isinstance(fields, dict):
        raise ValueError("is no JSON object")
    return fields, end


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
        raise ValueError(f"has {views} views, more than teacher.plan_bounds.max_views={most}")


def _whole(name: str, value: Any, most: int | None) -> None:
    if type(value) is not int or value < 1 or (most is not None and value > most):
        allowed = "a whole number from 1 on" if most is None else f"a whole number from 1 to {most}"
        raise ValueError(f"has {name!r} {value!r:.40}: {allowed} is allowed")


def _number(name: str, value: Any, low: float, high: float) -> None:
    if type(value) not in (int, float) or not low <= value <= high:
        raise ValueError(f"has {name!r} {value!r:.40}: a number from {low:g} to {high:g} is allowed")


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"has {next(name for name in names if names.count(name) > 1)!r} twice")
    return fields


def _no_number(name: str) -> float:
    raise ValueError(f"holds {name}, which is no number of JSON")
