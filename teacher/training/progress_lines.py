"""What a run says as it goes: a line a step, an arm, a validation."""

from collections.abc import Callable, Mapping
from typing import Any

from configs.format import duration, interval
from student.statistics.intervals import Estimate
from teacher.algorithms.algorithm import Groups
from teacher.reward.evaluation import Evaluation, mean_penalties
from teacher.reward.student_models import labels
from teacher.training.metrics import strategy_shares

Progress = Callable[[str], None]
"""Shows a line."""


def evaluation_figures(found: Evaluation) -> dict[str, Any]:
    """An evaluation under the names of metrics.jsonl: `reward/mean`, `gain/mean`, `accuracy/low`, `penalty/retention`,
    ..., and where there are several students the same of each, `student/<name>/gain/mean`."""
    figures: dict[str, Any] = {}
    for name, figure in (("reward", found.reward), ("gain", found.gain), ("accuracy", found.accuracy)):
        figures |= estimate_figures(name, figure)
    penalties = mean_penalties(list(found.penalties.values()))
    figures |= {f"penalty/{name}": value for name, value in penalties.items()}
    for name, label in labels(list(found.by_student)).items():
        own = evaluation_figures(found.by_student[name])
        figures |= {f"student/{label}/{key}": value for key, value in own.items() if key != "failed"}
    return figures | {"failed": found.failed}


def estimate_figures(name: str, figure: Estimate) -> dict[str, float]:
    """`<name>/mean`, `<name>/low`, `<name>/high`."""
    return {f"{name}/{part}": value for part, value in figure._asdict().items()}


def share_figures(groups: Groups) -> dict[str, float]:
    """Share of the samples by strategy."""
    return {f"strategy/{name}": share for name, share in strategy_shares(groups).items()}


def step_line(place: str, metrics: Mapping[str, Any], seconds_left: float) -> str:
    """`place` (round and step), reward with interval, reliability, strategies, cost, pace and time left."""
    reliability = metrics.get("reward/reliability")
    return (
        f"{place}: reward {interval(metrics['reward/mean'], metrics['reward/low'], metrics['reward/high'], 3)}"
        + (f" · reliability {reliability:.2f}" if reliability is not None else "")
        + shares_text(metrics)
        + f" · {metrics['students_total']} students, {metrics['students_per_second']:.1f}/s"
        + f" · {duration(seconds_left)} left"
    )


def clock_line(place: str, seconds: Mapping[str, float]) -> str:
    """Where a round's wall clock went (`teacher.run.clock.Clock.figures`)."""
    names = {"sample": "sampling", "students": "students", "update": "update", "idle": "idle"}
    wall = seconds["seconds/round"]
    parts = (f"{name} {seconds[f'seconds/{phase}'] / wall:.0%}" for phase, name in names.items())
    overlap = seconds["seconds/overlap"] / wall
    return f"  {place} took {duration(wall)}: {', '.join(parts)}" + (
        f" ({overlap:.0%} at once)" if overlap >= 0.005 else ""
    )


def arm_line(name: str, found: Evaluation, groups: Groups) -> str:
    """Gain and accuracy of an arm, its reward where penalties make it another figure than the gain, and what was
    written."""
    reward = f"reward {interval(*found.reward, 3)} · " if any(found.penalties.values()) else ""
    gain, accuracy = interval(*found.gain, 3), interval(*found.accuracy)
    return f"{name}: {reward}gain {gain} · accuracy {accuracy}{shares_text(share_figures(groups))}"


def promotion_line(round: int, figures: Mapping[str, Any]) -> str:
    """Whether students were promoted, and why."""
    found = f"round {round}: validation gain {figures['validation_gain']:.3f} passes {figures['threshold']:g}"
    if "error" in figures:
        return f"{found}, but nobody is promoted: {figures['error']}"
    return f"{found}: a student taught with its {figures['lessons']} accepted rewrites is the base of the next rounds"


def best_words(round: int) -> str:
    """Which teacher is the best one."""
    return f"best: round {round}" if round else "best: the untrained teacher"


def shares_text(metrics: Mapping[str, Any]) -> str:
    """The four most frequent strategies."""
    shares = {name.removeprefix("strategy/"): value for name, value in metrics.items() if name.startswith("strategy/")}
    top = sorted(shares.items(), key=lambda item: -item[1])[:4]
    return "".join(f" · {name} {share:.0%}" for name, share in top)
