"""Texts of many students packed into rows without waste.

A row holds texts of *one* student, each with positions from zero; the attention mask that transformers derives from
restarting positions keeps them apart. (Rows shared by students would pack fuller still, but a masked value of a
student that
diverged reaches the others: zero times NaN is NaN.) Rows of like length share a forward pass, so that short lessons
beside long ones waste nothing.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
import torch
from torch import Tensor

from student.engine.encoding import Encoded
from student.engine.lora import Rows

ROW_TOKENS = 256
"""Texts share a row up to this length: beyond it attention, quadratic in the row, costs more than a fuller row
saves."""

PASS_TOKENS_CPU, PASS_TOKENS_GPU = 256, 8192
"""What a forward pass costs beside its positions, in positions: Python and kernel launches."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One text of one slot in one step."""

    slot: int
    text: Encoded
    share: float = 1.0
    """Weight of each of its labelled tokens in the loss."""
    tag: int = 0
    """Whatever the caller wants to find its tokens by."""


@dataclass(frozen=True, slots=True)
class Batch:
    """R rows of T tokens, and the N labelled positions among them."""

    ids_RT: Tensor
    position_ids_RT: Tensor
    """(1, T) where no row holds several texts: all count alike, and nothing of them is computed R times."""
    index_N: Tensor
    """Flat positions (into R*T) whose *next* token is labelled."""
    target_N: Tensor
    share_N: Tensor
    slot_N: Tensor
    tag_N: Tensor
    rows: Rows

    @property
    def positions(self) -> int:
        return self.ids_RT.numel()


