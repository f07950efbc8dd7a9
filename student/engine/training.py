"""Fine-tuning K students at once: the loss is the sum of each student's own mean loss, the optimiser is K AdamWs.

Beside K separate PEFT runs, losses agree to 1e-5 and weights to a thousandth of how far they moved
(tests/student/engine/test_training.py): rows of different slots meet in no operation that mixes them, and only
clipping, the learning rate and the number of steps need a slot axis.
"""

import math
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
import torch
from torch import Tensor
from torch.optim.adamw import adamw
from transformers import PreTrainedModel

from configs.schema import Student
from student.engine.helpers import Helpers, Stopped, can_fork
from student.engine.lora import AdapterStack, Slots
from student.engine.loss import linear_cross_entropy
from student.engine.packing import Batch, even_runs, pack, positions
from student.engine.schedule import Schedule, learning_rate, step_pieces

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8

PART_TOKENS = 256
"""A helper is given slots from this many tokens a step: with fewer the passes cost more than the texts."""

UNEVEN = 1.15
"""Helpers are left out where the longest part is that much longer than the mean: then torch's threads, which share each
operation, are as fast (measured on models of 2 to 135 million parameters)."""

MAX_PARTS = 8
"""Processes that train slots of their own, this one counted: a batch on a CPU seldom has students for more."""


@dataclass(slots=True)
class Progress:
    """What happened to one slot."""

    losses: list[float] = field(default_factory=list)
    """Its loss at each step, in nats, before the step's update."""
    error: str | None = None


@dataclass(slots=True)
class Usage:
    """How well positions were used: `labels / positions` is the share that carried a label."""

    labels: int = 0
    positions: int = 0

    def add(self, other: "Usage") -> None:
        self.labels += other.labels
        self.positions += other.positions


