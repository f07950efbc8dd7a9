"""The sentences of a text in any language, by rule.

spaCy's sentence splitter, which comes with datatrove, takes three seconds to import, knows abbreviations only where it
is told the language, breaks `1. First item` in two, and finds no end in Chinese. This one needs no language: a full
stop is an end unless what stands around it says otherwise. In doubt two sentences stay one, since half a sentence
teaches nothing.
"""

import re
from collections.abc import Iterator

_END = re.compile(r"[.!?…]+[\"'”’»)\]]*(?=\s)|[。！？｡]+[」』”’）》〉]*|[।॥؟۔։።။។]+[\"”’»)]*")
"""Ends of sentences. The first kind is followed by a space; scripts of the others need none."""
_OPENING = "\"'“‘«([{¿¡-–—*• "
_LIST_MARK = re.compile(r"(?:[-*•–—·]|\(?(?:\d{1,3}|[a-zA-Z]|[ivxIVX]{1,4})[.)])")
"""All that stands before it in its line is the mark of a list's item."""
_LAST_WORD = re.compile(r"([^\s\"'“‘«(\[]+)\.$")
_NAMED = frozenset(
    "mr mrs ms dr prof st ste mt ft gen col lt sgt capt cpl maj adm cmdr rev fr hon gov sen rep pres messrs mme mlle "
    "mm sra srta dra hr frau dott sig vs cf viz e.g i.e eg ie z.b d.h u.a bzw sog geb vgl av env p.ej op".split()
)
"""Abbreviations that stand before what they belong to, and so never at an end."""
_NUMBERED = frozenset(
    "no nos nr núm num fig figs abb vol bd ch chap sec art pp p pg pag pág par c ca circa approx est §".split()
)
"""Abbreviations that belong to a number behind them."""
_MONTHS = frozenset(
    "januar jänner februar märz april mai juni juli august september oktober november dezember jahrhundert".split()
)
"""What follows a day in German, which writes it with a full stop and the month with a capital."""
_WRAPPED = 40
"""A line of so many characters that ends in no sentence's end may go on in the next one."""


def split_sentences(text: str) -> list[str]:
    """The sentences in their order, each on one line, with single spaces. A line of the text ends a sentence, unless it
    is a long one whose sentence goes on with a small letter in the next. Where a script marks no ends (Thai), a
    sentence is a line."""
    return [sentence for line in _unwrapped(text) for sentence in _split_line(line)]


def has_end(sentence: str) -> bool:
    """Whether a sign of its end closes it, as none closes a heading, a cell of a table or most lines of code."""
    return _END.search(f"{sentence[-4:]} ") is not None


def split_at_every_end(text: str) -> list[str]:
    """The parts of a text between all signs that can end a sentence, for a search that must not miss one: among small
    letters and behind abbreviations too."""
    lines = (" ".join(line.split()) for line in text.splitlines())
    return [part for line in lines for piece in _END.sub(r"\g<0>\n", line).split("\n") if (part := piece.strip())]


def _unwrapped(text: str) -> Iterator[str]:
    """The lines of a text, without line breaks in the middle of a sentence, and without empty ones."""
    whole = ""
    for line in [*(" ".join(line.split()) for line in text.splitlines()), ""]:
        if len(whole) >= _WRAPPED and line and _goes_on(whole, line):
            whole = f"{whole} {line}"
            continue
        if whole:
            yield whole
        whole = line


def _goes_on(line: str, following: str) -> bool:
    """Whether the sentence at the end of a long line goes on in the next: with a small letter where the line ends in no
    sentence's end, or behind an abbreviation (`Roe vs.`) or an initial."""
    if (end := _END.search(f"{line[-4:]} ")) is None:
        return following[:1].islower()
    # A small letter behind a full stop may begin an item of a list: here only the word before the stop decides.
    rest = following.lstrip(_OPENING)
    return end[0] == "." and _LAST_WORD.search(line) is not None and not _ends(line, rest[:1].upper() + rest[1:])


def sentence_ends(text: str) -> Iterator[int]:
    """The places behind the sentences of a text that is one paragraph; it need not be one line."""
    begin = 0
    for end in _END.finditer(text):
        sentence, rest = text[begin : end.end()], text[end.end() :]
        # Signs alone are no sentence.
        if _ends(sentence.strip(), rest.lstrip(_OPENING + "\r\n")) and any(c.isalnum() for c in sentence):
            begin = end.end()
            yield begin


def _split_line(line: str) -> Iterator[str]:
    begin = 0
    for end in sentence_ends(line):
        yield line[begin:end].strip()
        begin = end
    if rest := line[begin:].strip():
        yield rest


def _ends(sentence: str, rest: str) -> bool:
    """Whether a sentence ends where `_END` found an end; `rest` is what follows, from its first letter or digit."""
    if rest[:1].islower() or _LIST_MARK.fullmatch(sentence):
        return False
    if (match := _LAST_WORD.search(sentence)) is None:
        return True
    word, following = match[1], re.match(r"\w*", rest)
    next_word = following[0].lower() if following else ""
    if len(word) == 1 and word.isupper():  # an initial
        return False
    if word.isdecimal() and len(word) <= 2 and next_word in _MONTHS:
        return False
    if ("." in word and word.isupper()) or word.lower() in _NAMED:  # U.S. Army
        return False
    return not (word.lower() in _NUMBERED and next_word[:1].isdigit())
