"""What a word and an n-gram is, in any language, and how much the texts of one lesson repeat each other.

Texts are compared in one form: NFKC, case folded, without characters that nobody sees, so that full-width digits,
decomposed accents, soft hyphens and capitals make no difference. A word is a run of letters, digits and their marks.
Scripts that write no spaces between words (Chinese, Japanese, Thai, Khmer ...), and Korean, whose particles stick to
their words, are compared character by character: where a dictionary finds their words depends on what stands beside
them, so a question inside a sentence would be other words than the question alone.
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import regex
from icu4py.breakers import WordBreaker

_ASCII_WORD = re.compile(r"\w+")
_INVISIBLE = regex.compile(r"[\p{Cf}\p{Default_Ignorable_Code_Point}]+")
# Line_Break=SA: scripts of South East Asia in which a line breaks where a dictionary says.
_UNSPACED = r"[[\p{scx=Han}\p{scx=Hira}\p{scx=Kana}\p{scx=Bopo}\p{scx=Hang}\p{scx=Yiii}\p{Line_Break=SA}]&&[\w--\p{M}]]"
_CHARACTER = regex.compile(rf"{_UNSPACED}\p{{M}}*", regex.V1)
_WORD = regex.compile(rf"{_UNSPACED}\p{{M}}*|[[\w--\p{{M}}]--{_UNSPACED}][\w--{_UNSPACED}]*", regex.V1)
_PIECE = regex.compile(rf"(?:{_UNSPACED}\p{{M}}*)+|[^{_UNSPACED}]+", regex.V1)
_DICTIONARY = regex.compile(r"\p{Line_Break=SA}")
_FIRST_UNSPACED = "\u0e00"
"""All scripts without spaces come behind it in Unicode; Thai is the first."""
_WORD_PARTS, _CHARACTER_PARTS, _LETTER_PARTS = 6, 3, 2
"""Where stretches are measured a Chinese, Japanese or Korean character is half a word (Chinese words have 1.5 in the
mean, Japanese 2, Korean 3), a letter of the scripts of South East Asia a third (Thai words have 3). In sixths, so that
sums are exact."""


def fold(text: str) -> str:
    """The form in which texts are compared. Folding twice changes nothing more."""
    if text.isascii():
        return text.lower()
    text = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text))
    return unicodedata.normalize("NFKC", text.casefold())


def words(text: str) -> list[str]:
    """Folded words without punctuation; in scripts without spaces the characters, each with its marks."""
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    return _WORD.findall(fold(text))


def is_character(word: str) -> bool:
    """Whether one of `words` is a character of a script without spaces."""
    return word >= _FIRST_UNSPACED and _CHARACTER.match(word) is not None


def length_in_words(words: Sequence[str]) -> float:
    """How many words these are, where a character counts as half a word or a third (see `_parts`)."""
    if not _holds_characters(words):
        return len(words)
    return sum(map(_parts, words)) / _WORD_PARTS


def count_words(text: str) -> int:
    """Length of a text in words: what stands between its spaces, and in scripts without spaces the words that its
    characters stand for."""
    chunks = text.split()
    if text.isascii():
        return len(chunks)
    return math.ceil(sum(max(1.0, length_in_words(_CHARACTER.findall(chunk))) for chunk in chunks))


def word_line(words: Iterable[str]) -> str:
    """Words as one line with a space at each end, so that `in` finds whole words only."""
    return f" {' '.join(words)} "


def ngrams(words: Sequence[str], n: float) -> Iterable[tuple[str, ...]]:
    """All stretches of `n` words in a row. Where characters are among them (see `length_in_words`) a stretch is as
    long as it has to be for `n` words: what stands around it makes no difference."""
    if _holds_characters(words):
        return _stretches(words, n)
    # Ten times as fast as slices, and the gates' largest cost on a corpus.
    return zip(*(words[i:] for i in range(math.ceil(n))), strict=False)


def _holds_characters(words: Sequence[str]) -> bool:
    # The largest word of a list begins with its largest character; to ask this takes a tenth of the n-grams' time.
    return bool(words) and max(words) >= _FIRST_UNSPACED


def _stretches(words: Sequence[str], n: float) -> Iterator[tuple[str, ...]]:
    parts, wanted = list(map(_parts, words)), round(n * _WORD_PARTS)
    held, end = 0, 0
    for begin in range(len(words)):
        while held < wanted and end < len(words):
            held += parts[end]
            end += 1
        if held < wanted:
            return
        yield tuple(words[begin:end])
        held -= parts[begin]


def _parts(word: str) -> int:
    """Length of a word or character in sixths of a word."""
    if not is_character(word):
        return _WORD_PARTS
    return _LETTER_PARTS if _DICTIONARY.match(word) else _CHARACTER_PARTS


def overlap_shares(texts: Sequence[str]) -> list[float]:
    """For each text the share (0 ... 1) of its word 4-grams that another of the texts holds too; 0 for one that is
    shorter. The mean over a set is a self-BLEU of one order (arXiv 1802.01886), without its brevity penalty."""
    grams_by_text = [_four_grams(text) for text in texts]
    holders = Counter(gram for grams in grams_by_text for gram in set(grams))
    return [sum(holders[gram] > 1 for gram in grams) / len(grams) if grams else 0.0 for grams in grams_by_text]


class EarlierTexts:
    """Texts one after another, to ask of the next how much of it came before. Time and memory grow with their words:
    of 300 texts of 300 words each takes 0.2 ms, and all together 6 MB."""

    def __init__(self) -> None:
        self._texts: set[str] = set()
        self._grams: set[int] = set()

    def repeated(self, text: str, most: float) -> bool:
        """Whether the text came, or a larger share than `most` of its word 4-grams is in earlier ones."""
        grams = _four_grams(text)
        return text in self._texts or sum(gram in self._grams for gram in grams) > most * len(grams)

    def add(self, text: str) -> None:
        """The text came."""
        self._texts.add(text)
        self._grams.update(_four_grams(text))


def _four_grams(text: str) -> list[int]:
    """Hashes of the text's word 4-grams, which take a fifth of their memory."""
    return list(map(hash, ngrams(words(text), 4)))


def segments(text: str) -> list[str]:
    """The words and signs of a text, without its spaces, as ICU's rules and dictionaries divide it (Unicode's annex 29;
    dictionaries for Chinese, Japanese, Thai, Lao, Khmer and Burmese): for rules that count real words."""
    return [piece for piece in WordBreaker(text, "root") if not piece.isspace()]


def graded_words(folded: str) -> list[str]:
    """What an answer is graded by: what stands between spaces; of Chinese, Japanese and Korean the characters, as MLQA
    (arXiv 1910.07475) and KorQuAD grade them; of Thai, Lao, Khmer and Burmese, whose few letters would be in any long
    answer, the words of ICU's dictionaries."""
    graded: list[str] = []
    for chunk in folded.split():
        if max(chunk) < _FIRST_UNSPACED:
            graded.append(chunk)
            continue
        for piece in _PIECE.findall(chunk):
            if _DICTIONARY.search(piece):
                graded += segments(piece)
            else:
                graded += _CHARACTER.findall(piece) if _CHARACTER.match(piece) else [piece]
    return graded
