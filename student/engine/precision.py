"""Which type the base weights of students have: where `student.dtype: auto` takes bfloat16, and a check of one step
against float32. Adapters are float32 always."""

import logging
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import AttentionInterface

from configs.schema import Lora, Student
from student.engine.encoding import encode_text
from student.engine.helpers import torch_threads
from student.engine.lora import AdapterStack
from student.engine.model_names import check_available
from student.engine.models import has_bfloat16, load_model, pick_device
from student.engine.packing import Piece, pack
from student.engine.training import batch_loss

log = logging.getLogger(__name__)

LEAST_WIDTH = 256
"""Width from which students are trained at least twice as fast in bfloat16 on a CPU that computes it: 2.0 times at 256,
2.2 at 384, 2.6 at 576, but 1.8 at 192, 1.5 at 128 and 1.0 at 96 (Llama shapes, one core with AVX-512 BF16)."""

FLOAT32_ATTENTION = "sdpa_float32"
"""The name under which transformers knows attention in float32."""

CHECK_TEXT = "The check trains a student on these words: a river rises in the hills, turns south and meets the sea."

ROUNDINGS = 40
"""Results that a layer rounds on the way of one token, about 20 to its output and 20 back: norms, rotary embedding, the
products of attention and of the feed-forward part with those of their adapters, what joins them."""

ROUNDING = 2**-9 / math.sqrt(3)
"""Root mean square of the relative error of one rounding to the 8 significant bits of bfloat16."""

MARGIN = 4.0
"""A step may differ from float32 by so many times what independent roundings add up to."""


def student_dtype(settings: Student, model: str | PretrainedConfig | None = None) -> str:
    """The type in which the base weights of students are loaded, `float32` or `bfloat16`. It follows from settings, the
    model's config and the processor's flags, not from a timing, so that every call on a machine takes the same.
    `model`, a name or a config, stands in for `student.model`. Raises UserError, OSError or ValueError where `auto` has
    to look at a config that cannot be read."""
    if settings.dtype != "auto":
        return settings.dtype
    if settings.mode == "full":
        return "float32"  # small updates of all weights vanish in bfloat16
    device = pick_device(settings.device)
    if device.type == "cuda":
        return "bfloat16"
    if not has_bfloat16(device.type):
        return "float32"
    config = model if isinstance(model, PretrainedConfig) else AutoConfig.from_pretrained(model or settings.model)
    width = getattr(config.get_text_config(), "hidden_size", None) or 0
    return "bfloat16" if width >= LEAST_WIDTH else "float32"


def load_student(settings: Student) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The base of students and its tokenizer. bfloat16 that `auto` chose on a CPU has to agree with float32 in one
    step; else the base is loaded in float32, and a line of the log says so. Raises UserError as `load_model`, and for
    an adapter's target that does not exist."""
    check_available(settings.model)
    try:
        dtype = student_dtype(settings)
    except (OSError, ValueError):
        dtype = "float32"  # the reason why the config cannot be read is given where the model is loaded
    model, tokenizer = load_model(settings.model, device=settings.device, dtype=dtype)
    if settings.dtype == "auto" and dtype == "bfloat16" and model.device.type == "cpu":
        step = compare_step(model, tokenizer, settings.lora)
        if step.agrees:
            log.info("students of %s are trained in bfloat16: %s", settings.model, step)
        else:
            log.warning("students of %s are trained in float32: bfloat16 fails its check, %s", settings.model, step)
            model, tokenizer = load_model(settings.model, device=settings.device, dtype="float32")
    return model, tokenizer


class StepComparison(NamedTuple):
    """One training step in bfloat16 beside the same in float32."""

    loss: float
    """Relative difference of the losses."""
    gradient: float
    """Norm of the difference of the adapters' gradients, relative to float32's."""
    most: float
    """The most that either may be."""

    @property
    def agrees(self) -> bool:
        return self.loss <= self.most and self.gradient <= self.most  # not so with NaN

    def __str__(self) -> str:
        differences = f"{self.loss:.1%} in loss and {self.gradient:.1%} in gradient"
        return f"one step differs by {differences} (at most {self.most:.0%})"


def compare_step(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: Lora) -> StepComparison:
    """Loss and adapter gradient of one short text, in the model's type and then with the same weights in float32. It
    takes memory for weights in float32, and 0.3 s on SmolLM2-135M. Afterwards the model is as it was.

    Independent roundings add up as a random walk: n of them to sqrt(n) times one. Errors of kernels are far beyond: one
    that drops a term or reads a wrong row changes a gradient by its own size.
    """
    attend_in_float32(model)
    stack = AdapterStack(model, settings)
    text = encode_text(tokenizer, CHECK_TEXT, "all", 64)
    [batch] = pack([Piece(0, text, share=1 / len(text.labelled))], 1, 0, model.device, max_tokens=64)

    def step() -> tuple[float, Tensor]:
        stack.allocate([0])
        assert stack.all_slots is not None
        generator = torch.Generator().manual_seed(1)
        for _, b_1rO in stack.all_slots.adapters:  # at B = 0 the gradient of A would be zero
            b_1rO.detach().copy_(torch.rand(b_1rO.shape, generator=generator).sub_(0.5).mul_(0.02))
        with torch.enable_grad(), stack.using(batch.rows):
            loss, _, _ = batch_loss(model, batch)
            loss.backward()
        return loss.item(), stack.grads_KP

    tensors = [t for t in (*model.parameters(), *model.buffers()) if t.dtype == torch.bfloat16]
    rounded = [tensor.data for tensor in tensors]
    with torch_threads(1):  # the same bits on every call
        try:
            loss, gradient = step()
            for tensor in tensors:
                tensor.data = tensor.data.float()
            exact_loss, exact_gradient = step()
        finally:
            for tensor, data in zip(tensors, rounded, strict=True):
                tensor.data = data
            stack.detach()
    roundings = ROUNDINGS * model.config.get_text_config().num_hidden_layers
    return StepComparison(
        loss=abs(loss - exact_loss) / abs(exact_loss),
        gradient=float((gradient - exact_gradient).norm() / exact_gradient.norm()),
        most=MARGIN * math.sqrt(roundings) * ROUNDING,
    )


def attend_in_float32(model: PreTrainedModel) -> None:
    """Has the decoder of a bfloat16 model on a CPU compute attention in float32: torch's kernel for its backward pass
    takes half as long there, and the one for the forward pass no longer (9 heads, 8 rows of 100 positions)."""
    decoder = model.get_decoder()
    if model.dtype == torch.bfloat16 and model.device.type == "cpu" and decoder.config._attn_implementation == "sdpa":
        AttentionInterface.register(FLOAT32_ATTENTION, _attention)
        AttentionMaskInterface.register(FLOAT32_ATTENTION, sdpa_mask)
        decoder.set_attn_implementation(FLOAT32_ATTENTION)


def _attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Scaled dot-product attention in float32 for inputs of any type, as transformers calls it."""
    if attention_mask is not None and attention_mask.is_floating_point():
        attention_mask = attention_mask.float()
    output, _ = sdpa_attention_forward(module, query.float(), key.float(), value.float(), attention_mask, **options)
    return output.to(query.dtype), None
