"""Whether teachers of different students come to write differently: distances between their mixes of strategies."""

import itertools
from collections.abc import Mapping, Sequence

from curation.evaluation.records import StrategyMixes, StudentResult


def strategy_mixes(students: Mapping[str, StudentResult]) -> dict[str, StrategyMixes]:
    """By arm of several training runs, where there are two students."""
    if len(students) != 2:
        return {}
    first, second = students.values()
    return {
        name: compare_mixes(arm.strategies_by_run, second.arms[name].strategies_by_run)
        for name, arm in first.arms.items()
        if min(len(arm.strategies_by_run), len(second.arms[name].strategies_by_run)) > 1
    }


def compare_mixes(runs: Sequence[Mapping[str, float]], others: Sequence[Mapping[str, float]]) -> StrategyMixes:
    """Distances of the shares of strategies between the training runs of two students, and within those of each. The
    unit is the run. A permutation test: runs are exchangeable if the students do not matter."""
    mixes, first = [*runs, *others], len(runs)
    distances = {
        (i, j): 0.5 * sum(abs(mixes[i].get(name, 0.0) - mixes[j].get(name, 0.0)) for name in {*mixes[i], *mixes[j]})
        for i, j in itertools.combinations(range(len(mixes)), 2)
    }

    def across(side: Sequence[int]) -> list[float]:
        """Distances between the runs of `side` and the others."""
        return [distance for (i, j), distance in distances.items() if (i in side) != (j in side)]

    between = across(range(first))
    within = [distance for (i, j), distance in distances.items() if (i < first) == (j < first)]
    permuted = [sum(across(side)) for side in itertools.combinations(range(len(mixes)), first)]
    p = sum(total >= sum(between) - 1e-12 for total in permuted) / len(permuted)
    return StrategyMixes(between=between, within=within, p=p)
