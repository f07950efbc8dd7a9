"""Lesson texts and questions as tokens, with the positions that carry a label."""

from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from student.records import LessonText, Segment


@dataclass(frozen=True, slots=True)
class Encoded:
    """One text as tokens."""

    ids: np.ndarray
    """int64 (T,)."""
    labelled: np.ndarray
    """int64 (L,): positions in `ids` whose token is to be predicted (never the first: nothing comes before it)."""
    cut: int = 0
    """Tokens that were left out at the end because the text is too long."""

    @classmethod
    def of(cls, ids: list[int], learnt: list[bool], max_tokens: int | None = None) -> "Encoded":
        """The first `max_tokens` of a text whose tokens are to be learnt or not."""
        kept = len(ids) if max_tokens is None else min(max_tokens, len(ids))
        labelled = [position for position in range(1, kept) if learnt[position]]
        return cls(np.array(ids[:kept], dtype=np.int64), np.array(labelled, dtype=np.int64), len(ids) - kept)

    def __len__(self) -> int:
        return len(self.ids)


def encode_text(tokenizer: PreTrainedTokenizerBase, text: LessonText, loss_on: str, max_tokens: int) -> Encoded:
    """A lesson text between the tokenizer's opening tokens and an end-of-text token.

    `loss_on` is `all`, or the kind of segment whose tokens are learnt. The end-of-text token is learnt with the last
    segment, because a student that answers `Lisbon` should stop there.
    """
    segments = (Segment("output", text),) if isinstance(text, str) else text
    ids = _opening(tokenizer)
    learnt = [False] * len(ids)
    for segment in segments:
        segment_ids = tokenizer(segment.text, add_special_tokens=False)["input_ids"]
        ids += segment_ids
        learnt += [loss_on in ("all", segment.kind)] * len(segment_ids)
    if tokenizer.eos_token_id is not None and segments:
        ids.append(tokenizer.eos_token_id)
        learnt.append(loss_on in ("all", segments[-1].kind))
    return Encoded.of(ids, learnt, max_tokens)


def encode_answer(tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str) -> Encoded:
    """A prompt, a space and an answer, of which only the answer's tokens are labelled."""
    ids = encode_prompt(tokenizer, prompt)
    gap = "" if not prompt or prompt[-1].isspace() else " "
    answer_ids = tokenizer(gap + answer, add_special_tokens=False)["input_ids"]
    return Encoded.of(ids + answer_ids, [False] * len(ids) + [True] * len(answer_ids))


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """The tokenizer's opening tokens and the prompt's, ready to be continued."""
    return _opening(tokenizer) + tokenizer(prompt, add_special_tokens=False)["input_ids"]


def _opening(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that this tokenizer puts before any text: BOS for Llama and Gemma, none for Qwen and SmolLM2."""
    opening = tokenizer("", add_special_tokens=True)["input_ids"]
    return [token for token in opening if token != tokenizer.eos_token_id or token == tokenizer.bos_token_id]
