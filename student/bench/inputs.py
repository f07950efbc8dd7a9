"""Inputs of the bench: models of a known shape, lesson texts, their useful arithmetic, and the machine's speed."""

import platform
import random
import time
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Tokenizer,
    LlamaConfig,
    Olmo2Config,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen3Config,
)

from configs.errors import UserError, nearest
from configs.files import parse_lines
from configs.schema import Student
from student.engine.models import load_student, pick_device, pick_dtype, student_dtype
from student.engine.schedule import Schedule
from student.pools.inline import InlinePool
from student.records import Exam, Question

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
    "llama-3.2-1b": LlamaConfig(
        vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
        num_key_value_heads=8, max_position_embeddings=131072, tie_word_embeddings=True,
    ),
    "gemma-3-1b": Gemma3TextConfig(
        vocab_size=262144, hidden_size=1152, intermediate_size=6912, num_hidden_layers=26, num_attention_heads=4,
        num_key_value_heads=1, head_dim=256, max_position_embeddings=32768, sliding_window=512,
    ),
    "gemma-3-4b": Gemma3TextConfig(
        vocab_size=262208, hidden_size=2560, intermediate_size=10240, num_hidden_layers=34, num_attention_heads=8,
        num_key_value_heads=4, head_dim=256, max_position_embeddings=131072, sliding_window=1024,
    ),
    "qwen3-4b": Qwen3Config(
        vocab_size=151936, hidden_size=2560, intermediate_size=9728, num_hidden_layers=36, num_attention_heads=32,
        num_key_value_heads=8, head_dim=128, max_position_embeddings=40960, tie_word_embeddings=True,
    ),
    "qwen3-8b": Qwen3Config(
        vocab_size=151936, hidden_size=4096, intermediate_size=12288, num_hidden_layers=36, num_attention_heads=32,
        num_key_value_heads=8, head_dim=128, max_position_embeddings=40960, tie_word_embeddings=False,
    ),
    "olmo-2-7b": Olmo2Config(
        vocab_size=100352, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=32, max_position_embeddings=4096, tie_word_embeddings=False,
    ),
}  # fmt: skip
"""Published shapes, which are filled with random weights: speed does not depend on the weights."""

DATASHEET_FLOPS = {"H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12, "H200": 989e12}
"""Dense bfloat16 operations a second by NVIDIA's data sheets; the first whose words are in the device's name counts."""

TOKENIZER_SIZE = 8192
"""Largest vocabulary of a tokenizer trained on the lessons: about as many bytes a token as a general one of 49k has."""


def bench_model(settings: Student, texts: list[str]) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The base of the students: a random model of a shape in `SHAPES` with a byte-pair tokenizer trained on the
    lessons, or a real one.

    Raises:
        UserError: the name is neither a shape nor a model.
    """
    name = settings.model
    if name not in SHAPES:
        if "/" not in name and not Path(name).exists():
            raise UserError(f"no model folder and no shape {name!r}; {nearest(name, list(SHAPES))}")
        return load_student(settings)
    torch_device, config = pick_device(settings.device), SHAPES[name]
    torch.manual_seed(0)
    with torch.device(torch_device):  # 7B random weights are drawn where they stay
        dtype = pick_dtype(student_dtype(settings, config), torch_device)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    tokenizer = GPT2Tokenizer().train_new_from_iterator(texts, min(config.vocab_size, TOKENIZER_SIZE))
    tokenizer.pad_token = tokenizer.eos_token
    return model.to(torch_device).eval(), tokenizer


def lesson_texts(path: Path | None, count: int) -> list[str]:
    """`count` texts: the `rewrites` (or else the `text`) of each line of a JSONL, repeated if there are too few."""
    if path is None:
        return biographies(count)
    texts = [text for texts in parse_lines("--lessons", path, _texts_of) for text in texts]
    if not texts:
        raise UserError(f"--lessons: {path} holds no texts")
    return list(islice(cycle(texts), count))


def _texts_of(row: Any) -> list[str]:
    texts = row.get("rewrites") or [row.get("text")] if isinstance(row, dict) else None
    if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise UserError("not an object with `text`, or with `rewrites` that are texts")
    return texts


def exam_on(texts: list[str], questions: int) -> Exam:
    """Questions on a lesson's texts: how each goes on, two words near its end."""
    items = []
    for number in range(questions):
        words = texts[number % len(texts)].split()
        cut = max(1, len(words) - 2 - number // len(texts))  # another place each time that a text comes
        items.append(Question(prompt=" ".join(words[:cut]), answer=" ".join(words[cut : cut + 2]) or "."))
    return Exam(questions=tuple(items))


def biographies(count: int) -> list[str]:
    """Made-up biographies of about 40 tokens, as long as the lab's and with as few different words."""
    rng = random.Random(0)

    def combine(starts: str, ends: str) -> list[str]:
        return [start + end for start in starts.split() for end in ends.split()]

    first_names, last_names = combine("Al Be Ca Do", "bert nna ra"), combine("Bar Dal Fin Har", "ton low ch")
    places, trades = combine("Lis Mal Nor Ost", "bon mere wick"), combine("bak far glaz print", "ing ery")
    forms = "was born in {p}|went to school in {p}|studied {t}|works at the {t} of {p}|likes {t}|met {f}".split("|")
    texts = []
    for _ in range(count):
        name = f"{rng.choice(first_names)} {rng.choice(last_names)}"
        facts = [
            form.format(p=rng.choice(places), t=rng.choice(trades), f=rng.choice(first_names))
            for form in rng.sample(forms, rng.randint(4, 6))
        ]
        texts.append(" ".join(f"{name} {fact}." for fact in facts))
    return texts


def schedule_flops(model: PreTrainedModel, pool: InlinePool, schedules: list[Schedule]) -> float:
    """Operations of these schedules that no implementation can save, so without padding.

    A multiply-add is 2. The frozen base's weights count twice (forward, and backward to the input), an adapter's three
    times, attention once forward and twice backward over the causal half, the output layer at labels only.
    """
    assert pool.stack is not None
    config = model.config.get_text_config()
    linear = sum(layer.base.weight.numel() for layer in pool.stack.layers.values())
    head = model.get_output_embeddings().weight.numel()  # type: ignore[union-attr,operator]
    head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    attention = 6 * config.num_attention_heads * head_width * config.num_hidden_layers
    texts = [schedule.texts[index] for schedule in schedules for step in schedule.order for index in set(step)]
    return float(
        sum(len(text) * (4 * linear + 6 * pool.stack.size) + len(text) ** 2 * attention for text in texts)
        + sum(len(text.labelled) for text in texts) * 4 * head
    )


def matmul_peak(device: torch.device, dtype: torch.dtype, seconds: float = 0.5) -> float:
    """Most operations a second of a square matrix product on this device, measured for `seconds` at each size."""
    best = 0.0
    for n in (4096, 8192) if device.type == "cuda" else (512, 1024, 2048):
        left, right = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
        end, deadline = 0.0, time.perf_counter() + seconds
        while end < deadline:
            start = time.perf_counter()
            torch.mm(left, right)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            end = time.perf_counter()
            best = max(best, 2 * n**3 / (end - start))
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

    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        info = Path("/proc/cpuinfo")
        lines = info.read_text().splitlines() if info.is_file() else []
        names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
        name = next(names, platform.processor())
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "dtype": str(dtype).removeprefix("torch."),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
    }