def batch_loss(model: PreTrainedModel, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Forward pass over a packed batch.

    Returns:
        Weighted loss (scalar), negative log-likelihood of each labelled token in nats (N, float32), and whether it
        was the likeliest token at its place (N, bool).
    """
    hidden_RTD = model.get_decoder()(
        input_ids=batch.ids_RT, position_ids=batch.position_ids_RT, use_cache=False
    ).last_hidden_state
    hidden_ND = hidden_RTD.flatten(0, 1).index_select(0, batch.index_N)
    head = model.get_output_embeddings()
    return linear_cross_entropy(hidden_ND, head, batch.target_N, batch.share_N)  # type: ignore[arg-type]


class StackedAdamW:
    """AdamW (arXiv 1711.05101) on a (K, P) buffer with a learning rate, a clip and a step count per slot."""

    def __init__(self, slots: Slots, settings: Student):
        self.params, self.grads, self.settings = slots.params_KP, slots.grads_KP, settings
        self.state = (self.params, self.grads, torch.zeros_like(self.params), torch.zeros_like(self.params))

    @torch.no_grad()
    def step(self, number: int, rate_K: Tensor, active_K: Tensor) -> Tensor:
        """One update of the active slots; returns each slot's gradient norm before clipping (K, float32).

        A slot whose gradient is not finite is left as it is.
        """
        norm_K = self.grads.norm(dim=1)
        active_K = active_K & norm_K.isfinite()
        if not active_K.all():
            # NaN times zero is NaN: silence such slots before anything is multiplied.
            self.grads.masked_fill_(~active_K[:, None], 0.0)
        limit = self.settings.max_grad_norm
        if limit is not None:
            self.grads.mul_((limit / (norm_K + 1e-6)).clamp(max=1.0).nan_to_num(1.0)[:, None])
        # All slots start together, so one count serves: a slot that is done never moves again.
        start = 0
        for (rate, active), alike in groupby(zip(rate_K.tolist(), active_K.tolist(), strict=True)):
            neighbours = slice(start, start := start + len(list(alike)))
            if not active:
                continue
            params, grads, means, squares = ([buffer[neighbours]] for buffer in self.state)
            count = torch.tensor(number - 1.0, device=self.params.device)
            # The fused kernel goes over the state once; written out in tensor operations it took 2-7 times as long.
            adamw(
                params, grads, means, squares, [], [count], amsgrad=False, beta1=BETA1, beta2=BETA2, lr=rate,
                weight_decay=self.settings.weight_decay, eps=EPSILON, maximize=False, fused=True,
            )  # fmt: skip
        self.grads.zero_()
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

    A slot whose loss or gradient stops being finite is stopped with an error; the others are not touched. Students
    share nothing, so that helpers take some of the slots: then no core waits for another after each operation, which on
    small models (and on a busy machine) costs more than the operation.

    Args:
        max_tokens: positions in one forward pass of this and its helpers' together; a larger step is accumulated over
            several.
        helpers: see `student_helpers`.
    """
    assert stack.all_slots is not None, "allocate() first"
    mine, *theirs = _parts(schedules, min(torch.get_num_threads(), 1 + len(helpers)) if helpers else 1, max_tokens)
    if helpers is None or not theirs:
        return _train(model, stack, stack.all_slots, schedules, settings, pad_id, max_tokens)
    at_once = max_tokens // (1 + len(theirs))

    def own(stopped: Stopped) -> tuple[list[Progress], Usage]:
        return _train(model, stack, stack.part(mine), schedules[mine], settings, pad_id, at_once, stopped)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        shares = [(stack.params_KP[run].numpy(), schedules[run], at_once) for run in theirs]
        (progress, usage), *done = helpers.share(shares, own)
    finally:
        torch.set_num_threads(threads)
    for run, (params_KP, of_run, used) in zip(theirs, done, strict=True):
        stack.params_KP[run] = torch.from_numpy(params_KP)
        progress += of_run
        usage.add(used)
    return progress, usage


def student_helpers(model: PreTrainedModel, stack: AdapterStack, settings: Student, pad_id: int) -> Helpers | None:
    """A process for each further thread that torch has, up to `MAX_PARTS` with this one; None where there are to be
    none, and torch's threads share each operation instead: on a GPU, in compiled layers, and see `can_fork`."""
    count = min(torch.get_num_threads(), MAX_PARTS) - 1
    alone = settings.exact or settings.compile or settings.gradient_checkpointing
    if model.device.type != "cpu" or alone or not count or not can_fork():
        return None

    def work(
        share: tuple[np.ndarray, list[Schedule], int], stopped: Stopped
    ) -> tuple[np.ndarray, list[Progress], Usage]:
        params_KP, schedules, max_tokens = share
        slots = stack.take_over(torch.from_numpy(params_KP))
        try:
            progress, usage = _train(model, stack, slots, schedules, settings, pad_id, max_tokens, stopped)
            return slots.params_KP.numpy(), progress, usage
        finally:
            stack.release()

    return Helpers(work, count)


def _parts(schedules: list[Schedule], cores: int, max_tokens: int) -> list[slice]:
    """The slots of each process: one part, where several would be small or uneven."""
    a_step = sum(schedule.tokens_per_step() for schedule in schedules)
    count = max(1, min(cores, len(schedules), a_step // PART_TOKENS))
    steps = max((schedule.steps for schedule in schedules), default=0)
    lengths = [math.ceil(schedule.tokens() / max(1, steps)) for schedule in schedules]
    runs = even_runs(lengths, count, max_tokens // count)
    of_runs = [positions(lengths[run], max_tokens // count) for run in runs]
    return runs if max(of_runs) * count <= UNEVEN * sum(of_runs) else [slice(0, len(schedules))]


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
    """`train_slots` for some of a stack's slots, in this process; ends early where another has failed."""
    optimiser = StackedAdamW(slots, settings)
    progress = [Progress() for _ in schedules]
    usage = Usage()
    packed: dict[tuple, list[Batch]] = {}
    for step in range(max((schedule.steps for schedule in schedules), default=0)):
        active = [k for k, c in enumerate(schedules) if step < c.steps and progress[k].error is None]
        if not active or stopped():
            break
        key = tuple((k, *sorted(schedules[k].order[step])) for k in active)
        if key not in packed:
            pieces = [piece for k in active for piece in step_pieces(k, schedules[k], step)]
            batches = pack(
                pieces, len(schedules), pad_id, stack.device, max_tokens=max_tokens, row_tokens=settings.row_tokens
            )
            # Steps over all texts are all alike and are packed once; others are not worth keeping.
            packed = {key: batches}
        losses = torch.zeros(len(schedules), device=stack.device)
        for batch in packed[key]:
            with stack.using(batch.rows, slots):
                loss, nll_N, _ = batch_loss(model, batch)
                loss.backward()
            losses.index_add_(0, batch.slot_N, nll_N * batch.share_N)
            usage.labels += len(batch.target_N)
            usage.positions += batch.positions
        rates = [learning_rate(c, step) if step < c.steps else 0.0 for c in schedules]
        active_K = torch.zeros(len(schedules), dtype=torch.bool, device=stack.device)
        active_K[active] = True
        norm_K = optimiser.step(step + 1, torch.tensor(rates, device=stack.device), active_K)
        for k, loss_k, norm in zip(active, losses[active].tolist(), norm_K[active].tolist(), strict=True):
            progress[k].losses.append(loss_k)
            if not (math.isfinite(loss_k) and math.isfinite(norm)):
                progress[k].error = f"diverged at step {step + 1}: loss {loss_k}, gradient norm {norm}"
    return progress, usage
