"""Strategies: the ways in which a lesson's text comes about, and the tags by which a policy teacher names them.

A strategy is a prompt, a rule, what documents bring, or a plan:

    implications         a prompt file in `teacher/strategies/` with a `{document}` placeholder; a user's own is a path
                         of a `.txt` file. The teacher writes the text. With `{related}` too it reads a second passage.
    sentences            a rule (teacher.ready.rules): the text is made of the document by code.
    brought:implications a text that the document brings under this name in its `rewrites`.
    sentences+implications
                         the texts of several strategies, one after another: questions and document together (arXiv
                         2603.23562), or rewrites of one document stitched into one text (arXiv 2603.18534).
    plan:turns           no text but a plan (student.plans), by which the student makes its own of the document.
    sentences+plan:mine  a text, and the plan by which the student learns it.

A strategy without a prompt in it is ready: no teacher has to write.
"""

import itertools
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

from configs.errors import UserError, nearest
from configs.files import read_given
from configs.schema import Teacher
from configs.schema.plans import PLAN
from student.plans import Plan
from teacher.ready.brought import PREFIX
from teacher.ready.plans import named_plan
from teacher.ready.rules import RULES
from teacher.ready.rules import VERSION as RULES_VERSION

FOLDER = Path(__file__).parents[1] / "strategies"
JOINT = "+"
"""Stands between the parts of a joined strategy."""
NO_STRATEGY = "none"
"""Strategy of a completion that opens with no known tag."""
PLAN_FORM = "{plan}"
"""Stands in a prompt for what a plan is: its answer is a plan alone."""
_TAG = re.compile(r"\s*<([^<>\n]{1,80})>\s*")

PartKind = Literal["prompt", "rule", "brought", "plan"]


class Part(NamedTuple):
    """One source of a lesson's text."""

    kind: PartKind
    name: str
    """Of the prompt, the rule, the texts that documents bring (without `brought:`), or the plan (without `plan:`)."""


@lru_cache
def parts_of(strategy: str) -> tuple[Part, ...]:
    """The parts of a strategy, one for most. What is no rule and not brought is a prompt, whether its file is there or
    not: see `check_strategy`."""
    is_file = strategy.endswith(".txt") and os.path.isfile(strategy)
    names = [strategy] if is_file or strategy.startswith(PLAN) else strategy.split(JOINT)
    return tuple(map(_part, names))


def _part(name: str) -> Part:
    if name.startswith(PREFIX):
        return Part("brought", name.removeprefix(PREFIX))
    if name.startswith(PLAN):
        return Part("plan", name.removeprefix(PLAN))
    return Part("rule" if name in RULES else "prompt", name)


def prompts_of(strategy: str) -> tuple[str, ...]:
    """The prompts that the teacher answers for a text of this strategy."""
    return tuple(part.name for part in parts_of(strategy) if part.kind == "prompt")


def is_ready(strategy: str) -> bool:
    """Whether no teacher has to write."""
    return not prompts_of(strategy)


def is_same(strategy: str) -> bool:
    """Whether it makes one text of a document, however often it is asked and with whatever random numbers."""
    parts = parts_of(strategy)
    return all(part.kind == "plan" or (part.kind == "rule" and not RULES[part.name].varies) for part in parts)


def brought_names(strategies: Iterable[str]) -> list[str]:
    """The names of texts that documents are to bring, without `brought:`."""
    return [part.name for strategy in strategies for part in parts_of(strategy) if part.kind == "brought"]


def planned_names(strategies: Iterable[str]) -> list[str]:
    """The names of plans among strategies, without `plan:`."""
    return [part.name for strategy in strategies for part in parts_of(strategy) if part.kind == "plan"]


def asks_for_plan(strategy: str) -> bool:
    """Whether all that the teacher answers for this strategy is a plan."""
    return any(PLAN_FORM in read_strategy(name) for name in prompts_of(strategy))


def named_plan_of(strategy: str) -> Plan | None:
    """The plan that a strategy names."""
    return next((named_plan(name) for name in planned_names([strategy])), None)


