"""How far the best of n equal lessons stands above their mean by noise alone.

The statistic is Nair's extreme deviate from the sample mean with an independent estimate of the noise (Nair 1948,
Biometrika 35): (largest - mean) / its standard error. The bound is Bonferroni's, each of n deviates at level / n. It
holds for unequal errors and is nearly exact for normal noise, where two lessons hardly ever pass it together.
"""

import functools
import math
from statistics import NormalDist

from student.statistics.intervals import t_quantile

TAIL = 5
"""Noise is taken to be as heavy-tailed as Student's t with so many degrees of freedom (excess kurtosis 6): two runs a
lesson tell a variance and no tail. The best of 8 may then stand 2.8 standard errors above the mean, and not 2.5 as with
normal noise. That keeps the level for t(5) and Laplace noise, and is strict where noise is normal: of groups of 8 that
hold noise alone 1% pass at a level of 5% (`notewright bench selection`)."""


@functools.cache
def extreme_deviate(level: float, lessons: int, degrees: float) -> float:
    """The standardised deviation from the mean that the best of so many equal lessons exceeds with a probability of at
    most `level`.

    Args:
        degrees: degrees of freedom of the noise's variance (`Noise.degrees`).
    """
    probability = 1 - level / lessons
    # A variance of heavy-tailed noise is itself uncertain: of two runs' difference (half the excess kurtosis) the
    # variance of the estimate is 1 + 6 / 4 times that under normal noise.
    effective = max(1.0, degrees / (1 + 6 / 4))
    uncertainty = t_quantile(probability, effective) / NormalDist().inv_cdf(probability)
    return uncertainty * t_quantile(probability, TAIL) * math.sqrt((TAIL - 2) / TAIL)
