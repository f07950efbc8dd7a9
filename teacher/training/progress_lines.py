"""The lines that a run shows while it goes on: one for each step, measurement and promotion."""

from collections.abc import Callable, Mapping
from typing import Any

from configs.format import amount, duration, interval, number
from teacher.algorithms.algorithm import Rewards
from teacher.reward.evaluation import Evaluation

Progress = Callable[[str], None]
"""Shows a line."""


def step_line(place: str, metrics: Mapping[str, Any], seconds_left: float) -> str:
    """`place` (round and step), reward with interval, reliability, strategies, cost, pace and time left."""
    reliability = metrics.get("reward/reliability")
    return (
        f"{place}: reward {interval(metrics['reward/mean'], metrics['reward/low'], metrics['reward/high'], 3)}"
        + (f" · reliability {reliability:.2f}" if reliability is not None else "")
        + _frequent_strategies(metrics)
        + _screened(metrics)
        + _planned(metrics)
        + f" · {metrics['students_total']} students, {metrics['students_per_second']:.1f}/s"
        + f" · {duration(seconds_left)} left"
    )


def clock_line(place: str, seconds: Mapping[str, float]) -> str:
    """The share of each phase in a round's wall clock (`teacher.run.clock.Clock.figures`)."""
    names = {"sample": "sampling", "students": "students", "update": "update", "idle": "idle"}
    wall, overlap = seconds["seconds/round"], seconds["seconds/overlap"] / seconds["seconds/round"]
    shares = ", ".join(f"{name} {seconds[f'seconds/{phase}'] / wall:.0%}" for phase, name in names.items())
    at_once = f" ({overlap:.0%} at once)" if overlap >= 0.005 else ""
    return f"  {place} took {duration(wall)}: {shares}{at_once}"


def nothing_kept_line(round: int, rewards: Rewards, floor: float | None) -> str:
    """Why a round changed nothing."""
    scored = [reward for group in rewards for reward in group if reward.outcome is not None]
    if any(reward.error is not None for reward in scored):
        why = "no lesson stood out of its document's group"
        if floor is not None:
            why += f" and gained more than {floor:.2f}, as the first round's did on average"
    elif scored:
        why = "no lesson could be taught twice, so that the reward's noise is unknown and nothing stands out of it"
    else:
        why = "no lesson was scored"
    return f"  round {round} left the teacher as it was: {why} (rl.false_keep)"


def arm_line(name: str, evaluation: Evaluation, shares: Mapping[str, float]) -> str:
    """Gain and accuracy of an arm, its reward where penalties make that differ from the gain, and its strategies."""
    penalised = any(evaluation.penalties.values())
    reward = f"reward {interval(*evaluation.reward, 3)} · " if penalised else ""
    gain, accuracy = interval(*evaluation.gain, 3), interval(*evaluation.accuracy)
    return f"{name}: {reward}gain {gain} · accuracy {accuracy}{_frequent_strategies(shares)}"


def promotion_line(round: int, metrics: Mapping[str, Any]) -> str:
    """Whether students were promoted, and why."""
    reason = f"round {round}: validation gain {metrics['validation_gain']:.3f} passes {metrics['threshold']:g}"
    if "error" in metrics:
        return f"{reason}, but nobody is promoted: {metrics['error']}"
    return f"{reason}: a student taught with its {metrics['lessons']} accepted rewrites is the base of the next rounds"


def patience_line(then: Mapping[str, Any], now: Mapping[str, Any], judged_by: str | None, last: int, best: int) -> str:
    """Why a run ends with the round `last`: the reward and the judging measure, validated at the best round and now."""
    keys = {"reward": "reward/mean"} | ({judged_by: f"gain/{judged_by}/mean"} if judged_by else {})
    changes = ", ".join(
        f"{name} {number(then.get(key))} then, {number(now.get(key))} now" for name, key in keys.items()
    )
    return (
        f"round {last} is the last: {amount(last - best, 'round')} without a better {judged_by or 'reward'} on the"
        f" validation documents than round {best} had ({changes}; rl.patience)"
    )


def _screened(metrics: Mapping[str, Any]) -> str:
    """What the screen told and left out."""
    words = []
    for stage, name in (("signs", "signs"), ("short", "short students")):
        if f"screen/{stage}/kept" in metrics:
            r = interval(*(metrics[f"screen/{stage}/{part}"] for part in ("mean", "low", "high")))
            words.append(f"{name} r {r} keep {metrics[f'screen/{stage}/kept']} of {metrics['screen/lessons']}")
    if not words:
        return " · screen: learns, all lessons are taught" if "screen/on" in metrics else ""
    return f" · screen{'' if metrics['screen/on'] else ' off, all lessons are taught'}: {', '.join(words)}"


def _planned(metrics: Mapping[str, Any]) -> str:
    """What plans asked for, how many were none, and of how many students the budget cut the last steps."""
    words = [f"{key.removeprefix('plan/')} {value:g}" for key, value in metrics.items() if key.startswith("plan/")]
    words += [f"{metrics['gates/plan']} plans invalid"] if "gates/plan" in metrics else []
    words += [f"student.max_lesson_tokens cut {metrics['students_cut']} students"] if "students_cut" in metrics else []
    return f" · {', '.join(words)}" if words else ""


def _frequent_strategies(metrics: Mapping[str, Any]) -> str:
    """The shares of the four most frequent strategies."""
    shares = {name.removeprefix("strategy/"): value for name, value in metrics.items() if name.startswith("strategy/")}
    top = sorted(shares.items(), key=lambda item: -item[1])[:4]
    return "".join(f" · {name} {share:.0%}" for name, share in top)