def needs_model(settings: Teacher, strategies: Iterable[str] | None = None) -> bool:
    """Whether a model is needed for texts of these strategies (None: those of the settings): to write, or to choose."""
    return settings.prompting == "policy" or not all(map(is_ready, strategies or settings.strategies))


def strategy_names() -> list[str]:
    """The prompts that come with the project."""
    return sorted(path.stem for path in FOLDER.glob("*.txt"))


@lru_cache
def read_strategy(name: str, key: str = "teacher.strategies") -> str:
    """The instruction of a prompt with its `{document}` placeholder. Raises UserError for an unknown name, which stands
    in the config under `key`, or a file without one."""
    path = Path(name) if name.endswith(".txt") else FOLDER / f"{name}.txt"
    if not name.endswith(".txt") and not os.path.isfile(path):
        raise UserError(f"{key}: unknown strategy {name!r}: {nearest(name, [*strategy_names(), *RULES])}")
    template = read_given(key, path).strip()
    if "{document}" not in template:
        raise UserError(f"{key}: {path} holds no {{document}} placeholder")
    return template


def reads_related(strategy: str) -> bool:
    """Whether one of the strategy's prompts wants a related passage (teacher.prompting.related)."""
    return any("{related}" in content for content in contents_of(prompts_of(strategy)))


def check_related(settings: Teacher) -> None:
    """Raises UserError where a policy is to choose a strategy that reads a second passage: its prompt shows one."""
    if settings.prompting == "policy" and (name := next(filter(reads_related, settings.strategies), None)):
        raise UserError(
            f"teacher.strategies: {name!r} reads a related passage, which the prompt of a policy does not show: set"
            " teacher.prompting 'strategy', or leave it out"
        )


def check_strategy(strategy: str, key: str = "teacher.strategies") -> None:
    """Raises UserError for a strategy with a part that there cannot be."""
    parts = parts_of(strategy)
    for part in parts:
        if not part.name.strip():
            raise UserError(f"{key}: {strategy!r} names nothing where a part should stand, e.g. {PREFIX}implications")
        if part.kind == "prompt":
            read_strategy(part.name, key)
        elif part.kind == "plan":
            named_plan(part.name, key)
    if [part.kind for part in parts].count("plan") > 1:
        raise UserError(f"{key}: {strategy!r} names two plans, and a lesson has one")


def check_trainable(settings: Teacher) -> None:
    """Raises UserError where no update could learn from texts of these strategies."""
    if not needs_model(settings):
        raise UserError(
            "teacher.strategies are all ready, so there is nothing to train: set teacher.prompting 'policy' for a"
            " teacher that chooses among them, or add a strategy that it writes"
        )
    check_answered_once(settings.strategies)


def check_answered_once(strategies: Sequence[str]) -> None:
    """Raises UserError for a strategy that asks the teacher more than once for one text: training learns from one
    answer, and a policy gives one."""
    twice = next((name for name in strategies if len(prompts_of(name)) > 1), None)
    if twice is not None:
        raise UserError(
            f"teacher.strategies: {twice!r} asks the teacher twice for one text, and it gives one answer here: join a"
            " prompt with ready strategies alone, or set rl.rewrites_per_lesson"
        )


def check_chosen(settings: Teacher, strategies: Sequence[str], key: str = "teacher.strategies") -> None:
    """Raises UserError where a head is the teacher and one of the strategies needs a model that writes."""
    written = [name for name in strategies if settings.chooses_only and not is_ready(name)]
    if written:
        raise UserError(
            f"{key}: teacher.model 'head' chooses among texts and writes none, so {written[0]!r} cannot be had: take"
            f" rules ({', '.join(RULES)}), {PREFIX}NAME, {PLAN}NAME, or a language model as the teacher"
        )


def content_of(strategy: str) -> str:
    """What a strategy is made of, to be hashed: its prompts' texts, and the version of its rules. Raises UserError for
    a prompt without a file."""
    parts = parts_of(strategy)
    if [part.kind for part in parts] == ["prompt"]:
        return read_strategy(strategy)
    versions = {part: f"rule {part.name} {RULES_VERSION}" for part in parts if part.kind == "rule"}
    versions |= {part: f"plan {named_plan(part.name)}" for part in parts if part.kind == "plan"}
    return "\n".join(
        read_strategy(part.name) if part.kind == "prompt" else versions.get(part, f"{part.kind} {part.name}")
        for part in parts
    )


