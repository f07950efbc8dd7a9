"""What is logged of a scored step: reward, its noise, what was written and how varied it was."""

import statistics
import zlib
from collections import Counter, defaultdict
from collections.abc import Sequence

from student.noise import reliability
from teacher.records import Reward, Rewrite
from teacher.reward import estimate

Groups = Sequence[Sequence[Rewrite]]
Rewards = Sequence[Sequence[Reward]]


def step_metrics(groups: Groups, rewards: Rewards) -> dict[str, float | int | None]:
    """The metrics of D groups of G scored rewrites, under the names of metrics.jsonl."""
    reward = estimate([statistics.fmean(r.value for r in group) for group in rewards])
    scored = [(w, r) for ws, rs in zip(groups, rewards, strict=True) for w, r in zip(ws, rs, strict=True) if r.outcome]
    outcomes = [r.outcome for _, r in scored if r.outcome]
    values: dict[str, float | int | None] = {
        "reward/mean": reward.mean,
        "reward/low": reward.low,
        "reward/high": reward.high,
        **noise_metrics(rewards),
        "gain/mean": _mean([statistics.fmean(r.gains) for _, r in scored]),
        "accuracy/before": _mean([o.metrics["accuracy_before"] for o in outcomes]),
        "accuracy/after": _mean([o.metrics["accuracy_after"] for o in outcomes]),
    }
    gains: dict[str, list[float]] = defaultdict(list)
    for rewrite, scored_reward in scored:
        gains[rewrite.strategy].append(statistics.fmean(scored_reward.gains))
    values |= {f"strategy/{name}": share for name, share in strategy_shares(groups).items()}
    values |= {f"gain_by_strategy/{name}": statistics.fmean(gains[name]) for name in sorted(gains)}
    gates = Counter(rewrite.rejected for group in groups for rewrite in group if rewrite.rejected)
    values |= {f"gates/{reason}": count for reason, count in sorted(gates.items())}
    for name in sorted({name for _, r in scored for name in r.penalties}):
        values[f"penalty/{name}"] = _mean([r.penalties[name] for _, r in scored])
    return values | diversity(groups)


def noise_metrics(rewards: Rewards) -> dict[str, float | None]:
    """Reliability of the mean of a rewrite's repeats, and the noise of one run in nats; nothing with one repeat.

    Reliability is the share of the variance between a document's rewrites that is not retraining noise; what all
    rewrites of a group share in a repeat, having one seed, is no noise.
    """
    repeats = max((len(r.gains) for group in rewards for r in group), default=0)
    if repeats < 2:
        return {}
    table = [[r.gains for r in group if r.gains] for group in rewards]
    found = reliability(table, common_seeds=True, resamples=500)
    noise_sd = None if found.noise_variance is None else found.noise_variance**0.5
    return {"reward/reliability": found.at(repeats), "reward/noise_sd": noise_sd}


def strategy_shares(groups: Groups) -> dict[str, float]:
    """Share of the samples by strategy, most frequent first."""
    counts = Counter(rewrite.strategy for group in groups for rewrite in group)
    return {name: count / counts.total() for name, count in counts.most_common()}


def diversity(groups: Groups) -> dict[str, float]:
    """How varied a group is: its compression ratio (higher is more repetitive, arXiv 2403.00553) and its strategies."""
    joined = ["\n".join(rewrite.text for rewrite in group).encode() for group in groups]
    ratios = [len(text) / len(zlib.compress(text)) for text in joined if text]
    distinct = [len({rewrite.strategy for rewrite in group}) for group in groups]
    return {
        "diversity/compression_ratio": _mean(ratios) or 0.0,
        "diversity/distinct_strategies": _mean(distinct) or 0.0,
    }


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None
