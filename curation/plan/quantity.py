"""A figure of a plan: a value, how sure it is, and where it comes from."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from student.statistics.intervals import estimate

How = Literal["counted", "measured", "extrapolated", "calculated", "assumed"]
"""`counted` is exact; `measured` on this machine, by a sample; `extrapolated` from a part to the whole; `calculated`
from the config; `assumed` rests on published figures of other machines or on a rule of thumb."""
ORDER: tuple[How, ...] = ("counted", "calculated", "measured", "extrapolated", "assumed")


class Quantity(NamedTuple):
    """A value with its 95% interval (or, where `assumed`, the range of the assumption)."""

    value: float
    low: float
    high: float
    how: How


def exact(value: float, how: How = "calculated") -> Quantity:
    """A figure without an interval."""
    return Quantity(value, value, value, how)


def mean_of(values: Sequence[float], clusters: Sequence[int] | None = None, how: How = "measured") -> Quantity:
    """The mean with its bootstrap interval over `clusters`, or over the values."""
    found = estimate(values, clusters)
    bounds = (found.mean, found.mean) if math.isnan(found.low) else (found.low, found.high)
    return Quantity(found.mean, *bounds, how)


def share_of(part: int, whole: int, how: How = "measured") -> Quantity:
    """A share with Wilson's interval, which holds also where all or none are in it."""
    if not whole:
        return Quantity(1.0, 0.0, 1.0, "assumed")
    z = 1.96
    p, spread = part / whole, z * z / whole
    middle = (p + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(p * (1 - p) / whole + spread / (4 * whole))
    return Quantity(p, max(0.0, min(p, middle - half)), min(1.0, max(p, middle + half)), how)


def product(*factors: Quantity) -> Quantity:
    """The product; relative errors add as independent ones do, and the weakest source is its source."""
    value = math.prod(f.value for f in factors)
    if not value:
        return Quantity(0.0, 0.0, math.prod(f.high for f in factors), weakest(*factors))
    below = math.sqrt(sum((1 - f.low / f.value) ** 2 for f in factors))
    above = math.sqrt(sum((f.high / f.value - 1) ** 2 for f in factors))
    return Quantity(value, value * max(0.0, 1 - below), value * (1 + above), weakest(*factors))


def total(*terms: Quantity) -> Quantity:
    """The sum, with errors as in `product`."""
    value = sum(f.value for f in terms)
    below = math.sqrt(sum((f.value - f.low) ** 2 for f in terms))
    above = math.sqrt(sum((f.high - f.value) ** 2 for f in terms))
    return Quantity(value, max(0.0, value - below), value + above, weakest(*terms))


def inverse(figure: Quantity) -> Quantity:
    """One over it."""
    return Quantity(1 / figure.value, 1 / figure.high, 1 / max(figure.low, 1e-12), figure.how)


def weakest(*figures: Quantity) -> How:
    """The least sure of their sources."""
    return max((f.how for f in figures), key=ORDER.index)
