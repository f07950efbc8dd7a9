"""A number of a plan: its value, its interval, and how it is known."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from student.statistics.intervals import estimate, wilson

How = Literal["counted", "calculated", "measured", "extrapolated", "assumed"]
"""How a number is known, from the surest on: `counted` one by one; `calculated` from the config; `measured` on a sample
on this machine; `extrapolated` from a part to the whole; `assumed` from published numbers of other machines, or by a
rule of thumb."""
SUREST_FIRST: tuple[How, ...] = ("counted", "calculated", "measured", "extrapolated", "assumed")


class Quantity(NamedTuple):
    """A value with its 95% interval (or, where `assumed`, the range of the assumption)."""

    value: float
    low: float
    high: float
    how: How


def exact(value: float, how: How = "calculated") -> Quantity:
    """A quantity without an interval."""
    return Quantity(value, value, value, how)


def mean_of(values: Sequence[float]) -> Quantity:
    """The measured mean with its bootstrap interval; one value has no interval."""
    mean, low, high = estimate(values)
    return exact(mean, "measured") if math.isnan(low) else Quantity(mean, low, high, "measured")


def share_of(part: int, whole: int) -> Quantity:
    """A measured share with Wilson's interval, which holds also where all or none are in it."""
    if not whole:
        return Quantity(1.0, 0.0, 1.0, "assumed")
    share, (low, high) = part / whole, wilson(part, whole)
    return Quantity(share, min(share, low), max(share, high), "measured")


def product(*factors: Quantity) -> Quantity:
    """The product. Relative errors add up as independent ones do; it is known as its least sure factor is."""
    value = math.prod(f.value for f in factors)
    if not value:
        return Quantity(0.0, 0.0, math.prod(f.high for f in factors), least_sure(*factors))
    below = math.sqrt(sum((1 - f.low / f.value) ** 2 for f in factors))
    above = math.sqrt(sum((f.high / f.value - 1) ** 2 for f in factors))
    return Quantity(value, value * max(0.0, 1 - below), value * (1 + above), least_sure(*factors))


def total(*terms: Quantity) -> Quantity:
    """The sum. Errors add up as independent ones do; it is known as its least sure term is."""
    value = sum(term.value for term in terms)
    below = math.sqrt(sum((term.value - term.low) ** 2 for term in terms))
    above = math.sqrt(sum((term.high - term.value) ** 2 for term in terms))
    return Quantity(value, max(0.0, value - below), value + above, least_sure(*terms))


def inverse(quantity: Quantity) -> Quantity:
    """One over the quantity."""
    return Quantity(1 / quantity.value, 1 / quantity.high, 1 / max(quantity.low, 1e-12), quantity.how)


def scaled(quantity: Quantity, factor: float) -> Quantity:
    """The quantity in another unit."""
    return Quantity(quantity.value * factor, quantity.low * factor, quantity.high * factor, quantity.how)


def least_sure(*quantities: Quantity) -> How:
    """How the least sure of the quantities is known."""
    return max((quantity.how for quantity in quantities), key=SUREST_FIRST.index)
