"""How much the texts of one lesson repeat each other."""

from collections.abc import Sequence

from teacher.gates import ngrams, words


def overlap_shares(texts: Sequence[str], n: int = 4) -> list[float]:
    """For each text the share (0 ... 1) of its word `n`-grams that another of the texts holds too; 0 for one that is
    shorter. The mean over a set is a self-BLEU of one order (arXiv 1802.01886), without its brevity penalty."""
    grams = [list(ngrams(words(text), n)) for text in texts]
    shares = []
    for i, own in enumerate(grams):
        others = {gram for j, theirs in enumerate(grams) if j != i for gram in theirs}
        shares.append(sum(gram in others for gram in own) / len(own) if own else 0.0)
    return shares
