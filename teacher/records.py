"""The teacher's records: a sampled rewrite, the reward it earned with its parts, and the contract of what samples."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

from configs.schema import Teacher
from student.plans import Planned, TaughtText
from student.records import Outcome
from teacher.prompting.plans import reply_schema
from teacher.prompting.strategies import is_ready, tag_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ONE_RUN = "one training run"
"""Stands beside figures of a trained teacher: their intervals are over documents, students and seeds, so that they do
not say what the teacher of another run would be worth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrite:
    """One sampled lesson text of one document. A lesson is a set of m of them (`rl.rewrites_per_lesson`); a document's
    group is a flat list of G x m, one set after another."""

    document_id: str
    strategy: str
    """The strategy's name: the prompt's, or the tag that the policy wrote (`none` where it wrote no known one)."""
    text: str
    """What the student reads: the completion without its tag."""
    completion: str
    """What the teacher wrote, to the letter; what the update learns from. Of a ready text that a policy chose it is the
    tag alone, of one that nobody chose it is empty: the update has nothing to learn from it."""
    prompt: str
    ended: bool = True
    """Whether the teacher came to an end by itself: it was not cut at `teacher.max_new_tokens`, nor stopped after the
    tag of a ready text."""
    rejected: str | None = None
    """Name of the gate that refused it; `absent`: the document brings no such text; `no_related`: it has no related
    passage; `plan`: its plan is invalid."""
    plan: str = ""
    """How a student learns the text, or makes all its data: JSON as `student.plans.Plan` writes it; empty where the
    config says it."""
    reason: str = ""
    """Of an invalid plan: what is wrong with it."""

    @property
    def taught(self) -> TaughtText:
        """What a student is given of it."""
        return Planned(self.text, self.plan) if self.plan else self.text

    @property
    def shown(self) -> str:
        """The plan and the text, for readers."""
        return "\n".join(part for part in (self.plan, self.text) if part)


class SamplingError(NamedTuple):
    """How far noise alone may move a reward, in the unit of `reward.measure`."""

    own: float
    """Standard error by the noise that no other reward of the group shares."""
    degrees: float
    """Degrees of freedom of the noise's variance."""
    shared: tuple[float, ...] = ()
    """Loadings on independent errors of variance 1 that the rewards of a step share: predictions by strategy all move
    with the estimate of a strategy's worth."""


class Prediction(NamedTuple):
    """A value that is predicted, in the unit of `reward.measure`."""

    value: float
    error: SamplingError


@dataclass(frozen=True, slots=True, kw_only=True)
class Reward:
    """What the RL algorithm sees of a rewrite, with its parts."""

    value: float
    outcome: Outcome | None
    """The last repeat's, narrowed to the rewrite's own document; None for a rejected rewrite or a failed student."""
    gains: tuple[float, ...] = ()
    """Gain of each repeat's student, in `reward.measure`; failed students are left out."""
    noise: float | None = None
    """Standard deviation over repeats; None with one repeat."""
    penalties: dict[str, float] = field(default_factory=dict)
    error: SamplingError | None = None
    """Of `value`; None where the noise was not measured."""
    taught: bool = True
    """False where `reward.screen` left the lesson out: it has no value then (nan), and nothing is learnt from it."""
    ahead: Prediction | None = None
    """With `reward.screen` and `reward.pool_strategies`: how far the mean of the document's taught lessons lies above
    that of all, by their strategies' worth."""
    signs: dict[str, float | None] | None = None
    """What `reward.screen` read of the lesson; None where it read nothing."""


class Completion(NamedTuple):
    """What a writer made of a prompt."""

    text: str
    ended: bool
    """False where it was cut at the longest length."""
    error: Exception | None = None
    """Why there is none; the text is empty then."""
    continuations: int = 0
    """Calls beyond the first in which it was written (`teacher.continuations`)."""


class Writer(Protocol):
    """Samples completions: `teacher.writers.local.TransformersWriter`, `teacher.writers.endpoint.EndpointWriter`."""

    settings: Teacher
    """What it samples under: temperature, top_p, longest completion."""
    tokenizer: "PreTrainedTokenizerBase"
    context: int | None
    """Tokens of the longest prompt and completion together; None where that is not known."""

    def write(
        self,
        prompts: list[str],
        n: int,
        seed: int,
        openings: Sequence[str] = (),
        temperatures: Sequence[float] = (),
    ) -> list[list[Completion]]:
        """`n` completions a prompt, tags included, special tokens stripped. With `openings`, one a prompt, a completion
        begins with its prompt's opening instead of what the teacher would have chosen; `temperatures`, one a prompt,
        stand in the place of the settings' one."""
        ...

    def attempt(
        self,
        prompts: list[str],
        n: int,
        seed: int,
        openings: Sequence[str] = (),
        temperatures: Sequence[float] = (),
    ) -> list[list[Completion]]:
        """As `write`, but a completion that failed has an `error`. Raises RunError for an error that is no prompt's
        fault and would meet all others too."""
        ...

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags with one of which each completion begins that gets no opening; none where the teacher is free.

        A policy that has ready texts to choose from draws from its distribution over the tags alone: a model that was
        not trained for it would hardly ever begin with one by itself. What an update learns from are the
        log-probabilities over all tokens. They differ from those of the choice by the log of the share that known tags
        have. Under GRPO that share drops out where tags part from each other at once, since advantages of a group sum
        to zero. ReST-EM maximises the likelihood of kept tags, which raises the share as well. DPO needs no samples of
        its own model. All three leave the unconstrained teacher one that begins with a tag by itself.
        """
        settings = self.settings
        constrained = settings.prompting == "policy" and any(map(is_ready, settings.strategies))
        return tuple(map(tag_of, settings.strategies)) if constrained else ()

    @property
    def stops(self) -> tuple[str, ...]:
        """Tags after which sampling stops: the text is ready, and no plan is to follow."""
        if self.settings.prompting != "policy" or self.settings.plans:
            return ()
        return tuple(tag_of(strategy) for strategy in self.settings.strategies if is_ready(strategy))

    @property
    def schema(self) -> dict[str, Any] | None:
        """The JSON schema of each completion, where all of them are plans and nothing else. A server is held to it."""
        return reply_schema(self.settings)

    @property
    def max_prompt_tokens(self) -> int | None:
        """Longest prompt that leaves room for an opening and `max_new_tokens`; None where no `context` is known."""
        if self.context is None:
            return None
        tags = self.settings.strategies if self.settings.prompting == "policy" else ()
        opening = max((len(self.opening_ids(tag_of(name))) for name in tags), default=0)
        return max(1, self.context - opening - self.settings.max_new_tokens)

    def has_room(self, tokens: int) -> bool:
        """Whether a further call fits behind so many tokens of prompt and text."""
        return self.context is None or tokens + self.settings.max_new_tokens <= self.context

    def count_tokens(self, text: str) -> int:
        """Length of a text in the teacher's tokens."""
        return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def opening_ids(self, opening: str) -> list[int]:
        """The tokens of a completion's opening, none for an empty one."""
        return self.tokenizer(opening, add_special_tokens=False)["input_ids"] if opening else []

    def at(self, temperature: float | None) -> Self:
        """The same teacher at another temperature; None leaves it as it is."""
        if temperature is None:
            return self
        other = copy.copy(self)
        other.settings = self.settings.model_copy(update={"temperature": temperature})
        return other
