"""How many students fit a device, planned from measured memory."""

import gc
import weakref
from functools import partial
from typing import Any

import psutil
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from transformers import PreTrainedModel

from student.engine.encoding import Encoded
from student.engine.lora import AdapterStack
from student.engine.packing import Piece, pack
from student.engine.training import batch_loss

STATE_BYTES = 4 * 4
"""Bytes of an adapter's weight: itself, its gradient and AdamW's two moments, in float32."""


def free_bytes(device: torch.device) -> int:
    """Bytes that can still be allocated on the device."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return psutil.virtual_memory().available


class PeakBytes(TorchDispatchMode):
    """Within it the tensors that operations make are counted: `peak` is the most bytes that they held at once. It is
    the same on every device, and for tensors without data (torch's fake ones)."""

    def __init__(self) -> None:
        super().__init__()
        self.held = self.peak = 0
        self._known: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # A storage that comes from outside, such as a weight's, counts nothing, whatever views are made of it.
        tree_map_only(torch.Tensor, partial(self._count, made=False), (args, kwargs))
        result = func(*args, **(kwargs or {}))
        return tree_map_only(torch.Tensor, partial(self._count, made=True), result)

    def _count(self, tensor: torch.Tensor, made: bool) -> torch.Tensor:
        storage = tensor.untyped_storage()
        key = id(storage)  # the same object as long as the storage lives
        if key not in self._known:
            size = storage.nbytes() if made else 0
            self._known[key] = weakref.ref(storage, lambda _: self._free(key, size))
            self.held += size
            self.peak = max(self.peak, self.held)
        return tensor

    def _free(self, key: int, size: int) -> None:
        self.held -= size
        del self._known[key]


def position_bytes(model: PreTrainedModel, stack: AdapterStack, pad_id: int, length: int) -> float:
    """Bytes that a position takes at the most while a student is trained on it, in the mode (train or eval) that the
    model is in: measured over the forward and backward pass of a text of so many tokens. Logits come on top (see
    `logit_bytes`): only the last token has a label. Empties the stack."""
    text = Encoded.of([pad_id] * length, [False] * (length - 1) + [True])
    stack.allocate([0])
    [batch] = pack([Piece(0, text)], 1, pad_id, stack.device, max_tokens=length)
    with torch.enable_grad(), stack.using(batch.rows), PeakBytes() as memory:
        loss, *_ = batch_loss(model, batch)
        loss.backward()
    stack.release()
    return memory.peak / batch.positions


def free_memory() -> None:
    """Gives back what work that ran out of memory left behind."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on a GPU or on the CPU."""
    signs = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)
    )
