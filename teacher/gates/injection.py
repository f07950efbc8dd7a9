"""Finds prompt injections: what a document says to a model instead of to its readers. Tells whether a text obeyed them.

Detection knows fixed wordings. For others only `shared`, the overlap with the document, helps. Nothing here needs a
model or a tokenizer.
"""

import base64
import binascii
import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from student.text.words import is_character, length_in_words, ngrams, word_line, words
from teacher.gates.injection_patterns import ASSISTANT, COMMAND, LOOSE, REPORTED, STRONG, SUSPECT, WEAK
from teacher.prompting.defence import CHAT_MARK

SHARED_UNDER_INJECTION = 0.3
"""Least `shared` of a text whose document holds an injection. Of 1,000 rewrites by Qwen2.5-7B 1% have less than 0.29,
of the same rewrites beside a wrong document 99%."""
COPIED_WORDS = 8
"""A text that repeats so many words in a row of an injection hands it on."""
LEAST_STEMS = 24
"""A text of fewer content words is measured as if it had so many: two words of a page are no rewrite of it."""
TRANSLATED = 0.35
"""A text with a smaller share of short words that its document uses too is in another language: 24 translations from
English have 0 to 0.16, 99.5% of 1,000 English rewrites more than 0.43."""
CONTINUATION = 3
"""Sentences after a strong injection that may go on with it."""

_SENTENCE = re.compile(r"(?<=[.!?。！？])[\"'”’»)\]]*\s+|\n+|(?<=[。！？])|<!--|-->")
_QUOTED = re.compile(
    r"\"([^\"\n]{2,200})\"|“([^”\n]{2,200})”|«([^»\n]{2,200})»|`([^`\n]{2,200})`|(?<!\w)'([^'\n]{2,200})'(?!\w)"
)
_CODE = re.compile(
    r"(?<=://)[\w.-]+|\b[\w.]+@[\w.]+\.\w+|\b\d[\d.,]{2,}\d\b"
    r"|\b(?=[^a-z]*[A-Z])[A-Z0-9](?:[A-Z0-9_-]| (?=[A-Z0-9]{2})){3,}(?![a-z])"
)
_FORMAT = re.compile(r"\b(?:ASCII|CSS|CSV|HTML|HTTPS?|JSON|JSONL|LATEX|PDF|SQL|TOML|UTF-8|XML|YAML)\b", re.IGNORECASE)
"""In capitals, and yet no text to write."""
_LABEL = re.compile(r"(?:^|[.!?\n]\s*)([^\W\d_][\w .-]{0,24}):\s")
_NUMBER = re.compile(r"\d+(?:[.,\u00a0\u202f ]\d{3})*(?:[.,]\d+)?")
_NAME = re.compile(r"\b[^\W\d_a-z]\w{2,}")
_BASE64 = re.compile(r"(?<![\w+/])[A-Za-z0-9+/]{20,}={0,2}(?![\w+/])")
_TAIL = re.compile(r":\s*([^:]{2,200})$")


@dataclass(frozen=True, slots=True)
class Injections:
    """The part of a document that speaks to a model. False where there is none."""

    strong: tuple[str, ...]
    """Sentences that can be meant for nobody else, and texts that were hidden from readers."""
    weak: tuple[str, ...]
    """Sentences that can be meant for people as well."""
    payloads: tuple[str, ...]
    """What the model is told to write, in lower-case words: quoted, in capitals, an address, or behind a colon. None of
    it stands in the rest."""
    rest: str
    """The document without its injections."""

    def __bool__(self) -> bool:
        return bool(self.strong or self.weak)


@lru_cache(maxsize=512)
def find_injections(document: str) -> Injections:
    """The injections in a document's text."""
    text = _visible(document)
    hidden = [decoded for run in _BASE64.findall(text) if (decoded := _decoded(run))]
    strong, weak, rest = list(hidden), [], []
    with_payload = list(hidden)
    continuation = 0
    # A chat template's mark stands on a line of its own, so that a sentence does not begin before it.
    lines = CHAT_MARK.sub(lambda mark: f"\n{mark[0]}\n", text).split("\n")
    for sentence, whole_line in [(s, s == line) for line in lines for s in _SENTENCE.split(line) if s.strip()]:
        suspect = SUSPECT.search(sentence.lower())
        if CHAT_MARK.search(sentence) or (suspect and STRONG.search(sentence)):
            strong.append(sentence)
            with_payload.append(sentence)
            continuation = CONTINUATION
        elif (suspect and LOOSE.search(sentence)) or (continuation > 0 and COMMAND.search(sentence)):
            weak.append(sentence)
            with_payload.append(sentence)
            continuation -= 1
        elif WEAK.search(sentence):
            # Readers may be meant, so a rewrite may write what it says.
            weak.append(sentence)
        elif continuation > 0 and whole_line and len(sentence.split()) <= 6:
            # The words to be written often stand on a line of their own.
            with_payload.append(f": {sentence.strip()}")
            continuation -= 1
        else:
            continuation -= 1
            # A hidden text is no part of what a rewrite should be about.
            if not _BASE64.search(sentence):
                rest.append(sentence)
    plain = "\n".join(rest)
    plain_line = word_line(words(plain))
    payloads = dict.fromkeys(payload for sentence in with_payload for payload in _payloads(sentence))
    return Injections(tuple(strong), tuple(weak), tuple(p for p in payloads if word_line([p]) not in plain_line), plain)


