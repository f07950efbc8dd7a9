"""What a GPU is assumed to do where none can be measured: published figures, and how they are carried to others.

Every number here is someone's published one or arithmetic on it, and `notewright plan` marks it as assumed.
"""

import bisect
import math
from dataclasses import dataclass

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
"""Output tokens a second by parameters; prompts of the sweep's own documents are paid for in them."""

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
    """Memory bandwidth, TB/s."""
    tflops: float
    """Dense bfloat16."""


DEVICES = {
    device.name: device
    for device in (
        Device("h100", 80, 3.35, 989),
        Device("h200", 141, 4.8, 989),
        Device("b200", 180, 8.0, 2250),
        Device("a100-80gb", 80, 2.04, 312),
        Device("a100-40gb", 40, 1.56, 312),
        Device("l40s", 48, 0.864, 362),
        Device("l4", 24, 0.30, 121),
        Device("rtx4090", 24, 1.01, 165),
    )
}


def find_device(name: str) -> Device:
    """Raises UserError with the nearest name that is known."""
    key = name.strip().lower().replace("_", "-").replace(" ", "")
    if key not in DEVICES:
        raise UserError(f"no figures for device {name!r}: {nearest(key, list(DEVICES))}")
    return DEVICES[key]


def writing_speed(device: Device, parameters: float) -> tuple[float, float]:
    """Output tokens a second of a whole run on one such GPU, low and high.

    Log-log between the models of the sweep; a smaller one is as fast as its smallest, and beyond the largest the speed
    falls as the size grows. Another GPU than the H100 has that times the smaller of its ratios of bandwidth and peak.
    """
    h100 = DEVICES["h100"]
    scale = min(device.bandwidth_tb / h100.bandwidth_tb, device.tflops / h100.tflops)
    rate = _interpolated(parameters) * scale
    return rate * END_TO_END[0], rate * END_TO_END[1]


def beyond_sweep(parameters: float) -> bool:
    """Whether no model of the sweep is as small or as large."""
    return not min(SWEEP) * 0.9 <= parameters <= max(SWEEP) * 1.1


def _interpolated(parameters: float) -> float:
    sizes, rates = list(SWEEP), list(SWEEP.values())
    if parameters <= sizes[0]:
        return rates[0]
    if parameters >= sizes[-1]:
        # Decoding reads every weight once a step: far out the rate falls as the size grows.
        return rates[-1] * sizes[-1] / parameters
    i = bisect.bisect(sizes, parameters)
    share = math.log(parameters / sizes[i - 1]) / math.log(sizes[i] / sizes[i - 1])
    return rates[i - 1] * (rates[i] / rates[i - 1]) ** share


def student_seconds(device: Device, parameters: float, tokens: float, *, full: bool) -> float:
    """One student trained on so many tokens: 4 FLOPs a parameter and token with an adapter (the base's weights get no
    gradient), 6 with all weights."""
    return (6 if full else 4) * parameters * tokens / (TRAINING_SHARE * device.tflops * 1e12)
