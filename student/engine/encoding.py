"""Texts to tokens: what a lesson text or a question becomes, and which of its positions carry a label."""

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
    """int64 (L,): the places in `ids` whose token is to be predicted (never the first, nothing comes before it)."""
    cut: int = 0
    """Tokens left out beyond the longest text allowed."""

    @classmethod
    def of(cls, ids: list[int], learnt: list[bool], max_tokens: int | None = None) -> "Encoded":
        kept = len(ids) if max_tokens is None else min(max_tokens, len(ids))
        places = [place for place in range(1, kept) if learnt[place]]
        return cls(np.array(ids[:kept], dtype=np.int64), np.array(places, dtype=np.int64), len(ids) - kept)

    def __len__(self) -> int:
        return len(self.ids)


def encode_text(tokenizer: PreTrainedTokenizerBase, text: LessonText, loss_on: str, max_tokens: int) -> Encoded:
    """A lesson text with the tokenizer's own opening tokens and an end-of-text token.

    `loss_on` is `all`, or the kind of segment whose tokens are learnt. The end-of-text token is learnt with the last
    segment: a student that reads `Lisbon` should stop there.
    """
    segments = (Segment("output", text),) if isinstance(text, str) else text
    ids = _opening(tokenizer)
    learnt = [False] * len(ids)
    for segment in segments:
        piece = tokenizer(segment.text, add_special_tokens=False)["input_ids"]
        ids += piece
        learnt += [loss_on in ("all", segment.kind)] * len(piece)
    if tokenizer.eos_token_id is not None and segments:
        ids.append(tokenizer.eos_token_id)
        learnt.append(loss_on in ("all", segments[-1].kind))
    return Encoded.of(ids, learnt, max_tokens)


def encode_answer(tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str) -> Encoded:
    """A prompt with an answer behind it, separated by one space; only the answer's tokens are labelled."""
    ids = encode_prompt(tokenizer, prompt)
    gap = "" if not prompt or prompt[-1].isspace() else " "
    answer_ids = tokenizer(gap + answer, add_special_tokens=False)["input_ids"]
    return Encoded.of(ids + answer_ids, [False] * len(ids) + [True] * len(answer_ids))


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """The prompt's ids behind the tokenizer's opening tokens, ready to be continued."""
    return _opening(tokenizer) + tokenizer(prompt, add_special_tokens=False)["input_ids"]


def _opening(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens this tokenizer puts before any text (Llama's and Gemma's BOS; nothing for Qwen and SmolLM2)."""
    opening = tokenizer("", add_special_tokens=True)["input_ids"]
    return [token for token in opening if token != tokenizer.eos_token_id or token == tokenizer.bos_token_id]
