"""Which rewrites are worth learning from: those that taught more than the rest of their document's group.

The unit of the selection is a lesson, the set of a document's rewrites that were taught together: the best set may
hold no single best rewrite. Where each rewrite has a reward of its own (`reward.set_credit: marginal`), the unit is a
rewrite.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from configs import schema
from configs.schema import Rl
from student.statistics.reliability import noise_variance
from teacher.algorithms.algorithm import Groups, Rewards
from teacher.records import Reward, Rewrite
from teacher.reward.assignment import lessons_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """Rewrites that are credited together: those of a lesson, or a single one."""

    rewrites: Sequence[Rewrite]
    value: float
    """Mean reward of the rewrites that were scored; of all where none was."""
    scored: Sequence[bool]
    """Whether each rewrite passed the gates and was taught to a student that did not fail."""
    gains: Sequence[float]
    """The gain of each repeat. The rewrites of a lesson share their students' gain, so it is counted once. Empty where
    the reward is a prediction that has already allowed for the noise."""


def units_of(reward: schema.Reward, rl: Rl, group: Sequence[Rewrite], rewards: Sequence[Reward]) -> list[Unit]:
    """The units of a document's group of rewrites."""
    size = reward.credit_size(rl.rewrites_per_lesson)
    predicted = reward.adaptive or reward.pool_strategies
    units = []
    for start, rewrites in zip(range(0, len(group), size), lessons_of(group, size), strict=True):
        unit_rewards = rewards[start : start + size]
        scored = [reward for reward in unit_rewards if reward.outcome is not None]
        units.append(
            Unit(
                rewrites=rewrites,
                value=statistics.fmean(reward.value for reward in scored or unit_rewards),
                scored=[reward.outcome is not None for reward in unit_rewards],
                # Predictions are already shrunk by their noise; it is not subtracted again.
                gains=() if predicted else max((reward.gains for reward in scored), key=len, default=()),
            )
        )
    return units


def best_units(reward: schema.Reward, rl: Rl, units: Sequence[Unit]) -> list[Unit]:
    """The best `rl.keep` lessons of a document, in units, that beat the group's mean by more than their standard error.

    With one repeat the noise is unknown, and any unit above the mean will do. A group without such a contrast gives
    nothing, and a unit that was not scored is never selected.
    """
    count = rl.keep * rl.rewrites_per_lesson // reward.credit_size(rl.rewrites_per_lesson)
    mean = statistics.fmean(unit.value for unit in units)
    best = sorted(units, key=lambda unit: -unit.value)[:count]
    return [unit for unit in best if any(unit.scored) and unit.value - mean > standard_error(unit, units)]


def standard_error(unit: Unit, group: Sequence[Unit]) -> float:
    """Standard error of a unit's mean gain over its repeats, in nats a token; 0 for a unit without gains, and where
    nothing of the group was repeated. The noise is that of the whole group, whose units share a seed in each repeat."""
    variance = noise_variance([[other.gains for other in group]])
    return math.sqrt(variance / len(unit.gains)) if variance is not None and unit.gains else 0.0


def accepted(reward: schema.Reward, rl: Rl, groups: Groups, rewards: Rewards) -> list[Rewrite]:
    """The scored rewrites of each document's best units."""
    return [
        rewrite
        for group, group_rewards in zip(groups, rewards, strict=True)
        for unit in best_units(reward, rl, units_of(reward, rl, group, group_rewards))
        for rewrite, scored in zip(unit.rewrites, unit.scored, strict=True)
        if scored
    ]
