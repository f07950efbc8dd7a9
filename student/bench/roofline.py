"""What an H100 could reach at the most, on paper: nothing here is measured.

    python -m student.bench.roofline                       a Markdown table, for K = 8 to 512 students

A step can be no faster than its arithmetic at the peak, and than its bytes at the bandwidth, of NVIDIA's data sheet
(H100 SXM: 989 TFLOP/s dense bfloat16, 3.35 TB/s, 80 GB). The arithmetic is that of `schedule_flops`. The bytes are the
fewest that a program can move: the base's weights twice a pass, of each adapter weight 16 bytes a pass (read in both
directions, its gradient added up) and 44 for clipping, AdamW and clearing the gradient, and each activation that is
kept written and read once. Where K students do not fit at once they come in batches, which read the base again.
"""

import math
from typing import NamedTuple

import torch
from transformers import AutoModelForCausalLM

from configs.schema import Lora
from student.bench.inputs import DATASHEET_FLOPS, SHAPES
from student.engine.lora import AdapterStack
from student.engine.memory import STATE_BYTES
from student.pools.inline import GPU_PASS_TOKENS, STATE_SHARE

PEAK, BANDWIDTH, MEMORY = DATASHEET_FLOPS["H100"], 3.35e12, 80e9
MODELS, STUDENTS = ("smollm2-135m", "qwen2.5-0.5b", "qwen2.5-7b"), (8, 32, 128, 512)
RANK, STEP_TOKENS, TEXT_TOKENS = 32, 2048, 256


class Step(NamedTuple):
    """One optimiser step of K students."""

    at_once: int
    """Students of a batch."""
    flops: float
    bytes: float

    @property
    def seconds(self) -> float:
        return max(self.flops / PEAK, self.bytes / BANDWIDTH)


def step_of(shape: str, students: int) -> Step:
    """A step of `STEP_TOKENS` tokens a student, all labelled, in texts of `TEXT_TOKENS`, by adapters of rank `RANK`."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(SHAPES[shape], dtype=torch.bfloat16)
    stack, config = AdapterStack(model, Lora(rank=RANK, alpha=2.0 * RANK)), model.config
    linear = sum(layer.base.weight.numel() for layer in stack.layers.values())
    head = config.vocab_size * config.hidden_size
    head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    queries, keys = config.num_attention_heads * head_width, config.num_key_value_heads * head_width
    weights = 2 * sum(parameter.numel() for parameter in model.parameters())
    at_once = min(students, int(STATE_SHARE * (MEMORY - weights) // (stack.size * STATE_BYTES)))
    tokens = students * STEP_TOKENS
    batches = math.ceil(students / at_once)
    passes = batches * math.ceil(at_once * STEP_TOKENS / GPU_PASS_TOKENS)
    attention = 6 * queries * config.num_hidden_layers * TEXT_TOKENS
    flops = tokens * (4 * linear + 6 * stack.size + attention + 4 * head)
    # Inputs and outputs of the norms, queries, keys, values, their outcome, and the four of the feed-forward part.
    kept = 4 * config.hidden_size + 2 * queries + 2 * keys + 4 * config.intermediate_size
    moved = passes * 2 * weights + 2 * 2 * tokens * kept * config.num_hidden_layers
    moved += stack.size * students * (16 * passes / batches + 44)
    return Step(at_once, float(flops), float(moved))


def table() -> str:
    """The table of all models and numbers of students."""
    lines = [
        f"Rank {RANK}, {STEP_TOKENS} tokens a student and step, texts of {TEXT_TOKENS}, one H100, on paper:",
        "",
        "| model | students | at once | TFLOP | GB | bound by | ms a step | student steps/s | at 40% |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for shape in MODELS:
        for students in STUDENTS:
            step = step_of(shape, students)
            bound = "arithmetic" if step.flops / PEAK > step.bytes / BANDWIDTH else "memory"
            rate = students / step.seconds
            at_40 = students / max(step.flops / (0.4 * PEAK), step.bytes / BANDWIDTH)
            lines.append(
                f"| {shape} | {students} | {step.at_once} | {step.flops / 1e12:,.1f} | {step.bytes / 1e9:,.1f} |"
                f" {bound} | {1e3 * step.seconds:,.1f} | {rate:,.0f} | {at_40:,.0f} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
