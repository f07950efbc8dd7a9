"""What a user would run instead of the engine: one student after another, carefully (PEFT) or as SEAL did (padded).

Both train the engine's own schedules: the same tokens, step order, starting adapters, learning rates and clipping.
"""

import copy
import math
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from configs.schema import Student
from student.engine.lora import AdapterStack
from student.engine.schedule import Schedule, learning_rate, step_pieces
from student.engine.training import BETA1, BETA2, EPSILON


def twin(model: PreTrainedModel) -> PreTrainedModel:
    """A second model object over the very same weights, so that PEFT wraps it while the engine wraps the first."""
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


class SeparateRuns:
    """One PEFT student at a time on a shared base; setting PEFT up happens once, outside what is timed."""

    def __init__(self, model: PreTrainedModel, settings: Student):
        from peft import LoraConfig, get_peft_model

        self.settings = settings
        target = settings.lora.target
        config = LoraConfig(
            r=settings.lora.rank,
            lora_alpha=settings.lora.alpha,  # type: ignore[arg-type]  # PEFT accepts a float at run time
            use_rslora=settings.lora.rslora,
            target_modules=target if isinstance(target, str) else list(target),
            task_type="CAUSAL_LM",
        )
        self.model: Any = get_peft_model(model, config).eval()  # there is no dropout; eval as the engine's base
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]

    def start_from(self, stack: AdapterStack, slot: int) -> None:
        """Takes over a slot's adapter as it is now: common random numbers with the engine."""
        with torch.no_grad():
            for name, layer in stack.layers.items():
                assert layer.a_KrI is not None and layer.b_KrO is not None, "allocate() first"
                adapted = self.model.base_model.model.get_submodule(name)
                adapted.lora_A["default"].weight.copy_(layer.a_KrI[slot])
                adapted.lora_B["default"].weight.copy_(layer.b_KrO[slot].t())

    def careful(self, schedule: Schedule, pad_id: int) -> list[float]:
        """A careful user's loop: loss of each step in nats.

        Rows are padded on the right to the longest of the batch and masked, the output layer and the loss are taken at
        labelled positions only, AdamW is the fused one.
        """
        optimiser = self._optimiser(schedule)
        decoder = self.model.get_base_model().get_decoder()
        head = self.model.get_base_model().get_output_embeddings()
        losses = []
        for step in range(schedule.steps):
            ids_BT, mask_BT, index_N, target_N, share_N = _masked_batch(schedule, step, pad_id, self.model.device)
            # A single row needs no mask, and attention is faster without.
            mask = mask_BT if len(ids_BT) > 1 else None
            hidden_BTD = decoder(input_ids=ids_BT, attention_mask=mask, use_cache=False).last_hidden_state
            logits_NV = head(hidden_BTD.flatten(0, 1).index_select(0, index_N)).float()
            loss = (torch.nn.functional.cross_entropy(logits_NV, target_N, reduction="none") * share_N).sum()
            loss.backward()
            self._update(optimiser, schedule, step)
            losses.append(loss.item())
        return losses

    def padded(self, schedule: Schedule, pad_id: int, length: int, limit: int) -> int:
        """SEAL's recipe: one text a step, padded to `length`, the padding in the loss. Returns the steps done."""
        optimiser = self._optimiser(schedule)
        order = [(step, text) for step, texts in enumerate(schedule.order) for text in texts][:limit]
        for step, text in order:
            ids_1T = torch.full((1, length), pad_id, device=self.model.device)
            kept = schedule.texts[text].ids[:length]
            ids_1T[0, : len(kept)] = torch.from_numpy(kept)
            loss = self.model(input_ids=ids_1T, labels=ids_1T, use_cache=False).loss
            loss.backward()
            self._update(optimiser, schedule, step)
            loss.item()
        return len(order)

    def _optimiser(self, schedule: Schedule) -> torch.optim.AdamW:
        return torch.optim.AdamW(
            self.parameters,
            lr=schedule.learning_rate,
            betas=(BETA1, BETA2),
            eps=EPSILON,
            weight_decay=self.settings.weight_decay,
            fused=True,
        )

    def _update(self, optimiser: torch.optim.AdamW, schedule: Schedule, step: int) -> None:
        torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.max_grad_norm or math.inf)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(schedule, step)
        optimiser.step()
        optimiser.zero_grad()


def _masked_batch(
    schedule: Schedule, step: int, pad_id: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """One student's texts of one step: ids and mask (B, T), and index, target and share of the N labelled positions."""
    pieces = step_pieces(0, schedule, step)
    width = max(len(piece.text) for piece in pieces)
    ids_BT = torch.full((len(pieces), width), pad_id)
    mask_BT = torch.zeros(len(pieces), width, dtype=torch.long)
    index, target, share = [], [], []
    for row, piece in enumerate(pieces):
        text = piece.text
        ids_BT[row, : len(text)] = torch.from_numpy(text.ids)
        mask_BT[row, : len(text)] = 1
        index.append(torch.from_numpy(text.labelled) + row * width - 1)
        target.append(torch.from_numpy(text.ids[text.labelled]))
        share.append(torch.full((len(text.labelled),), piece.share))
    parts = (ids_BT, mask_BT, torch.cat(index), torch.cat(target), torch.cat(share))
    ids, mask, index_N, target_N, share_N = (part.to(device) for part in parts)
    return ids, mask, index_N, target_N, share_N
