"""Full fine-tuning of one student: all weights move, and the base comes back afterwards.

It serves continued pretraining on a shard's rewrites, where an adapter is too small, and the warm-up of a student.
Packing, documents' shares and loss are those of `training.py`.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel

from configs.schema import Student
from student.engine.packing import pack
from student.engine.schedule import Schedule, learning_rate, step_pieces
from student.engine.training import EPSILON, Progress, Usage, batch_loss


class FullTraining:
    """The training of all of a model's weights, a step at a time. `base` holds them as they were."""

    def __init__(
        self,
        model: PreTrainedModel,
        schedule: Schedule,
        settings: Student,
        pad_id: int,
        max_tokens: int,
        *,
        autocast: bool = False,
    ):
        self.model, self.schedule, self.settings, self.autocast = model, schedule, settings, autocast
        self.pad_id, self.max_tokens = pad_id, max_tokens
        self.progress, self.usage = Progress(error=schedule.problem), Usage()
        self.base = _on_cpu(model)
        model.requires_grad_(True)
        self.weights = list(model.parameters())
        self.optimiser = torch.optim.AdamW(
            self.weights, lr=schedule.learning_rate, eps=EPSILON, weight_decay=settings.weight_decay
        )

    @property
    def done(self) -> int:
        """Steps that were made."""
        return len(self.progress.losses)

    def step(self) -> None:
        """The next step. A loss or gradient that is not finite leaves the weights alone and becomes the progress's
        `error`."""
        step, loss_sum = self.done, 0.0
        pieces = step_pieces(0, self.schedule, step)
        device, row_tokens = self.model.device, self.settings.row_tokens
        # Train mode is for checkpointing alone: these models have no dropout. Between steps an exam needs eval mode.
        self.model.train(self.settings.gradient_checkpointing)
        try:
            for batch in pack(pieces, 1, self.pad_id, device, max_tokens=self.max_tokens, row_tokens=row_tokens):
                # Autocast keeps the rounded weights until its end, so it may not last longer than an update.
                with torch.autocast(device.type, torch.bfloat16, enabled=self.autocast):
                    loss, *_ = batch_loss(self.model, batch)
                loss.backward()
                loss_sum += loss.item()
                self.usage.labels += len(batch.target_N)
                self.usage.positions += batch.positions
        finally:
            self.model.eval()
        norm = torch.nn.utils.clip_grad_norm_(self.weights, self.settings.max_grad_norm or math.inf).item()
        self.progress.losses.append(loss_sum)
        if not (math.isfinite(loss_sum) and math.isfinite(norm)):
            self.progress.error = f"diverged at step {step + 1}: loss {loss_sum}, gradient norm {norm}"
            return
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.schedule, step)
        self.optimiser.step()
        self.optimiser.zero_grad()

    def state(self) -> dict[str, Any]:
        """All that `restore` needs to go on with the same bits. The tensors are the training's own."""
        return {
            "weights": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "losses": self.progress.losses,
            "usage": [self.usage.labels, self.usage.positions],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes back or on to the step at which `state` was taken."""
        self.model.load_state_dict(state["weights"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.progress, self.usage = Progress(list(state["losses"])), Usage(*state["usage"])

    def close(self) -> None:
        """Gives the model its base weights back, bit for bit."""
        # A student that diverged leaves gradients behind, and the next one must not add to them.
        self.model.zero_grad(set_to_none=True)
        self.model.load_state_dict(self.base)
        self.model.requires_grad_(False)


@contextmanager
def train_full(
    model: PreTrainedModel,
    schedule: Schedule,
    settings: Student,
    pad_id: int,
    max_tokens: int,
    *,
    autocast: bool = False,
    state: dict[str, Any] | None = None,
    go_on: Callable[[FullTraining], bool] = lambda training: True,
) -> Iterator[FullTraining]:
    """Trains all weights in place, from `state` on (`FullTraining.state`) if there is one. Inside the `with` the model
    is the student; after it the base, bit for bit.

    `go_on` is called before each step and after the last one, with the model in eval mode, and says whether there is to
    be another. A loss or gradient that is not finite ends the training and becomes the progress's `error`. With
    `autocast` the products of float32 weights are computed in bfloat16.
    """
    training = FullTraining(model, schedule, settings, pad_id, max_tokens, autocast=autocast)
    try:
        if state is not None:
            training.restore(state)
        while training.progress.error is None and go_on(training) and training.done < schedule.steps:
            training.step()
        yield training
    finally:
        training.close()


def _on_cpu(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.state_dict().items()}
