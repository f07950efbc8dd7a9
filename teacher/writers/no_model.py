"""Stands where all texts are ready: nothing is written, and no model is loaded."""

from collections.abc import Sequence
from pathlib import Path

from configs.schema import Teacher
from student.text.words import count_words
from teacher.prompting.strategies import needs_model
from teacher.records import Completion, Writer
from teacher.writers.local import load_teacher


class NoModel(Writer):
    """Counts words where others count tokens."""

    context = None

    def __init__(self, settings: Teacher) -> None:
        self.settings = settings
        # Without a tokenizer gates count words, too.
        self.tokenizer = None  # type: ignore[assignment]

    def write(
        self,
        prompts: list[str],
        n: int,
        seed: int,
        openings: Sequence[str] = (),
        temperatures: Sequence[float] = (),
    ) -> list[list[Completion]]:
        """Nothing is asked of it."""
        assert not prompts, "the strategies are ready"
        return []

    attempt = write

    def count_tokens(self, text: str) -> int:
        """Words."""
        return count_words(text)


def load_writer(settings: Teacher, checkpoint: Path | None = None) -> Writer:
    """The teacher in this process, as `load_teacher` loads it, if its strategies need a model."""
    return load_teacher(settings, checkpoint) if needs_model(settings) else NoModel(settings)
