"""A number of a plan: its value, its interval, and how it is known."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from student.statistics.intervals import estimate, wilson

How = Literal["counted", "calculated", "measured", "extrapolated", "assumed"]
"""How a number is known, from the surest on: `counted` one by one; `calculated` from the config; `measured` on a sample
on this machine; `extrapolated` from a part to the whole; `assumed` from published numbers of other machines, or by a
rule of thumb."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """A value with its 95% interval (or, where `assumed`, the range of the assumption).

    In arithmetic, errors add up as independent ones do, and a result is known as its least sure part is. Plain numbers
    are exact and count as `calculated`.
    """

    value: float
    low: float
    high: float
    how: How

    def map(self, function: Callable[[float], float]) -> "Quantity":
        """The quantity and its bounds after a non-decreasing function."""
        return Quantity(function(self.value), function(self.low), function(self.high), self.how)

    def __mul__(self, other: "Quantity | float") -> "Quantity":
        other = other if isinstance(other, Quantity) else exact(other)
        how, value = _least_sure(self, other), self.value * other.value
        if not value:
            return Quantity(0.0, 0.0, self.high * other.high, how)
        below = math.hypot(1 - self.low / self.value, 1 - other.low / other.value)
        above = math.hypot(self.high / self.value - 1, other.high / other.value - 1)
        return Quantity(value, value * max(0.0, 1 - below), value * (1 + above), how)

    def __truediv__(self, other: "Quantity | float") -> "Quantity":
        other = other if isinstance(other, Quantity) else exact(other)
        return self * Quantity(1 / other.value, 1 / other.high, 1 / max(other.low, 1e-12), other.how)

    def __add__(self, other: "Quantity") -> "Quantity":
        value = self.value + other.value
        below = math.hypot(self.value - self.low, other.value - other.low)
        above = math.hypot(self.high - self.value, other.high - other.value)
        return Quantity(value, max(0.0, value - below), value + above, _least_sure(self, other))


def exact(value: float, how: How = "calculated") -> Quantity:
    """A quantity without an interval."""
    return Quantity(value, value, value, how)


def mean_of(values: Sequence[float]) -> Quantity:
    """The measured mean with its interval; one value has no interval."""
    mean, low, high = estimate(values)
    return exact(mean, "measured") if math.isnan(low) else Quantity(mean, low, high, "measured")


def share_of(part: int, whole: int) -> Quantity:
    """A measured share with Wilson's interval, which holds also where all or none are in it."""
    if not whole:
        return Quantity(1.0, 0.0, 1.0, "assumed")
    share, (low, high) = part / whole, wilson(part / whole, whole)
    return Quantity(share, min(share, low), max(share, high), "measured")


def _least_sure(*quantities: Quantity) -> How:
    return max((quantity.how for quantity in quantities), key=get_args(How).index)
