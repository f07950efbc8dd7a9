"""Models for `plan` and `doctor`: how many parameters they have, where their weights are, what memory they need.

Nothing is downloaded. Parameters are counted from a model's config alone, on torch's meta device.
"""

import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from huggingface_hub import snapshot_download

from configs.errors import UserError
from configs.schema import Config, Lora, Teacher
from configs.schema.teacher import HEAD
from curation.corpus.passages import Cutter
from curation.plan.quantity import Quantity, exact
from student.engine.lora import decoder_config
from student.engine.memory import free_bytes
from student.engine.models import empty_model, pick_device, pick_dtype, read_tokenizer

TRAINED_BYTES = 16
"""Memory of a trainable parameter: its float32 weight, its gradient and AdamW's two moments."""
CHARACTERS_PER_TOKEN = 4.0
"""The usual rule of thumb for English, where no tokenizer is on this machine."""
HEAD_PARAMETERS = 4e3
"""Of a head, give or take one for each strategy more: nothing beside any student."""
MEMORY_SHARE = 0.7
"""Share of the free memory for the weights of a model that is loaded to be measured."""


def model_size(model: str, stated: float | None = None, notes: list[str] | None = None) -> Quantity | None:
    """A model's parameters: as the user states them, else counted from its config, else read from its name. None where
    nothing says it. `notes` gets a line where they were not counted."""
    notes = [] if notes is None else notes
    if stated is not None:
        return exact(stated, "assumed")
    if not model:
        return None
    if model == HEAD:
        return exact(HEAD_PARAMETERS)
    with suppress(UserError, OSError, ValueError):
        return exact(float(empty_model(model).num_parameters()))
    by_name = parameters_in_name(model)
    if by_name is None:
        notes.append(f"{model} is not at hand and its name tells no size: give --parameters")
        return None
    notes.append(f"{model} is not at hand: {by_name:.3g} parameters by its name (--parameters says otherwise)")
    return exact(by_name, "assumed")


def parameters_in_name(model: str) -> float | None:
    """The size in a model's name: `Qwen/Qwen2.5-7B` has 7e9 parameters."""
    sizes = re.findall(r"(?<![\w.])(\d+(?:\.\d+)?)([mb])(?![a-z0-9])", model.rsplit("/", 1)[-1].lower())
    return float(sizes[-1][0]) * {"m": 1e6, "b": 1e9}[sizes[-1][1]] if sizes else None


def adapter_parameters(model: str, lora: Lora) -> float | None:
    """Trainable parameters of an adapter on the model; None where the model's config is not on this machine."""
    from peft import get_peft_model

    with suppress(UserError, OSError, ValueError), torch.device("meta"):
        base = empty_model(model)
        adapted = get_peft_model(base, decoder_config(base, lora))
        return float(sum(p.numel() for p in adapted.parameters() if p.requires_grad))
    return None


def teacher_bytes(teacher: Teacher, parameters: float, *, trained: bool) -> float:
    """Memory of a teacher of that size in this process."""
    itemsize = pick_dtype(teacher.dtype, device_here(teacher.device)).itemsize
    if not trained:
        return parameters * itemsize if teacher.writer == "transformers" else 0.0
    if teacher.lora is None:
        return parameters * TRAINED_BYTES
    return parameters * itemsize + (adapter_parameters(teacher.model, teacher.lora) or 0.0) * TRAINED_BYTES


def checkpoint_gb(teacher: Teacher, *, with_optimizer: bool) -> float | None:
    """Disk of one round's checkpoint; None where the teacher's size is not known."""
    if not teacher.model:
        return None
    if teacher.lora is not None:
        parameters = adapter_parameters(teacher.model, teacher.lora)
    else:
        parameters = size.value if (size := model_size(teacher.model)) else None
    # In float32: the trained weights, and AdamW's two moments where training goes on with them.
    return None if parameters is None else 4 * parameters * (3 if with_optimizer else 1) / 1e9


def device_here(name: str) -> torch.device:
    """The device that a setting names; the CPU where it names a GPU and there is none."""
    return torch.device("cpu") if name == "cuda" and not torch.cuda.is_available() else pick_device(name)


def has_weights(folder: Path) -> bool:
    """Whether a model folder holds weights beside its config."""
    return any(folder.glob("*.safetensors")) or any(folder.glob("*.bin"))


def why_not_loadable(model: str, size: Quantity | None, device: str, dtype: str) -> str | None:
    """Why the model cannot be loaded on this machine as it is now; None if it can."""
    folder = Path(model)
    if not folder.is_dir():
        with suppress(OSError, ValueError):
            folder = Path(snapshot_download(model, local_files_only=True))
    if not has_weights(folder):
        return f"the weights of {model} are not on this machine"
    target = pick_device(device)
    needed, free = (size.value if size else 0.0) * pick_dtype(dtype, target).itemsize, free_bytes(target)
    if needed > MEMORY_SHARE * free:
        return f"its weights need {needed / 1e9:.0f} GB and {free / 1e9:.0f} GB are free here"
    return None


def planned_cutter(config: Config, notes: list[str], writes: bool | None = None) -> Cutter:
    """What cuts documents (see `Cutter`); by words where the teacher's tokenizer is not on this machine."""
    cutter = Cutter(config, writes)
    try:
        cutter.tokenizer  # noqa: B018
    except UserError:
        notes.append(f"passages are planned by words: {config.teacher.model}'s tokenizer is not at hand")
        return Cutter(config, writes=False)
    return cutter


def token_counter(model: str, notes: list[str] | None = None) -> tuple[Callable[[str], float], bool]:
    """A function that counts a text's tokens, and whether it does so with the model's own tokenizer. Where that is not
    on this machine, `notes` gets a line, and tokens are estimated from the text's length."""
    try:
        tokenizer = read_tokenizer(model)
    except UserError:
        if notes is not None:
            notes.append(f"{model}'s tokenizer is not at hand: {CHARACTERS_PER_TOKEN:g} characters a token are assumed")
        return lambda text: len(text) / CHARACTERS_PER_TOKEN, False
    return lambda text: float(len(tokenizer(text, add_special_tokens=False)["input_ids"])), True
