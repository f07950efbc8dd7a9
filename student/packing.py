"""Texts of many students packed into rows without waste.

A row holds several texts of *one* student, each with positions from zero; the attention mask that transformers derives from
restarting positions keeps them apart. Rows are ordered by slot.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from student.encoding import Encoded
from student.lora import Rows


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


def first_fit(lengths: list[int], capacity: int) -> list[list[int]]:
    """Indices packed into rows of `capacity`, longest first (first-fit decreasing: at most 11/9 of the best + 1 rows)."""
    rows: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        assert lengths[index] <= capacity
        row = next((r for r, left in enumerate(room) if left >= lengths[index]), None)
        if row is None:
            rows.append([])
            room.append(capacity)
            row = len(rows) - 1
        rows[row].append(index)
        room[row] -= lengths[index]
    return rows


def choose_row_tokens(lengths_by_slot: list[list[int]], limit: int | None) -> int:
    """The row length that wastes the fewest positions, between the longest text and 1,024 tokens (or `limit`).

    Among equals the shortest: attention is quadratic in it.
    """
    longest = max(max(lengths) for lengths in lengths_by_slot)
    if limit is not None:
        return max(limit, longest)
    totals = [sum(lengths) for lengths in lengths_by_slot]
    # Rows beyond the fullest slot's total would be empty at the end.
    top = min(max(1024, longest), max(totals))
    candidates = sorted({longest, top, *(min(top, int(longest * f)) for f in (1.25, 1.5, 2, 2.5, 3, 4, 6, 8)), *totals})
    candidates = [c for c in candidates if longest <= c <= top]
    step = max(1, len(candidates) // 24)

    def positions(capacity: int) -> int:
        return capacity * sum(len(first_fit(lengths, capacity)) for lengths in lengths_by_slot)

    # 2% is what one more multiple of the attention matrix is worth.
    best = min(map(positions, candidates[::step]))
    return next(c for c in candidates[::step] if positions(c) <= 1.02 * best)


def pack(
    pieces: list[Piece], n_slots: int, pad_id: int, device: torch.device, row_tokens: int | None = None
) -> Batch:
    """Packs all pieces into one batch.

    Args:
        pieces: the step's texts, in any order.
        n_slots: students allocated; needed to know whether every one of them has equally many rows.
        row_tokens: fixed row length (a longer text lengthens it); None picks the fullest.
    """
    by_slot: dict[int, list[Piece]] = {}
    for piece in sorted(pieces, key=lambda p: p.slot):
        by_slot.setdefault(piece.slot, []).append(piece)
    lengths_by_slot = [[len(p.text) for p in group] for group in by_slot.values()]
    width = choose_row_tokens(lengths_by_slot, row_tokens)
    rows = [
        [group[m] for m in members]
        for group, lengths in zip(by_slot.values(), lengths_by_slot, strict=True)
        for members in first_fit(lengths, width)
    ]
    ids = np.full((len(rows), width), pad_id)
    # Each padding token keeps position zero, a text of its own: nothing attends to it, and it attends to nothing.
    position_ids = np.zeros((len(rows), width), dtype=np.int64)
    index, target, ordered = [], [], []
    for row, members in enumerate(rows):
        start = 0
        for piece in members:
            text, end = piece.text, start + len(piece.text)
            ids[row, start:end] = text.ids
            position_ids[row, start:end] = np.arange(len(text))
            index.append(text.labelled + (row * width + start - 1))
            target.append(text.ids[text.labelled])
            ordered.append(piece)
            start = end
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
        rows=Rows.of([members[0].slot for members in rows], n_slots, device),
    )
