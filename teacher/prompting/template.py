"""A user's turn in a model's chat template, and the check of what comes out.

A template is a program of somebody else: it may drop what it is given, print today's date, or raise. So it is tried on
a probe before anything is written with it.
"""

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from transformers import PreTrainedTokenizerBase

from configs.errors import UserError
from configs.schema import Serving, Teacher
from student.engine.encoding import check_offsets
from student.engine.models import read_tokenizer
from teacher.prompting.features import head_tokenizer

PROMPT_DATE = datetime(2024, 7, 26)
"""The day that templates with a date print, the one that Llama 3.1's takes where it is told none: today's would make
other prompts after midnight. Raise `teacher.sampling.SAMPLING_VERSION` with it."""
PROBE = (
    'A "probe" of <b>marks</b> & {{ braces }}, naïve 漢字 🙂:\n\n' + " ".join(f"word{i}," for i in range(500)) + " end."
)
"""Long enough that a template that shortens its input shows it."""
ANSWER = "The answer of the probe."
USERS_TURN = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
"""The user's turn as it is, where an endpoint has the chat template."""
SYSTEM = "You are a helpful assistant."
"""The system turn, where a template makes no prompt without one. A change changes prompts, as one of `PROMPT_DATE`."""
RENDERINGS = 8
"""Equal ones show that a template draws nothing at random, which Jinja lets it."""

Messages = Sequence[dict[str, Any]]
Form = tuple[bool, bool]
"""Whether a system turn comes first, and whether contents are lists of parts."""


def load_tokenizer(teacher: Teacher, serving: Serving, name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of the teacher at `name`, with which its prompts can be made: see `check_prompts`. Raises
    UserError, for a head also where its strategies are no choice."""
    if teacher.chooses_only:
        return head_tokenizer(teacher)
    tokenizer = read_tokenizer(name)
    if teacher.writer == "endpoint" and serving.chat:
        tokenizer.chat_template = USERS_TURN
    check_prompts(tokenizer, name)
    return tokenizer


def user_turn(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """The prompt that holds `text` as the user's only turn and ends where the model is to write. Templates of vision
    models read a turn's content as a list of parts, and some need a system turn (`SYSTEM`); they get it so."""
    return _render(tokenizer, _messages(_form(tokenizer, str(tokenizer.chat_template)), text))


def check_prompts(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Raises UserError where documents cannot be put into prompts of the teacher `name`: its tokenizer gives no offsets
    (by which documents are cut, and control tokens in them found), or its chat template drops or changes what it is
    given, gives another prompt each time, raises, or does not end where the model is to write."""
    check_offsets(tokenizer)
    if not tokenizer.chat_template:
        return
    template = f"the chat template of {name}"
    try:
        prompts = {user_turn(tokenizer, PROBE) for _ in range(RENDERINGS)}
    except Exception as error:  # whatever the template's program raises
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{template} makes no prompt of a user's turn: {reason}") from None
    prompt = prompts.pop()
    if prompts:
        raise UserError(f"{template} gives another prompt each time it is used: take what is random out of it")
    if PROBE[:40] not in prompt:
        raise UserError(f"{template} drops the document, given as a text or as a list of parts")
    if prompt.count(PROBE) != 1:
        how = "shows the document twice" if PROBE in prompt else "changes the document"
        raise UserError(f"{template} {how}: a prompt holds it once, and whole")
    if missing := _missing_at_end(tokenizer, prompt):
        raise UserError(
            f"{template} does not end where the model is to write ({missing}): it needs"
            " {% if add_generation_prompt %} with what opens the model's turn"
        )


def _missing_at_end(tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    """What stands between the end of a prompt and the model's answer; empty where the answer can follow."""
    form = _form(tokenizer, str(tokenizer.chat_template))
    try:
        answered = _render(tokenizer, _messages(form, PROBE, ANSWER), opened=False)
        unopened = _render(tokenizer, _messages(form, PROBE), opened=False)
    except Exception:  # a template for one turn alone
        answered = unopened = ""
    if answered.startswith(prompt) and ANSWER in answered:
        between = answered[len(prompt) :].partition(ANSWER)[0].strip()
        # Where the template opens the turn when told so, the rest is the model's to write: a channel.
        return f"{between!r} is missing" if between and unopened == prompt else ""
    end = tokenizer.eos_token
    return f"it ends in {end}" if end and prompt.rstrip().endswith(str(end)) else ""


@lru_cache(maxsize=8)
def _form(tokenizer: PreTrainedTokenizerBase, template: str) -> Form:
    """The simplest form of turns in which a text leaves its trace. `template` is the tokenizer's, which may change."""
    forms = [(system, parts) for system in (False, True) for parts in (False, True)]
    for form in forms:
        try:
            if PROBE in _render(tokenizer, _messages(form, PROBE)):
                return form
        except Exception:  # whatever the template's program raises
            continue
    return forms[0]


def _messages(form: Form, text: str, answer: str | None = None) -> Messages:
    system, parts = form
    turns = [("system", SYSTEM if system else None), ("user", text), ("assistant", answer)]
    return [
        {"role": role, "content": [{"type": "text", "text": content}] if parts else content}
        for role, content in turns
        if content is not None
    ]


def _render(tokenizer: PreTrainedTokenizerBase, messages: Messages, *, opened: bool = True) -> str:
    rendered = tokenizer.apply_chat_template(
        list(messages), tokenize=False, add_generation_prompt=opened, enable_thinking=False,
        strftime_now=PROMPT_DATE.strftime,
    )  # fmt: skip
    assert isinstance(rendered, str)
    return rendered
