"""The pilot before the first round: is the reward reliable enough for RL, or would the teacher be fitted to noise?"""

from collections.abc import Mapping
from typing import Any

from configs.errors import RunError
from configs.format import interval
from configs.schema import Reward
from student.statistics.reliability import Reliability, repeats_for

PILOT_DOCUMENTS = 16
PILOT_REPEATS = 3


def pilot_metrics(reward: Reward, reliability: Reliability) -> dict[str, Any]:
    """The reliability of one student run, and of `reward.repeats` of them with its interval."""
    low, high = reliability.interval_at(reward.repeats)
    return {
        "reliability/mean": reliability.at(reward.repeats),
        "reliability/low": low,
        "reliability/high": high,
        "reliability/one_run": reliability.reliability,
        "repeats": reward.repeats,
        "documents": reliability.documents,
        "reason": reliability.reason,
    }


def check_pilot(reward: Reward, metrics: Mapping[str, Any]) -> str:
    """The line to show. Raises RunError where the reliability is below `reward.minimum_reliability`, or unknown."""
    mean, minimum = metrics["reliability/mean"], reward.minimum_reliability
    if mean is None:
        result = f"the reward's reliability cannot be told: {metrics['reason']}"
    else:
        estimate = interval(mean, metrics["reliability/low"], metrics["reliability/high"])
        result = (
            f"the reward's reliability is {estimate} with reward.repeats={metrics['repeats']}, on"
            f" {metrics['documents']} documents"
        )
        if mean >= minimum:
            return result
    needed = repeats_for(metrics["reliability/one_run"], minimum)
    advice = "more repeats would not help" if needed is None else f"reward.repeats={needed} in a new run.dir reaches it"
    raise RunError(
        f"{result}, and reward.minimum_reliability is {minimum:g}: RL would fit noise. No round was run; {advice};"
        " reward.minimum_reliability=0 goes on regardless"
    )
