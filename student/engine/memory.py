"""How many students fit: planned from measured memory, corrected by what really happens."""

import ctypes

import psutil
import torch
from transformers import PreTrainedModel

from student.engine.lora import AdapterStack
from student.engine.packing import Piece, pack
from student.engine.training import batch_loss

STATE_BYTES = 4 * 6 + 2
"""Per adapter parameter: weight, gradient, two AdamW moments, two temporaries (float32), a copy in the base's dtype."""


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of glibc's malloc.h."""


def keep_freed_memory() -> None:
    """Has malloc keep up to 1 GiB of what is freed, for this process and those forked from it: a training step frees
    what the next one needs, and pages fresh from the system cost a core a twentieth of its time (lab's student).
    Without glibc nothing is done."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 32 * 2**20)  # the most it takes
        mallopt(M_TRIM_THRESHOLD, 2**30)


def free_bytes(device: torch.device) -> int:
    """Bytes that can still be allocated on the device."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return psutil.virtual_memory().available


def activation_bytes_per_token(model: PreTrainedModel, stack: AdapterStack, probe: list[Piece], pad_id: int) -> float:
    """Bytes that one position keeps for the backward pass, measured on a real forward pass of the probe texts.

    Counts what autograd saves, each storage once, weights left out; the same on every device. The stack is left empty.
    """
    stack.allocate([0])
    weights = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), stack.params_KP)}
    saved: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    [batch] = pack(probe, 1, pad_id, stack.device, max_tokens=2**20)
    with stack.using(batch.rows), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss, *_ = batch_loss(model, batch)
        # The adapters' copies in the base's dtype are counted with the slot, not with its tokens.
        copies = 0 if model.dtype == torch.float32 else stack.size * model.dtype.itemsize
        total = sum(saved.values()) - copies
        del loss
    stack.release()
    return total / batch.positions


def plan_slots(free: int, slot_parameters: int, step_tokens: int, token_bytes: float) -> int:
    """Students that fit `free` bytes at once, when each has `step_tokens` in flight; at least one.

    The factor 2 on activations covers gradients in flight and the allocator's rounding.
    """
    per_slot = slot_parameters * STATE_BYTES + 2 * step_tokens * token_bytes
    return max(1, int(free // per_slot))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on a GPU or on the CPU."""
    signs = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)
    )
