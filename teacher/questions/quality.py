"""How many questions of each kind were written, kept and refused, and why."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

BY_HAND = "by hand"
"""The kind of a question whose line names none."""


def table_file(questions: Path) -> Path:
    """Where the table of a file of questions stands."""
    return questions.with_suffix(".quality.txt")


class Quality:
    """Counts of questions by kind."""

    def __init__(self) -> None:
        self.sides: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.refused: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def count(self, questions: Iterable[Mapping[str, Any]], dropped: Iterable[Mapping[str, Any]]) -> None:
        """Adds a document's questions, with their sides, and those that were refused."""
        for item in questions:
            self.sides[str(item.get("kind", BY_HAND))][str(item.get("split", "reward"))] += 1
        for item in dropped:
            self.refused[str(item.get("kind", BY_HAND))][str(item.get("reason", "no reason")).partition(":")[0]] += 1

    def line(self) -> str:
        """The counts of all kinds together."""
        kept, refused = _total(self.sides), _total(self.refused)
        return f"{kept.total()} kept, {refused.total()} refused" + (f" ({_reasons(refused)})" if refused else "")

    def table(self) -> str:
        """A row for each kind and one for all, as plain text."""
        rows: list[Sequence[str]] = [("kind", "written", "kept", "reward", "held-out", "refused")]
        for kind in (*sorted({*self.sides, *self.refused}), "all"):
            sides, refused = (
                _total(counts) if kind == "all" else counts[kind] for counts in (self.sides, self.refused)
            )
            kept = sides.total()
            counts = (kept + refused.total(), kept, sides["reward"], sides["heldout"])
            rows.append((kind, *map(str, counts), _reasons(refused) or "none"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = []
        for row in rows:
            cells = [f"{cell:>{width}}" for cell, width in zip(row[1:-1], widths[1:-1], strict=True)]
            lines.append("  ".join([row[0].ljust(widths[0]), *cells, row[-1]]) + "\n")
        return "".join(lines)


def _total(counts: Mapping[str, Counter[str]]) -> Counter[str]:
    return sum(counts.values(), Counter[str]())


def _reasons(refused: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in refused.most_common())
