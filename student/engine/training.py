"""Fine-tuning K students at once: the loss is the sum of each student's own mean loss, the optimiser is K AdamWs.

Beside K separate PEFT runs, losses agree to 1e-5 and weights to a thousandth of how far they moved
(tests/student/engine/test_training.py): rows of different slots meet in no operation that mixes them, and only
clipping, the learning rate and the number of steps need a slot axis.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.optim.adamw import adamw
from transformers import PreTrainedModel

from configs.schema import Student
from student.engine.helpers import Helpers, Stopped, can_fork, torch_threads
from student.engine.lora import AdapterStack, Slots
from student.engine.loss import linear_cross_entropy
from student.engine.packing import Batch, even_runs, pack, positions
from student.engine.schedule import Schedule, learning_rate, step_pieces

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8

PART_TOKENS = 256
"""Fewest tokens in a step of a helper's students: with fewer, a forward pass costs more than the texts."""

UNEVEN = 1.15
"""No helpers train where the longest part would be longer than the mean by this factor: then torch's threads, which
share each operation, are as fast (measured on models of 2 to 135 million parameters)."""

MAX_PARTS = 8
"""Most processes that train one batch, this one included: a batch on a CPU seldom has enough students for more."""


@dataclass(slots=True)
class Progress:
    """How one slot's training went."""

    losses: list[float] = field(default_factory=list)
    """Loss at each step, in nats, before the step's update."""
    error: str | None = None


@dataclass(slots=True)
class Usage:
    """Positions that were computed, and those among them that carried a label."""

    labels: int = 0
    positions: int = 0

    def add(self, other: "Usage") -> None:
        self.labels += other.labels
        self.positions += other.positions


class TrainingPart(NamedTuple):
    """Some students of a batch, whom another process trains."""

    params_KP: np.ndarray
    schedules: list[Schedule]
    max_tokens: int


