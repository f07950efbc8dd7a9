"""What a user would run instead of the engine: one student after another, carefully (PEFT) or as SEAL did (padded).

Both train the engine's own schedules: the same tokens, step order, starting adapters, learning rates and clipping.
"""

import copy
import math
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from configs.schema import Student
from student.engine.lora import AdapterStack, peft_config, target_names
from student.engine.schedule import Schedule, learning_rate, step_pieces
from student.engine.training import BETA1, BETA2, EPSILON


class SeparateRuns:
    """One PEFT student at a time on a shared base. PEFT is set up once, outside of what is timed."""

    def __init__(self, model: PreTrainedModel, settings: Student):
        from peft import get_peft_model

        config = peft_config(settings.lora, target_names(model, settings.lora))
        self.settings = settings
        # PEFT wraps a second model object over the same weights, so that the engine can wrap the first.
        shared: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
        twin = copy.deepcopy(model, shared)
        self.model: Any = get_peft_model(twin, config).eval()  # eval as the engine's base; there is no dropout
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]

    @torch.no_grad()
    def start_from(self, stack: AdapterStack, seed: int) -> None:
        """Takes the adapter that the engine starts from with this seed: common random numbers."""
        stack.allocate([seed])
        for name, layer in stack.layers.items():
            assert layer.a_KrI is not None and layer.b_KrO is not None, "allocate() first"
            adapted = self.model.base_model.model.get_submodule(name)
            adapted.lora_A["default"].weight.copy_(layer.a_KrI[0])
            adapted.lora_B["default"].weight.copy_(layer.b_KrO[0].t())
        stack.release()

    def careful(self, schedule: Schedule, pad_id: int) -> list[float]:
        """A careful user's loop; returns the loss of each step in nats.

        Rows are padded on the right to the longest of the batch and masked; output layer and loss are computed at
        labelled positions only.
        """
        optimiser = self._optimiser(schedule)
        base, device = self.model.get_base_model(), self.model.device
        losses = []
        for step in range(schedule.steps):
            pieces = step_pieces(0, schedule, step)
            texts = [torch.from_numpy(piece.text.ids) for piece in pieces]
            ids_BT = pad_sequence(texts, batch_first=True, padding_value=pad_id)
            mask_BT = pad_sequence([torch.ones_like(ids) for ids in texts], batch_first=True)
            width = ids_BT.shape[1]
            index_N = torch.cat([torch.from_numpy(p.text.labelled) + row * width for row, p in enumerate(pieces)])
            target_N = ids_BT.flatten()[index_N].to(device)
            share_N = torch.cat([torch.full((len(p.text.labelled),), p.share) for p in pieces]).to(device)
            # A single row needs no mask, and attention is faster without one.
            mask = mask_BT.to(device) if len(pieces) > 1 else None
            decoder_output = base.get_decoder()(input_ids=ids_BT.to(device), attention_mask=mask, use_cache=False)
            hidden_ND = decoder_output.last_hidden_state.flatten(0, 1).index_select(0, (index_N - 1).to(device))
            logits_NV = base.get_output_embeddings()(hidden_ND).float()
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
            self.parameters, lr=schedule.learning_rate, betas=(BETA1, BETA2), eps=EPSILON,
            weight_decay=self.settings.weight_decay, fused=True,
        )  # fmt: skip

    def _update(self, optimiser: torch.optim.AdamW, schedule: Schedule, step: int) -> None:
        torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.max_grad_norm or math.inf)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(schedule, step)
        optimiser.step()
        optimiser.zero_grad()
