"""Loads causal language models and their tokenizers, from a folder or by a Hub id."""

from functools import cache
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from configs.errors import UserError
from student.engine.model_names import check_available


def pick_device(device: str) -> torch.device:
    """The torch device of a setting; `auto` is the GPU if there is one. Raises UserError for a missing GPU."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device 'cuda' is set, but torch sees no GPU; use device: auto or cpu")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The torch dtype of a setting; `auto` is bfloat16 on a GPU and float32 on a CPU, where bfloat16 is about 8 times
    slower without units for it (AVX2)."""
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return torch.float32 if dtype == "float32" else torch.bfloat16


@cache
def has_bfloat16(device_type: str) -> bool:
    """Whether products in bfloat16 are faster here than in float32: a GPU since NVIDIA's Ampere, or a processor whose
    flags name AVX-512 BF16 or AMX. Emulated on AVX2 they are 8 times slower."""
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    processor = Path("/proc/cpuinfo")
    flags = processor.read_text(encoding="utf-8").split() if processor.is_file() else []
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags)


def load_model(
    name: str, *, device: str = "auto", dtype: str = "auto"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model in eval mode and its tokenizer, which pads with the end-of-text token if it has no other.
    Of the model's own generation config its end tokens are kept, see `generation_config`.

    Raises UserError if `name` is neither a model folder nor a Hub id that can be reached.
    """
    check_available(name)
    where = pick_device(device)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModelForCausalLM.from_pretrained(name, dtype=pick_dtype(dtype, where))
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:  # truncated or ill-fitting weights among them
        raise UserError(f"cannot load model {name!r}: {str(error).splitlines()[0]}") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.generation_config = generation_config(model, tokenizer)
    # The declared return type of from_pretrained is wider than what it returns here.
    return model.to(where).eval(), tokenizer  # type: ignore[arg-type]


def generation_config(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    temperature: float = 0.0,
    top_p: float = 1.0,
    max_new_tokens: int | None = None,
) -> GenerationConfig:
    """What `generate` does, and nothing else: it samples from softmax(logits / temperature), of the likeliest tokens
    that together have the probability `top_p`; at temperature 0 it takes the likeliest one.

    `generate` fills what its caller leaves open from the model's own config. Instruction models ship a
    `repetition_penalty` of 1.05 to 1.1 there, which counts the prompt's words and so punishes copying the document: at
    1.1 SmolLM2-135M samples at up to 3.3 nats from its own log-probabilities. So `load_model` replaces that config,
    too.
    """
    # top_k 0: the library's default of 50 would cut the tail that RL explores.
    sampling = {"temperature": temperature, "top_p": top_p, "top_k": 0} if temperature > 0 else {}
    return GenerationConfig(
        do_sample=temperature > 0,
        max_new_tokens=max_new_tokens,
        eos_token_id=sorted(end_ids(model.generation_config.eos_token_id, tokenizer)),
        # Unused, but the trainers tell of each one that differs from the tokenizer's.
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **sampling,
    )


def end_ids(declared: int | list[int] | None, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Tokens that end a text: those that a model's generation config declares, and the tokenizer's."""
    ends = {*(declared if isinstance(declared, list) else [declared]), tokenizer.eos_token_id}
    return {int(end) for end in ends if end is not None}


def empty_model(name: str) -> PreTrainedModel:
    """The model by its config alone, on torch's meta device: shapes without weights. Raises UserError, OSError or
    ValueError where there is none."""
    check_available(name)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(name))  # type: ignore[no-any-return]


def check_model(key: str, name: str) -> None:
    """Raises UserError if `name` is no model. Reads config and tokenizer only, because the weights may be large."""
    try:
        check_available(name)
        AutoConfig.from_pretrained(name)
        AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise UserError(f"{key} {name!r} cannot be loaded: {str(error).splitlines()[0]}") from None
