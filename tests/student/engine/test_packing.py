"""Packed equals unpacked, and little is wasted."""

import itertools
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from student.engine.encoding import Encoded, encode_answer, encode_text
from student.engine.packing import Piece, Rows, buckets, first_fit, pack, row_length
from student.engine.training import batch_loss
from student.records import Segment

TEXTS = ["the cat sat on the mat .", "where did it sit ?", "a", "the dog ran over the red rug . it was green ."]


def pieces(tokenizer):
    return [Piece(0, encode_text(tokenizer, text, "all", 64)[0], tag=i) for i, text in enumerate(TEXTS)]


@pytest.mark.parametrize(("row_tokens", "max_tokens"), [(None, 1000), (16, 1000), (None, 20)])
def test_packed_equals_unpacked(any_model, tokenizer, row_tokens, max_tokens):
    """Each text's log-likelihoods are those it has alone: no attention across texts, positions from zero."""
    batches = pack(
        pieces(tokenizer), 1, tokenizer.pad_token_id, any_model.device, max_tokens=max_tokens, row_tokens=row_tokens
    )
    tags = torch.cat([batch.tag_N for batch in batches])
    with torch.no_grad():
        nll = torch.cat([batch_loss(any_model, batch)[1] for batch in batches])
        for piece in pieces(tokenizer):
            ids = torch.from_numpy(piece.text.ids)[None]
            logits = any_model(input_ids=ids).logits[0]
            alone = torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:], reduction="none")
            assert torch.allclose(nll[tags == piece.tag], alone, atol=1e-5)


def test_rows_hold_one_slot_each_in_slot_order(tokenizer):
    texts = [Piece(slot, encode_text(tokenizer, text, "all", 64)[0]) for text in TEXTS for slot in (2, 0, 1)]
    [batch] = pack(texts, 3, tokenizer.pad_token_id, torch.device("cpu"), max_tokens=1000)
    assert batch.rows.index_G is None
    assert len(batch.target_N) == sum(len(p.text.labelled) for p in texts)
    assert Rows.of([0, 0, 1], 2, torch.device("cpu")).index_G.tolist() == [0, 0, 1]
    assert Rows.of([1, 1, 3, 3], 4, torch.device("cpu")).index_G.tolist() == [1, 3]


def test_first_fit_never_overfills():
    rng = random.Random(0)
    lengths = [rng.randint(1, 50) for _ in range(200)]
    rows = first_fit(lengths, 50)
    assert sorted(i for row in rows for i in row) == list(range(200))
    assert all(sum(lengths[i] for i in row) <= 50 for row in rows)
    assert len(rows) <= 1.25 * np.ceil(sum(lengths) / 50) + 1


def test_buckets_are_the_cheapest_partition():
    """Against all partitions of the sorted lengths, for lengths the buckets see exactly."""
    rng = random.Random(0)
    for _ in range(20):
        lengths = sorted(8 * rng.randint(1, 30) for _ in range(9))
        rows = [[Piece(0, Encoded.of([0] * length, [True] * length))] for length in lengths]
        parts = buckets(rows, row_length, 100)
        assert sorted(row_length(row) for bucket in parts for row in bucket) == lengths
        found = sum(len(bucket) * max(map(row_length, bucket)) + 100 for bucket in parts)
        cuts = ([0, *c, 9] for n in range(9) for c in itertools.combinations(range(1, 9), n))
        best = min(sum((e - s) * lengths[e - 1] + 100 for s, e in itertools.pairwise(cut)) for cut in cuts)
        assert found == best


def test_only_the_named_kind_is_labelled(tokenizer):
    text = (Segment("prompt", "what is red ?"), Segment("answer", " the rug"))
    [answer] = encode_text(tokenizer, text, "answer", 64)
    assert tokenizer.decode(answer.ids[answer.labelled]) == " the rug<eos>"
    [prompt] = encode_text(tokenizer, text, "prompt", 64)
    assert tokenizer.decode(prompt.ids[prompt.labelled]) == " is red ?"  # nothing comes before the first token
    assert len(encode_text(tokenizer, text, "all", 64)[0].labelled) == 6
    assert len(encode_text(tokenizer, text, "other", 64)[0].labelled) == 0


@pytest.mark.parametrize("opening", [0, 1, 3])
@pytest.mark.parametrize("tokens", [7, 8, 9, 21, 64, 65])
def test_every_token_of_a_long_text_is_learnt_once_and_in_order(tokens, opening):
    ids = list(range(100, 100 + tokens))
    learnt = [position % 3 > 0 for position in range(tokens)]
    whole = Encoded.of(ids, learnt)
    parts = whole.split(8, opening)
    assert all(len(part) <= 8 for part in parts) and max(map(len, parts)) - min(map(len, parts)) <= 1 + opening
    assert [int(part.ids[at]) for part in parts for at in part.labelled] == whole.ids[whole.labelled].tolist()
    for part in parts:
        before = {int(part.ids[at]): int(part.ids[at - 1]) for at in part.labelled}
        assert all(previous == token - 1 for token, previous in before.items()), "after the token that it follows"
        assert part.ids[:opening].tolist() == ids[:opening]


def test_a_long_text_goes_on_in_further_texts(tokenizer):
    parts = encode_text(tokenizer, " ".join(["the cat"] * 10), "all", 8)
    assert [len(part) for part in parts] == [7, 8, 8]
    assert sum(len(part.labelled) for part in parts) == 20


def test_no_pass_exceeds_its_tokens_unless_a_single_text_does():
    def texts(*lengths):
        return [Piece(0, Encoded(ids=np.zeros(n, dtype=np.int64), labelled=np.arange(1, n))) for n in lengths]

    def shapes(found, **limits):
        return sorted(tuple(b.ids_RT.shape) for b in pack(found, 1, 0, torch.device("cpu"), **limits))

    long = shapes(texts(2000, *[100] * 40), max_tokens=512)
    assert long.count((1, 2000)) == 1, "a long text makes no other row long"
    assert all(rows * width <= 512 for rows, width in long if width != 2000)
    assert all(rows * width <= 32 for rows, width in shapes(texts(*[20] * 40), max_tokens=32))
    assert max(width for _, width in shapes(texts(*[20] * 40), max_tokens=4096)) > 200


def test_only_answers_are_labelled(tokenizer):
    encoded = encode_answer(tokenizer, "what is red ?", "the rug")
    assert tokenizer.decode(encoded.ids[encoded.labelled]) == " the rug"


def test_label_fraction_on_real_rewrites(tokenizer):
    """At least 0.85 of the positions carry a label on SEAL's rewrites of SQuAD passages, a line a text."""
    path = Path(__file__).parents[4] / "shared" / "data" / "seal_rewrites.jsonl"
    if not path.is_file():
        pytest.skip("../shared/data/seal_rewrites.jsonl is not here")
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[:6]]
    rewrites = [rewrite for line in lines for rewrite in line["rewrites"][:5]]
    texts = [
        Piece(slot, encode_text(tokenizer, line, "all", 512)[0])
        for slot, rewrite in enumerate(rewrites)
        for line in rewrite.splitlines()
        if line.strip()
    ]
    batches = pack(texts, len(rewrites), tokenizer.pad_token_id, torch.device("cpu"), max_tokens=4096)
    labels = sum(len(batch.target_N) for batch in batches)
    assert labels == sum(len(piece.text.labelled) for piece in texts)
    assert labels / sum(batch.positions for batch in batches) >= 0.85
