"""Which benchmark items a text carries: what decontaminates the input, and checks the output for leaks.

Rewriting defeats decontamination of the input alone (arXiv 2311.04850), so both are matched against one index: by
n-grams, and where `curation.embedder` names one by sentence embeddings.
"""

import hashlib
from pathlib import PurePath
from types import SimpleNamespace

from configs.schema import Config
from curation.corpus.paraphrases import Paraphrases
from student.benchmarks.sources import make_benchmark
from student.records import Question
from teacher.gates.checks import Refuses, bare_question, leak

# The gate allows a text what its own source says; here nothing is allowed.
_NO_SOURCE = SimpleNamespace(text="", id="no document", metadata={})


class BenchmarkIndex:
    """The items of `curation.benchmarks`, by n-grams of their questions, short ones by question and answer, and where
    `curation.embedder` is set by what they mean.

    Raises UserError for a benchmark that cannot be read, and an embedder that is not there.
    """

    def __init__(self, config: Config):
        self.ngram = config.gates.leak_ngram
        template = config.student.prompt_template
        self.items: dict[str, tuple[Question, ...]] = {
            _name(spec): make_benchmark(spec, template).exam(_NO_SOURCE).questions
            for spec in config.curation.benchmarks
        }
        self._gates: dict[str, Refuses] = {
            name: leak(items, self.ngram, template) for name, items in self.items.items()
        }
        self.paraphrases: Paraphrases | None = None
        if (embedder := config.curation.embedder) is not None:
            asked = {
                name: [f"{bare_question(q.prompt, template)} {q.answer}" for q in items]
                for name, items in self.items.items()
            }
            self.paraphrases = Paraphrases(asked, embedder, config.curation.max_similarity)

    def carried_by(self, text: str) -> str | None:
        """The name of the first benchmark of which the text carries an item."""
        word_for_word = next((name for name, leaks in self._gates.items() if leaks(_NO_SOURCE, text, True)), None)
        if word_for_word is not None or self.paraphrases is None:
            return word_for_word
        return self.paraphrases.carried_by(text)

    @property
    def sha256(self) -> str:
        """Names the items."""
        items = {name: [(q.prompt, q.answer) for q in questions] for name, questions in self.items.items()}
        return hashlib.sha256(repr(items).encode()).hexdigest()


def _name(spec: str) -> str:
    """The spec without the folder of its file, which is of one machine."""
    kind, _, name = spec.partition(":")
    return f"{kind}:{PurePath(name).name}" if kind in ("file", "text") else spec
