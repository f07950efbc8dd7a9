"""Which rewrites are worth learning from: those that taught more than the rest of their document's group.

The unit of the selection is a lesson, the set of a document's rewrites that were taught together: the best set may
hold no single best rewrite. Where each rewrite has a reward of its own (`reward.set_credit: marginal`), the unit is a
rewrite.

The best of G noisy values always stands out. A unit is kept if it stands further above the mean of its group's scored
units than the best of as many equal ones would by noise alone (`student.statistics.extreme_deviate`), but in a share
`rl.false_keep` of the groups. What was refused or failed has no gain, and nothing is compared with it.

Where `reward.screen` left lessons out, strategies tell where the mean of the group lies (`Reward.ahead`): a unit stands
out of all lessons of its document, and not of the few that were taught beside it.
"""

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from configs import schema
from configs.schema import Rl
from student.statistics.extreme_deviate import extreme_deviate
from teacher.algorithms.algorithm import Groups, Rewards
from teacher.records import Prediction, Reward, Rewrite, SamplingError
from teacher.reward.assignment import lessons_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """Rewrites that are credited together: those of a lesson, or a single one."""

    rewrites: Sequence[Rewrite]
    scored: Sequence[bool]
    """Whether each rewrite passed the gates and was taught to a student that did not fail."""
    value: float
    """Mean reward of the rewrites that were scored; of all where none was."""
    gain: float
    """Mean gain of the rewrites that were scored, nan where none was: `value` before penalties and pooling."""
    error: SamplingError | None
    """Of the value. The rewrites of a lesson share their students, so it is that of one of them."""
    ahead: Prediction | None = None
    """As in `Reward`."""


def units_of(reward: schema.Reward, rl: Rl, group: Sequence[Rewrite], rewards: Sequence[Reward]) -> list[Unit]:
    """The units of a document's group of rewrites; without lessons that `reward.screen` left out."""
    size = reward.credit_size(rl.rewrites_per_lesson)
    units = []
    for start, rewrites in zip(range(0, len(group), size), lessons_of(group, size), strict=True):
        unit_rewards = rewards[start : start + size]
        if not all(reward.taught for reward in unit_rewards):
            continue
        scored = [reward for reward in unit_rewards if reward.outcome is not None]
        gains = [statistics.fmean(reward.gains) for reward in scored if reward.gains]
        units.append(
            Unit(
                rewrites=rewrites,
                scored=[reward.outcome is not None for reward in unit_rewards],
                value=statistics.fmean(reward.value for reward in scored or unit_rewards),
                gain=statistics.fmean(gains) if gains else math.nan,
                error=scored[0].error if scored else None,
                ahead=unit_rewards[0].ahead,
            )
        )
    return units


def best_units(reward: schema.Reward, rl: Rl, units: Sequence[Unit], floor: float | None = None) -> list[Unit]:
    """The best `rl.keep` lessons of a document, in units, that stand out of its scored ones at the level
    `rl.false_keep` and gained more than `floor`.

    One that was scored alone stands out of nothing, and where the noise is unknown nothing is known to. Without a level
    the best are kept, whatever they gained: those above the mean, or the only one.
    """
    units = [unit for unit in units if any(unit.scored)]
    count = rl.keep * rl.rewrites_per_lesson // reward.credit_size(rl.rewrites_per_lesson)
    passed = [unit for unit in units if stands_out(unit, units, rl.false_keep)]
    if rl.false_keep is not None and floor is not None:
        passed = [unit for unit in passed if unit.gain > floor]
    return sorted(passed, key=lambda unit: -unit.value)[:count]


def stands_out(unit: Unit, group: Sequence[Unit], level: float | None) -> bool:
    """Whether a unit's value is further above its group's mean than that of the best of equal ones would be, but in a
    share `level` of the groups; None: whether it is above the mean, or the only one."""
    ahead = unit.ahead or Prediction(0.0, SamplingError(0.0, math.inf))
    lead = unit.value - statistics.fmean(other.value for other in group) + ahead.value
    if level is None:
        return lead > 0 or len(group) == 1
    if lead <= 0:
        return False
    errors = [other.error for other in group if other.error is not None]
    if unit.error is None or len(errors) < len(group):
        return False
    n = len(group)
    common = [statistics.fmean(loadings) for loadings in zip(*(error.shared for error in errors), strict=True)]
    variance = unit.error.own**2 * (1 - 2 / n) + sum(error.own**2 for error in errors) / n**2
    shared = itertools.zip_longest(unit.error.shared, common, ahead.error.shared, fillvalue=0.0)
    variance += sum((own - mean + further) ** 2 for own, mean, further in shared)
    return lead > extreme_deviate(level, n, unit.error.degrees) * math.sqrt(variance)


def accepted(
    reward: schema.Reward, rl: Rl, groups: Groups, rewards: Rewards, floor: float | None = None
) -> list[Rewrite]:
    """The scored rewrites of each document's best units."""
    return [
        rewrite
        for group, group_rewards in zip(groups, rewards, strict=True)
        for unit in best_units(reward, rl, units_of(reward, rl, group, group_rewards), floor)
        for rewrite, scored in zip(unit.rewrites, unit.scored, strict=True)
        if scored
    ]
