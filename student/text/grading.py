"""What counts as the right answer, without a judge, in any language."""

import re
import string
from collections import Counter
from collections.abc import Sequence

import regex

from student.text.words import fold, graded_words

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = regex.compile(rf"[\p{{P}}{regex.escape(string.punctuation)}]+")


def normalise(text: str) -> str:
    """SQuAD's normalisation (arXiv 1606.05250): lower case, no punctuation, no English articles, single spaces. Beyond
    ASCII, letters are folded by Unicode's rules, and punctuation is what Unicode calls so, as in MLQA (arXiv
    1910.07475)."""
    return " ".join(_ARTICLES.sub(" ", _PUNCTUATION.sub("", fold(text))).split())


def first_line(text: str) -> str:
    """The first line that is not blank: only this counts as the answer."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def exact_match(answer: str, gold: str) -> bool:
    """Whether the first line is the gold answer, both normalised."""
    return normalise(first_line(answer)) == normalise(gold)


def token_recall(answer: str, gold: str) -> float:
    """Share of the gold answer's words that the answer's first line has; a word that comes twice counts twice. Words
    are those of `graded_words`."""
    gold_words = Counter(graded_words(normalise(gold)))
    answer_words = Counter(graded_words(normalise(first_line(answer))))
    if not gold_words:
        return float(not answer_words)
    return (gold_words & answer_words).total() / gold_words.total()


def recalled(answer: str, gold: str) -> bool:
    """Whether the first line has 60% of the gold words: agrees with SEAL's LLM judge on 88% of 4,870 judgements."""
    return token_recall(answer, gold) >= 0.6


def agreement(answers: Sequence[str]) -> float:
    """Share of sampled answers that are the commonest one, by their first lines as they are graded: the estimated
    reward of an answer of the majority (arXiv 2504.16084)."""
    [(_, count)] = Counter(normalise(first_line(answer)) for answer in answers).most_common(1)
    return count / len(answers)
