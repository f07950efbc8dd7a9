"""Numbers as a reader sees them: in tables, in lines of progress, in reports and on cards."""

import math
from typing import Any


def number(value: float | None, digits: int = 2, *, sign: bool = False) -> str:
    """`1.25`, or `+1.25` with `sign`; `-` for what is not known. What rounds to zero is no `-0.00`."""
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:+z.{digits}f}" if sign else f"{value:z.{digits}f}"


def interval(mean: float | None, low: float | None, high: float | None, digits: int = 2, *, sign: bool = False) -> str:
    """`1.25 [0.88, 1.50]`; the mean alone where one cluster made no interval possible (bounds None or nan)."""
    mean_text, low_text, high_text = (number(value, digits, sign=sign) for value in (mean, low, high))
    return mean_text if "-" in (mean_text, low_text, high_text) else f"{mean_text} [{low_text}, {high_text}]"


def quantity(value: float) -> str:
    """Three digits, and K, M, B or T from ten thousand on: `1.25M`."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if abs(value) >= size and abs(value) >= 10_000:
            return f"{value / size:.3g}{unit}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def amount(count: int, thing: str) -> str:
    """`1 document`, `2,000 documents`, `6 batches`."""
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}{'es' if thing.endswith('ch') else 's'}"


def duration(seconds: float) -> str:
    """`3 min 05 s`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def shorten(text: str, characters: int) -> str:
    """Cut before the word that would reach beyond `characters`."""
    return text if len(text) <= characters else text[:characters].rsplit(" ", 1)[0] + " ..."


def without_nan(value: Any) -> Any:
    """For JSON, which has no form for them: nan and infinities become None, also inside dicts, lists and tuples."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
