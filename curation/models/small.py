"""A small student of real text, pretrained from scratch on shards in minutes: for machines on which one student of
SmolLM2 takes half a minute.

    python -m curation.models.small runs/corpus/usr_share_doc.jsonl --output models/small-text

Its tokenizer is a byte-level BPE of the same shards, its model a Llama of about a million parameters.
"""

import argparse
import random
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from tokenizers import ByteLevelBPETokenizer, processors
from transformers import PreTrainedTokenizerFast

from configs.errors import UserError
from curation.console.progress import say
from curation.corpus.finding import find_shards
from curation.corpus.shards import BadRow, read_shard
from curation.lab.models import Batch, fit, new_model, save

VOCABULARY = 4096
WIDTH, LAYERS, HEADS = 128, 3, 4
CONTEXT, LONGEST = 256, 1024
"""Tokens of a row, and the most that the model reads."""
ROWS = 8
LEARNING_RATE = 4e-3


def pretrain(patterns: Sequence[str], output: Path, steps: int, seed: int = 0) -> None:
    """Makes `output` a model folder, whole or not at all. Every step takes `ROWS` rows of `CONTEXT` tokens from random
    places of the documents, which stand one behind another. Raises UserError for
    shards that are not there, and for an `output` that is."""
    if output.exists():
        raise UserError(f"{output} is there already")
    texts = [row.text for shard in find_shards(patterns) for row in read_shard(shard) if not isinstance(row, BadRow)]
    tokenizer = _tokenizer(texts)
    rows = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    ids = [i for row in rows for i in (*row, tokenizer.eos_token_id)]
    model = new_model(tokenizer, seed, width=WIDTH, layers=LAYERS, heads=HEADS, context=LONGEST)
    say(f"{len(texts)} documents, {len(ids):,} tokens; {model.num_parameters():,} parameters")
    fit(model, _batches(torch.tensor(ids), seed), steps=steps, learning_rate=LEARNING_RATE, say=say)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".small-") as scratch:
        save(model, tokenizer, Path(scratch) / "model")
        (Path(scratch) / "model").rename(output)


def _tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    core = ByteLevelBPETokenizer()
    core.train_from_iterator(texts, VOCABULARY, special_tokens=["<pad>", "<bos>", "<eos>"], show_progress=False)
    core.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", core.token_to_id("<bos>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core._tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>",
        clean_up_tokenization_spaces=False, model_max_length=LONGEST,
    )  # fmt: skip


def _batches(ids: torch.Tensor, seed: int) -> Iterator[Batch]:
    """Endless batches; ids of shape (tokens,)."""
    rng = random.Random(f"rows {seed}")
    while True:
        starts = [rng.randrange(max(1, len(ids) - CONTEXT)) for _ in range(ROWS)]
        ids_BT = torch.stack([ids[start : start + CONTEXT] for start in starts])
        yield ids_BT, ids_BT


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("shards", nargs="+")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=400)
    arguments = parser.parse_args()
    pretrain(arguments.shards, arguments.output, arguments.steps)
