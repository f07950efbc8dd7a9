"""Rules: ways of making a lesson of a document that need no model.

Their texts have a sentence a line, so that `student.split_lines` trains on single ones. All work in any language that
`split_sentences` can split; names are known by their capitals, so that scripts without capitals have numbers alone.
"""

import random
import re
from collections.abc import Callable
from typing import NamedTuple

from student.text.sentences import split_sentences

VERSION = 2
"""Part of the key of kept texts; raised whenever a rule would make another text of the same document and seed."""
GAP = "_____"

_WORD = re.compile(r"\w+(?:[-'’]\w+)*")
_LETTER = r"[^\W\d_\u2e80-\U0010ffff]"
"""Of a script that writes spaces between words: only there a letter beside an answer makes another word of it."""
_NUMBER = re.compile(r"\d+(?:[.,:/\u00a0\u202f-]\d+)*")
_LEAST_LETTERS = 4
"""A shorter word is mostly grammar, and nothing to ask for."""


class Rule(NamedTuple):
    """One way of making a text."""

    write: Callable[[str, random.Random], str]
    """`(document's text, random numbers) -> lesson`; empty where the document has no sentence."""
    about: str
    """What the text is, for the menu of a teacher that chooses."""
    varies: bool = False
    """Whether another seed gives another text."""


def sentences(text: str, _: random.Random) -> str:
    """The document's own sentences."""
    return "\n".join(split_sentences(text))


def permutation(text: str, rng: random.Random) -> str:
    """The document's own sentences in another order, each order as likely as any other."""
    own = split_sentences(text)
    shuffled = rng.sample(own, len(own))
    while shuffled == own and len(set(own)) > 1:
        shuffled = rng.sample(own, len(own))
    return "\n".join(shuffled)


def cloze(text: str, rng: random.Random) -> str:
    """Each sentence with a number, a name or, where it has neither, its longest word left out, and what was left out
    behind it: `The bridge was opened in _____ by the king. _____ = 1932`.

    The answer comes last, where a student predicts it from the fact alone, as in an exam. In the sentence itself it
    would have to be learnt from the words to its left. A sentence with nothing to ask for stays as it is.
    """
    lines = []
    for sentence in split_sentences(text):
        known = facts(sentence)
        answer = rng.choice(known) if known else longest_word(sentence)
        lines.append(f"{without(sentence, answer)} {GAP} = {answer}" if answer else sentence)
    return "\n".join(lines)


def densest(text: str, _: random.Random) -> str:
    """The sentences with most names and numbers a word, half of the document, and these again up to its length.

    With half of it each is said twice: a smaller part would be said so often that the gate `repetition` refuses it.
    """
    own = split_sentences(text)
    lengths = [max(1, len(_WORD.findall(sentence))) for sentence in own]
    by_density = sorted(range(len(own)), key=lambda i: -len(facts(own[i])) / lengths[i])
    chosen: list[int] = []
    while sum(lengths[i] for i in chosen) < sum(lengths) / 2:
        chosen.append(by_density[len(chosen)])
    lines, left = [], sum(lengths)
    for i in sorted(chosen) * 2:
        if lengths[i] <= left:
            lines.append(own[i])
            left -= lengths[i]
    return "\n".join(lines)


def echo(text: str, _: random.Random) -> str:
    """The document as it is."""
    return text


RULES = {
    "sentences": Rule(sentences, "The passage's own sentences, one in a line"),
    "permutation": Rule(permutation, "The passage's own sentences in another order, one in a line", varies=True),
    "cloze": Rule(
        cloze, "Each sentence of the passage with a word or number left out, which is then given", varies=True
    ),
    "densest": Rule(densest, "The sentences of the passage that hold most names and numbers, each twice"),
    "echo": Rule(echo, "The passage as it is"),
}
"""All rules, by their name as a strategy."""


def facts(sentence: str) -> list[str]:
    """The numbers and names in a sentence, in order. A name is a run of words with capitals; a first word with one is a
    name only in a run of several."""
    found: list[str] = []
    run: list[re.Match[str]] = []

    def end_of_run() -> None:
        first_alone = len(run) == 1 and not any(c.isalnum() for c in sentence[: run[0].start()])
        if run and not first_alone:
            found.append(sentence[run[0].start() : run[-1].end()])
        run.clear()

    tokens = [*_NUMBER.finditer(sentence), *_WORD.finditer(sentence)]
    end = 0
    for token in sorted(tokens, key=lambda match: (match.start(), -match.end())):
        if token.start() < end:  # a part of the number before it
            continue
        end = token.end()
        if run and sentence[run[-1].end() : token.start()].strip():
            end_of_run()
        if token[0][0].isupper() and len(token[0]) > 1:
            run.append(token)
            continue
        end_of_run()
        if _without_spaces(token[0]):
            found += _NUMBER.findall(token[0])
        elif any(c.isdecimal() for c in token[0]):  # also 19th
            found.append(token[0])
    end_of_run()
    return found


def longest_word(sentence: str) -> str | None:
    """What can be asked for in a sentence that holds no name and no number."""
    words = _WORD.findall(sentence)
    candidates = [word for word in words if len(word) >= _LEAST_LETTERS and not _without_spaces(word)]
    # With a word or two around it a gap could be anything.
    return max(candidates, key=len) if candidates and len(words) > 2 else None


def _without_spaces(word: str) -> bool:
    """Whether it is of a script that writes its words without spaces, so that it may be a whole clause."""
    return any(c >= "\u2e80" for c in word)


def without(sentence: str, answer: str) -> str:
    """The sentence with a gap wherever it says the answer; 19 is not said by 1932, nor 5 by 2.5 or `art` by `party`."""
    before, after = rf"(?<!{_LETTER})", rf"(?!{_LETTER})"
    if answer[0].isdecimal():
        before += r"(?<!\d)(?<!\d[.,:/-])"
    if answer[-1].isdecimal():
        after += r"(?!\d)(?![.,:/-]\d)"
    return re.sub(f"{before}{re.escape(answer)}{after}", GAP, sentence)
