"""The filters that a document goes through before the teacher: extraction, repairs and datatrove's quality rules.

datatrove's own steps drop what they refuse, and keep the reasons in statistics that a resumed run does not have. Here a
refused document stays in the stream with its reason, so that it ends as a record like any other. Every filter is a
function of the one document: a filter that remembers earlier documents would give other bytes after a resume.
"""

import re
import signal
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

from datatrove.data import Document
from datatrove.pipeline.extractors.base import ExtractorSandbox
from datatrove.pipeline.extractors.trafilatura import Trafilatura
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.pipeline.filters.base_filter import get_filter_result
from datatrove.pipeline.formatters import FTFYFormatter, PIIFormatter

from configs.errors import UserError
from configs.schema.curation import Curation, Filters, language_code
from curation.corpus.languages import ENGLISH, c4, check_rules, stop_words, words_of
from curation.corpus.licences import is_unknown, licence_of
from curation.corpus.secrets import find_secrets

Filter = Callable[[Document], str | None]
"""May change the document's text; returns why the document is refused, or None."""

REPAIRS = ("extract", "ftfy", "pii", "c4")
"""The filters that change a text; all others only refuse."""

_NUMBERED_HEADING = re.compile(r"^#{1,6} +((?:(\d{1,2}(?:\.\d{1,2})*)\.)?\d{1,2})\b", re.M)
"""The number of a section, and that of the section which it is part of."""
PAGE_SECONDS = 30.0
"""Of processor time for the extraction of a page: a busy machine refuses the same pages as a quiet one."""
STALLED_SECONDS = 1800.0
"""After which a page stands still, whatever else the machine does."""


class Refusal(NamedTuple):
    """Why a document goes no further. `stage` is `filter`, or `step` where a filter failed on the document."""

    stage: str
    reason: str
    detail: str | None = None
    """The document that it repeats, or the benchmark of which it holds an item."""


class Cleaner:
    """The filters that `curation` turns on. Extraction starts a process, which ends with the cleaner's `with` block."""

    def __init__(self, curation: Curation):
        check_rules(curation)
        filters, language, licence = curation.filters, curation.language, curation.licence

        def unknown_licence(document: Document) -> str | None:
            return "" if is_unknown(licence_of(document.metadata, licence)) else None

        def secrets(document: Document) -> str | None:
            return next(iter(find_secrets(document.text)), None)

        # One replacement each: datatrove's default takes several in turn, from document to document.
        pii = PIIFormatter(email_replacement="email@example.com", ip_replacement="22.214.171.124")
        named: list[tuple[str, Filter | None]] = [
            ("unknown_licence", None if curation.allow_unknown_licence else unknown_licence),
            ("extract", self._extract),
            ("ftfy", _format_with(FTFYFormatter()) if filters.ftfy else None),
            # Before the filters that refuse: the record of a refused document shows the beginning of its text.
            ("secrets", secrets if filters.secrets else None),
            ("pii", _without_addresses(pii) if filters.pii else None),
            ("language", _keep_languages(filters) if filters.languages else None),
            ("gopher_repetition", _rule(GopherRepetitionFilter, language) if filters.gopher_repetition else None),
            ("gopher_quality", _gopher_quality(language) if filters.gopher_quality else None),
            ("c4", _c4(language) if filters.c4 else None),
            ("fineweb", _rule(FineWebQualityFilter, language) if filters.fineweb else None),
        ]
        self.filters = [(name, function) for name, function in named if function is not None]
        self._sandbox = ExtractorSandbox(timeout=STALLED_SECONDS)
        # Its `deduplicate` remembers earlier pages.
        self._trafilatura = Trafilatura(deduplicate=False)

    def __enter__(self) -> "Cleaner":
        return self

    def __exit__(self, *_: object) -> None:
        self._sandbox.__exit__(None, None, None)

    def clean(self, document: Document, *, known_to_pass: bool = False) -> Refusal | None:
        """Changes the document's text in place; returns the first filter's refusal, or None. With `known_to_pass` no
        filter refuses this document, so only those that change its text run."""
        for name, apply in self.filters:
            if known_to_pass and name not in REPAIRS:
                continue
            try:
                reason = apply(document)
            except (ValueError, ArithmeticError, LookupError, RecursionError) as error:
                return Refusal("step", f"{name}: {type(error).__name__}")
            if reason is None and not document.text.strip():
                reason = "empty"
            if reason is not None:
                return Refusal("filter", f"{name}/{reason}" if reason else name)
        return None

    def _extract(self, document: Document) -> str | None:
        if not document.metadata.get("html"):
            return None
        # Where trafilatura is not installed, the sandbox would report a timeout for each page.
        import trafilatura  # noqa: F401

        extract = partial(_within_limit, self._trafilatura.extract)
        try:
            document.text = self._sandbox.process_document(document.text, extract) or ""
        except TimeoutError:
            return "timeout"
        except EOFError:
            return "timeout" if self._sandbox.all_processes[-1].exitcode == -signal.SIGPROF else "crash"
        return None


def _within_limit(extract: Callable[[str], str | None], html: str) -> str | None:
    """In the sandbox, whose process the kernel ends where a page takes too much."""
    signal.setitimer(signal.ITIMER_PROF, PAGE_SECONDS)
    try:
        return extract(html)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _gopher_quality(language: str) -> Filter:
    return _rule(GopherQualityFilter, language, stop_words=stop_words(language))


def _c4(language: str) -> Filter:
    return _rule(C4QualityFilter, language) if language == ENGLISH else c4


def _rule(kind: Any, language: str, **settings: Any) -> Filter:
    rule = kind(language=words_of(language), **settings)

    def apply(document: Document) -> str | None:
        kept, reason = get_filter_result(rule.filter(document))
        return None if kept else (reason or "").removeprefix("gopher_")

    return apply


def _format_with(formatter: Any) -> Filter:
    def apply(document: Document) -> None:
        document.text = formatter.format(document.text)

    return apply


def _without_addresses(pii: PIIFormatter) -> Filter:
    def apply(document: Document) -> None:
        """`#### 12.2.1.4. Installation` below `### 12.2.1. Xen` holds no IP address, `# 8.8.8.8` by itself does."""
        text, place, parts = document.text, 0, []
        headings = list(_NUMBERED_HEADING.finditer(text))
        numbers = {heading[1] for heading in headings}
        for heading in headings:
            if heading[2] in numbers:
                parts += [pii.format(text[place : heading.start()]), heading[0]]
                place = heading.end()
        document.text = "".join([*parts, pii.format(text[place:])])

    return apply


def _keep_languages(filters: Filters) -> Filter:
    """Refuses other languages, and texts whose language is unsure. Identifies 97 languages by py3langid, whose model is
    part of its package (datatrove's filter downloads fastText's). Raises UserError for one that it does not know."""
    identifier = language_identifier()
    known = {str(label): language_code(str(label)) for label in identifier.nb_classes}
    unknown = [language for language in filters.languages if language not in known.values()]
    if unknown:
        raise UserError(f"curation.filters.languages: {unknown[0]!r} is none of {', '.join(sorted({*known.values()}))}")

    def apply(document: Document) -> str | None:
        label, probability = identifier.classify(document.text)
        if (language := known[str(label)]) not in filters.languages:
            return language
        return None if probability >= filters.min_language_probability else "unsure"

    return apply


@lru_cache(maxsize=1)
def language_identifier() -> Any:
    """What tells the language of a text: `classify(text)` gives its code and probability, which sum to 1."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
