"""Full fine-tuning of one student: all weights move, and the base comes back afterwards.

It serves continued pretraining on a shard's rewrites, where an adapter is too small. Packing, documents' shares and
loss are those of `training.py`.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel

from configs.schema import Student
from student.engine.packing import pack
from student.engine.schedule import Schedule, learning_rate, step_pieces
from student.engine.training import EPSILON, Progress, Usage, batch_loss


@contextmanager
def train_full(
    model: PreTrainedModel, schedule: Schedule, settings: Student, pad_id: int, max_tokens: int
) -> Iterator[tuple[Progress, Usage]]:
    """Trains all weights in place. Inside the `with` the model is the student; after it the base, bit for bit. A loss
    or gradient that is not finite ends the training and becomes the progress's `error`."""
    base = {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.state_dict().items()}
    try:
        try:
            trained = _train(model, schedule, settings, pad_id, max_tokens)
        finally:
            model.eval()
        yield trained
    finally:
        # A student that diverged leaves gradients behind, and the next one must not add to them.
        model.zero_grad(set_to_none=True)
        model.load_state_dict(base)
        model.requires_grad_(False)


def _train(
    model: PreTrainedModel, schedule: Schedule, settings: Student, pad_id: int, max_tokens: int
) -> tuple[Progress, Usage]:
    progress, usage = Progress(), Usage()
    if not schedule.steps:
        return progress, usage
    model.requires_grad_(True)
    model.train(settings.gradient_checkpointing)  # for checkpointing alone: these models have no dropout
    weights = list(model.parameters())
    optimiser = torch.optim.AdamW(weights, lr=schedule.learning_rate, eps=EPSILON, weight_decay=settings.weight_decay)
    for step in range(schedule.steps):
        loss_sum = 0.0
        pieces = step_pieces(0, schedule, step)
        for batch in pack(pieces, 1, pad_id, model.device, max_tokens=max_tokens, row_tokens=settings.row_tokens):
            loss, *_ = batch_loss(model, batch)
            loss.backward()
            loss_sum += loss.item()
            usage.labels += len(batch.target_N)
            usage.positions += batch.positions
        norm = torch.nn.utils.clip_grad_norm_(weights, settings.max_grad_norm or math.inf).item()
        progress.losses.append(loss_sum)
        if not (math.isfinite(loss_sum) and math.isfinite(norm)):
            progress.error = f"diverged at step {step + 1}: loss {loss_sum}, gradient norm {norm}"
            break
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(schedule, step)
        optimiser.step()
        optimiser.zero_grad()
    return progress, usage
