"""The doctor's look at models: whether they are here or can be had, and whether they fit in memory."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import httpx
import torch
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError
from transformers import AutoConfig, AutoModelForCausalLM

from configs.errors import UserError
from configs.schema import Config
from curation.plan.teacher import model_size
from student.engine.memory import free_bytes
from student.engine.models import check_model, pick_device, pick_dtype
from teacher.questions.writer import TEACHER

State = Literal["ok", "warn", "fail"]
Found = Iterator[tuple[str, State, str] | tuple[str, State, str, str]]
"""What a check finds: its name, its state, what was found, and what to change."""

HUB_SECONDS = 10.0
TRAINED_BYTES = 16
"""A trainable parameter: float32 weight, gradient and AdamW's two moments."""
COPY = "copy the folder here and name its path, or set HF_HOME to a cache that has it"


def models_of(config: Config) -> dict[str, str]:
    """The models that the config names, by the setting that names each first."""
    named = [("teacher.model", config.teacher.model)]
    named += [("student.models" if config.student.models else "student.model", name) for name in config.student.names]
    named += [("questions.model", config.questions.model)]
    curates_alone = bool(config.curation.input) and not config.data.train
    found: dict[str, str] = {}
    for key, name in named:
        optional = (key.startswith("student") and curates_alone) or key == "questions.model"
        echo = key == "teacher.model" and config.curation.writer == "echo" and curates_alone
        if name == TEACHER or (not name and (optional or echo)):
            continue
        found.setdefault(name, key)
    return {key: name for name, key in found.items()}


def check_models(config: Config) -> Found:
    """Folders are opened, Hub ids looked for in the cache and on the Hub; nothing is downloaded."""
    for key, name in models_of(config).items():
        if not name:
            yield key, "fail", "it is not set", f"{key}=a folder or a Hub id of a causal language model"
        elif Path(name).exists() or not _is_hub_id(name):
            yield _folder(config, key, name)
        else:
            yield _on_hub(key, name)


def _is_hub_id(name: str) -> bool:
    return not name.startswith((".", "/", "~")) and name.count("/") == 1 and not Path(name).parent.is_dir()


def _folder(config: Config, key: str, name: str) -> tuple[str, State, str, str]:
    try:
        check_model(key, name)
    except UserError as error:
        told = str(error)
        fix = "`notewright lab CONFIG` builds it" if name.startswith(str(config.lab.dir)) else ""
        return key, "fail", told, fix or ("`make smollm2` brings it" if "smollm2" in name else f"another {key}")
    if not (any(Path(name).glob("*.safetensors")) or any(Path(name).glob("*.bin"))):
        return key, "fail", f"{name} has a config and no weights", "copy its *.safetensors too"
    size = model_size(name, None, [])
    return key, "ok", f"{name}" + (f", {size.value:.3g} parameters" if size else ""), ""


def _on_hub(key: str, name: str) -> tuple[str, State, str, str]:
    try:
        return key, "ok", f"{name} is in the cache, {snapshot_download(name, local_files_only=True)}", ""
    except (OSError, ValueError):
        pass
    try:
        found = HfApi().model_info(name, timeout=HUB_SECONDS, files_metadata=True)
    except GatedRepoError:
        return key, "fail", f"{name} is gated", f"accept its terms at hf.co/{name}, and `hf auth login`"
    except RepositoryNotFoundError:
        return key, "fail", f"the Hub has no {name}, or it is private", f"look at {key}, or `hf auth login`"
    except OfflineModeIsEnabled:
        return key, "fail", f"{name} is not on this machine, and HF_HUB_OFFLINE is set", COPY
    except (httpx.HTTPError, OSError) as error:
        return (
            key,
            "fail",
            f"{name} is not on this machine, and the Hub cannot be reached: {type(error).__name__}",
            COPY,
        )
    weights = sum(file.size or 0 for file in found.siblings or () if file.rfilename.endswith(".safetensors"))
    fix = f"it comes with the first run; `hf download {name}` fetches it now"
    return key, "warn", f"{name} is on the Hub, {weights / 1e9:.2g} GB to download", fix


def check_memory(config: Config) -> Found:
    """The weights that are held at once beside what is free, without activations: batches adapt to what is left."""
    wanted: dict[str, float] = {}
    teacher = _size(config.teacher.model)
    if teacher is not None:
        device = _device(config.teacher.device)
        wanted[f"teacher on {device}"] = teacher_bytes(config, teacher)
    students = [_size(name) for name in config.student.names if name not in ("", TEACHER)]
    if config.student.pool == "inline" and config.data.train:
        itemsize = pick_dtype(config.student.dtype, _device(config.student.device)).itemsize
        if config.student.mode == "full":
            itemsize += TRAINED_BYTES
        for size in students:
            if size is not None:
                device = _device(config.student.device)
                name = f"students on {device}"
                wanted[name] = wanted.get(name, 0.0) + size * itemsize
    for kind in ("cpu", "cuda"):
        parts = {name: size for name, size in wanted.items() if name.endswith(kind)}
        if not parts:
            continue
        needed, free = sum(parts.values()), free_bytes(torch.device(kind))
        what = " + ".join(f"{name.partition(' on ')[0]} {size / 1e9:.2g}" for name, size in parts.items())
        found = f"{kind}: {what} = {needed / 1e9:.2g} GB of {free / 1e9:.2g} GB free, before activations"
        if needed > free:
            fix = "a smaller model, teacher.lora instead of all weights, dtype bfloat16 on a GPU, or a larger machine"
            yield "memory", "fail", found, fix
        elif needed > 0.6 * free:
            yield "memory", "warn", found, "few students fit at once: free memory, or smaller models"
        else:
            yield "memory", "ok", found


def teacher_bytes(config: Config, parameters: float) -> float:
    """Of a teacher in this process: to be trained where the config trains."""
    settings = config.teacher
    itemsize = pick_dtype(settings.dtype, _device(settings.device)).itemsize
    if not config.data.train:
        return parameters * itemsize if settings.writer == "transformers" else 0.0
    if settings.lora is None:
        return parameters * TRAINED_BYTES
    return parameters * itemsize + (adapter_parameters(config) or 0.0) * TRAINED_BYTES


def adapter_parameters(config: Config) -> float | None:
    """Of the teacher's adapter, counted on a model without weights; None where its config is not here."""
    from peft import LoraConfig, get_peft_model

    lora = config.teacher.lora
    assert lora is not None
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(config.teacher.model))
            target = lora.target if isinstance(lora.target, str) else list(lora.target)
            adapted = get_peft_model(model, LoraConfig(r=lora.rank, target_modules=target, task_type="CAUSAL_LM"))
    except (OSError, ValueError):
        return None
    return float(sum(p.numel() for p in adapted.parameters() if p.requires_grad))


def checkpoint_gb(config: Config) -> float | None:
    """Of one round's checkpoint; None where the teacher's size is not known."""
    if not config.teacher.model:
        return None
    if config.teacher.lora is None:
        parameters = _size(config.teacher.model)
    else:
        parameters = adapter_parameters(config)
    optimizer = 3 if config.rl.algorithm == "grpo" else 1
    return None if parameters is None else 4 * parameters * optimizer / 1e9


def _size(model: str) -> float | None:
    found = model_size(model, None, []) if model else None
    return None if found is None else found.value


def _device(name: str) -> torch.device:
    return torch.device("cpu") if name == "cuda" and not torch.cuda.is_available() else pick_device(name)
