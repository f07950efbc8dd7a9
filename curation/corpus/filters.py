"""What a document goes through before the teacher: datatrove's extraction, repairs and quality rules, one at a time.

datatrove's own steps drop what they refuse, and its reasons stay in statistics that a resumed run does not have. Here a
refused document stays in the stream with its reason, so that it ends as a record like any other. Every step is a
function of the one document: what remembers earlier documents would give other bytes after a resume.
"""

from collections.abc import Callable
from functools import lru_cache
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
from configs.schema.curation import Filters
from curation.corpus.secrets import find_secrets

EXTRACT_SECONDS = 30.0
UNKNOWN_LICENCES = ("", "unknown", "none", "n/a")

Step = Callable[[Document], str | None]
"""May change the document's text; returns why it leaves, or None."""

REPAIRS = ("extract", "ftfy", "pii", "c4")
"""The steps that change a text; all others only refuse."""


class Refusal(NamedTuple):
    """Why a document goes no further. `stage` is `filter`, or `step` where a step itself failed on the document."""

    stage: str
    reason: str
    detail: str | None = None
    """The document that it repeats, or the benchmark that it carries."""


class Cleaner:
    """The steps of a config, in order. Holds a process for extraction once a page needs it: use it as a context."""

    def __init__(self, filters: Filters, language: str, licence: str, allow_unknown_licence: bool):
        self.steps: list[tuple[str, Step]] = [("extract", self._extract), *build_steps(filters, language)]
        if not allow_unknown_licence:
            self.steps.insert(0, ("unknown_licence", lambda d: "" if is_unknown(licence_of(d, licence)) else None))
        self.repairs = [(name, step) for name, step in self.steps if name in REPAIRS]
        self._sandbox = ExtractorSandbox(EXTRACT_SECONDS)
        # Its `deduplicate` counts what it saw in earlier pages.
        self._trafilatura = Trafilatura(deduplicate=False)

    def __enter__(self) -> "Cleaner":
        return self

    def __exit__(self, *_: object) -> None:
        self._sandbox.__exit__(None, None, None)

    def clean(self, document: Document, *, passed: bool = False) -> Refusal | None:
        """Changes the document's text in place; the first step's refusal, or None.

        `passed`: it is known that no step refuses this document, and only those that change its text run.
        """
        for name, step in self.repairs if passed else self.steps:
            try:
                reason = step(document)
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
        # Where it is not installed, the sandbox would call that a timeout of each page.
        import trafilatura  # noqa: F401

        try:
            text = self._sandbox.process_document(document.text, self._trafilatura.extract)
        except TimeoutError:
            return "timeout"
        except EOFError:
            return "crash"
        document.text = text or ""
        return None


def licence_of(document: Document, default: str) -> str:
    """The licence that a row names, or the default."""
    return str(document.metadata.get("licence") or document.metadata.get("license") or default)


def is_unknown(licence: str) -> bool:
    """Whether a licence says nothing."""
    return licence.strip().lower() in UNKNOWN_LICENCES


def build_steps(filters: Filters, language: str) -> list[tuple[str, Step]]:
    """The steps that a config turns on, with their names, in the order of their settings."""
    steps: list[tuple[str, Step | None]] = [
        ("ftfy", _formatter(FTFYFormatter()) if filters.ftfy else None),
        # Before what refuses: the record of a refused document shows the beginning of its text.
        ("secrets", secrets_step if filters.secrets else None),
        ("pii", _formatter(pii_formatter()) if filters.pii else None),
        ("language", language_step(filters.languages, filters.min_language_probability) if filters.languages else None),
        ("gopher_repetition", _filter(GopherRepetitionFilter, language) if filters.gopher_repetition else None),
        ("gopher_quality", _filter(GopherQualityFilter, language) if filters.gopher_quality else None),
        ("c4", _filter(C4QualityFilter, language) if filters.c4 else None),
        ("fineweb", _filter(FineWebQualityFilter, language) if filters.fineweb else None),
    ]
    return [(name, step) for name, step in steps if step is not None]


def _filter(kind: Any, language: str) -> Step:
    rule = kind(language=language)

    def step(document: Document) -> str | None:
        kept, reason = get_filter_result(rule.filter(document))
        return None if kept else (reason or "").removeprefix("gopher_")

    return step


def _formatter(formatter: Any) -> Step:
    def step(document: Document) -> None:
        document.text = formatter.format(document.text)

    return step


def pii_formatter() -> PIIFormatter:
    """datatrove's, with one replacement each: its default goes round through several, from document to document."""
    return PIIFormatter(email_replacement="email@example.com", ip_replacement="22.214.171.124")


def language_step(languages: tuple[str, ...], min_probability: float) -> Step:
    """Refuses other languages, and texts of which the language is unsure.

    py3langid, whose model is in its package: datatrove's language filter downloads fastText's. Raises UserError for a
    language that it does not know.
    """
    identifier = language_identifier()
    known = [str(label) for label in identifier.nb_classes]
    unknown = [language for language in languages if language not in known]
    if unknown:
        raise UserError(f"curation.filters.languages: {unknown[0]!r} is none of {', '.join(sorted(known))}")

    def step(document: Document) -> str | None:
        language, probability = identifier.classify(document.text)
        if language not in languages:
            return str(language)
        return None if probability >= min_probability else "unsure"

    return step


@lru_cache(maxsize=1)
def language_identifier() -> Any:
    """py3langid's 97 languages, with probabilities that sum to 1."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def secrets_step(document: Document) -> str | None:
    """Refuses a text with a credential; the reason is its kind."""
    found = find_secrets(document.text)
    return found[0] if found else None