def pack(
    pieces: Iterable[Piece],
    n_slots: int,
    pad_id: int,
    device: torch.device,
    *,
    max_tokens: int,
    row_tokens: int | None = None,
) -> list[Batch]:
    """Packs all pieces into batches of at most `max_tokens` positions (a longer text is a batch of its own).

    Args:
        pieces: the texts of one step or one exam, in any order.
        n_slots: students allocated.
        row_tokens: length up to which texts share a row; a longer text has its own. None: `ROW_TOKENS`.
    """
    capacity = min(row_tokens or ROW_TOKENS, max_tokens)
    by_slot: dict[int, list[Piece]] = {}
    for piece in pieces:
        by_slot.setdefault(piece.slot, []).append(piece)
    rows = []
    for group in by_slot.values():
        lengths = [len(piece.text) for piece in group]
        rows += [[group[i] for i in members] for members in first_fit(lengths, capacity)]
    pass_tokens = PASS_TOKENS_GPU if device.type == "cuda" else PASS_TOKENS_CPU
    batches = []
    for bucket in bucket_rows(rows, pass_tokens):
        bucket.sort(key=lambda row: row[0].slot)
        at_once = max(1, max_tokens // max(map(row_length, bucket)))
        batches += [bucket[start : start + at_once] for start in range(0, len(bucket), at_once)]
    return [_batch(rows, n_slots, pad_id, device) for rows in batches]


def row_length(row: list[Piece]) -> int:
    """Tokens in a row, padding left out."""
    return sum(len(piece.text) for piece in row)


def first_fit(lengths: list[int], capacity: int) -> list[list[int]]:
    """Indices packed into rows of `capacity`, longest first (first-fit decreasing: at most 11/9 of the best + 1
    rows); what is longer has a row of its own."""
    rows: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        row = next((r for r, left in enumerate(room) if left >= lengths[index]), None)
        if row is None:
            rows.append([])
            room.append(max(capacity, lengths[index]))
            row = len(rows) - 1
        rows[row].append(index)
        room[row] -= lengths[index]
    return rows


def bucket_rows(rows: list[list[Piece]], pass_tokens: int) -> list[list[list[Piece]]]:
    """Rows grouped by length so that positions plus `pass_tokens` a forward pass are fewest (exact, up to steps of 8).

    Dynamic programming over lengths: a bucket is a range of lengths, and its rows are as long as its longest.
    """
    by_length: dict[int, list[list[Piece]]] = {}
    for row in rows:
        by_length.setdefault(-(-row_length(row) // 8), []).append(row)
    lengths = sorted(by_length)
    longest = [max(map(row_length, by_length[length])) for length in lengths]
    counted = np.cumsum([0, *(len(by_length[length]) for length in lengths)])
    best: list[tuple[int, int]] = [(0, 0)]
    for end in range(1, len(lengths) + 1):
        best.append(
            min(
                (best[start][0] + longest[end - 1] * int(counted[end] - counted[start]) + pass_tokens, start)
                for start in range(end)
            )
        )
    buckets, end = [], len(lengths)
    while end:
        start = best[end][1]
        buckets.append([row for length in lengths[start:end] for row in by_length[length]])
        end = start
    return buckets


def _batch(rows: list[list[Piece]], n_slots: int, pad_id: int, device: torch.device) -> Batch:
    """Rows, in the order of their slots, as tensors."""
    width = max(map(row_length, rows))
    ids = np.full((len(rows), width), pad_id)
    position_ids = np.empty((len(rows), width), dtype=np.int64)
    index, target, ordered = [], [], []
    for number, row in enumerate(rows):
        start = 0
        for piece in row:
            text, end = piece.text, start + len(piece.text)
            ids[number, start:end] = text.ids
            position_ids[number, start:end] = np.arange(len(text))
            index.append(text.labelled + (number * width + start - 1))
            target.append(text.ids[text.labelled])
            ordered.append(piece)
            start = end
        # Padding goes on as the last text would: no text looks ahead, and a row of one text then needs no mask at all.
        position_ids[number, start:] = np.arange(width - start) + len(row[-1].text)
    if all(len(row) == 1 for row in rows):
        position_ids = position_ids[:1]
    counts = [len(places) for places in index]

    def per_label(values: list[float] | list[int], dtype: type) -> Tensor:
        return torch.from_numpy(np.repeat(np.array(values, dtype=dtype), counts)).to(device)

    return Batch(
        ids_RT=torch.from_numpy(ids).to(device),
        position_ids_RT=torch.from_numpy(position_ids).to(device),
        index_N=torch.from_numpy(np.concatenate(index)).to(device),
        target_N=torch.from_numpy(np.concatenate(target)).to(device),
        share_N=per_label([p.share for p in ordered], np.float32),
        slot_N=per_label([p.slot for p in ordered], np.int64),
        tag_N=per_label([p.tag for p in ordered], np.int64),
        rows=Rows.of([row[0].slot for row in rows], n_slots, device),
    )


def even_runs(lengths: list[int], count: int, max_tokens: int) -> list[slice]:
    """At most `count` runs of neighbours, of which the longest to compute is as short as can be.

    Unlike `cut` it knows the lengths in tokens, and so what padding adds (`positions`); nothing is left for later.
    """

    def filled(most: int) -> list[slice]:
        runs, start = [], 0
        while start < len(lengths):
            fit = sum(1 for _ in takewhile(lambda so_far: so_far <= most, _positions(lengths[start:], max_tokens)))
            runs.append(slice(start, start + fit))
            start += fit
        return runs or [slice(0, 0)]

    low = max(lengths, default=0)
    high = len(lengths) * low
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(filled(middle)) <= count else (middle + 1, high)
    return filled(low)


def positions(lengths: list[int], max_tokens: int) -> int:
    """Positions of a step of students of these lengths, all padding counted: those of a pass are as long as its
    longest, and come sorted by length, so that this is little."""
    return max(_positions(lengths, max_tokens), default=0)


def _positions(lengths: list[int], max_tokens: int) -> Iterator[int]:
    """The same of the first, the first two, ..."""
    before = size = longest = of_all = 0
    for length in lengths:
        of_all = max(of_all, length)
        if size >= max(1, max_tokens // max(1, of_all)):  # a pass is full
            before, size, longest = before + size * longest, 0, 0
        size, longest = size + 1, max(longest, length)
        yield before + size * longest