def contents_of(strategies: Iterable[str]) -> list[str]:
    """`content_of` each strategy; of one without a file, which a `policy` teacher may know by its tag, the name."""
    contents = []
    for name in strategies:
        try:
            contents.append(content_of(name))
        except UserError:
            contents.append(name)
    return contents


def strategy_label(strategy: str) -> str:
    """The name under which a strategy is logged: of a file, its stem."""
    parts = parts_of(strategy)
    if len(parts) > 1:
        openings = {"brought": PREFIX, "plan": PLAN}
        return JOINT.join(strategy_label(openings.get(part.kind, "") + part.name) for part in parts)
    if parts[0].kind == "plan":
        return PLAN + (Path(parts[0].name).stem if strategy.endswith(".json") else parts[0].name)
    return Path(strategy).stem if strategy.endswith(".txt") else strategy


def by_label(label: str, strategies: Iterable[str]) -> str | None:
    """The strategy with this label; None where none of them has it."""
    return next((name for name in strategies if strategy_label(name) == label), None)


def tag_of(strategy: str) -> str:
    """The tag with which a `policy` teacher opens a completion of this strategy."""
    return f"<{strategy_label(strategy)}>"


def tags_of(strategies: Sequence[str]) -> list[str]:
    """The tag of each strategy. Raises UserError where two have one tag."""
    tags = list(map(tag_of, strategies))
    twice = [tag for tag, count in Counter(tags).items() if count > 1]
    if twice:
        raise UserError(f"teacher.strategies: two strategies have the tag {twice[0]}: rename one of their files")
    return tags


def menu(strategies: Sequence[str]) -> str:
    """One line for each strategy: its tag, and what its text is. Raises UserError where two have one tag."""
    lines = []
    for tag, strategy in zip(tags_of(strategies), strategies, strict=True):
        # What a ready strategy's lesson is stands fast, so the teacher has nothing to add.
        alone = " (write the tag alone)" if is_ready(strategy) else ""
        about = " Together with it: ".join(_about(part) for part in _prompts_first(strategy))
        lines.append(f"{tag} {about}{alone}")
    return "\n".join(lines)


def _prompts_first(strategy: str) -> list[Part]:
    return sorted(parts_of(strategy), key=lambda part: part.kind != "prompt")


def _about(part: Part) -> str:
    """A part in a sentence: of a prompt, its instruction without the document."""
    if part.kind == "rule":
        return f"{RULES[part.name].about}."
    if part.kind == "plan":
        return f"The plan {named_plan(part.name)}."
    if part.kind == "brought":
        return f"A text about the passage that is there already: {part.name}."
    template = read_strategy(part.name)
    before = itertools.takewhile(lambda paragraph: "{document}" not in paragraph, template.split("\n\n"))
    instruction = " ".join(before) or template.replace("{document}", "the passage")
    return " ".join(instruction.split())


def spread(strategies: Sequence[str], n: int, offset: int = 0) -> list[str]:
    """`n` strategies, each as often as any other give or take one; `offset` rotates which come first."""
    return [strategies[(offset + j) % len(strategies)] for j in range(n)]


def parse_completion(completion: str, known: Sequence[str]) -> tuple[str, str]:
    """The strategy and the lesson text of a policy's completion: the tag that opens it, or `none` where that names none
    of `known`; the text is then the whole completion."""
    tag = _TAG.match(completion)
    if tag and tag[1] in map(strategy_label, known):
        return tag[1], completion[tag.end() :].strip()
    return NO_STRATEGY, completion.strip()


def opening_tag(completion: str, tags: Iterable[str]) -> str | None:
    """The beginning of a completion up to the end of its tag, if that is one of `tags`."""
    tag = _TAG.match(completion)
    return completion[: tag.end()].rstrip() if tag and f"<{tag[1]}>" in set(tags) else None
