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
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from configs.errors import UserError, nearest
from configs.schema import Lora
from student.engine.packing import Rows

# Adapters are views with a stride of P between slots, and so are their gradients: that is the point, not a slip.
warnings.filterwarnings("ignore", message="grad and param do not obey the gradient layout contract")


class _Adapted(torch.autograd.Function):
    """base(x) + scale * B A x for G blocks of rows, each with its own adapter.

    The backward pass is written by hand, because autograd would copy the base's output, add up the input's gradients
    in a buffer of their own, and take A's gradient in an order of axes that is four times slower on a CPU. Hidden
    activations have the axes (G, r, N) for the same reason. The adapters in the base's type and of each block are made
    again in it: kept for all layers they would be half as large as the adapters, or larger than the activations.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x_GNI: Tensor, a_KrI: Tensor, b_KrO: Tensor, index_G: Tensor | None, weight_OI: Tensor,
        bias_O: Tensor | None, scale: float,
    ) -> Tensor:  # fmt: skip
        y_GNO = nn.functional.linear(x_GNI, weight_OI, bias_O)
        h_GrN = torch.bmm(_of_blocks(a_KrI, index_G, x_GNI.dtype), x_GNI.transpose(1, 2))
        ctx.save_for_backward(x_GNI, h_GrN, a_KrI, b_KrO, index_G, weight_OI)
        ctx.scale = scale
        return y_GNO.baddbmm_(h_GrN.transpose(1, 2), _of_blocks(b_KrO, index_G, x_GNI.dtype), alpha=scale)

    @staticmethod
    def backward(ctx: Any, dy_GNO: Tensor) -> Any:  # type: ignore[override]
        x_GNI, h_GrN, a_KrI, b_KrO, index_G, weight_OI = ctx.saved_tensors
        b_GrO = _of_blocks(b_KrO, index_G, x_GNI.dtype)
        dh_GrN = torch.bmm(b_GrO, dy_GNO.transpose(1, 2)).mul_(ctx.scale)
        dx_GNI = None
        if ctx.needs_input_grad[0]:
            a_GrI = _of_blocks(a_KrI, index_G, x_GNI.dtype)
            dx_GNI = torch.matmul(dy_GNO, weight_OI).baddbmm_(dh_GrN.transpose(1, 2), a_GrI)
        db_GrO = torch.bmm(h_GrN, dy_GNO).mul_(ctx.scale)
        da_GrI = torch.bmm(dh_GrN, x_GNI)
        return dx_GNI, _of_slots(da_GrI, index_G, a_KrI), _of_slots(db_GrO, index_G, b_KrO), None, None, None, None


def _of_blocks(weight_KrD: Tensor, index_G: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The adapters of blocks of rows (G, r, D), from those of all slots."""
    weight_KrD = weight_KrD.to(dtype)
    return weight_KrD if index_G is None else weight_KrD.index_select(0, index_G)


def _of_slots(grad_GrD: Tensor, index_G: Tensor | None, weight_KrD: Tensor) -> Tensor:
    """The gradient of all slots' adapters, from those of blocks."""
    if index_G is not None:
        grad_GrD = grad_GrD.new_zeros(weight_KrD.shape).index_add_(0, index_G, grad_GrD)
    return grad_GrD.to(weight_KrD.dtype)