def batch_loss(model: PreTrainedModel, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Forward pass over a packed batch: the weighted loss (scalar), the loss at each labelled token in nats (its
    negative log-likelihood, or the divergence from the batch's targets; N, float32), and whether it was the likeliest
    token at its place (N, bool)."""
    return loss_at_labels(model, last_hidden(model, batch), batch)


def last_hidden(model: PreTrainedModel, batch: Batch) -> Tensor:
    """The last hidden states of a packed batch, rows one after the other (R*T, D)."""
    hidden_RTD = model.get_decoder()(
        input_ids=batch.ids_RT, position_ids=batch.position_ids_RT, use_cache=False
    ).last_hidden_state
    return hidden_RTD.flatten(0, 1)


def loss_at_labels(model: PreTrainedModel, hidden: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """`batch_loss` from the batch's last hidden states (R*T, D)."""
    head = model.get_output_embeddings()
    hidden_ND = hidden.index_select(0, batch.index_N)
    return linear_cross_entropy(hidden_ND, head, batch.target_N, batch.share_N, batch.targets)  # type: ignore[arg-type]


class StackedAdamW:
    """AdamW (arXiv 1711.05101) on a (K, P) buffer, with a learning rate and a clipped gradient norm for each slot."""

    def __init__(self, slots: Slots, settings: Student):
        self.params_KP, self.grads_KP, self.settings = slots.params_KP, slots.grads_KP, settings
        self.means_KP, self.squares_KP = torch.zeros_like(self.params_KP), torch.zeros_like(self.params_KP)

    @torch.no_grad()
    def step(self, number: int, rates: Sequence[float | None]) -> Tensor:
        """Updates at step `number` (from 1) the slots that have a learning rate. Nothing is read from the device.

        Returns each slot's gradient norm before clipping (K, float32).
        """
        norm_K = self.grads_KP.norm(dim=1)
        max_norm = self.settings.max_grad_norm
        if max_norm is not None:
            self.grads_KP.mul_((max_norm / (norm_K + 1e-6)).clamp(max=1.0).nan_to_num(1.0)[:, None])
        # The kernel takes one learning rate, so it is called for each run of neighbours that have the same.
        start = 0
        for rate, neighbours in groupby(rates):
            run = slice(start, start := start + len(list(neighbours)))
            if rate is None:
                continue
            buffers = (self.params_KP, self.grads_KP, self.means_KP, self.squares_KP)
            params, grads, means, squares = ([buffer[run]] for buffer in buffers)
            # All slots start together and a slot that has stopped never moves again, so one step count serves all.
            count = torch.full((), number - 1.0, device=self.params_KP.device)
            # The fused kernel goes over the state once; written out in tensor operations it took 2 to 7 times as long.
            adamw(
                params, grads, means, squares, [], [count], amsgrad=False, beta1=BETA1, beta2=BETA2, lr=rate,
                weight_decay=self.settings.weight_decay, eps=EPSILON, maximize=False, fused=True,
            )  # fmt: skip
        self.grads_KP.zero_()
        return norm_K


def train_slots(
    model: PreTrainedModel,
    stack: AdapterStack,
    schedules: list[Schedule],
    settings: Student,
    *,
    pad_id: int,
    max_tokens: int,
    helpers: Helpers | None = None,
) -> tuple[list[Progress], Usage]:
    """Trains slot k on `schedules[k]`, all slots in one batch a step; `stack` must have been allocated for them.

    Returns the progress of each slot, and the positions of all together. A slot whose loss or gradient is no longer
    finite has an error; the others are not touched. Students share nothing, so helpers can train some of the
    slots: then no core waits for another after each operation, which on small models (and on a busy machine) costs more
    than the operation. A step of more than `max_tokens` positions is accumulated over several forward passes; passes
    that run at the same time have so many together.
    """
    assert stack.all_slots is not None, "allocate() first"
    processes = min(torch.get_num_threads(), 1 + len(helpers)) if helpers else 1
    here, *elsewhere = _parts(schedules, processes, max_tokens)
    if helpers is None or not elsewhere:
        return _train(model, stack, stack.all_slots, schedules, settings, pad_id, max_tokens)
    part_tokens = max_tokens // (1 + len(elsewhere))
    train_here = partial(_train, model, stack, stack.slots_at(here), schedules[here], settings, pad_id, part_tokens)
    tasks = [TrainingPart(stack.params_KP[part].numpy(), schedules[part], part_tokens) for part in elsewhere]
    with torch_threads(1):
        (progress, usage), *results = helpers.share(tasks, train_here)
    for part, (params_KP, part_progress, part_usage) in zip(elsewhere, results, strict=True):
        stack.params_KP[part] = torch.from_numpy(params_KP)
        progress += part_progress
        usage.add(part_usage)
    return progress, usage


def student_helpers(
    model: PreTrainedModel, stack: AdapterStack, settings: Student, pad_id: int, examine: Callable[[Any], Any]
) -> Helpers | None:
    """A process for each further thread that torch has, up to `MAX_PARTS` with this one. They train students, and pass
    every task that is no `TrainingPart` to `examine`.

    None where torch's threads share each operation instead: on a GPU, in compiled or checkpointed layers, with `exact`,
    and where processes cannot be forked (see `can_fork`).
    """
    count = min(torch.get_num_threads(), MAX_PARTS) - 1
    alone = settings.exact or settings.compile or settings.gradient_checkpointing
    if model.device.type != "cpu" or alone or not count or not can_fork():
        return None

    def work(task: Any, stopped: Stopped) -> Any:
        if not isinstance(task, TrainingPart):
            return examine(task)
        slots = stack.adopt(torch.from_numpy(task.params_KP))
        try:
            progress, usage = _train(model, stack, slots, task.schedules, settings, pad_id, task.max_tokens, stopped)
            return slots.params_KP.numpy(), progress, usage
        finally:
            stack.release()

    return Helpers(work, count)


def _parts(schedules: list[Schedule], processes: int, max_tokens: int) -> list[slice]:
    """The slots of each process; one part where several would be small or uneven."""
    step_tokens = sum(schedule.largest_step() for schedule in schedules)
    steps = max((schedule.steps for schedule in schedules), default=0)
    lengths = [math.ceil(sum(schedule.computed_tokens()) / max(1, steps)) for schedule in schedules]
    return even_parts(lengths, step_tokens, processes, max_tokens)


def even_parts(lengths: list[int], tokens: int, processes: int, max_tokens: int) -> list[slice]:
    """Runs of neighbours of these lengths for at most so many processes; one run where several would be small, by the
    `tokens` that are computed at once, or uneven."""
    count = max(1, min(processes, len(lengths), tokens // PART_TOKENS))
    parts = even_runs(lengths, count, max_tokens // count)
    part_positions = [positions(lengths[part], max_tokens // count) for part in parts]
    even = max(part_positions) * count <= UNEVEN * sum(part_positions)
    return parts if even else [slice(0, len(lengths))]


def _train(
    model: PreTrainedModel,
    stack: AdapterStack,
    slots: Slots,
    schedules: list[Schedule],
    settings: Student,
    pad_id: int,
    max_tokens: int,
    stopped: Stopped = lambda: False,
) -> tuple[list[Progress], Usage]:
    """`train_slots` for some of a stack's slots in this process; ends early where another process has failed.

    Losses and norms are read at the end: a read in each step would have the device wait for what comes next.
    """
    K, device = len(schedules), stack.device
    optimiser = StackedAdamW(slots, settings)
    usage = Usage()
    packed: dict[tuple, list[Batch]] = {}
    steps = [0 if schedule.problem is not None else schedule.steps for schedule in schedules]
    figures_SFK = torch.zeros(max(steps, default=0), 2, K, device=device)
    for step, (loss_K, norm_K) in enumerate(figures_SFK):
        active = [k for k in range(K) if step < steps[k]]
        if stopped():
            break
        # Where every step takes all texts, all steps are alike and are packed once. Only the last step's batches are
        # kept: where steps differ, none comes again soon.
        key = tuple((k, *sorted(schedules[k].order[step])) for k in active)
        if key not in packed:
            pieces = [piece for k in active for piece in step_pieces(k, schedules[k], step)]
            packed = {key: pack(pieces, K, pad_id, device, max_tokens=max_tokens, row_tokens=settings.row_tokens)}
        for batch in packed[key]:
            with stack.using(batch.rows, slots):
                loss, loss_N, _ = batch_loss(model, batch)
                loss.backward()
            loss_K.index_add_(0, batch.slot_N, loss_N * batch.share_N)
            usage.labels += len(batch.target_N)
            usage.positions += batch.positions
        rates = [learning_rate(schedules[k], step) if step < n else None for k, n in enumerate(steps)]
        norm_K.copy_(optimiser.step(step + 1, rates))
    figures = figures_SFK.permute(2, 0, 1).tolist()
    return [_progress(*of_slot) for of_slot in zip(schedules, figures, steps, strict=True)], usage


def _progress(schedule: Schedule, figures: list[list[float]], steps: int) -> Progress:
    """A slot's training from the loss and gradient norm of each of its steps: it counts up to the first that is not
    finite."""
    progress = Progress(error=schedule.problem)
    for step, (loss, norm) in enumerate(figures[:steps], start=1):
        progress.losses.append(loss)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            progress.error = f"diverged at step {step}: loss {loss}, gradient norm {norm}"
            break
    return progress
