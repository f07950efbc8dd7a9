"""Texts of many students packed into rows, so that few positions are padding.

A row holds texts of one student, each with positions from zero; the attention mask that transformers derives from
restarting positions keeps them apart. Rows that students share would be fuller still, but what is masked is multiplied
by zero, and zero times the NaN of a student that diverged is NaN for the others. Rows of like length share a forward
pass, so that a long lesson does not lengthen the rows of short ones.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from student.engine.encoding import Encoded

T = TypeVar("T")

ROW_TOKENS = 256
"""Longest row that texts share: beyond it attention, quadratic in the row, costs more than a fuller row saves."""

PASS_TOKENS_CPU, PASS_TOKENS_GPU = 256, 8192
"""What a forward pass costs beside its positions (Python, kernel launches), in positions of the same duration."""


CACHED = 8
"""Keys and values of so many positions take less memory than one position that is trained on: in a layer they are at
most twice as wide as its input, and training keeps more than 16 times that width."""


class Targets(NamedTuple):
    """What a student is to predict at the L labelled positions of a text, where that is not the text's own tokens."""

    tokens_LK: np.ndarray
    """int32: the K likeliest tokens."""
    logliks_LB: np.ndarray
    """float32: log-likelihoods of these, and last that of all other tokens together (B = K + 1)."""

    @property
    def nbytes(self) -> int:
        return self.tokens_LK.nbytes + self.logliks_LB.nbytes


