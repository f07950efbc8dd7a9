"""The speed that a GPU is assumed to have where none can be measured: published numbers, and arithmetic on them.

`notewright plan` marks all of it as assumed.
"""

import math
from dataclasses import dataclass

import numpy as np

from configs.errors import UserError, nearest

SWEEP_SOURCE = "datatrove's vLLM sweep on one H100 (output tokens/s)"
SWEEP: dict[float, float] = {
    134.5e6: 45_500,  # SmolLM2-135M
    268e6: 23_600,  # gemma-3-270m
    596e6: 14_100,  # Qwen3-0.6B
    1.71e9: 9_200,  # SmolLM2-1.7B
    4.02e9: 8_100,  # Qwen3-4B
    8.19e9: 6_400,  # Qwen3-8B
}
"""Output tokens a second, by parameters. The time to read the sweep's own prompts is part of it."""

END_TO_END = (0.40, 0.45)
"""Share of the sweep's speed that a whole run reached (FinePhrase, arXiv 2604.13977)."""

TRAINING_SHARE = 0.4
"""Share of the peak that training reaches."""


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU by its data sheet."""

    name: str
    memory_gb: float
    bandwidth_tb: float
    """TB/s."""
    tflops: float
    """Dense bfloat16."""


_ALL = [
    Device("h100", 80, 3.35, 989),
    Device("h200", 141, 4.8, 989),
    Device("b200", 180, 8.0, 2250),
    Device("a100-80gb", 80, 2.04, 312),
    Device("a100-40gb", 40, 1.56, 312),
    Device("l40s", 48, 0.864, 362),
    Device("l4", 24, 0.30, 121),
    Device("rtx4090", 24, 1.01, 165),
]
DEVICES = {device.name: device for device in _ALL}


def find_device(name: str) -> Device:
    """The device of that name in any spelling. Raises UserError with the nearest name that is known."""
    key = name.strip().lower().replace("_", "-").replace(" ", "")
    if key not in DEVICES:
        raise UserError(f"no figures for device {name!r}: {nearest(key, list(DEVICES))}")
    return DEVICES[key]


def writing_speed(device: Device, parameters: float) -> tuple[float, float]:
    """Output tokens a second of a whole run on one such GPU, low and high.

    A model between two of the sweep lies on a log-log line between them; a smaller one is as fast as the smallest, and
    beyond the largest the speed falls as the size grows, since decoding reads every weight once a step. A GPU other
    than the H100 has that speed times the smaller of its ratios of bandwidth and peak.
    """
    sizes, rates = np.array(list(SWEEP)), np.array(list(SWEEP.values()))
    rate = math.exp(np.interp(math.log(parameters), np.log(sizes), np.log(rates))) * min(1.0, sizes[-1] / parameters)
    h100 = DEVICES["h100"]
    rate *= min(device.bandwidth_tb / h100.bandwidth_tb, device.tflops / h100.tflops)
    return rate * END_TO_END[0], rate * END_TO_END[1]


def beyond_sweep(parameters: float) -> bool:
    """Whether all models of the sweep are larger, or all are smaller."""
    return not min(SWEEP) * 0.9 <= parameters <= max(SWEEP) * 1.1


def student_seconds(device: Device, parameters: float, tokens: float, *, full: bool) -> float:
    """Seconds to train one student on so many tokens: 4 FLOPs a parameter and token with an adapter (the base's weights
    get no gradient), 6 with all weights."""
    return (6 if full else 4) * parameters * tokens / (TRAINING_SHARE * device.tflops * 1e12)
