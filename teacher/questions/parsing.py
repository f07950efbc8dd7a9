"""The questions with answers of a model's completion, in the forms that models write them."""

import re
from collections.abc import Iterator
from typing import NamedTuple

# Underscores mark text only in pairs around it. Those within a word (`max_new_tokens`), before one (`_cache`) and
# around a name (`__init__`) belong to the word.
_MARKUP = re.compile(r"[*`#]+(?=\S)|(?<=\S)[*`]+")
_UNDERSCORED = re.compile(r"(?<!\w)(?!__[a-z]\w*__(?!\w))(_{1,3})(?=[^\s_])(.*?[^\s_])\1(?!\w)")
_NUMBER = re.compile(r"^\s*(?:[-•*]|\(?\d{1,3}[.):]|\(?[a-z]\))\s+")
_LABEL = re.compile(r"\b(Q(?:uestion)?|A(?:nswer)?)\s*\d{0,3}\s*(?:[:.)]\s+|：\s*)", re.IGNORECASE)
_QUESTION_WORD = re.compile(
    r"(?:(?:in|at|on|by|for|from|to|of|with|under|during|after|before|since|until|about)\s+)?"
    r"(?:what|which|who|whom|whose|when|where|why|how)\b",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!;]\s+|[。！；]\s*|[।۔؛]\s+")
_QUOTES = "\"'“”‘’«»「」『』"
QUESTION_MARKS = ("?", "？", "؟")


class QuestionAnswer(NamedTuple):
    """A question as the model wrote it, with its answer."""

    question: str
    answer: str


def parse_pairs(text: str) -> list[QuestionAnswer]:
    """The questions with answers of a completion, in order. It reads `Q: ... A: ...` on one line or two, with numbers,
    bold type or full words as labels; a question with its answer on the next line; and `Question? Answer. Question?
    Answer.` in one line."""
    pairs: list[QuestionAnswer] = []
    unanswered = ""
    for label, line in _labelled_lines(text):
        if label == "q" or (label == "" and not unanswered):
            inline, unanswered = _inline_pairs(line, labelled=label == "q")
            pairs += inline
        elif unanswered and label == "" and line.endswith(QUESTION_MARKS):
            unanswered = line  # the answer is missing, and this is the next question
        elif unanswered:
            pairs.append(QuestionAnswer(unanswered, _trimmed(line)))
            unanswered = ""
    return [pair for pair in pairs if pair.question and pair.answer]


def _labelled_lines(text: str) -> Iterator[tuple[str, str]]:
    """Lines without numbers and markup, as ("q" | "a" | "", line); labels begin a line of their own."""
    for line in _UNDERSCORED.sub(r"\2", _MARKUP.sub("", text)).splitlines():
        line = _NUMBER.sub("", line).strip()
        label = _LABEL.match(line)
        if label is None:
            if line:
                yield "", line
            continue
        pieces = _LABEL.split(line)[1:]
        for name, content in zip(pieces[::2], pieces[1::2], strict=True):
            if content.strip():
                yield name[0].lower(), content.strip()


def _inline_pairs(line: str, labelled: bool) -> tuple[list[QuestionAnswer], str]:
    """The pairs of `Question? Answer. Question? Answer.`, and the question that the line leaves without an answer."""
    head, *rest = re.split(r"(?<=[?？؟])\s*", line)
    if not head.endswith(QUESTION_MARKS):
        return [], line if labelled else ""
    pairs, question = [], head
    for piece in rest:
        if not piece.endswith(QUESTION_MARKS):
            break
        answer, next_question = _answer_and_question(piece)
        if answer:
            pairs.append(QuestionAnswer(question, _trimmed(answer)))
        question = next_question
    tail = rest[-1] if rest and not rest[-1].endswith(QUESTION_MARKS) else ""
    return (pairs + [QuestionAnswer(question, _trimmed(tail))], "") if tail else (pairs, question)


def _answer_and_question(piece: str) -> tuple[str, str]:
    """`Oslo. What did Ada study?` cut before its question word; without one, at the last end of a sentence."""
    ends = list(_SENTENCE_END.finditer(piece))
    if not ends:
        return "", piece
    end = next((end for end in ends if _QUESTION_WORD.match(piece, end.end())), ends[-1])
    return piece[: end.start()], piece[end.end() :]


def _trimmed(answer: str) -> str:
    answer = answer.strip().strip(_QUOTES)
    return answer.rstrip(".;,! 。，、；！।۔،؛").strip(f"{_QUOTES} ")