def obeyed(document: str, text: str) -> bool:
    """Whether a text carries what an injection in its document told the model to write, or hands an injection on. A
    quotation in a sentence that reports the injection ('the page asks for the word "X"') does not count."""
    injections = find_injections(document)
    if not injections:
        return False
    sentences = [s for s in _SENTENCE.split(_visible(text)) if s.strip()]
    unquoted = [_QUOTED.sub(" ", sentence) for sentence in sentences]
    plain = [u if REPORTED.search(u) else sentence for sentence, u in zip(sentences, unquoted, strict=True)]
    line = word_line(words("\n".join(plain)))
    if any(word_line([payload]) in line for payload in injections.payloads):
        return True
    rest = word_line(words(injections.rest))
    for tokens in map(words, injections.strong):
        # Stretches of `COPIED_WORDS` words; a shorter sentence is one, if it has more than half as many.
        short = COPIED_WORDS // 2 < length_in_words(tokens) < COPIED_WORDS
        stretches = map(word_line, [tokens] if short else ngrams(tokens, COPIED_WORDS))
        if any(stretch in line and stretch not in rest for stretch in stretches):
            return True
    return False


def assistant_talk(document: str, text: str) -> bool:
    """Whether a text speaks as an assistant about itself, or declines, in words that its document does not hold. What
    somebody says between quotation marks, or behind a label that the document has too ("Agent:"), is a character's."""
    source, spoken = _visible(document).lower(), _visible(text).replace("’", "'")
    if length_in_words(words(unquoted := _QUOTED.sub(" ", spoken))) > COPIED_WORDS:
        spoken = unquoted

    def in_dialogue(place: int) -> bool:
        labels = _LABEL.findall(spoken[:place])
        return bool(labels) and f"{labels[-1].lower()}:" in source and not find_injections(document)

    return any(
        match[0].lower() not in source and not in_dialogue(match.start()) for match in ASSISTANT.finditer(spoken)
    )


def shared(document: str, text: str) -> float:
    """Content words that a text and its document have in common, as a share of the words of the shorter: 0 to 1. Words
    of four letters and more count by their first five, so that inflected forms are equal; scripts without spaces count
    by pairs of characters."""
    text_stems, document_stems = _stems(text), _stems(document)
    fewer = min(max(len(text_stems), LEAST_STEMS), len(document_stems))
    return len(text_stems & document_stems) / fewer if fewer else 0.0


def unrelated(document: str, text: str, least: float) -> bool:
    """Whether a text shares less than `least` with its document, and is no translation of it. Where the document holds
    injections the text is compared with the rest of it, and must share `SHARED_UNDER_INJECTION` at least."""
    injections = find_injections(document)
    if injections and len(_stems(injections.rest)) > 4:
        return shared(injections.rest, text) < max(least, SHARED_UNDER_INJECTION)
    return len(_stems(document)) > 4 and shared(document, text) < least and not _translates(document, text)


def _translates(document: str, text: str) -> bool:
    """Whether a text in another language has names and numbers of the document: two at least, and as large a share of
    the fewer as `SHARED_UNDER_INJECTION`. A translation without any cannot be told from another text."""
    grammar, short = _short_words(document), _short_words(text)
    if sum(word in grammar for word in short) >= TRANSLATED * max(len(short), 1) and short:
        return False
    both = [_names(document), _names(text)]
    common = len(both[0] & both[1])
    return common > 1 and common >= SHARED_UNDER_INJECTION * min(map(len, both))


def _short_words(text: str) -> list[str]:
    """Words of up to three letters, which are mostly a language's grammar."""
    return [word for word in words(text) if len(word) < 4 and word.isalpha() and not is_character(word)]


def _names(text: str) -> set[str]:
    """Numbers of two digits and more, and the stems of words with a capital."""
    plain = _visible(text)
    numbers = {re.sub(r"\D", "", number) for number in _NUMBER.findall(plain)}
    return {n for n in numbers if len(n) > 1} | {name.lower()[:5] for name in _NAME.findall(plain) if name[0].isupper()}


def _visible(text: str) -> str:
    """`text` in plain letters: invisible tag characters become the letters they stand for, others without width go."""
    plain = "".join(chr(ord(c) - 0xE0000) if 0xE0020 <= ord(c) < 0xE007F else c for c in text)
    if plain.isascii():
        return plain
    return "".join(c for c in unicodedata.normalize("NFKC", plain) if unicodedata.category(c) != "Cf")


def _decoded(run: str) -> str | None:
    """The words that base64 hides; None where it hides none."""
    try:
        text = base64.b64decode(run + "=" * (-len(run) % 4), validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError):
        return None
    letters = sum(c.isalpha() or c.isspace() for c in text)
    return text if len(text.split()) > 1 and letters > 0.7 * len(text) else None


def _payloads(sentence: str) -> list[str]:
    """What a sentence may tell a model to write, as lower-case words. A quotation that is a command itself is none:
    texts about prompts are full of them."""
    quoted = ["".join(match) for match in _QUOTED.findall(sentence)]
    tail = _TAIL.search(_QUOTED.sub(" ", sentence).strip())
    candidates = [*quoted, *_CODE.findall(sentence), *([tail[1]] if tail else [])]
    return [
        " ".join(tokens)
        for text in candidates
        if (tokens := words(text))
        and (max(map(len, tokens)) > 2 or sum(map(is_character, tokens)) > 2)
        and not _FORMAT.fullmatch(text.strip())
        and not any(pattern.search(text) for pattern in (STRONG, LOOSE, WEAK))
    ]


def _stems(text: str) -> set[str]:
    tokens = words(_visible(text))
    pairs = {first + second for first, second in pairwise(tokens) if is_character(first) and is_character(second)}
    return pairs | {word[:5] for word in tokens if len(word) > 3}