class StackedLinear(nn.Module):
    """A frozen linear layer with one adapter for each slot. Outside `AdapterStack.using` it is the base layer.

    The code of some families (Mamba's step sizes) reads a layer's weight instead of calling it: `weight` and `bias` are
    the base's, without any adapter, and `bypassed` says so.
    """

    stack: "AdapterStack"

    def __init__(self, base: nn.Linear, stack: "AdapterStack", number: int):
        super().__init__()
        self.base, self.stack = base, stack
        self.number = number  # its place among the stack's layers
        self.in_features, self.out_features = base.in_features, base.out_features
        self.a_KrI: Tensor | None = None
        self.b_KrO: Tensor | None = None
        self._called = self._read = False

    @property
    def weight(self) -> Tensor:
        self._read = True
        return self.base.weight

    @property
    def bias(self) -> Tensor | None:
        return self.base.bias

    @property
    def bypassed(self) -> bool:
        """Whether its weight has been read, and it has never been called."""
        return self._read and not self._called

    def forward(self, x_RTI: Tensor) -> Tensor:
        self._called = True
        rows, slots = self.stack.rows, self.stack.slots_in_use
        if rows is None or slots is None:
            return self.base(x_RTI)
        compiling = torch.compiler.is_compiling()
        # A lookup by the layer's number would be compiled anew for each layer; the layer's own tensors are not. The
        # two are the same where layers are compiled, since helpers, which train some of the slots, are off there.
        adapter = (self.a_KrI, self.b_KrO) if compiling else slots.adapters[self.number]
        a_KrI, b_KrO = (weight for weight in adapter if weight is not None)
        index_G = rows.index_G
        x_GNI = x_RTI.reshape(len(a_KrI if index_G is None else index_G), -1, x_RTI.shape[-1])
        if compiling:  # the compiler makes its own backward pass, and fails on one that is written by hand
            a_GrI, b_GrO = (_of_blocks(weight, index_G, x_RTI.dtype) for weight in (a_KrI, b_KrO))
            h_GrN = torch.bmm(a_GrI, x_GNI.transpose(1, 2))
            y_GNO = torch.baddbmm(self.base(x_GNI), h_GrN.transpose(1, 2), b_GrO, alpha=self.stack.scale)
        else:
            base = self.base
            y_GNO = _Adapted.apply(x_GNI, a_KrI, b_KrO, index_G, base.weight, base.bias, self.stack.scale)
        return y_GNO.view(*x_RTI.shape[:-1], y_GNO.shape[-1])


@dataclass(frozen=True, slots=True)
class Slots:
    """Some or all students of a stack, numbered from zero: views of its buffers that can be trained on their own."""

    params_KP: Tensor
    grads_KP: Tensor
    adapters: list[tuple[Tensor, Tensor]]
    """A (K, r, in) and B (K, r, out) of each layer; autograd adds their gradients into `grads_KP` in place."""


