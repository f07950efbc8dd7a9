"""The bench's statistics, its check of the losses, and its table."""

import math
import statistics
from itertools import zip_longest
from typing import Any

from configs.errors import RunError

MOST_LOSS_DIFFERENCE = 5e-5
"""Nats. Rounding gives 2e-6 with the lab's students, and 1.1e-5 with SmolLM2's 30 layers after four steps at 1e-3."""


def max_difference(engine: list[list[float]], peft: list[list[float]]) -> float:
    """Largest absolute difference of two (K, steps) tables of losses; inf if one is missing or not finite."""
    pairs = [pair for runs in zip(engine, peft, strict=True) for pair in zip_longest(*runs, fillvalue=math.nan)]
    return max(abs(a - b) if math.isfinite(a - b) else math.inf for a, b in pairs)


def check_losses(result: dict[str, Any]) -> None:
    """Raises RunError if the losses of engine and PEFT differ by more than float32 rounds. (In bfloat16 the two round
    at different places, so there the difference is only reported.)"""
    if result["dtype"] == "float32" and not result["max_loss_difference"] <= MOST_LOSS_DIFFERENCE:
        raise RunError(
            f"losses of engine and PEFT differ by {result['max_loss_difference']:.1e} nats, more than "
            f"{MOST_LOSS_DIFFERENCE:.0e}: the times are not of the same work"
        )


def median_ratio(slow: list[float], fast: list[float]) -> float:
    """Median of the ratios of pairs. A pair was measured in one turn, so that a busy machine slows both."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def median_interval(values: list[float]) -> list[float] | None:
    """Two of the values, between which the median of their distribution lies with a probability of at least 95%.

    It holds for any distribution: the number of values below its median is binomial. None if there are too few values.
    """
    ordered, below, tail = sorted(values), 0, 0.5 ** len(values)
    while tail <= 0.025:
        below += 1
        tail += math.comb(len(values), below) * 0.5 ** len(values)
    return [ordered[below - 1], ordered[-below]] if below else None


def table(result: dict[str, Any]) -> str:
    """The result of `run_bench` as text, a line for each figure."""
    interval = result["interval_vs_peft"]
    between = f" [{interval[0]:.1f}, {interval[1]:.1f}]" if interval else ""
    lines = [
        f"{result['model']} ({result['parameters']:,} parameters), rank {result['rank']}, {result['dtype']}, "
        f"{result['device']}, {result['threads']} threads",
        f"{result['students']} students x {result['steps']} steps of {result['tokens_per_student_step']:.0f} tokens, "
        f"median of {result['repeats']}",
        "",
        f"{'engine':24}{result['seconds']:10.2f} s   {result['students_per_second']:.2f} students/s, "
        f"{result['tokens_per_second']:,.0f} tokens/s",
        f"{'exams':24}{result['seconds_exam']:10.2f} s   {result['students_per_second_with_exam']:.2f} students/s with "
        f"{result['questions']} questions each",
        f"{'distilled':24}{result['seconds_distilled']:10.2f} s   {result['distilled_vs_text']:.2f}x the engine's time "
        "(objective distill, the lesson as the document before its texts)",
        f"{'separate PEFT runs':24}{result['seconds_peft']:10.2f} s   {result['speedup_vs_peft']:.1f}x slower"
        f"{between} ({result['peft_note']})",
    ]
    if result["seconds_padded"] is not None:
        lines.append(
            f"{'padded recipe of SEAL':24}{result['seconds_padded']:10.2f} s   "
            f"{result['speedup_vs_padded']:.0f}x slower ({result['padded_note']})"
        )
    lines += [
        "",
        f"losses differ by at most {result['max_loss_difference']:.1e} nats",
        f"{result['label_fraction']:.1%} of the positions computed carry a label",
        f"{result['model_flops_utilisation']:.1%} of the measured peak ({result['peak_flops'] / 1e12:.3g} TFLOP/s: "
        f"{result['peak_note']})",
    ]
    if result["share_of_datasheet_peak"] is not None:
        lines.append(f"{result['share_of_datasheet_peak']:.1%} of the data sheet's peak")
    lines += [
        f"sweep {p['students']:4} students {p['seconds']:8.2f} s {p['students_per_second']:8.2f} students/s"
        for p in result["sweep"]
    ]
    return "\n".join(lines)
