"""K students on one frozen base: LoRA adapters stacked along a slot axis.

Every linear layer of the base is wrapped so that a batch row is multiplied with the adapter of *its* student: rows of
slot k see base(x) + scale * B_k A_k x (LoRA, arXiv 2106.09685). All adapters of all slots live in one (K, P) float32
buffer, and each layer's A and B are views into it, so that clipping, the optimiser and resets are a few operations on
one tensor instead of hundreds on small ones.
"""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from configs.errors import UserError, nearest
from configs.schema import Lora

# Adapters are views with a stride of P between slots, and so are their gradients: that is the point, not a slip.
warnings.filterwarnings("ignore", message="grad and param do not obey the gradient layout contract")


@dataclass(frozen=True, slots=True)
class Rows:
    """Which slot each row of a batch belongs to."""

    index_G: Tensor | None
    """int64 (G,): the slots of G equally large blocks of consecutive rows; None where block k is slot k, for all
    slots."""

    @classmethod
    def of(cls, slots: list[int], n_slots: int, device: torch.device) -> "Rows":
        """Rows in the order of their slots. Blocks are whole slots where all have equally many rows, else single
        rows."""
        assert slots == sorted(slots), "rows are ordered by slot"
        present = list(dict.fromkeys(slots))
        if slots != [slot for slot in present for _ in range(len(slots) // len(present))]:
            present = slots
        if present == list(range(n_slots)):
            return cls(None)  # adapters are used in place, without a gather
        return cls(torch.tensor(present, device=device))


class StackedLinear(nn.Module):
    """A frozen linear layer with one adapter a slot; without rows set it is the base layer itself."""

    stack: "AdapterStack"

    def __init__(self, base: nn.Linear, stack: "AdapterStack"):
        super().__init__()
        self.base = base
        self.a_KrI: Tensor | None = None
        self.b_KrO: Tensor | None = None
        self.stack = stack

    def forward(self, x_RTI: Tensor) -> Tensor:
        y_RTO = self.base(x_RTI)
        rows = self.stack.rows
        if rows is None:
            return y_RTO
        assert self.a_KrI is not None and self.b_KrO is not None
        a, b = self.a_KrI.to(x_RTI.dtype), self.b_KrO.to(x_RTI.dtype)
        if rows.index_G is not None:
            a, b = a.index_select(0, rows.index_G), b.index_select(0, rows.index_G)
        x_KNI = x_RTI.reshape(a.shape[0], -1, x_RTI.shape[-1])
        h_KNr = torch.bmm(x_KNI, a.transpose(1, 2))
        y_KNO = torch.baddbmm(y_RTO.reshape(a.shape[0], -1, y_RTO.shape[-1]), h_KNr, b, alpha=self.stack.scale)
        return y_KNO.view_as(y_RTO)


class AdapterStack:
    """Wraps a model's linear layers once; `allocate` then gives it K fresh students at a time.

    Shapes: A is (K, r, in), B is (K, r, out), both float32 views of `params_KP`, gradients views of `grads_KP`.
    """

    def __init__(self, model: PreTrainedModel, settings: Lora):
        self.settings = settings
        self.scale = settings.alpha / (math.sqrt(settings.rank) if settings.rslora else settings.rank)
        self.rows: Rows | None = None
        self.model = model
        self.device = model.device
        self.layers: dict[str, StackedLinear] = {}
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        for name in _target_names(model, settings):
            parent_name, _, child = name.rpartition(".")
            parent = model.get_submodule(parent_name)
            self.layers[name] = StackedLinear(getattr(parent, child), self)
            setattr(parent, child, self.layers[name])
        rank = settings.rank
        self.size = sum(rank * (layer.base.in_features + layer.base.out_features) for layer in self.layers.values())
        """Parameters of one student (P)."""
        self.params_KP = torch.empty(0, self.size)
        self.grads_KP = torch.empty(0, self.size)

    @property
    def n_slots(self) -> int:
        return self.params_KP.shape[0]

    def allocate(self, seeds: list[int]) -> None:
        """K = len(seeds) fresh students. Slots with equal seeds start with equal bits, whatever K is.

        A is drawn as PEFT draws it (uniform in +-1/sqrt(in), Kaiming with a = sqrt(5)), B is zero.
        """
        k, rank = len(seeds), self.settings.rank
        self.params_KP = torch.zeros(k, self.size, device=self.device)
        self.grads_KP = torch.zeros(k, self.size, device=self.device)
        drawn = {seed: self._draw(seed) for seed in set(seeds)}
        for slot, seed in enumerate(seeds):
            self.params_KP[slot] = drawn[seed].to(self.device)
        start = 0
        for layer in self.layers.values():
            width_in, width_out = layer.base.in_features, layer.base.out_features
            middle, end = start + rank * width_in, start + rank * (width_in + width_out)
            layer.a_KrI = self._leaf(start, middle, (k, rank, width_in))
            layer.b_KrO = self._leaf(middle, end, (k, rank, width_out))
            start = end

    def _draw(self, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)  # on CPU: the same start on every device
        rank, parts = self.settings.rank, []
        for layer in self.layers.values():
            width_in, width_out = layer.base.in_features, layer.base.out_features
            parts.append((torch.rand(rank * width_in, generator=generator) * 2 - 1) / math.sqrt(width_in))
            parts.append(torch.zeros(rank * width_out))
        return torch.cat(parts)

    def _leaf(self, start: int, end: int, shape: tuple[int, int, int]) -> Tensor:
        """A trainable view whose gradient autograd adds into `grads_KP` in place."""
        leaf = self.params_KP[:, start:end].view(shape).detach().requires_grad_()
        leaf.grad = self.grads_KP[:, start:end].view(shape)
        return leaf

    def release(self) -> None:
        """Frees the students' memory; the model is the base again."""
        self.params_KP = self.grads_KP = torch.empty(0, self.size)
        for layer in self.layers.values():
            layer.a_KrI = layer.b_KrO = None

    @contextmanager
    def using(self, rows: Rows | None) -> Iterator[None]:
        """Within it, a batch's rows are computed with these slots' adapters (None: the base). Backward belongs
        inside."""
        self.rows = rows
        try:
            yield
        finally:
            self.rows = None

    def detach(self) -> None:
        """Puts the base's own layers back."""
        for name, layer in self.layers.items():
            parent_name, _, child = name.rpartition(".")
            setattr(self.model.get_submodule(parent_name), child, layer.base)

    def export(self, slot: int, folder: Path, *, base_model: str = "") -> None:
        """Saves one student as a standard PEFT adapter: `PeftModel.from_pretrained(base, folder)` gives equal
        logits."""
        from peft import LoraConfig
        from safetensors.torch import save_file

        tensors = {}
        for name, layer in self.layers.items():
            assert layer.a_KrI is not None and layer.b_KrO is not None, "allocate() first"
            key = f"base_model.model.{name}"
            tensors[f"{key}.lora_A.weight"] = layer.a_KrI[slot].detach().cpu().contiguous()
            tensors[f"{key}.lora_B.weight"] = layer.b_KrO[slot].detach().t().cpu().contiguous()
        config = LoraConfig(
            r=self.settings.rank,
            lora_alpha=self.settings.alpha,  # type: ignore[arg-type]  # PEFT accepts a float at run time
            use_rslora=self.settings.rslora,
            target_modules=sorted(self.layers),
            task_type="CAUSAL_LM",
            base_model_name_or_path=base_model,
            inference_mode=True,
        )
        folder.mkdir(parents=True, exist_ok=True)
        config.save_pretrained(str(folder))
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def _target_names(model: PreTrainedModel, settings: Lora) -> list[str]:
    """Names of the linear layers to adapt, in the model's order; the output layer never, as in PEFT's all-linear."""
    head = model.get_output_embeddings()
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and module is not head]
    if settings.target == "all-linear":
        return linear
    suffixes = {name.rpartition(".")[2] for name in linear}
    for target in settings.target:
        if target not in suffixes:
            raise UserError(f"student.lora.target: no linear layer {target!r}; {nearest(target, sorted(suffixes))}")
    return [name for name in linear if name.rpartition(".")[2] in settings.target]
