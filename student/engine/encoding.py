"""Lesson texts and questions as tokens, with the positions that carry a label, and which tokens end an answer."""

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from configs.errors import UserError
from student.records import LessonText, Segment

JOINERS = frozenset("-‐‑–'’&/\\%#@_")
"""Punctuation that goes on with a word or number: York-based, York's, 1914–18, 5%."""

_START = re.compile(r"(\s*)(\S?)(\w?)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Encoded:
    """One text as tokens."""

    ids: np.ndarray
    """int64 (T,)."""
    labelled: np.ndarray
    """int64 (L,): positions in `ids` whose token is to be predicted (never the first: nothing comes before it)."""

    @classmethod
    def of(cls, ids: list[int], learnt: list[bool]) -> "Encoded":
        """A text whose tokens are to be learnt or not."""
        labelled = [position for position in range(1, len(ids)) if learnt[position]]
        return cls(np.array(ids, dtype=np.int64), np.array(labelled, dtype=np.int64))

    def split(self, max_tokens: int, opening: int = 0) -> list["Encoded"]:
        """The text in as few and as equal parts of at most `max_tokens` as can be. Each but the first begins with the
        text's first `opening` tokens and the last token of the part before, so that every token to be learnt is learnt
        once and after another."""
        if len(self) <= max_tokens:
            return [self]
        head = opening + 1  # tokens of a further part that are there for what follows
        new = max_tokens - head
        parts = 1 + math.ceil((len(self) - max_tokens) / new)
        ends = [head + (len(self) - head) * number // parts for number in range(1, parts + 1)]
        texts, start = [], 0
        for end in ends:
            before = [] if start == 0 else [*range(opening), start - 1]
            labelled = self.labelled[(self.labelled >= start) & (self.labelled < end)] - start + len(before)
            texts.append(Encoded(np.concatenate([self.ids[before], self.ids[start:end]]).astype(np.int64), labelled))
            start = end
        return texts

    def __len__(self) -> int:
        return len(self.ids)


def encode_text(tokenizer: PreTrainedTokenizerBase, text: LessonText, loss_on: str, max_tokens: int) -> list[Encoded]:
    """A lesson text between the tokenizer's opening tokens and an end-of-text token; one of more than `max_tokens` goes
    on in further texts (`Encoded.split`).

    `loss_on` is `all`, or the kind of segment whose tokens are learnt. The end-of-text token is learnt with the last
    segment, because a student that answers `Lisbon` should stop there.
    """
    segments = (Segment("output", text),) if isinstance(text, str) else text
    ids = _opening(tokenizer)
    segment_ids, owners = _tokens(tokenizer, [segment.text for segment in segments])
    learnt = [False] * len(ids) + [loss_on in ("all", segments[owner].kind) for owner in owners]
    ids += segment_ids
    if tokenizer.eos_token_id is not None and segments:
        ids.append(tokenizer.eos_token_id)
        learnt.append(loss_on in ("all", segments[-1].kind))
    return Encoded.of(ids, learnt).split(max_tokens, len(_opening(tokenizer)))


def context_ids(tokenizer: PreTrainedTokenizerBase, context: str) -> list[int]:
    """The tokens of a document and of the blank line between it and a text."""
    return _tokens(tokenizer, [f"{context.rstrip()}\n\n"])[0] if context.strip() else []


def in_context(tokenizer: PreTrainedTokenizerBase, context: list[int], text: Encoded) -> Encoded:
    """A text (or part of one) of `encode_text` with `context_ids` between its opening tokens and the others; labelled
    are the same tokens."""
    opening = len(_opening(tokenizer))
    ids = np.concatenate([text.ids[:opening], context, text.ids[opening:]]).astype(np.int64)
    return Encoded(ids, text.labelled + len(context))


def encode_answer(tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str) -> Encoded:
    """A prompt and an answer, of which only the answer's tokens are labelled.

    The answer begins with the spaces between the two, as in lm-eval, where a token of its own holds them: those at the
    prompt's end, or else, if no other white space is there, one that is put in. Line breaks belong to the prompt.
    """
    prompt, spaces = _without_spaces(prompt)
    gap = spaces or ("" if not prompt or prompt[-1].isspace() else " ")
    opening = _opening(tokenizer)
    ids, owners = _tokens(tokenizer, [prompt, gap + answer])
    return Encoded.of(opening + ids, [False] * len(opening) + [owner == 1 for owner in owners])


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """The tokenizer's opening tokens and the prompt's, ready to be continued: what `encode_answer` does not label,
    where no token spans the end of the prompt."""
    prompt, _ = _without_spaces(prompt)
    return _opening(tokenizer) + _tokens(tokenizer, [prompt])[0]


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> list[list[int]]:
    """Prompts as tokens, ready to be continued: behind the tokenizer's opening tokens, and without the end-of-text
    token that some tokenizers put after every text (`add_eos_token`)."""
    encoded = tokenizer(list(prompts), add_special_tokens=False)["input_ids"] if prompts else []
    opening = _opening(tokenizer)
    return [opening + ids for ids in encoded]


def ends_answer(text: str) -> bool:
    """Whether text that begins like this, right after an answer, leaves the answer as it is.

    It does after a line break and after punctuation, with or without a space before: `.`, ` (`, `,`. It does not if the
    first thing is a letter, a digit or a symbol, be it of the same word (`ville`) or, after a space, of another one
    (` Times`, ` and`), a joiner (see `JOINERS`), or punctuation inside a number or name (`.5`, `.com`). White space
    alone says nothing yet, and does not count as an end.

    Only one token is looked at. So `3` counts as ended where a student would go on `.`, `14` in two tokens: the full
    stop after a number ends it far more often.
    """
    space, first, follower = _START.match(text).groups()  # type: ignore[union-attr]  # it matches every text
    if len(space.splitlines()) > 1 or space.endswith(("\n", "\r")):
        return True
    return bool(first) and unicodedata.category(first)[0] == "P" and first not in JOINERS and not follower


@lru_cache(maxsize=8)  # 2 seconds for 49,000 tokens
def ending_tokens(tokenizer: PreTrainedTokenizerBase, size: int, final: frozenset[int]) -> Tensor:
    """Whether each of `size` tokens of a model ends an answer (V, bool): by its text, as one of `final`, with which the
    model ends its texts, or as another special token (but for the one that stands for unknown words)."""
    # Decoded behind a word, because a decoder may drop the space of a text's first token.
    word = tokenizer("a", add_special_tokens=False)["input_ids"]
    start = len(tokenizer.decode(word, clean_up_tokenization_spaces=False))
    texts = tokenizer.batch_decode([[*word, i] for i in range(len(tokenizer))], clean_up_tokenization_spaces=False)
    # Only a tokenizer without bytes reads a letter that nobody uses as its token for unknown words.
    unknown = tokenizer("\U000f0000", add_special_tokens=False)["input_ids"]
    ids = {i for i, text in enumerate(texts) if ends_answer(text[start:])}
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    ids |= final | (special.union(tokenizer.all_special_ids) - set(unknown))
    ends_V = torch.zeros(size, dtype=torch.bool)  # beyond the vocabulary it is padding
    ends_V[[i for i in ids if i < size]] = True
    return ends_V


def check_offsets(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises UserError for a tokenizer that cannot say which letters its tokens stand for."""
    if not tokenizer.is_fast:
        raise UserError(
            f"{type(tokenizer).__name__} of {tokenizer.name_or_path!r} gives no offsets, so that what its tokens stand"
            " for cannot be told: teachers and students need a tokenizer.json"
        )


def _tokens(tokenizer: PreTrainedTokenizerBase, parts: list[str]) -> tuple[list[int], list[int]]:
    """The tokens of a text that comes in parts, and the number of the part that each belongs to.

    The whole text is tokenized, as the model has met it in its training: SentencePiece's tokenizers (Llama 2, Mistral)
    put a mark before whatever they are given, so that parts that are tokenized by themselves get marks that the text
    does not have. A token belongs to the part in which it ends: one that spans a boundary holds letters that only the
    later part decides.
    """
    encoded = tokenizer("".join(parts), add_special_tokens=False, return_offsets_mapping=True)
    # Control tokens that take no letter are at 0: they stay with what is before them.
    ends = np.maximum.accumulate([end for _, end in encoded["offset_mapping"]], dtype=np.int64)
    part_ends = np.cumsum([len(part) for part in parts])
    return encoded["input_ids"], np.searchsorted(part_ends, ends).tolist()


def _without_spaces(prompt: str) -> tuple[str, str]:
    """A prompt, and the spaces at its end."""
    stripped = prompt.rstrip(" ")
    return stripped, prompt[len(stripped) :]


def _opening(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that this tokenizer puts before any text: BOS for Llama and Gemma, none for Qwen and SmolLM2. What it
    puts after one (T5, BERT, `add_eos_token`) is left out; it may be the same token."""
    text, whole = tokenizer("a", add_special_tokens=False)["input_ids"], tokenizer("a")["input_ids"]
    ends = range(len(text), len(whole) + 1)
    return next((whole[: end - len(text)] for end in ends if text and whole[end - len(text) : end] == text), [])