@dataclass(frozen=True, slots=True)
class Piece:
    """One text of one slot in one step."""

    slot: int
    text: Encoded
    share: float = 1.0
    """Weight of each of its labelled tokens in the loss."""
    tag: int = 0
    """A number by which the caller finds its tokens again (`Batch.tag_N`)."""
    targets: Targets | None = None
    """None: the labelled tokens themselves."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The slot that each row of a batch belongs to."""

    index_G: Tensor | None
    """int64 (G,): the slots of G equally large blocks of consecutive rows; None where block k is slot k, for all k."""

    @classmethod
    def of(cls, slots: list[int], n_slots: int, device: torch.device) -> "Rows":
        """From the slot of each row, in ascending order. A block holds all rows of a slot if all slots present have
        equally many rows; otherwise each row is a block."""
        assert slots == sorted(slots), "rows are ordered by slot"
        blocks = list(dict.fromkeys(slots))
        if slots != [slot for slot in blocks for _ in range(len(slots) // len(blocks))]:
            blocks = slots
        if blocks == list(range(n_slots)):
            return cls(None)  # adapters are used in place, without a gather
        return cls(torch.tensor(blocks, device=device))


@dataclass(frozen=True, slots=True)
class Batch:
    """R rows of T tokens, and the N labelled positions among them."""

    ids_RT: Tensor
    position_ids_RT: Tensor
    """(R, T), or (1, T) if each row holds one text: positions are the same then, and what follows from them (rotary
    embeddings, mask) is computed once for all rows."""
    index_N: Tensor
    """Flat positions (into R*T) whose *next* token is labelled."""
    target_N: Tensor
    share_N: Tensor
    slot_N: Tensor
    tag_N: Tensor
    last_P: Tensor
    """Flat position of the last token of each of the P texts."""
    tag_P: Tensor
    rows: Rows
    targets: tuple[Tensor, Tensor] | None = None
    """Tokens (N, K; int64) and log-likelihoods (N, B; float32) of `Targets`, if all texts have some; else none has."""

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
    """Packs texts, in any order, into batches of at most `max_tokens` positions (a longer text is a batch of its own).

    `n_slots` students are allocated; texts share rows of up to `row_tokens` (None: `ROW_TOKENS`). All texts of a slot
    have targets or none has; the former are in batches of their own.
    """
    capacity = min(row_tokens or ROW_TOKENS, max_tokens)
    by_slot: dict[int, list[Piece]] = defaultdict(list)
    for piece in pieces:
        by_slot[piece.slot].append(piece)
    rows = [
        [group[i] for i in members]
        for group in by_slot.values()
        for members in first_fit([len(piece.text) for piece in group], capacity)
    ]
    batches = []
    alike = ([row for row in rows if (row[0].targets is None) == plain] for plain in (True, False))
    for bucket in (bucket for some in alike for bucket in buckets(some, row_length, pass_tokens(device))):
        bucket.sort(key=lambda row: row[0].slot)
        at_once = max(1, max_tokens // max(map(row_length, bucket)))
        batches += [bucket[start : start + at_once] for start in range(0, len(bucket), at_once)]
    return [_batch(rows, n_slots, pad_id, device) for rows in batches]


def pass_tokens(device: torch.device) -> int:
    """What a forward pass costs beside its positions, in positions."""
    return PASS_TOKENS_GPU if device.type == "cuda" else PASS_TOKENS_CPU


def row_length(row: list[Piece]) -> int:
    """Tokens in a row, padding left out."""
    return sum(len(piece.text) for piece in row)


def first_fit(lengths: list[int], capacity: int) -> list[list[int]]:
    """Indices of texts in rows of `capacity` tokens; a longer text has a row of its own. (First-fit decreasing: at most
    11/9 of the fewest possible rows, plus one.)"""
    rows: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        r = next((r for r, free in enumerate(room) if free >= lengths[index]), len(rows))
        if r == len(rows):
            rows.append([])
            room.append(max(capacity, lengths[index]))
        rows[r].append(index)
        room[r] -= lengths[index]
    return rows


def buckets(rows: Sequence[T], length: Callable[[T], int], pass_tokens: int, step: int = 8) -> list[list[T]]:
    """Rows grouped by length so that positions, plus `pass_tokens` for each group's forward pass, are fewest: dynamic
    programming over lengths in steps of `step`. A bucket is a range of lengths; its rows are padded to its longest."""
    by_length: dict[int, list[T]] = defaultdict(list)
    for row in rows:
        by_length[math.ceil(length(row) / step)].append(row)
    lengths = sorted(by_length)
    longest = [max(map(length, by_length[steps])) for steps in lengths]
    counted = np.cumsum([0, *(len(by_length[length]) for length in lengths)])
    # The fewest positions of the rows up to each length, and the length at which the last bucket starts.
    best: list[tuple[int, int]] = [(0, 0)]
    for end in range(1, len(lengths) + 1):
        costs = (best[s][0] + longest[end - 1] * int(counted[end] - counted[s]) + pass_tokens for s in range(end))
        best.append(min((cost, start) for start, cost in enumerate(costs)))
    found, end = [], len(lengths)
    while end:
        start = best[end][1]
        found.append([row for steps in lengths[start:end] for row in by_length[steps]])
        end = start
    return found


def _batch(rows: list[list[Piece]], n_slots: int, pad_id: int, device: torch.device) -> Batch:
    """Rows, in the order of their slots, as tensors."""
    width = max(map(row_length, rows))
    longest = max(len(piece.text) for row in rows for piece in row)
    ids_RT = np.full((len(rows), width), pad_id)
    position_ids_RT = np.empty((len(rows), width), dtype=np.int64)
    index, target, last = [], [], []
    for r, row in enumerate(rows):
        start = 0
        for piece in row:
            text, end = piece.text, start + len(piece.text)
            ids_RT[r, start:end] = text.ids
            position_ids_RT[r, start:end] = np.arange(len(text))
            index.append(text.labelled + (r * width + start - 1))  # the hidden state before a token predicts it
            target.append(text.ids[text.labelled])
            last.append(r * width + end - 1)
            start = end
        # Padding continues the last text's positions: no token attends to a later one, and a row that holds one text
        # then needs no mask at all. It ends where the longest text does: a model may have learned no position beyond.
        position_ids_RT[r, start:] = np.minimum(np.arange(width - start) + len(row[-1].text), longest - 1)
    if all(len(row) == 1 for row in rows):
        position_ids_RT = position_ids_RT[:1]
    pieces = [piece for row in rows for piece in row]
    repeats = [len(piece.text.labelled) for piece in pieces]
    slots, shares, tags = zip(*((piece.slot, piece.share, piece.tag) for piece in pieces), strict=True)
    arrays = {
        "ids_RT": ids_RT,
        "position_ids_RT": position_ids_RT,
        "index_N": np.concatenate(index),
        "target_N": np.concatenate(target),
        "share_N": np.repeat(np.array(shares, dtype=np.float32), repeats),
        "slot_N": np.repeat(np.array(slots, dtype=np.int64), repeats),
        "tag_N": np.repeat(np.array(tags, dtype=np.int64), repeats),
        "last_P": np.array(last),
        "tag_P": np.array(tags),
    }
    tensors = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
    targets = [piece.targets for piece in pieces if piece.targets is not None]
    assert len(targets) in (0, len(pieces)), "texts with targets are in batches of their own"
    if targets:
        tokens_NK, logliks_NB = (
            torch.from_numpy(np.concatenate(parts)).to(device) for parts in zip(*targets, strict=True)
        )
    return Batch(
        **tensors, rows=Rows.of([row[0].slot for row in rows], n_slots, device),
        targets=(tokens_NK.long(), logliks_NB) if targets else None,
    )  # fmt: skip


class Part(NamedTuple):
    """A prompt, or what one of its answers adds: a row of a pass whose keys and values are taken over."""

    slot: int
    owner: int
    """Number of its question."""
    text: int
    """Number of its answer; 0 for the prompt."""
    start: int
    """Its first token's position."""
    ids: np.ndarray


def passes(parts: Sequence[Part], max_tokens: int, pass_tokens: int, cached: int = 0) -> Iterator[list[Part]]:
    """Parts in forward passes of like length, each sorted by slot. A pass computes at most `max_tokens` positions, and
    costs `pass_tokens` beside them. Each of its rows goes on after `cached` positions."""
    for bucket in buckets(parts, lambda part: len(part.ids), pass_tokens, step=1):
        width = max(len(part.ids) for part in bucket)
        at_once = max(1, min(max_tokens // width, CACHED * max_tokens // (cached + width)))
        # Where all students are asked the same, a pass has a part of all of them or of none: slots with equally many
        # rows need no copies of their adapters (see `Rows.of`).
        slots = len({part.slot for part in bucket})
        at_once -= at_once % slots if at_once > slots else 0
        bucket.sort(key=lambda part: (len(part.ids), part.start, part.ids.tobytes(), part.owner))
        for first in range(0, len(bucket), at_once):
            yield sorted(bucket[first : first + at_once], key=lambda part: (part.slot, part.owner))


def padded(parts: Sequence[Part], pad_id: int, device: torch.device, *, left: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids, mask and positions of a pass (R, T), padded on one side. Prompts are padded on the left, so that what
    follows them goes on at the same column."""
    width = max(len(part.ids) for part in parts)
    ids_RT, column_RT = np.full((len(parts), width), pad_id), np.empty((len(parts), width), dtype=np.int64)
    for r, part in enumerate(parts):
        first = width - len(part.ids) if left else 0
        ids_RT[r, first : first + len(part.ids)] = part.ids
        column_RT[r] = np.arange(width) - first
    length_R1 = np.array([[len(part.ids)] for part in parts])
    mask_RT = ((column_RT >= 0) & (column_RT < length_R1)).astype(np.int64)
    # Padding stays at a text's own positions: a model may have learned none beyond.
    position_RT = np.clip(column_RT, 0, length_R1 - 1) + np.array([[part.start] for part in parts])
    ids, mask, positions = (torch.from_numpy(array).to(device) for array in (ids_RT, mask_RT, position_RT))
    return ids, mask, positions


def even_runs(lengths: list[int], count: int, max_tokens: int) -> list[slice]:
    """Divides students into at most `count` runs of neighbours, the longest of which, padding included (see
    `positions`), is as short as it can be."""

    def divide(longest: int) -> list[slice]:
        """As few runs as there can be with none longer than this."""
        runs, start = [], 0
        while start < len(lengths):
            totals = _running_positions(lengths[start:], max_tokens)
            size = sum(1 for _ in takewhile(lambda total: total <= longest, totals))
            runs.append(slice(start, start + size))
            start += size
        return runs or [slice(0, 0)]

    low = max(lengths, default=0)
    high = len(lengths) * low
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(divide(middle)) <= count else (middle + 1, high)
    return divide(low)


def positions(lengths: list[int], max_tokens: int) -> int:
    """Positions in a step of students whose texts have these lengths. Padding counts: a student's row is as long as the
    longest of its forward pass. (It is little, because students are sorted by length.)"""
    return max(_running_positions(lengths, max_tokens), default=0)


def _running_positions(lengths: list[int], max_tokens: int) -> Iterator[int]:
    """`positions` of the first student, of the first two, and so on."""
    before = rows = width = longest = 0
    for length in lengths:
        longest = max(longest, length)
        if rows >= max(1, max_tokens // max(1, longest)):  # the pass is full, another one starts
            before, rows, width = before + rows * width, 0, 0
        rows, width = rows + 1, max(width, length)
        yield before + rows * width
