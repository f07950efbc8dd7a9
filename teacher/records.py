"""The teacher's records: a sampled rewrite, and the reward it earned with its parts kept."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from student.records import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrite:
    """One sampled lesson text of one document. A lesson is a set of m of them (`rl.rewrites_per_lesson`); a document's
    group is a flat list of G x m, one set after another."""

    document_id: str
    strategy: str
    """Name of the way of rewriting: the prompt's, or the tag that the policy wrote (`none` where it wrote no known
    one)."""
    text: str
    """What the student reads: the completion without its tag."""
    completion: str
    """What the teacher wrote, to the letter; what the update learns from."""
    prompt: str
    ended: bool = True
    """Whether the teacher came to an end by itself, and was not cut at `teacher.max_new_tokens`."""
    rejected: str | None = None
    """Name of the gate that refused it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reward:
    """What the RL algorithm sees of a rewrite, with its parts."""

    value: float
    outcome: Outcome | None
    """The last repeat's, narrowed to the rewrite's own document; None for a rejected rewrite or a failed student."""
    gains: tuple[float, ...] = ()
    """Gain of each repeat's student, in nats a token; failed students are left out."""
    noise: float | None = None
    """Standard deviation over repeats; None with one repeat."""
    penalties: dict[str, float] = field(default_factory=dict)


class Completion(NamedTuple):
    """What a writer made of a prompt."""

    text: str
    ended: bool
    """False where it was cut at the longest length."""


class Writer(Protocol):
    """Whatever writes: local transformers (`teacher.writers.local.TransformersWriter`), a vLLM server."""

    def write(
        self, prompts: list[str], n: int, seed: int, openings: Sequence[str] | None = None
    ) -> list[list[Completion]]:
        """`n` completions a prompt, tags included, special tokens stripped; each begins with its prompt's opening,
        where there are some."""
        ...
