"""The ready texts of one document's samples."""

import random
from collections import Counter

from configs.seeds import stable_seed
from student.records import Document
from teacher.ready.brought import texts_named
from teacher.ready.rules import RULES


class ReadyTexts:
    """Gives the samples of one document their texts, one after another. They depend on the document, the seed and how
    many texts of the same name came before."""

    def __init__(self, document: Document, seed: int) -> None:
        self.document, self.seed = document, seed
        self._taken: Counter[str] = Counter()

    def of(self, kind: str, name: str) -> str | None:
        """The next text of a rule or one that is brought (`teacher.prompting.strategies.Part`); None where the document
        brings none."""
        return self.of_rule(name) if kind == "rule" else self.brought(name)

    def of_rule(self, name: str) -> str:
        """The rule's next text; it has random numbers of its own."""
        rng = random.Random(stable_seed(self.seed, self.document.id, name, self._number(name)))
        return RULES[name].write(self.document.text, rng)

    def brought(self, name: str) -> str | None:
        """The next text of that name that the document brings, in a seeded order and all of them before one comes
        again; None where it brings none."""
        texts = texts_named(self.document, name)
        order = random.Random(stable_seed(self.seed, self.document.id, "brought", name)).sample(texts, len(texts))
        number = self._number(f"brought {name}")
        return order[number % len(order)] if order else None

    def _number(self, name: str) -> int:
        self._taken[name] += 1
        return self._taken[name] - 1
