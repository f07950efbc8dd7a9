"""Finds benchmark items in texts: this decontaminates the input, and checks the output for leaks.

Rewriting defeats decontamination of the input alone (arXiv 2311.04850), so both are compared with one index: by
n-grams, and where `curation.embedder` names a model by sentence embeddings, because n-grams miss an item that was
reworded. That paper's decontaminator finds its candidates by embeddings too, and lets a language model judge them. Here
the similarity alone decides, so the right `curation.max_similarity` depends on the embedder: look at a few hundred
pairs of your own before you trust a number.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path, PurePath
from types import SimpleNamespace
from typing import Any

import numpy as np
from safetensors import SafetensorError

from configs.errors import UserError
from configs.schema.curation import Curation
from student.benchmarks.sources import make_benchmark
from student.records import Question
from student.text.sentences import split_at_every_end
from teacher.gates.checks import bare_question, leak

# The gate allows a text what its own source says; here nothing is allowed.
_NO_SOURCE = SimpleNamespace(text="", id="no document", metadata={})


def read_benchmarks(curation: Curation, ngram: int, prompt_template: str) -> "BenchmarkIndex":
    """The index of `curation.benchmarks`. `ngram` is `gates.leak_ngram`.

    Raises UserError for a benchmark that cannot be read, and for an embedder that does not exist. The embedder is
    loaded for the first text.
    """
    items = {}
    for spec in curation.benchmarks:
        kind, _, file = spec.partition(":")
        # Without the folder of its file, which differs from machine to machine.
        name = f"{kind}:{PurePath(file).name}" if kind in ("file", "text") else spec
        items[name] = make_benchmark(spec, prompt_template).exam(_NO_SOURCE).questions
    if (embedder := curation.embedder) is not None:
        if find_spec("sentence_transformers") is None:
            raise UserError("curation.embedder needs sentence-transformers: pip install 'notewright[embeddings]'")
        folder = Path(embedder)
        is_local = folder.exists() or embedder.startswith((".", "/", "~")) or embedder.count("/") > 1
        if is_local and not any((folder / name).is_file() for name in ("modules.json", "config.json")):
            raise UserError(
                f"curation.embedder: {embedder} is no model folder: it holds no modules.json and no config.json"
            )
    return BenchmarkIndex(items, ngram, prompt_template, embedder, curation.max_similarity)


class BenchmarkIndex:
    """The items of benchmarks, found by n-grams of their questions, short ones by question and answer; with an
    `embedder` also by their meaning."""

    def __init__(
        self,
        items: Mapping[str, tuple[Question, ...]],
        ngram: int,
        prompt_template: str,
        embedder: str | None,
        max_similarity: float,
    ):
        self.items, self.ngram, self.prompt_template = items, ngram, prompt_template
        self.embedder, self.max_similarity = embedder, max_similarity
        self._gates = {name: leak(questions, ngram, prompt_template) for name, questions in items.items()}
        questions_of = [(name, question) for name, questions in items.items() for question in questions]
        self._names = [name for name, _ in questions_of]
        self._texts = tuple(f"{bare_question(q.prompt, prompt_template)} {q.answer}" for _, q in questions_of)

    def __reduce__(self) -> tuple[Any, ...]:
        # Gates are closures, which cannot be pickled: another process builds them from the items.
        return BenchmarkIndex, (self.items, self.ngram, self.prompt_template, self.embedder, self.max_similarity)

    def benchmark_in(self, text: str) -> str | None:
        """The name of the first benchmark of which the text holds an item; else of the one whose item is most similar
        to a passage of the text, where the similarity is at least `max_similarity`."""
        verbatim = next((name for name, leaks in self._gates.items() if leaks(_NO_SOURCE, text, True)), None)
        if verbatim is not None or self.embedder is None:
            return verbatim
        sentences = split_at_every_end(text)
        # Two sentences in a row too, because an item is mostly a question and its answer.
        passages = list(dict.fromkeys(sentences + [f"{first} {second}" for first, second in pairwise(sentences)]))
        if not passages or not self._texts:
            return None
        cosine_I = (_embed_items(self.embedder, self._texts) @ _embed(self.embedder, passages).T).max(axis=1)
        most_similar = int(cosine_I.argmax())
        return self._names[most_similar] if cosine_I[most_similar] >= self.max_similarity else None


@lru_cache(maxsize=1)
def _model(embedder: str) -> Any:
    from sentence_transformers import SentenceTransformer

    try:
        return SentenceTransformer(embedder)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:  # the last: truncated weights
        raise UserError(f"curation.embedder: cannot load {embedder!r}: {str(error).splitlines()[0]}") from error


# The items are embedded once for all tasks of a process.
@lru_cache(maxsize=1)
def _embed_items(embedder: str, texts: tuple[str, ...]) -> np.ndarray:
    return _embed(embedder, texts)


def _embed(embedder: str, texts: Sequence[str]) -> np.ndarray:
    """float32 (texts, dimensions), each of length 1."""
    vectors = _model(embedder).encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
    return np.asarray(vectors, dtype=np.float32)
