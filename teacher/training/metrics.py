"""The metrics of the pilot before the first round, of a scored step (its reward, the reward's noise, how varied the
texts were), and of an evaluation."""

import json
import math
import statistics
import zlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from configs import schema
from configs.errors import RunError
from configs.format import interval
from student.statistics.intervals import Estimate
from student.statistics.reliability import Noise, Reliability, reliability, repeats_for
from student.text.words import overlap_shares
from teacher.algorithms.algorithm import Groups, Rewards
from teacher.records import Rewrite
from teacher.reward.assignment import batches_of, lessons_of
from teacher.reward.evaluation import Evaluation, estimate_gains, mean_by_name
from teacher.reward.student_models import labels
from teacher.reward.student_runs import gains_of

Values = dict[str, float | int | None]

PILOT_DOCUMENTS = 16
PILOT_REPEATS = 3


def pilot_metrics(reward: schema.Reward, pilot: Reliability) -> dict[str, Any]:
    """The reliability of one student run, and of `reward.repeats` of them with its interval."""
    low, high = pilot.interval_at(reward.repeats)
    return {
        "reliability/mean": pilot.at(reward.repeats),
        "reliability/low": low,
        "reliability/high": high,
        "reliability/one_run": pilot.reliability,
        "repeats": reward.repeats,
        "documents": pilot.documents,
        "reason": pilot.reason,
    }


