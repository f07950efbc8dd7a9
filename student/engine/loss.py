"""Cross-entropy at labelled positions only, in chunks, so that memory does not grow with vocabulary x positions.

The gradient is computed in the forward pass, chunk by chunk, so that no chunk's logits are kept or computed twice (as
in the fused linear cross-entropy of Liger Kernel, arXiv 2410.10989, but in plain PyTorch).
"""

from typing import Any

import torch
from torch import Tensor, nn

CHUNK_ELEMENTS = {"cpu": 2**24, "cuda": 2**27}
"""Logits of one chunk: 64 MiB in float32 on a CPU; 512 MiB on a GPU, where each chunk reads the weights again."""


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, target_N: Tensor, share_N: Tensor
    ):
        chunk = _chunk(weight_VD)
        nll_N = torch.empty(len(target_N), device=hidden_ND.device)
        likeliest_N = torch.empty(len(target_N), dtype=torch.bool, device=hidden_ND.device)
        grad_ND = torch.empty_like(hidden_ND) if ctx.needs_input_grad[0] else None
        grad_VD = torch.zeros_like(weight_VD, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        for start in range(0, len(target_N), chunk):
            part = slice(start, start + chunk)
            hidden, target = hidden_ND[part], target_N[part, None]
            logits = nn.functional.linear(hidden, weight_VD, bias_V)
            rounded = logits.dtype != torch.float32  # autocast computes in bfloat16 from float32
            logits = logits.float()
            gold = logits.gather(1, target)
            largest = logits.amax(-1, keepdim=True)
            if rounded:  # in bfloat16 ties are common
                likeliest_N[part] = logits.argmax(-1) == target_N[part]
            else:
                # On a CPU comparing amax with the gold logit is 20 times cheaper than argmax; a tie counts as right.
                likeliest_N[part] = (largest <= gold).squeeze(1)
            # In place, because fresh memory for so many values costs a CPU as much as their exponentials.
            delta = torch.softmax(logits, -1, out=logits)
            # log p_max = max - logsumexp gives the normaliser, so that exponentials are computed once, not twice.
            nll_N[part] = (largest - gold - delta.amax(-1, keepdim=True).log()).squeeze(1)
            if grad_ND is None and grad_VD is None:
                continue
            delta.scatter_add_(1, target, delta.new_full(target.shape, -1.0))
            delta.mul_(share_N[part, None])
            if grad_ND is not None:
                grad_ND[part] = delta.to(weight_VD.dtype) @ weight_VD
            if grad_VD is not None:
                grad_VD += delta.t() @ hidden.float()
        ctx.save_for_backward(grad_ND, grad_VD)
        ctx.weight_dtype = weight_VD.dtype
        ctx.mark_non_differentiable(nll_N, likeliest_N)
        return (nll_N * share_N).sum(), nll_N, likeliest_N

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any):  # type: ignore[override]
        grad_ND, grad_VD = ctx.saved_tensors
        if grad_VD is not None:
            grad_VD = (grad_VD * grad).to(ctx.weight_dtype)
        return grad_ND * grad if grad_ND is not None else None, grad_VD, None, None, None


def linear_cross_entropy(
    hidden_ND: Tensor, head: nn.Linear, target_N: Tensor, share_N: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted cross-entropy of N positions through the output layer: from the last hidden states at labelled
    positions, the int64 token ids to be predicted there, and the float32 weight of each position in the loss.

    Returns the loss sum_n share_n nll_n (scalar, differentiable in the hidden states and in the head's weight), each
    position's negative log-likelihood in nats (N, float32, no gradient), and whether its target is the likeliest token
    there (N, bool).
    """
    # Grad mode is always off inside forward(), so a weight whose gradient nobody wants is detached here.
    weight_VD = head.weight if torch.is_grad_enabled() else head.weight.detach()
    return _LinearCrossEntropy.apply(hidden_ND, weight_VD, head.bias, target_N, share_N)  # type: ignore[return-value]


@torch.no_grad()
def target_logliks(hidden_ND: Tensor, head: nn.Linear, place_M: Tensor, target_M: Tensor) -> tuple[Tensor, Tensor]:
    """Log-likelihood in nats of token `target_M` after position `place_M` of N (M, float32), and whether it is the
    likeliest there (M, bool). A position's logits are computed once, however many tokens are asked about."""
    loglik_M = torch.empty(len(target_M), device=hidden_ND.device)
    likeliest_M = torch.empty(len(target_M), dtype=torch.bool, device=hidden_ND.device)
    chunk = _chunk(head.weight)
    places_U, place_M = place_M.unique(return_inverse=True)
    for start in range(0, len(places_U), chunk):
        part = hidden_ND.index_select(0, places_U[start : start + chunk])
        here = ((place_M >= start) & (place_M < start + chunk)).nonzero().squeeze(1)
        logits = nn.functional.linear(part, head.weight, head.bias)
        rounded = logits.dtype != torch.float32
        logits = logits.float()
        row, target = place_M[here] - start, target_M[here]
        asked = logits[row, target]
        if rounded:  # as in the loss above
            likeliest_M[here] = logits.argmax(-1)[row] == target
        else:
            likeliest_M[here] = asked >= logits.amax(-1)[row]
        loglik_M[here] = asked - logits.logsumexp(-1)[row]
    return loglik_M, likeliest_M


@torch.no_grad()
def likeliest_tokens(hidden_ND: Tensor, head: nn.Linear) -> Tensor:
    """The likeliest next token after each of N positions (N, int64), from their last hidden states."""
    parts = hidden_ND.split(_chunk(head.weight))
    return torch.cat([nn.functional.linear(part, head.weight, head.bias).argmax(-1) for part in parts])


def _chunk(weight_VD: Tensor) -> int:
    """How many positions' logits are computed at once."""
    return max(1, CHUNK_ELEMENTS[weight_VD.device.type] // weight_VD.shape[0])