class AdapterStack:
    """Wraps a model's linear layers once; `allocate` then gives it K fresh students at a time.

    Shapes: A is (K, r, in), B is (K, r, out), both float32 views of `params_KP`, gradients views of `grads_KP`.
    """

    def __init__(self, model: PreTrainedModel, settings: Lora):
        self.settings = settings
        self.scale = settings.alpha / (math.sqrt(settings.rank) if settings.rslora else settings.rank)
        self.model, self.device = model, model.device
        self.layers: dict[str, StackedLinear] = {}
        self.rows: Rows | None = None
        self.slots_in_use: Slots | None = None
        """The students whose adapters the layers compute with now, and their rows; set by `using`."""
        self.all_slots: Slots | None = None  # all students that were allocated
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        for number, name in enumerate(target_names(model, settings)):
            self.layers[name] = StackedLinear(model.get_submodule(name), self, number)  # type: ignore[arg-type]
            model.set_submodule(name, self.layers[name])
        self.release()

    @property
    def size(self) -> int:
        """Parameters of one student (P)."""
        return sum(self.settings.rank * (layer.in_features + layer.out_features) for layer in self.layers.values())

    def leave_out(self, names: list[str]) -> None:
        """Unwraps these layers, which get no adapter then, and frees the students."""
        for name in names:
            self.model.set_submodule(name, self.layers.pop(name).base)
        for number, layer in enumerate(self.layers.values()):
            layer.number = number
        self.release()

    @property
    def n_slots(self) -> int:
        return self.params_KP.shape[0]

    @torch.no_grad()
    def allocate(self, seeds: list[int]) -> None:
        """Makes K = len(seeds) fresh students. Slots with equal seeds start with equal bits, whatever K is.

        A is drawn as PEFT draws it (uniform in +-1/sqrt(in), which is Kaiming's with a = sqrt(5)); B is zero.
        """
        self.adopt(torch.zeros(len(seeds), self.size, device=self.device))
        # A seed's numbers go to the layers in their order. They are drawn on the CPU: the same start on every device.
        sizes = [self.settings.rank * layer.in_features for layer in self.layers.values()]
        number = {seed: i for i, seed in enumerate(dict.fromkeys(seeds))}
        generator = torch.Generator()
        drawn = torch.stack([torch.rand(sum(sizes), generator=generator.manual_seed(seed)) for seed in number])
        index_K = torch.tensor([number[seed] for seed in seeds])
        for layer, uniform in zip(self.layers.values(), drawn.split(sizes, dim=1), strict=True):
            assert layer.a_KrI is not None
            starts = uniform.mul(2).sub_(1).div_(math.sqrt(layer.in_features)).index_select(0, index_K)
            layer.a_KrI.copy_(starts.view(layer.a_KrI.shape))

    def adopt(self, params_KP: Tensor) -> Slots:
        """Makes K students of these parameters, which are trained in place."""
        self.params_KP, self.grads_KP = params_KP, torch.zeros_like(params_KP)
        self.all_slots = self.slots_at(slice(None))
        for layer, adapter in zip(self.layers.values(), self.all_slots.adapters, strict=True):
            layer.a_KrI, layer.b_KrO = adapter
        return self.all_slots

    def slots_at(self, where: slice) -> Slots:
        """The students at these slots."""
        params_KP, grads_KP = self.params_KP[where], self.grads_KP[where]
        rank, start = self.settings.rank, 0

        def trainable_view(width: int) -> Tensor:
            """The next (K, rank, width) of the buffer, with a gradient that is a view too."""
            nonlocal start
            columns = slice(start, start + rank * width)
            start = columns.stop
            view = params_KP[:, columns].unflatten(1, (rank, -1)).detach().requires_grad_()
            view.grad = grads_KP[:, columns].unflatten(1, (rank, -1))
            return view

        adapters = [
            (trainable_view(layer.in_features), trainable_view(layer.out_features)) for layer in self.layers.values()
        ]
        return Slots(params_KP, grads_KP, adapters)

    def release(self) -> None:
        """Frees the students' memory; the model is the base again."""
        self.params_KP = self.grads_KP = torch.empty(0, self.size)
        self.all_slots = None
        for layer in self.layers.values():
            layer.a_KrI = layer.b_KrO = None

    def detach(self) -> None:
        """Unwraps the model's layers; the stack cannot be used any more."""
        self.leave_out(list(self.layers))

    @contextmanager
    def using(self, rows: Rows, slots: Slots | None = None) -> Iterator[None]:
        """Within it the layers compute a batch's rows with the adapters of `slots` (default: of all that are
        allocated); outside they compute the base. The backward pass belongs inside too: on a GPU it has a thread of its
        own, and computes checkpointed layers again there."""
        self.rows, self.slots_in_use = rows, slots or self.all_slots
        try:
            yield
        finally:
            self.rows = self.slots_in_use = None

    def export(self, slot: int, folder: Path, *, base_model: str = "") -> None:
        """Saves one student as a PEFT adapter: `PeftModel.from_pretrained(base, folder)` gives equal logits."""
        from safetensors.torch import save_file

        tensors = {}
        for name, layer in self.layers.items():
            assert layer.a_KrI is not None and layer.b_KrO is not None, "allocate() first"
            key = f"base_model.model.{name}"
            tensors[f"{key}.lora_A.weight"] = layer.a_KrI[slot].detach().cpu().contiguous()
            tensors[f"{key}.lora_B.weight"] = layer.b_KrO[slot].detach().t().cpu().contiguous()
        config = peft_config(self.settings, sorted(self.layers), base_model=base_model)
        folder.mkdir(parents=True, exist_ok=True)
        config.save_pretrained(str(folder))
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def peft_config(
    settings: Lora, target_modules: str | list[str], *, outside: list[str] | None = None, base_model: str | None = None
) -> Any:
    """The same adapter as PEFT's `LoraConfig`; with `base_model` as PEFT saves it, to be loaded and not trained.
    Modules `outside` get none."""
    from peft import LoraConfig

    return LoraConfig(
        r=settings.rank, use_rslora=settings.rslora, target_modules=target_modules, task_type="CAUSAL_LM",
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # PEFT accepts a float at run time
        exclude_modules=outside or None, base_model_name_or_path=base_model, inference_mode=base_model is not None,
    )  # fmt: skip


