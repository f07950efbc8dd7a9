"""Words and n-grams of texts, and how much the texts of one lesson repeat each other."""

import re
from collections.abc import Iterable, Sequence

_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """Lower-case words without punctuation."""
    return _WORD.findall(text.lower())


def word_line(words: Iterable[str]) -> str:
    """Words as one line with a space at each end, so that `in` finds whole words only."""
    return f" {' '.join(words)} "


def ngrams(tokens: Sequence[str], n: int) -> Iterable[tuple[str, ...]]:
    """All stretches of `n` tokens in a row."""
    # Ten times as fast as slices, and the gates' largest cost on a corpus.
    return zip(*(tokens[i:] for i in range(n)), strict=False)


def overlap_shares(texts: Sequence[str]) -> list[float]:
    """For each text the share (0 ... 1) of its word 4-grams that another of the texts holds too; 0 for one that is
    shorter. The mean over a set is a self-BLEU of one order (arXiv 1802.01886), without its brevity penalty."""
    grams_by_text = [list(ngrams(words(text), 4)) for text in texts]
    shares = []
    for i, grams in enumerate(grams_by_text):
        others = {gram for j, other in enumerate(grams_by_text) if j != i for gram in other}
        shares.append(sum(gram in others for gram in grams) / len(grams) if grams else 0.0)
    return shares
