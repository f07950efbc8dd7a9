"""What a document says to a model instead of to its readers, and whether a text did as it says.

An order is found by its wording, so another wording is missed; `obeyed` then sees nothing, and what is left is whether
the text is about its document at all (`shared`). Nothing here needs a model or a tokenizer.
"""

import base64
import binascii
import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

from teacher.gates.injection_patterns import ASSISTANT, LOOSE, ORDERING, REPORTED, STRONG, SUSPECT, WEAK
from teacher.prompting.defence import CHAT_MARK

SHARED_UNDER_ORDERS = 0.3
"""Least `shared` of a text whose document holds an order. Of 1,000 rewrites by Qwen2.5-7B 1% have less than 0.29, of
the same rewrites beside a wrong document 99%."""
COPIED = 8
"""Words in a row of an order that a text hands on."""
LEAST_STEMS = 24
"""A text of fewer content words is measured as if it had so many: two words of a page are no rewrite of it."""

_WORD = re.compile(r"\w+")
_SENTENCE = re.compile(r"(?<=[.!?。！？])[\"'”’»)\]]*\s+|\n+|(?<=[。！？])|<!--|-->")
_QUOTED = re.compile(
    r"\"([^\"\n]{2,200})\"|“([^”\n]{2,200})”|«([^»\n]{2,200})»|`([^`\n]{2,200})`|(?<!\w)'([^'\n]{2,200})'(?!\w)"
)
_CODE = re.compile(
    r"(?<=://)[\w.-]+|\b[\w.]+@[\w.]+\.\w+|\b\d[\d.,]{2,}\d\b"
    r"|\b(?=[^a-z]*[A-Z])[A-Z0-9](?:[A-Z0-9_-]| (?=[A-Z0-9]{2})){3,}(?![a-z])"
)
_BASE64 = re.compile(r"(?<![\w+/])[A-Za-z0-9+/]{20,}={0,2}(?![\w+/])")
_TAIL = re.compile(r":\s*([^:]{2,200})$")


@dataclass(frozen=True, slots=True)
class Orders:
    """What of a document speaks to a model."""

    strong: tuple[str, ...]
    """Sentences that can be meant for nobody else, and texts that were hidden from readers."""
    weak: tuple[str, ...]
    """Sentences that can be meant for people as well."""
    payloads: tuple[str, ...]
    """What is ordered to be written, in lower-case words: quoted, in capitals, an address, or behind a colon. None of
    it stands in the rest."""
    rest: str
    """The document without them."""

    def __bool__(self) -> bool:
        return bool(self.strong or self.weak)


@lru_cache(maxsize=512)
def find_orders(document: str) -> Orders:
    """The orders in a document's text."""
    text = _visible(document)
    hidden = [decoded for run in _BASE64.findall(text) if (decoded := _decoded(run))]
    lines = CHAT_MARK.sub(lambda mark: f"\n{mark[0]}\n", text).split("\n")
    sentences = [(s, s == line) for line in lines for s in _SENTENCE.split(line) if s and s.strip()]
    strong, weak, told, rest = list(hidden), [], list(hidden), []
    follows = 0  # sentences that may still go on with an order
    for sentence, alone in sentences:
        suspect = SUSPECT.search(sentence.lower())
        if CHAT_MARK.search(sentence) or (suspect and STRONG.search(sentence)):
            strong.append(sentence)
            told.append(sentence)
            follows = 3
        elif (suspect and LOOSE.search(sentence)) or (follows > 0 and ORDERING.search(sentence)):
            weak.append(sentence)
            told.append(sentence)
            follows -= 1
        elif WEAK.search(sentence):
            weak.append(sentence)
        elif follows > 0 and alone and len(sentence.split()) <= 6:
            # What is to be written often stands on a line of its own.
            told.append(f": {sentence.strip()}")
            follows -= 1
        else:
            follows -= 1
            if not _BASE64.search(sentence):
                rest.append(sentence)
    plain = "\n".join(rest)
    line = _line(plain)
    found = {payload: None for sentence in told for payload in _payloads(sentence)}
    return Orders(tuple(strong), tuple(weak), tuple(p for p in found if f" {p} " not in line), plain)


