"""Which tokens show that an answer is over: `New York` is not the answer of a student that goes on `Times`."""

import re
import unicodedata
from functools import lru_cache

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

JOINERS = frozenset("-‐‑–'’&/\\%#@_")
"""Punctuation that goes on with a word or number: York-based, York's, 1914–18, 5%."""

_START = re.compile(r"(\s*)(\S?)(\w?)", re.DOTALL)


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
