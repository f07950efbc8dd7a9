"""Plans that a teacher writes or chooses: what a prompt says of them, how a reply is read, what is checked before."""

import itertools
import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from configs.errors import UserError
from configs.schema import Teacher
from student.grids.grid import read_pairs
from student.plans import Plan, plan_schema, read_plan, split_plan
from student.records import Document
from teacher.prompting.strategies import PLAN_FORM, asks_for_plan, is_ready, named_plan_of, parts_of
from teacher.ready.plans import NOT_DISTILLED

INVALID = "plan"
"""The reason in a gate's place for a lesson whose plan is none, is out of bounds, or does not suit its document."""

FORM = """A plan is one JSON object, with all fields of this schema and no others:
{schema}"""

BEFORE_TEXT = """{place} write a plan of how a student is trained on your text, and right behind it the text that is \
asked for below.
{plan}"""
"""Opens the user's turn where a text follows the plan."""


def plan_form(settings: Teacher, document: str) -> str:
    """What a plan for this document may hold, in words of a prompt."""
    schema = plan_schema(settings.plan_bounds, task=_is_task(document))
    return FORM.replace("{schema}", json.dumps(schema))


def with_plan(settings: Teacher, instruction: str, document: str) -> str:
    """A prompt's instruction that says what a plan is: in the place of `{plan}`, or before all else."""
    if not settings.plans:
        return instruction
    if PLAN_FORM not in instruction:
        place = "Behind the tag" if settings.prompting == "policy" else "First"
        instruction = f"{BEFORE_TEXT.replace('{place}', place)}\n\n{instruction}"
    return instruction.replace(PLAN_FORM, plan_form(settings, document))


def reply_schema(settings: Teacher) -> dict[str, Any] | None:
    """The JSON schema of all that a teacher replies; None where it writes texts too, or nothing."""
    written = settings.plans and settings.prompting == "strategy" and not settings.chooses_only
    alone = written and all(map(asks_for_plan, settings.strategies))
    return plan_schema(settings.plan_bounds, task=True) if alone else None


class LessonPlan(NamedTuple):
    """The plan of a lesson as far as it could be read."""

    plan: Plan | None
    texts: Sequence[str]
    """The replies without it."""
    invalid: str | None = None
    """Why it cannot be followed."""


def lesson_plan(settings: Teacher, strategy: str | None, replies: Sequence[str]) -> LessonPlan:
    """The plan of a lesson: named by its strategy (None: one that is not known), at the beginning of a reply, or both,
    and then the reply's fields count."""
    named = None if strategy is None else named_plan_of(strategy)
    if not settings.plans or not replies:
        return LessonPlan(named, replies)
    try:
        plan, text = split_plan(replies[0])
        if text and strategy is not None and is_ready(strategy):
            raise ValueError("is followed by a text, where the text is there already")
        return LessonPlan(read_plan(plan, settings.plan_bounds, named), [text, *replies[1:]])
    except ValueError as error:
        return LessonPlan(None, replies, str(error))


def check_plans(
    settings: Teacher, strategies: Sequence[str], documents: Iterable[Document], key: str, *, distill: bool = False
) -> None:
    """Raises UserError for a strategy that asks for a plan where none is wanted, a plan that it names and that is out
    of bounds, a document that cannot be learnt by it, choices of a head that are no plan, and any plan to `distill`."""
    written = [name for name in strategies if settings.prompting == "strategy" and not is_ready(name)]
    asking = [name for name in written if asks_for_plan(name)]
    if asking and not settings.plans:
        raise UserError(f"{key}: {asking[0]!r} asks for a plan: set teacher.plans to true, or take another strategy")
    named = {name: plan for name in strategies if (plan := named_plan_of(name)) is not None}
    if distill and (settings.plans or named):
        raise UserError(f"{key}: {next(iter(named), 'teacher.plans')} gives a plan, {NOT_DISTILLED}")
    for name, plan in named.items():
        try:
            read_plan(str(plan), settings.plan_bounds)
        except ValueError as error:
            raise UserError(f"{key}: {name} {error}") from None
    options = settings.plan_options.fields
    first = [field[0] for field in options]
    for name, (number, field) in itertools.product(strategies if options else (), enumerate(options)):
        for value in field:
            chosen = " ".join([*first[:number], value, *first[number + 1 :]])
            try:
                read_plan(chosen, settings.plan_bounds, named.get(name))
            except ValueError as error:
                raise UserError(f"teacher.plan_options: {chosen} {error}") from None
    for document in documents if named or asking else ():
        for name in asking:
            if not _is_task(document.text):
                raise UserError(f"{key}: {name!r} asks for plans of tasks of grids, and {document.id!r} is none")
        for name, plan in named.items():
            beside = any(part.kind != "plan" for part in parts_of(name))
            try:
                plan.check(document.text, "a text" if beside else "")
            except ValueError as error:
                raise UserError(f"{key}: {name} {error}: document {document.id!r}") from None


def _is_task(text: str) -> bool:
    try:
        return bool(read_pairs(text))
    except ValueError:
        return False