def decoder_config(model: PreTrainedModel, settings: Lora) -> Any:
    """PEFT's config for adapters on the model's text decoder. PEFT chooses what `all-linear` is, since in some families
    (Mixtral) it adapts experts' fused weights, which the engine cannot."""
    decoder = set(model.get_decoder().modules())
    linear = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    target = settings.target if isinstance(settings.target, str) else list(settings.target)
    return peft_config(settings, target, outside=[name for name, module in linear if module not in decoder])


def target_names(model: PreTrainedModel, settings: Lora) -> list[str]:
    """Names of the text decoder's linear layers to adapt, in the model's order; the output layer never, as in PEFT's
    all-linear. PEFT's takes the vision tower of a multimodal model as well, which no text reaches."""
    head, decoder = model.get_output_embeddings(), set(model.get_decoder().modules())
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module in decoder and module is not head and _is_product(module)
    ]
    if not linear:
        raise UserError(f"student.model: the decoder of a {model.config.model_type} has no nn.Linear layers to adapt")
    if settings.target == "all-linear":
        return linear
    suffixes = {name.rpartition(".")[2] for name in linear}
    for target in settings.target:
        if target not in suffixes:
            raise UserError(f"student.lora.target: no linear layer {target!r}; {nearest(target, sorted(suffixes))}")
    return [name for name in linear if name.rpartition(".")[2] in settings.target]


@torch.no_grad()
def _is_product(layer: nn.Linear) -> bool:
    """Whether a layer gives its input times its weight and no more: Llama 4's router, a kind of nn.Linear, gives the
    experts that it chose, and nothing can be added to these."""
    if type(layer).forward is nn.Linear.forward:
        return True
    try:
        output = layer(layer.weight.new_zeros(1, layer.in_features))
    except (RuntimeError, TypeError, ValueError):  # DeepSeek V4's takes its input in groups
        return False
    return isinstance(output, Tensor) and output.shape == (1, layer.out_features)


class Coverage(NamedTuple):
    """What of a model's text decoder carries adapters. Shares are of its weights without the embeddings of tokens."""

    modules: tuple[str, ...]
    """Last parts of the adapted layers' names, in the model's order."""
    adapted: float
    fused: float
    """Share of experts that are kept as one 3-D tensor each layer (Mixtral, Qwen-MoE, DeepSeek, gpt-oss): no nn.Linear,
    so the engine does not adapt them; PEFT's all-linear does in some families (Mixtral)."""

    def __str__(self) -> str:
        words = f"adapters on {', '.join(self.modules)}: {self.adapted:.1%} of the decoder's weights beside embeddings"
        return words + (f"; its experts' fused weights, {self.fused:.1%}, carry none" if self.fused else "")


def adapter_coverage(model: PreTrainedModel, settings: Lora) -> Coverage:
    """Which layers get adapters, and what share of the decoder's weights they are; a model without data (on torch's
    meta device) is enough. Raises UserError for a target that does not exist."""
    names = target_names(model, settings)
    decoder, embeddings = model.get_decoder(), model.get_input_embeddings()
    # Counted once each: a layer may be shared. An expert's biases belong to its fused weights.
    total = sum(p.numel() for p in decoder.parameters()) - sum(p.numel() for p in embeddings.parameters())
    adapted = sum(model.get_submodule(name).weight.numel() for name in names)  # type: ignore[union-attr, operator]
    fused = 0
    for module in decoder.modules():
        own = list(module.parameters(recurse=False))
        if not isinstance(module, nn.Conv1d) and any(parameter.dim() == 3 for parameter in own):
            fused += sum(parameter.numel() for parameter in own)
    return Coverage(tuple(dict.fromkeys(name.rpartition(".")[2] for name in names)), adapted / total, fused / total)
