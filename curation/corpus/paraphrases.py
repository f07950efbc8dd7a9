"""Finds reworded benchmark items in a text by sentence embeddings.

N-grams miss an item that was reworded (arXiv 2311.04850, whose decontaminator finds its candidates by embeddings too,
and lets a language model judge them). Here the similarity alone decides, so the right `curation.max_similarity` depends
on the embedder: look at a few hundred pairs of your own before you trust a number.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from configs.errors import UserError

_SENTENCE = re.compile(r"[^.!?\n]+[.!?]*")


class Paraphrases:
    """The items of benchmarks as unit vectors. A text is compared with them sentence by sentence, and by two sentences
    in a row, because an item is mostly a question and its answer.

    Raises UserError where sentence-transformers or the model is missing. The model is loaded for the first text.
    """

    def __init__(self, items: Mapping[str, Sequence[str]], embedder: str, max_similarity: float):
        """`items` are questions with their answers, by benchmark."""
        if find_spec("sentence_transformers") is None:
            raise UserError("curation.embedder needs sentence-transformers: pip install 'notewright[embeddings]'")
        folder = Path(embedder)
        is_local = folder.exists() or embedder.startswith((".", "/", "~")) or embedder.count("/") > 1
        if is_local and not any((folder / name).is_file() for name in ("modules.json", "config.json")):
            raise UserError(
                f"curation.embedder: {embedder} is no model folder: it holds no modules.json and no config.json"
            )
        self.embedder, self.max_similarity = embedder, max_similarity
        self.names = [name for name, texts in items.items() for _ in texts]
        self.texts = tuple(text for texts in items.values() for text in texts)

    def benchmark_in(self, text: str) -> str | None:
        """The name of the benchmark whose item is most similar to a passage of the text, where the similarity is at
        least `max_similarity`."""
        sentences = [stripped for match in _SENTENCE.findall(text) if (stripped := match.strip())]
        pairs = [f"{first} {second}" for first, second in pairwise(sentences)]
        passages = list(dict.fromkeys(sentences + pairs))
        if not passages or not self.texts:
            return None
        cosine_I = (_embed_items(self.embedder, self.texts) @ _embed(self.embedder, passages).T).max(axis=1)
        most_similar = int(cosine_I.argmax())
        return self.names[most_similar] if cosine_I[most_similar] >= self.max_similarity else None


@lru_cache(maxsize=1)
def _model(embedder: str) -> Any:
    from sentence_transformers import SentenceTransformer

    try:
        return SentenceTransformer(embedder)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:  # the last: truncated weights
        raise UserError(f"curation.embedder: cannot load {embedder!r}: {str(error).splitlines()[0]}") from error


# The items are embedded once for all tasks of a process.
@lru_cache(maxsize=1)
def _embed_items(embedder: str, texts: tuple[str, ...]) -> np.ndarray:
    return _embed(embedder, texts)


def _embed(embedder: str, texts: Sequence[str]) -> np.ndarray:
    """float32 (texts, dimensions), each of length 1."""
    vectors = _model(embedder).encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
    return np.asarray(vectors, dtype=np.float32)
