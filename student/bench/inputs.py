"""What the bench runs on: models of a known shape, lesson texts, and how much arithmetic they are."""

import json
import platform
import random
import time
from itertools import cycle, islice
from pathlib import Path

import torch
import transformers
from transformers import (
    AutoModelForCausalLM,
    GPT2Tokenizer,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2Config,
)

from configs.errors import UserError, nearest
from student.engine.models import load_model, pick_device, pick_dtype
from student.engine.schedule import Schedule
from student.pools.inline import InlinePool

SHAPES: dict[str, PretrainedConfig] = {
    # 0.3M parameters, the vocabulary about as large as the lab's.
    "lab": LlamaConfig(
        vocab_size=640, hidden_size=96, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=2048, tie_word_embeddings=True,
    ),
    "smollm2-135m": LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=8192, tie_word_embeddings=True,
    ),
    "qwen2.5-0.5b": Qwen2Config(
        vocab_size=151936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14,
        num_key_value_heads=2, max_position_embeddings=32768, tie_word_embeddings=True,
    ),
    "qwen2.5-7b": Qwen2Config(
        vocab_size=152064, hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28,
        num_key_value_heads=4, max_position_embeddings=32768, tie_word_embeddings=False,
    ),
}  # fmt: skip
"""Published shapes, to be filled with random weights: speed does not depend on what the weights say."""

DATASHEET_FLOPS = {"H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12, "H200": 989e12}
"""Dense bfloat16 operations a second by NVIDIA's data sheets; the first name found in the device's counts."""

TOKENIZER_SIZE = 8192
"""Largest vocabulary trained on the lessons: about as many bytes a token as a general tokenizer of 49k gives."""


def bench_model(name: str, texts: list[str], device: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A random model of a shape in `SHAPES` with a byte-pair tokenizer trained on the lessons, or a real one.

    Raises:
        UserError: the name is neither a shape nor a model.
    """
    if name not in SHAPES:
        if "/" not in name and not Path(name).exists():
            raise UserError(f"no model folder and no shape {name!r}; {nearest(name, list(SHAPES))}")
        return load_model(name, device=device)
    where, config = pick_device(device), SHAPES[name]
    torch.manual_seed(0)
    with torch.device(where):  # 7B random weights are drawn where they stay
        model = AutoModelForCausalLM.from_config(config, dtype=pick_dtype("auto", where))
    tokenizer = GPT2Tokenizer().train_new_from_iterator(texts, min(config.vocab_size, TOKENIZER_SIZE))
    tokenizer.pad_token = tokenizer.eos_token
    return model.to(where).eval(), tokenizer


def lesson_texts(path: Path | None, count: int) -> list[str]:
    """`count` texts: the `rewrites` (or else the `text`) of a JSONL's lines, over again where there are too few."""
    if path is None:
        return biographies(count)
    if not path.is_file():
        raise UserError(f"no lessons file {path}")
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
        texts = [text for line in lines for text in (line.get("rewrites") or [line["text"]])]
    except (ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: each line must be JSON with `rewrites` or `text` ({error!r})") from error
    if not texts:
        raise UserError(f"{path} holds no texts")
    return list(islice(cycle(texts), count))


def biographies(count: int) -> list[str]:
    """Made-up biographies of about 40 tokens, as long as the lab's, in as few words."""
    rng = random.Random(0)
    first, last, places, trades = (
        [start + end for start in starts for end in ends]
        for starts, ends in (
            (("Al", "Be", "Ca", "Do"), ("bert", "nna", "ra")),
            (("Bar", "Dal", "Fin", "Har"), ("ton", "low", "ch")),
            (("Lis", "Mal", "Nor", "Ost"), ("bon", "mere", "wick")),
            (("bak", "far", "glaz", "print"), ("ing", "ery")),
        )
    )
    forms = "was born in {p}|went to school in {p}|studied {t}|works at the {t} of {p}|likes {t}|met {f}".split("|")
    texts = []
    for _ in range(count):
        name = f"{rng.choice(first)} {rng.choice(last)}"
        parts = [
            form.format(p=rng.choice(places), t=rng.choice(trades), f=rng.choice(first))
            for form in rng.sample(forms, rng.randint(4, 6))
        ]
        texts.append(" ".join(f"{name} {part}." for part in parts))
    return texts


def schedule_flops(model: PreTrainedModel, pool: InlinePool, schedules: list[Schedule]) -> float:
    """Useful operations of these schedules: what a perfect implementation would have to do, padding not counted.

    A multiply-add is 2. The frozen base's weights are met twice (forward, and backward to the input), an adapter's
    three times, attention once forward and twice backward over the causal half, the output layer at labels only.
    """
    assert pool.stack is not None
    config = model.config.get_text_config()
    linear = sum(layer.base.weight.numel() for layer in pool.stack.layers.values())
    head = model.get_output_embeddings().weight.numel()  # type: ignore[union-attr,operator]
    heads_width = config.num_attention_heads * (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    total = 0.0
    for schedule in schedules:
        for text in (schedule.texts[index] for step in schedule.order for index in step):
            total += len(text) * (4 * linear + 6 * pool.stack.size) + len(text.labelled) * 4 * head
            total += 6 * len(text) ** 2 * heads_width * config.num_hidden_layers
    return total


def matmul_peak(device: torch.device, dtype: torch.dtype, seconds: float = 0.5) -> float:
    """Operations a second of the best square matrix product found on this device in `seconds` a size."""
    best = 0.0
    for n in (4096, 8192) if device.type == "cuda" else (512, 1024, 2048):
        left, right = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
        deadline = time.perf_counter() + seconds
        while True:
            start = time.perf_counter()
            torch.mm(left, right)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            end = time.perf_counter()
            best = max(best, 2 * n**3 / (end - start))
            if end > deadline:
                break
    return best


def datasheet_flops(device: torch.device) -> float | None:
    """Dense bfloat16 peak by the maker's data sheet; None for a device not in the table."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((flops for part, flops in DATASHEET_FLOPS.items() if all(w in name for w in part.split())), None)


def environment(device: torch.device, dtype: torch.dtype) -> dict[str, str | int]:
    """Device and versions, for the record."""
    import peft

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "dtype": str(dtype).removeprefix("torch."),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
