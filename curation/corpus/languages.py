"""What datatrove's rules need to know of a language: its words, its ends of sentences, its stop words.

English has datatrove's own words, with which the published thresholds were made. Every other language has ours
(`student.text`), so that no rule needs a package that is not installed. A rule that holds for some languages only is
refused for the others, by name and before anything runs.
"""

import difflib
from importlib import import_module
from importlib.util import find_spec

import langcodes
import numpy as np
from datatrove.data import Document
from datatrove.pipeline.dedup import MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.filters.c4_filters import CITATION_REGEX, POLICY_SUBSTRINGS
from datatrove.pipeline.filters.gopher_quality_filter import STOP_WORDS
from datatrove.utils.text import TERMINAL_PUNCTUATION
from datatrove.utils.typeshelper import Languages
from datatrove.utils.word_tokenizers import WordTokenizer, simple_span_tokenize

from configs.errors import UserError
from configs.schema.curation import Curation, language_code
from student.text.sentences import split_sentences
from student.text.words import length_in_words, ngrams, segments, words

ENGLISH = "en"
_OTHER_WORDS = frozenset("zh yue ja ko th lo km my bo dz".split())
"""Their words are shorter than Gopher's three letters in the mean, or have no borders."""
_NO_SENTENCE_ENDS = frozenset("th lo bo dz".split())
_CLOSING = "\"'”’»」』）)】》›］]"
_STOP_WORDS_OF = {"no": "nb", "nn": "nb", "fil": "tl"}


class Segmenter(WordTokenizer):
    """Words and sentences of any language, as datatrove's filters ask for them."""

    def word_tokenize(self, text: str) -> list[str]:
        return segments(text)

    def sent_tokenize(self, text: str) -> list[str]:
        return split_sentences(text)

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        return list(simple_span_tokenize(text, self.sent_tokenize(text)))


SEGMENTER = Segmenter()


def words_of(language: str) -> str | Segmenter:
    """What datatrove's rules take as `language`."""
    return language if language == ENGLISH else SEGMENTER


class Signatures(MinhashDedupSignature):
    """MinHash signatures; beyond English of the n-grams of `student.text.words`: where a script has no spaces, of
    stretches of characters."""

    def __init__(self, output_folder: str, config: MinhashConfig, language: str):
        super().__init__(output_folder, config, words_of(language))

    def get_shingles(self, text: str) -> np.ndarray:
        if self.language == ENGLISH:
            return super().get_shingles(text)
        grams = [self._hash_func(" ".join(gram)) for gram in ngrams(words(text), self.config.n_grams)]
        return np.array(grams, dtype=np.uint64).reshape((-1, 1))


def check_rules(curation: Curation) -> None:
    """Raises UserError for a language that has no code, and for a filter that has no rules for the language."""
    language, filters = curation.language, curation.filters
    if "-" in language or not langcodes.tag_is_valid(language):  # a code in its one form is one subtag
        names = _names()
        shorter = language.lower().replace("_", "-").split("-")[0]
        known = shorter if shorter and langcodes.tag_is_valid(shorter) else names.get(shorter)
        near = known or next((names[name] for name in difflib.get_close_matches(shorter, names, n=1)), ENGLISH)
        raise UserError(
            f"curation.language: {language!r} is no code or tag of a language such as en, tha or pt-BR; did you mean "
            f"{language_code(near)!r}?"
        )
    why = {
        "gopher_quality": (
            "its bounds on the length of words hold for no language like it" if language in _OTHER_WORDS
            else None if stop_words(language) else "it has no list of stop words for it"
        ),
        "c4": "it does not mark the ends of its sentences" if language in _NO_SENTENCE_ENDS else None,
        "fineweb": "it does not mark the ends of its sentences" if language in _NO_SENTENCE_ENDS else None,
    }  # fmt: skip
    for name, reason in why.items():
        if reason and getattr(filters, name):
            raise UserError(
                f"curation.filters.{name} has no rules for curation.language={language}: {reason}; set "
                f"curation.filters.{name}=false"
            )


def stop_words(language: str) -> list[str] | None:
    """The language's most frequent words, from spaCy; None where it has none. English has Gopher's own eight."""
    if language == ENGLISH:
        return list(STOP_WORDS)
    name = f"spacy.lang.{_STOP_WORDS_OF.get(language, language)}"
    if find_spec(name) is None or find_spec(f"{name}.stop_words") is None:
        return None
    return sorted(import_module(f"{name}.stop_words").STOP_WORDS)


def c4(document: Document) -> str | None:
    """C4's rules (JMLR 21/140) for other languages than English, with the thresholds of datatrove's filter: drops lines
    that end in no sentence's end, or of fewer than 3 words; why the document is refused otherwise."""
    kept, sentences = [], 0
    for line in document.text.splitlines():
        line = CITATION_REGEX.sub("", line.strip())
        end = line.rstrip(_CLOSING)
        lower = line.lower()
        if not end.endswith(tuple(TERMINAL_PUNCTUATION)) or end.endswith(("...", "…")):
            continue
        if length_in_words(words(line)) < 3 or any(len(word) > 1000 for word in words(line)):
            continue
        if "lorem ipsum" in lower:
            return "lorem_ipsum"
        if "javascript" in lower:
            continue
        if "{" in line:
            return "curly_bracket"
        if any(policy in lower for policy in POLICY_SUBSTRINGS):
            continue
        sentences += len(split_sentences(line))
        kept.append(line)
    if sentences < 5:
        return "too_few_sentences"
    document.text = "\n".join(kept)
    return None


def _names() -> dict[str, str]:
    """Codes of languages by their English names."""
    return {name: code for name, code in vars(Languages).items() if isinstance(code, str) and name.isalpha()}
