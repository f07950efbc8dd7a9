"""Benchmark items as questions, with the side (`reward` or `heldout`) that each is on."""

import logging
from collections.abc import Iterable
from typing import Any

from configs.errors import UserError, nearest
from configs.seeds import item_hash
from student.records import Document, Exam, Question, Split

log = logging.getLogger(__name__)

HELDOUT_SHARE = 0.3
"""Share of the items that are never rewarded, if the data does not name their splits."""

CONTINUATION = "continuation"
"""The `kind` of an item that asks for running text (student/benchmarks/continuation.py)."""
QUESTION_KEYS = ["question", "prompt", "answer", "choices", "distractors", "split", "kind"]


class Continuation(tuple):
    """Items that ask for a document's end, in its metadata. A field `continuation` that a row itself has is none."""


class WrittenQuestions(list):
    """The `questions` in the metadata of a document that brought none: they were written for this project's exams, so
    what no exam asks need not be kept from lessons (`teacher.reward.student_runs.heldout_items`)."""


class FixedQuestions:
    """A benchmark that asks the same questions about every document, an item that comes twice once."""

    def __init__(self, questions: Iterable[Question]):
        self.questions = tuple(dict.fromkeys(questions))

    def exam(self, document: Document) -> Exam:
        return Exam(questions=self.questions)


def split_of(*parts: str, heldout_share: float = HELDOUT_SHARE) -> Split:
    """The split of the item that these texts identify: always the same for the same texts."""
    return "heldout" if int(item_hash(*parts), 16) / 16**16 < heldout_share else "reward"


def parse_question(item: dict[str, Any], template: str, document_id: str = "") -> Question:
    """A question from its JSON form `{question | prompt, answer, choices?, distractors?, split?}`.

    `question` is put into the template, `prompt` is asked as it is. `distractors` are wrong answers; without them the
    other `choices` are. A `kind` is for who compares kinds of questions; an exam knows `continuation`. SQuAD's
    `answers: {text: [...]}` is not read.

    Raises:
        UserError: a key is missing or unknown, the answer is empty, it is none of the choices, or it is a distractor.
    """
    name = f"question of document {document_id!r}"
    if not isinstance(item, dict):
        raise UserError(f"{name} is not an object: {item!r}")
    for key in item:
        if key not in QUESTION_KEYS:
            raise UserError(f"{name}: unknown key {key!r}; {nearest(key, QUESTION_KEYS)}")
    text, answer = item.get("question", item.get("prompt")), item.get("answer")
    if not isinstance(text, str) or not isinstance(answer, str) or not text.strip() or not answer.strip():
        raise UserError(f"{name} needs `question` (or `prompt`) and `answer`: {item}")
    choices, distractors = _texts(item, "choices", name), _texts(item, "distractors", name)
    if choices and answer not in choices:
        raise UserError(f"{name}: answer {answer!r} is none of its choices")
    if answer in distractors:
        raise UserError(f"{name}: answer {answer!r} is one of its distractors")
    split = item.get("split") or split_of(text, answer)
    if split not in ("reward", "heldout"):
        raise UserError(f"{name}: split is 'reward' or 'heldout', not {split!r}")
    prompt = template.format(question=text) if "question" in item else text
    return Question(
        prompt=prompt, answer=answer, distractors=distractors or _without(choices, answer), split=split,
        document_id=document_id, text=item.get("kind") == CONTINUATION,
    )  # fmt: skip


def question_from_requests(requests: list[tuple[str, str]], gold: int, *, item: tuple[str, ...]) -> Question | None:
    """A question from the (context, continuation) pairs that other harnesses score, one for each choice.

    None if a continuation does not follow its context after white space, as an answer does in our exam. The other
    continuations are distractors, unless their contexts differ (WinoGrande). `gold` is the gold pair's index; the texts
    of `item` identify the item, and are hashed for its split.
    """
    pairs = [pair for request in requests if (pair := _prompt_and_answer(*request)) is not None]
    if len(pairs) < len(requests):
        return None
    prompt, answer = pairs[gold]
    same_prompt = len(pairs) > 1 and all(other == prompt for other, _ in pairs)
    distractors = _without((choice for _, choice in pairs), answer) if same_prompt else ()
    return Question(prompt=prompt, answer=answer, distractors=distractors, split=split_of(*item))


def usable_questions(task: str, questions: list[Question | None]) -> dict[int, Question]:
    """A task's questions that can be asked, by their numbers; a warning counts the others (None).

    Raises UserError if there are none.
    """
    usable = {number: question for number, question in enumerate(questions) if question is not None}
    if not usable:
        raise UserError(f"{task}: no item has a gold answer after its prompt and a space")
    if len(usable) < len(questions):
        log.warning("%s: %d of %d items can be asked", task, len(usable), len(questions))
    return usable


def _texts(item: dict[str, Any], key: str, name: str) -> tuple[str, ...]:
    texts = item.get(key) or []
    if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise UserError(f"{name}: {key} is not a list of texts: {texts!r}")
    return tuple(dict.fromkeys(texts))


def _without(choices: Iterable[str], answer: str) -> tuple[str, ...]:
    """The other choices, each once."""
    return tuple(choice for choice in dict.fromkeys(choices) if choice != answer)


def _prompt_and_answer(context: str, continuation: str) -> tuple[str, str] | None:
    """The pair divided where our exam puts its one space, so that both harnesses score the same tokens.

    Spaces at the end of the context belong to the continuation, as in lm-eval. Line breaks between the two belong to
    the prompt and are not scored.
    """
    prompt = context.rstrip()
    joined = context[len(prompt) :] + continuation
    answer = joined.lstrip()
    gap = joined[: len(joined) - len(answer)]
    if not prompt or not answer or not gap:
        return None
    if prompt_end := gap.rfind("\n") + 1:  # the rest of the gap is the answer's indentation
        return prompt + gap[:prompt_end], joined[prompt_end:]
    return (prompt if gap[0] == " " else prompt + gap[0]), joined[1:]
