"""Before the first round: is the reward signal enough for RL, or would the teacher be fitted to noise?"""

from collections.abc import Mapping
from typing import Any

from configs.errors import RunError
from configs.schema import Config
from student.statistics.reliability import Reliability, repeats_for

PILOT_DOCUMENTS = 16
PILOT_REPEATS = 3


def pilot_figures(config: Config, found: Reliability) -> dict[str, Any]:
    """What is journalled: the reliability of one student run, and of `reward.repeats` of them, with intervals."""
    low, high = found.interval_at(config.reward.repeats)
    return {
        "reliability/mean": found.at(config.reward.repeats),
        "reliability/low": low,
        "reliability/high": high,
        "reliability/one_run": found.reliability,
        "repeats": config.reward.repeats,
        "documents": found.documents,
        "reason": found.reason,
    }


def check_pilot(config: Config, figures: Mapping[str, Any]) -> str:
    """The line to show. Raises RunError where the reliability is below `reward.minimum_reliability`, or unknown."""
    minimum, reliability = config.reward.minimum_reliability, figures["reliability/mean"]
    if reliability is None:
        found = f"the reward's reliability cannot be told: {figures['reason']}"
    else:
        found = f"the reward's reliability is {reliability:.2f}"
        if figures["reliability/low"] is not None:
            found += f" [{figures['reliability/low']:.2f}, {figures['reliability/high']:.2f}]"
        found += f" with reward.repeats={figures['repeats']}, on {figures['documents']} documents"
    if reliability is not None and reliability >= minimum:
        return found
    needed = repeats_for(figures["reliability/one_run"], minimum)
    advice = "more repeats would not help" if needed is None else f"reward.repeats={needed} in a new run.dir reaches it"
    raise RunError(
        f"{found}, and reward.minimum_reliability is {minimum:g}: RL would fit noise. No round was run; {advice};"
        " reward.minimum_reliability=0 goes on regardless"
    )
