"""The doctor's checks of models: whether they are here or can be had, and whether they fit in memory."""

from collections import defaultdict
from contextlib import suppress
from pathlib import Path

import httpx
import torch
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from configs.errors import UserError
from configs.schema import Config, Student
from configs.schema.student import TEACHER
from curation.corpus.inputs import models_of
from curation.doctor.checks import Check, Checks
from curation.plan.models import TRAINED_BYTES, device_here, has_weights, model_size, teacher_bytes
from student.engine.memory import free_bytes
from student.engine.model_names import MissingFolder, check_name, hub_problem
from student.engine.models import LEAST_WIDTH, check_model, has_bfloat16, student_dtype
from student.engine.proof import proved_scorer
from teacher.prompting.features import head_tokenizer
from teacher.prompting.template import load_tokenizer
from teacher.reward.student_models import adapter_coverages, starting_bases

PROVED_BYTES = 1e9
"""Most weights that are loaded to show what the engine computes on them: seconds."""

COPY = "copy the folder here and name its path, or set HF_HOME to a cache that has it"


def check_models(config: Config) -> Checks:
    """Folders are opened, Hub ids looked for in the cache and on the Hub; nothing is downloaded."""
    if config.teacher.chooses_only:
        try:
            head_tokenizer(config.teacher)
            yield Check("teacher.model", "ok", f"a head that chooses among {len(config.teacher.strategies)} strategies")
        except UserError as error:
            yield Check("teacher.model", "fail", str(error), "other teacher.strategies")
    for key, name in models_of(config).items():
        if not name:
            yield Check(key, "fail", "it is not set", f"{key}=a folder or a Hub id of a causal language model")
            continue
        try:
            check_name(name, config.lab.dir)
            if Path(name).exists():
                check_model(key, name)
                if key == "teacher.model":
                    load_tokenizer(config.teacher, config.serving, name)  # for its checks of prompts
        except UserError as error:
            makes_it = isinstance(error, MissingFolder) and error.command
            yield Check(key, "fail", str(error), makes_it or f"another {key}")
            continue
        if not Path(name).exists():
            yield _check_on_hub(key, name)
        elif not has_weights(Path(name)):
            yield Check(key, "fail", f"{name} has a config and no weights", "copy its *.safetensors too")
        else:
            size = model_size(name)
            yield Check(key, "ok", name + (f", {size.value:.3g} parameters" if size else ""))


def check_adapters(config: Config) -> Checks:
    """What of each student's model carries adapters."""
    for name, coverage in adapter_coverages(config) if config.data.train else ():
        found = f"{name}: {coverage}"
        if coverage.fused:
            yield Check("student.lora", "warn", found, "student.mode=full trains all weights; or take a dense model")
        else:
            yield Check("student.lora", "ok", found)


def check_dtypes(config: Config) -> Checks:
    """Which type `student.dtype: auto` takes for the base weights of each student's model, and why."""
    settings = config.student
    for name in starting_bases(config).values() if config.data.train and settings.dtype == "auto" else ():
        with suppress(UserError, OSError, ValueError):  # a model that cannot be read is another check's
            dtype, why = student_dtype(settings, name), ""
            if settings.mode == "full":
                why = ": small updates of all weights vanish in bfloat16"
                if has_bfloat16(device_here(settings.device).type):
                    why += ", in which their products are computed"
            elif device_here(settings.device).type == "cpu" and dtype == "bfloat16":
                why = ", which this processor computes; one step is held against float32 when students start (a second)"
            elif device_here(settings.device).type == "cpu":
                why = ": the processor has no AVX-512 BF16 or AMX"
                if has_bfloat16("cpu"):
                    why = f": bfloat16 is twice as fast only from a width of {LEAST_WIDTH}"
            yield Check("student.dtype", "ok", f"{name}: base weights in {dtype}{why}")