def check_pilot(reward: schema.Reward, metrics: Mapping[str, Any]) -> str:
    """The line to show. Raises RunError where the reliability is below `reward.minimum_reliability`, or unknown."""
    mean, minimum = metrics["reliability/mean"], reward.minimum_reliability
    if mean is None:
        result = f"the reward's reliability cannot be told: {metrics['reason']}"
    else:
        with_interval = interval(mean, metrics["reliability/low"], metrics["reliability/high"])
        result = (
            f"the reward's reliability is {with_interval} with reward.repeats={metrics['repeats']}, on"
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


def step_metrics(groups: Groups, rewards: Rewards, settings: schema.Reward, rewrites_per_lesson: int = 1) -> Values:
    """The metrics of a step, D groups of G scored lessons of `rewrites_per_lesson`, by their names in metrics.jsonl."""
    batches = [
        number for number, batch in enumerate(batches_of(len(rewards), settings.documents_together)) for _ in batch
    ]
    means = [statistics.fmean(r.value for r in group if r.taught) for group in rewards]
    reward = estimate_gains(means, batches, settings.measure)
    scored = [(w, r) for ws, rs in zip(groups, rewards, strict=True) for w, r in zip(ws, rs, strict=True) if r.outcome]
    outcomes = [r.outcome for _, r in scored if r.outcome]
    values: Values = {
        **estimate_metrics({"reward": reward}),
        **noise_metrics(rewards, settings.credit_size(rewrites_per_lesson), common_seeds=not settings.adaptive),
        "gain/mean": _mean([statistics.fmean(r.gains) for _, r in scored]),
        "accuracy/before": _mean([o.metrics["accuracy_before"] for o in outcomes]),
        "accuracy/after": _mean([o.metrics["accuracy_after"] for o in outcomes]),
    }
    told = mean_by_name([gains_of(outcome) for outcome in outcomes])
    values |= {f"gain/{measure}": told[measure] for measure in told}
    gains: dict[str, list[float]] = defaultdict(list)
    for rewrite, scored_reward in scored:
        gains[rewrite.strategy].append(statistics.fmean(scored_reward.gains))
    values |= strategy_shares(groups)
    values |= {f"gain_by_strategy/{name}": statistics.fmean(gains[name]) for name in sorted(gains)}
    gates = Counter(rewrite.rejected for group in groups for rewrite in group if rewrite.rejected)
    values |= {f"gates/{reason}": count for reason, count in sorted(gates.items())}
    if labelled := [o.metrics["label_fraction"] for o in outcomes if "label_fraction" in o.metrics]:
        values["label_fraction"] = statistics.fmean(labelled)
    if cut := sum(o.metrics.get("steps_cut", 0) > 0 for o in outcomes):
        values["students_cut"] = cut
    values |= plan_figures(groups)
    for name in sorted({name for _, r in scored for name in r.penalties}):
        values[f"penalty/{name}"] = _mean([r.penalties[name] for _, r in scored if name in r.penalties])
    return values | diversity(groups, rewrites_per_lesson)


def noise_metrics(rewards: Rewards, credit_size: int = 1, *, common_seeds: bool = True) -> dict[str, float | None]:
    """Reliability of the mean of a lesson's repeats (the share of the variance between a document's lessons that is not
    retraining noise), and the standard deviation of one run's noise in the gain's unit; empty with one repeat.

    With `common_seeds` all lessons of a group have one seed in a repeat, and what it does to all of them is no noise.
    `credit_size` rewrites have one gain, which counts once.
    """
    units = [[group[start : start + credit_size] for start in range(0, len(group), credit_size)] for group in rewards]
    gains = [[max((reward.gains for reward in unit), key=len) for unit in group] for group in units]
    repeats = max((len(repeated) for group in gains for repeated in group), default=0)
    if repeats < 2:
        return {}
    measured = [[repeated for repeated in group if repeated] for group in gains]
    result = reliability(measured, common_seeds=common_seeds)
    noise_sd = None if result.noise_variance is None else result.noise_variance**0.5
    return {"reward/reliability": result.at(repeats), "reward/noise_sd": noise_sd}


def noise_figures(noise: Noise | None) -> dict[str, float]:
    """The noise of one run as a step's line holds it; `noise_of` reads it again."""
    return {} if noise is None else {"reward/noise_sd": noise.variance**0.5, "reward/noise_degrees": noise.degrees}


def noise_of(line: Mapping[str, Any]) -> Noise | None:
    """The noise that a step's line holds; None where nothing was repeated."""
    degrees = line.get("reward/noise_degrees")
    return None if degrees is None else Noise(line["reward/noise_sd"] ** 2, degrees)


def strategy_shares(groups: Groups) -> dict[str, float]:
    """`strategy/<name>`: the share of the samples, most frequent first."""
    counts = Counter(rewrite.strategy for group in groups for rewrite in group)
    return {f"strategy/{name}": count / counts.total() for name, count in counts.most_common()}


def plan_figures(groups: Groups) -> dict[str, float]:
    """`plan/<field>`: the median of what the plans of all samples ask for in each field of numbers; empty without
    plans."""
    plans = [json.loads(rewrite.plan) for group in groups for rewrite in group if rewrite.plan]
    numbers = ("learning_rate", "steps", "epochs", "raw_share")
    told = {name: [plan[name] for plan in plans if name in plan] for name in numbers}
    return {f"plan/{name}": statistics.median(values) for name, values in told.items() if values}


def evaluation_metrics(evaluation: Evaluation) -> dict[str, Any]:
    """`reward/mean`, `gain/low`, `accuracy/high`, `penalty/retention` and so on; where there are several students also
    the same of each, `student/<name>/gain/mean`."""
    estimates = {"reward": evaluation.reward, "gain": evaluation.gain, "accuracy": evaluation.accuracy}
    values: dict[str, Any] = estimate_metrics(estimates)
    values |= estimate_metrics({f"gain/{measure}": e for measure, e in evaluation.by_measure.items()})
    penalties = mean_by_name(list(evaluation.penalties.values()))
    values |= {f"penalty/{name}": penalty for name, penalty in penalties.items()}
    for name, label in labels(list(evaluation.by_student)).items():
        of_student = evaluation_metrics(evaluation.by_student[name])
        values |= {f"student/{label}/{key}": value for key, value in of_student.items() if key != "failed"}
    return values | {"failed": evaluation.failed}


def estimate_metrics(estimates: Mapping[str, Estimate]) -> dict[str, float]:
    """`<name>/mean`, `<name>/low` and `<name>/high` of each."""
    return {f"{name}/{part}": value for name, e in estimates.items() for part, value in e._asdict().items()}


def diversity(groups: Groups, rewrites_per_lesson: int = 1) -> dict[str, float]:
    """How varied the texts are.

    Means over groups of the compression ratio (higher is more repetitive, arXiv 2403.00553) and of the number of
    strategies, and the entropy of all samples' strategies in nats. For lessons of several rewrites also a lesson's
    compression ratio, and the share of a rewrite's 4-grams that others of its lesson hold too.
    """
    shares = strategy_shares(groups).values()
    strategies = [len({rewrite.strategy for rewrite in group}) for group in groups]
    values = {
        "diversity/compression_ratio": compression_ratio(groups),
        "diversity/distinct_strategies": _mean(strategies) or 0.0,
        "diversity/strategy_entropy": -sum(share * math.log(share) for share in shares),
    }
    if rewrites_per_lesson > 1:
        lessons = [lesson for group in groups for lesson in lessons_of(group, rewrites_per_lesson)]
        overlaps = [share for lesson in lessons for share in overlap_shares([rewrite.text for rewrite in lesson])]
        values["diversity/lesson_compression_ratio"] = compression_ratio(lessons)
        values["diversity/lesson_overlap"] = _mean(overlaps) or 0.0
    return values


def compression_ratio(groups: Sequence[Sequence[Rewrite]]) -> float:
    """Mean over groups of the bytes of their texts by the bytes of these compressed together; 0 without any text."""
    joined = ["\n".join(rewrite.text for rewrite in group).encode() for group in groups]
    return _mean([len(text) / len(zlib.compress(text)) for text in joined if text.strip()]) or 0.0


def diversity_alarm(
    metrics: Mapping[str, float | None], first: Mapping[str, float | None], threshold: float
) -> str | None:
    """A warning where a step's groups compress `threshold` times better than those of the first step, else None."""
    now, then = metrics.get("diversity/compression_ratio"), first.get("diversity/compression_ratio")
    if not now or not then or now <= threshold * then:
        return None
    return (
        f"the teacher repeats itself: its texts compress {now:.1f}-fold, {now / then:.1f} times as well as in the first"
        f" step (rl.diversity_alarm {threshold:g}); raise rl.explore, reward.overlap_weight or the algorithm's weight"
        " of the KL"
    )


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None
