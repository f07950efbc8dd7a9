"""Loading causal language models: path or Hub id in, model and tokenizer out, with one clear line where that fails."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from configs.errors import UserError


def pick_device(device: str) -> torch.device:
    """`auto` takes the GPU where there is one."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device 'cuda' asked for, but torch sees no GPU; use device: auto or cpu")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """`auto`: bfloat16 on a GPU, float32 on CPU, where bfloat16 without its own units is about 8x slower (AVX2)."""
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return torch.float32 if dtype == "float32" else torch.bfloat16


def load_model(
    name: str, *, device: str = "auto", dtype: str = "auto"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model in eval mode with its tokenizer, from a folder or a Hub id.

    The tokenizer is sure to have a padding token (the end-of-text token where it had none).

    Raises:
        UserError: `name` is neither a model folder nor a Hub id that can be reached.
    """
    check_folder(name)
    where = pick_device(device)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModelForCausalLM.from_pretrained(name, dtype=pick_dtype(dtype, where))
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:  # truncated or ill-fitting weights are these
        raise UserError(f"cannot load model {name!r}: {str(error).splitlines()[0]}") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    # from_pretrained's return type is wider than what it gives for one device.
    return model.to(where).eval(), tokenizer  # type: ignore[arg-type]


def check_folder(name: str) -> None:
    """Raises UserError if `name` is neither a model folder nor in the form of a Hub id, without asking the Hub."""
    if not name:
        raise UserError("no model given: set student.model and teacher.model to a folder or a Hub id")
    folder = Path(name)
    if folder.exists() and not (folder / "config.json").is_file():
        raise UserError(f"{name} is no model folder: it holds no config.json")
    # A Hub id is `owner/name`, and no folder `owner` stands here.
    local = name.startswith((".", "/", "~")) or name.count("/") != 1 or folder.parent.is_dir()
    if not folder.exists() and local:
        raise UserError(f"model folder {name} does not exist{_hint(name)}")


def _hint(name: str) -> str:
    if "lab" in Path(name).parts:
        return "; `notewright lab` builds the lab's models"
    if "smollm2" in name.lower():
        return "; `make smollm2` brings it"
    return ""


def check_model(key: str, name: str) -> None:
    """Raises UserError if `name` is no model, from its config and tokenizer alone: the weights may be large."""
    try:
        check_folder(name)
        AutoConfig.from_pretrained(name)
        AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise UserError(f"{key} {name!r} cannot be loaded: {str(error).splitlines()[0]}") from None
