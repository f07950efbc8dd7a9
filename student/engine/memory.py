"""How many students fit a device, planned from measured memory."""

import psutil
import torch
from transformers import PreTrainedModel

from student.engine.encoding import Encoded
from student.engine.lora import AdapterStack
from student.engine.packing import Piece, pack
from student.engine.training import batch_loss

STATE_BYTES = 4 * 6 + 2
"""Bytes of an adapter's weight: itself, gradient, 2 AdamW moments, 2 temporaries (float32), copy in base dtype."""


def free_bytes(device: torch.device) -> int:
    """Bytes that can still be allocated on the device."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return psutil.virtual_memory().available


def activation_bytes_per_token(model: PreTrainedModel, stack: AdapterStack, text: Encoded, pad_id: int) -> float:
    """Bytes that one position keeps for the backward pass, measured on a forward pass of the text. Empties the stack.

    They are the tensors that autograd saves, weights left out and each storage counted once: the same on every device.
    """
    stack.allocate([0])
    weights = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), stack.params_KP)}
    saved: dict[int, int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    [batch] = pack([Piece(0, text)], 1, pad_id, stack.device, max_tokens=2**20)
    with stack.using(batch.rows), torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        loss, *_ = batch_loss(model, batch)
        # The adapters' copies in the base's dtype are counted with the slot, not with its tokens.
        copies = 0 if model.dtype == torch.float32 else stack.size * model.dtype.itemsize
        total = sum(saved.values()) - copies
        del loss
    stack.release()
    return total / batch.positions


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on a GPU or on the CPU."""
    signs = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)
    )
