"""What words alone say against a question: by itself, and beside all others of the corpus."""

import re
from collections import defaultdict
from typing import Any

from student.records import Document
from student.text.sentences import split_sentences
from student.text.words import length_in_words, word_line, words
from teacher.questions.kinds import Kind
from teacher.questions.parsing import QuestionAnswer
from teacher.ready.rules import facts

LEAST_WORDS = 3
SAME = 0.8
"""Two questions that name the same and share this part of their words are one. A question in truly other words shares
less: `Where was Ada born?` and `Which city is Ada from?` share 2 of 7."""

_NAMES_TEXT = re.compile(
    r"\b(?:the|this|that|above|following|given)\s+(?:passage|text|paragraph|article|document|excerpt|context)\b",
    re.IGNORECASE,
)


def refuse(document: Document, pair: QuestionAnswer, kind: Kind) -> str | None:
    """Why the wording alone disqualifies the question, or None."""
    question, answer = words(pair.question), words(pair.answer)
    if len(question) < LEAST_WORDS:
        return "question too short"
    if _NAMES_TEXT.search(pair.question):
        return "question names the text"
    if not answer or (kind.copied and word_line(answer) not in word_line(words(document.text))):
        return "answer not in the text"
    if (length := length_in_words(answer)) > kind.words:
        return f"answer too long: {length:g} words"
    if kind.number and not any(c.isdecimal() for c in pair.answer):
        return "answer without a number"
    if word_line(answer) in word_line(question):
        return "answer in the question"
    if kind.named and not facts(f". {pair.question}") and document.text != document.text.lower():
        return "question names nothing"
    # Also one that a few words were put before or behind.
    for sentence in map(words, split_sentences(document.text)):
        if len(sentence) >= SAME * len(question) and word_line(sentence) in word_line(question):
            return "question is a sentence of the text"
    return None


class AskedQuestions:
    """The questions that were kept so far in the whole corpus, to find those that are asked again."""

    def __init__(self) -> None:
        self._answers: dict[str, str] = {}
        # Only questions with the same answer that name the same are compared: few, however large the corpus is.
        self._alike: defaultdict[tuple[str, frozenset[str]], list[frozenset[str]]] = defaultdict(list)

    def refuse(self, item: dict[str, Any]) -> str | None:
        """Why nobody should be asked this as well, or None. The same question with two answers says too little: it can
        be asked of any text (the global filter of PAQ, arXiv 2102.07033, refuses such too)."""
        question, answer, named = _compared(item)
        if (known := self._answers.get(" ".join(question))) is not None:
            return "asked already" if known == answer else "asked already with another answer"
        own = frozenset(question)
        alike = any(len(own & other) >= SAME * len(own | other) for other in self._alike[answer, named])
        return "asked already in nearly the same words" if alike else None

    def add(self, item: dict[str, Any]) -> None:
        question, answer, named = _compared(item)
        self._answers.setdefault(" ".join(question), answer)
        self._alike[answer, named].append(frozenset(question))


def _compared(item: dict[str, Any]) -> tuple[list[str], str, frozenset[str]]:
    text = item.get("question", item.get("prompt", ""))
    return words(text), " ".join(words(item["answer"])), frozenset(word for fact in facts(text) for word in words(fact))
