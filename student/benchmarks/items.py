from typing import Any

from configs.errors import UserError, nearest
from configs.seeds import item_hash
from student.records import Question, Split

HELDOUT_SHARE = 0.3
"""Share of the items that are never rewarded, where the data does not say itself."""


QUESTION_KEYS = ["question", "prompt", "answer", "choices", "split"]


def split_of(*parts: str, heldout_share: float = HELDOUT_SHARE) -> Split:
    """The side of the item that these texts identify: always the same for the same texts."""
    return "heldout" if int(item_hash(*parts), 16) / 16**16 < heldout_share else "reward"


def parse_question(item: dict[str, Any], template: str, document_id: str = "") -> Question:
    """A question from its JSON form `{question | prompt, answer, choices?, split?}`.

    `question` goes through the template, `prompt` is put as it is. SQuAD's `answers: {text: [...]}` is not read.

    Raises:
        UserError: a key is missing or unknown, the answer is empty, or it is none of the choices.
    """
    if not isinstance(item, dict):
        raise UserError(f"question of document {document_id!r} is not an object: {item!r}")
    for key in item:
        if key not in QUESTION_KEYS:
            raise UserError(f"question of document {document_id!r}: unknown key {key!r}; {nearest(key, QUESTION_KEYS)}")
    text, answer = item.get("question", item.get("prompt")), item.get("answer")
    if not isinstance(text, str) or not isinstance(answer, str) or not text.strip() or not answer.strip():
        raise UserError(f"question of document {document_id!r} needs `question` (or `prompt`) and `answer`: {item}")
    choices = item.get("choices") or []
    if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
        raise UserError(f"question of document {document_id!r}: choices is not a list of texts: {choices!r}")
    if choices and answer not in choices:
        raise UserError(f"question of document {document_id!r}: answer {answer!r} is none of its choices")
    split = item.get("split") or split_of(text, answer)
    if split not in ("reward", "heldout"):
        raise UserError(f"question of document {document_id!r}: split is 'reward' or 'heldout', not {split!r}")
    prompt = template.format(question=text) if "question" in item else text
    return Question(prompt=prompt, answer=answer, choices=tuple(choices), split=split, document_id=document_id)


def question_from_requests(requests: list[tuple[str, str]], gold: int, *, item: tuple[str, ...]) -> Question | None:
    """A question from the (context, continuation) pairs that other harnesses score, one a choice.

    None if a continuation does not follow its context after white space, which is how our exam puts an answer. Contexts
    that differ (WinoGrande) leave a question without choices.

    Args:
        requests: as text, white space included.
        gold: place of the gold pair.
        item: texts that identify the item, hashed for its split.
    """
    pairs = [_prompt_and_answer(context, continuation) for context, continuation in requests]
    if any(pair is None for pair in pairs):
        return None
    answers = [pair for pair in pairs if pair is not None]
    prompt, answer = answers[gold]
    same_prompt = len(answers) > 1 and all(other == prompt for other, _ in answers)
    choices = tuple(text for _, text in answers) if same_prompt else ()
    return Question(prompt=prompt, answer=answer, choices=choices, split=split_of(*item))


def _prompt_and_answer(context: str, continuation: str) -> tuple[str, str] | None:
    """The pair cut where our exam puts its one space, so that both harnesses score the same tokens: spaces that end the
    context belong to the continuation, as in lm-eval. Line breaks between them are prompt, and not scored."""
    prompt = context.rstrip()
    joined = context[len(prompt) :] + continuation
    answer = joined.lstrip()
    gap = joined[: len(joined) - len(answer)]
    if not prompt or not answer or not gap:
        return None
    if "\n" in gap:
        # What is left of the gap is the answer's indentation.
        prompt_end = gap.rindex("\n") + 1
        return prompt + gap[:prompt_end], joined[prompt_end:]
    return (prompt if gap[0] == " " else prompt + gap[0]), joined[1:]
