"""Losses at labelled positions only, in chunks, so that memory does not grow with vocabulary x positions.

The loss at a position is the cross-entropy of the token that is to be predicted, or with targets the divergence of the
student's prediction q from the base's with the document before it, p (context distillation, Askell et al. 2021, arXiv
2112.00861; Snell et al. 2022, arXiv 2209.15189). Of p the K likeliest tokens T are kept, and what is left for all
others together, as one more outcome (as Askell et al. have it):

    KL = sum_T p_i (log p_i - log q_i) + p_rest (log p_rest - log q_rest),    q_rest = 1 - sum_T q_i

It is p's forward divergence from q over these K + 1 outcomes: at most that over all tokens (outcomes that are put
together can only lose divergence), equal to it where the student divides the rest as the base does, and zero only where
it agrees on all K + 1. With q = softmax(z), log q_i = z_i - log sum_j exp z_j, and log q_rest = log sum_(j not in T)
exp z_j - log sum_j exp z_j. So the gradient is

    dKL/dz_j = q_j - p_j  for j in T,    q_j (1 - p_rest / q_rest)  for all others:

all others are raised or lowered by one factor. The cross-entropy is the case T = {the token}, p = 1, p_rest = 0.

The gradient is computed in the forward pass, chunk by chunk, so that no chunk's logits are kept or computed twice (as
in the fused linear cross-entropy of Liger Kernel, arXiv 2410.10989, but in plain PyTorch).
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

CHUNK_ELEMENTS = {"cpu": 2**24, "cuda": 2**27}
"""Logits of one chunk: 64 MiB in float32 on a CPU; 512 MiB on a GPU, where each chunk reads the weights again."""


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, target_N: Tensor, share_N: Tensor,
        targets: tuple[Tensor, Tensor] | None,
    ):  # fmt: skip
        chunk = _chunk(weight_VD)
        loss_N = torch.empty(len(target_N), device=hidden_ND.device)
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
            likely = logits.gather(1, targets[0][part]) if targets is not None else None
            # In place, because fresh memory for so many values costs a CPU as much as their exponentials.
            delta = torch.softmax(logits, -1, out=logits)
            # log p_max = max - logsumexp gives the normaliser, so that exponentials are computed once, not twice.
            log_largest = delta.amax(-1, keepdim=True).log()
            if targets is None or likely is None:
                loss_N[part] = (largest - gold - log_largest).squeeze(1)
                delta.scatter_add_(1, target, delta.new_full(target.shape, -1.0))
            else:
                loss_N[part] = _divergence(delta, likely - largest + log_largest, *(of_all[part] for of_all in targets))
            if grad_ND is None and grad_VD is None:
                continue
            delta.mul_(share_N[part, None])
            if grad_ND is not None:
                grad_ND[part] = delta.to(weight_VD.dtype) @ weight_VD
            if grad_VD is not None:
                grad_VD += delta.t() @ hidden.float()
        ctx.save_for_backward(grad_ND, grad_VD)
        ctx.weight_dtype = weight_VD.dtype
        ctx.mark_non_differentiable(loss_N, likeliest_N)
        return (loss_N * share_N).sum(), loss_N, likeliest_N

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any):  # type: ignore[override]
        grad_ND, grad_VD = ctx.saved_tensors
        if grad_VD is not None:
            grad_VD = (grad_VD * grad).to(ctx.weight_dtype)
        return grad_ND * grad if grad_ND is not None else None, grad_VD, None, None, None, None


def _divergence(prob_NV: Tensor, loglik_NK: Tensor, tokens_NK: Tensor, base_NB: Tensor) -> Tensor:
    """The divergence (N) from a student's log-likelihoods of the base's likeliest tokens and the base's own; the
    student's probabilities of all tokens become the gradient in its logits."""
    likely_NK = prob_NV.gather(1, tokens_NK)
    rest_N1 = prob_NV.scatter_(1, tokens_NK, 0.0).sum(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    base_prob_NB = base_NB.exp()
    prob_NV.mul_(1 - base_prob_NB[:, -1:] / rest_N1).scatter_(1, tokens_NK, likely_NK - base_prob_NB[:, :-1])
    return (base_prob_NB * (base_NB - torch.cat([loglik_NK, rest_N1.log()], dim=1))).sum(-1)


def linear_cross_entropy(
    hidden_ND: Tensor,
    head: nn.Linear,
    target_N: Tensor,
    share_N: Tensor,
    targets: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted cross-entropy of N positions through the output layer: from the last hidden states at labelled
    positions, the int64 token ids to be predicted there, and the float32 weight of each position in the loss. With
    `targets`, which are `likeliest_logliks` of the base with the document before the text, the divergence from them.

    Returns the loss sum_n share_n loss_n (scalar, differentiable in the hidden states and in the head's weight), each
    position's loss in nats (N, float32, no gradient), and whether its target is the likeliest token
    there (N, bool).
    """
    # Grad mode is always off inside forward(), so a weight whose gradient nobody wants is detached here.
    weight_VD = head.weight if torch.is_grad_enabled() else head.weight.detach()
    return _LinearCrossEntropy.apply(hidden_ND, weight_VD, head.bias, target_N, share_N, targets)  # type: ignore[return-value]


@torch.no_grad()
def target_logliks(
    hidden_ND: Tensor, head: nn.Linear, place_M: np.ndarray, target_M: np.ndarray
) -> tuple[Tensor, Tensor]:
    """Log-likelihood in nats of token `target_M` after position `place_M` of N (M, float32), and whether it is the
    likeliest there (M, bool). A position's logits are computed once, however many tokens are asked about."""
    device = hidden_ND.device
    loglik_M = torch.empty(len(target_M), device=device)
    likeliest_M = torch.empty(len(target_M), dtype=torch.bool, device=device)
    chunk = _chunk(head.weight)
    places_U, place_M = np.unique(place_M, return_inverse=True)
    for start in range(0, len(places_U), chunk):
        here_M = np.flatnonzero((place_M >= start) & (place_M < start + chunk))
        # Found on the host: a device would have to be waited for.
        arrays = (places_U[start : start + chunk], here_M, place_M[here_M] - start, target_M[here_M])
        part, here, row, target = (torch.from_numpy(array).to(device) for array in arrays)
        logits = nn.functional.linear(hidden_ND.index_select(0, part), head.weight, head.bias)
        rounded = logits.dtype != torch.float32
        logits = logits.float()
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


@torch.no_grad()
def likeliest_logliks(hidden_ND: Tensor, head: nn.Linear, count: int) -> tuple[Tensor, Tensor]:
    """The `count` likeliest next tokens after each of N positions (N, K; int64), from their last hidden states, and
    log-likelihoods in nats of these and of all others together (N, K + 1; float32). At least one token is another."""
    found = []
    for part in hidden_ND.split(_chunk(head.weight)):
        logits = nn.functional.linear(part, head.weight, head.bias).float()
        whole = logits.logsumexp(-1, keepdim=True)
        likely, tokens = logits.topk(min(count, logits.shape[1] - 1), dim=-1)
        rest = logits.scatter_(1, tokens, -torch.inf).logsumexp(-1, keepdim=True)
        found.append((tokens, torch.cat([likely, rest], dim=1) - whole))
    tokens_NK, logliks_NB = (torch.cat(parts) for parts in zip(*found, strict=True))
    return tokens_NK, logliks_NB


def logit_bytes(head: nn.Linear) -> int:
    """Most bytes of the logits that are computed at once: in the head's type as they come and as their gradient goes,
    and in float32."""
    rounded = 0 if head.weight.dtype == torch.float32 else head.weight.dtype.itemsize
    return _chunk(head.weight) * head.weight.shape[0] * (4 + rounded)


def _chunk(weight_VD: Tensor) -> int:
    """How many positions' logits are computed at once."""
    return max(1, CHUNK_ELEMENTS[weight_VD.device.type] // weight_VD.shape[0])