def obeyed(document: str, text: str) -> bool:
    """Whether a text carries what an order in its document told to write, or hands an order on.

    What is quoted in a sentence that reports the order ('the page asks for the word "X"') is told, not obeyed.
    """
    orders = find_orders(document)
    if not orders:
        return False
    said = [s for s in _SENTENCE.split(_visible(text)) if s and s.strip()]
    plain = "\n".join(_QUOTED.sub(" ", s) if REPORTED.search(_QUOTED.sub(" ", s)) else s for s in said)
    line = _line(plain)
    if any(f" {payload} " in line for payload in orders.payloads):
        return True
    rest = _line(orders.rest)
    grams = (" ".join(g) for s in orders.strong for g in _grams(_words(s), COPIED))
    return any(f" {gram} " in line and f" {gram} " not in rest for gram in grams)


def assistant_talk(document: str, text: str) -> bool:
    """Whether a text speaks as an assistant about itself, or declines, in words that its document does not hold."""
    source = _visible(document).lower()
    return any(match[0].lower() not in source for match in ASSISTANT.finditer(_visible(text).replace("’", "'")))


def shared(document: str, text: str) -> float:
    """Share of content words that a text and its document have in common, of those of the poorer of both: 0 to 1.

    Words of four letters and more count by their first five, so that inflected forms are equal; scripts without spaces
    count by pairs of characters.
    """
    ours, theirs = _stems(text), _stems(document)
    fewer = min(max(len(ours), LEAST_STEMS), len(theirs))
    return len(ours & theirs) / fewer if fewer else 0.0


def unrelated(document: str, text: str, least: float) -> bool:
    """Whether a text shares less than `least` with its document; with what is no order of it, `SHARED_UNDER_ORDERS`."""
    orders = find_orders(document)
    if orders and len(_stems(orders.rest)) > 4:
        return shared(orders.rest, text) < max(least, SHARED_UNDER_ORDERS)
    return len(_stems(document)) > 4 and shared(document, text) < least


def _visible(text: str) -> str:
    """`text` in plain letters, and the invisible ones spelt out or gone."""
    spelt = "".join(chr(ord(c) - 0xE0000) if 0xE0020 <= ord(c) < 0xE007F else c for c in text)
    if spelt.isascii():
        return spelt
    return "".join(c for c in unicodedata.normalize("NFKC", spelt) if unicodedata.category(c) != "Cf")


def _decoded(run: str) -> str | None:
    """The words that base64 hides; None where it hides none."""
    try:
        text = base64.b64decode(run + "=" * (-len(run) % 4), validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError):
        return None
    letters = sum(c.isalpha() or c.isspace() for c in text)
    return text if len(text.split()) > 1 and letters > 0.7 * len(text) else None


def _payloads(sentence: str) -> list[str]:
    quoted = ["".join(match) for match in _QUOTED.findall(sentence)]
    tail = _TAIL.search(_QUOTED.sub(" ", sentence).strip())
    found = [*quoted, *_CODE.findall(sentence), *([tail[1]] if tail else [])]
    return [" ".join(words) for text in found if (words := _words(text)) and max(map(len, words)) > 2]


def _stems(text: str) -> set[str]:
    stems: set[str] = set()
    for word in _words(_visible(text)):
        if word[0] >= "\u2e80":
            stems.update(word[i : i + 2] for i in range(len(word) - 1))
        elif len(word) > 3:
            stems.add(word[:5])
    return stems


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _line(text: str) -> str:
    return f" {' '.join(_words(text))} "


def _grams(words: list[str], n: int) -> list[list[str]]:
    """Stretches of `n` words; a shorter text is one, if it has more than half as many."""
    if n // 2 < len(words) < n:
        return [words]
    return [words[i : i + n] for i in range(len(words) - n + 1)]
