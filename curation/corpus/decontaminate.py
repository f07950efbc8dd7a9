"""Finds benchmark items in texts: this decontaminates the input, and checks the output for leaks.

Rewriting defeats decontamination of the input alone (arXiv 2311.04850), so both are compared with one index: by
n-grams, and where `curation.embedder` names a model by sentence embeddings.
"""

import hashlib
from collections.abc import Mapping
from pathlib import PurePath
from types import SimpleNamespace
from typing import Any

from configs.schema.curation import Curation
from curation.corpus.paraphrases import Paraphrases
from student.benchmarks.sources import make_benchmark
from student.records import Question
from teacher.gates.checks import Refuses, bare_question, leak

# The gate allows a text what its own source says; here nothing is allowed.
_NO_SOURCE = SimpleNamespace(text="", id="no document", metadata={})


def read_benchmarks(curation: Curation, ngram: int, prompt_template: str) -> "BenchmarkIndex":
    """The index of `curation.benchmarks`. `ngram` is `gates.leak_ngram`.

    Raises UserError for a benchmark that cannot be read, and for an embedder that does not exist.
    """
    items = {
        _name_of(spec): make_benchmark(spec, prompt_template).exam(_NO_SOURCE).questions for spec in curation.benchmarks
    }
    paraphrases = None
    if curation.embedder is not None:
        texts = {
            name: [f"{bare_question(q.prompt, prompt_template)} {q.answer}" for q in questions]
            for name, questions in items.items()
        }
        paraphrases = Paraphrases(texts, curation.embedder, curation.max_similarity)
    return BenchmarkIndex(items, ngram, prompt_template, paraphrases)


class BenchmarkIndex:
    """The items of benchmarks, found by n-grams of their questions, short ones by question and answer; with
    `paraphrases` also by their meaning."""

    def __init__(
        self,
        items: Mapping[str, tuple[Question, ...]],
        ngram: int,
        prompt_template: str,
        paraphrases: Paraphrases | None = None,
    ):
        self.items, self.ngram, self.prompt_template, self.paraphrases = items, ngram, prompt_template, paraphrases
        self._gates: dict[str, Refuses] = {name: leak(items[name], ngram, prompt_template) for name in items}

    def __reduce__(self) -> tuple[Any, ...]:
        # Gates are closures, which cannot be pickled: another process builds them from the items.
        return BenchmarkIndex, (self.items, self.ngram, self.prompt_template, self.paraphrases)

    def benchmark_in(self, text: str) -> str | None:
        """The name of the first benchmark of which the text holds an item."""
        verbatim = next((name for name, leaks in self._gates.items() if leaks(_NO_SOURCE, text, True)), None)
        if verbatim is not None or self.paraphrases is None:
            return verbatim
        return self.paraphrases.benchmark_in(text)

    @property
    def sha256(self) -> str:
        """Hash of the items."""
        items = {name: [(q.prompt, q.answer) for q in questions] for name, questions in self.items.items()}
        return hashlib.sha256(repr(items).encode()).hexdigest()


def _name_of(spec: str) -> str:
    """The spec without the folder of its file, which differs from machine to machine."""
    kind, _, name = spec.partition(":")
    return f"{kind}:{PurePath(name).name}" if kind in ("file", "text") else spec