def check_engine(config: Config) -> Checks:
    """What the engine shows of itself on each student's model: whether texts can share rows, or whether the model is
    refused. Large models, and those that are not here, are left to the run."""
    settings = config.student
    absent_gpu = settings.device == "cuda" and not torch.cuda.is_available()
    for name in starting_bases(config).values() if config.data.train and not absent_gpu else ():
        size = model_size(name) if Path(name).is_dir() and has_weights(Path(name)) else None
        if size is None or size.value * 4 > PROVED_BYTES:
            continue
        try:
            _, proof = proved_scorer(settings.model_copy(update={"model": name, "models": ()}))
        except UserError as error:
            yield Check("student.engine", "fail", str(error), "another student.model")
        else:
            slower = "" if proof.packed else "nothing: short texts are slower, since their rows hold padding"
            yield Check("student.engine", "ok" if proof.packed else "warn", f"{name}: {proof}", slower)


def _check_on_hub(key: str, name: str) -> Check:
    with suppress(OSError, ValueError):
        return Check(key, "ok", f"{name} is in the cache, {snapshot_download(name, local_files_only=True)}")
    if problem := hub_problem():
        return Check(key, "fail", f"{name} is not on this machine, and {problem}", COPY)
    try:
        info = HfApi().model_info(name, timeout=10.0, files_metadata=True)
    except GatedRepoError:
        return Check(key, "fail", f"{name} is gated", f"accept its terms at hf.co/{name}, and `hf auth login`")
    except RepositoryNotFoundError:
        return Check(key, "fail", f"the Hub has no {name}, or it is private", f"look at {key}, or `hf auth login`")
    except (httpx.HTTPError, OSError) as error:
        problem = f"{name} is not on this machine, and the Hub does not say what it holds: {type(error).__name__}"
        return Check(key, "fail", problem, COPY)
    weights = sum(file.size or 0 for file in info.siblings or () if file.rfilename.endswith(".safetensors"))
    fix = f"it comes with the first run; `hf download {name}` fetches it now"
    return Check(key, "warn", f"{name} is on the Hub, {weights / 1e9:.2g} GB to download", fix)


def _student_bytes(settings: Student, name: str) -> int:
    """Bytes of a weight of a student's base."""
    itemsize = 4
    with suppress(UserError, OSError, ValueError):
        itemsize = 2 if student_dtype(settings, name) == "bfloat16" else 4
    return itemsize + (TRAINED_BYTES if settings.mode == "full" else 0)


def check_memory(config: Config) -> Checks:
    """The weights that are held at once beside what is free, without activations: batches adapt to what is left."""
    needs: dict[str, dict[str, float]] = {"cpu": defaultdict(float), "cuda": defaultdict(float)}
    if (teacher := model_size(config.teacher.model)) is not None:
        needed = teacher_bytes(config.teacher, teacher.value, trained=bool(config.data.train))
        needs[device_here(config.teacher.device).type]["teacher"] = needed
    if config.student.pool == "inline" and config.data.train:
        device = device_here(config.student.device)
        for name in config.student.names:
            if name != TEACHER and (size := model_size(name)) is not None:
                needs[device.type]["students"] += size.value * _student_bytes(config.student, name)
    for kind, parts in needs.items():
        if not parts:
            continue
        needed, free = sum(parts.values()), free_bytes(torch.device(kind))
        listing = " + ".join(f"{name} {size / 1e9:.2g}" for name, size in parts.items())
        demand = f"{kind}: {listing} = {needed / 1e9:.2g} GB of {free / 1e9:.2g} GB free, before activations"
        if needed > free:
            fix = "a smaller model, teacher.lora instead of all weights, dtype bfloat16 on a GPU, or a larger machine"
            yield Check("memory", "fail", demand, fix)
        elif needed > 0.6 * free:
            yield Check("memory", "warn", demand, "few students fit at once: free memory, or smaller models")
        else:
            yield Check("memory", "ok", demand)
