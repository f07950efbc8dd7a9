"""What a training run came to, from its journal."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.schema import Config
from student.records import Document
from teacher.journal import Journal, Record, read_json_lines
from teacher.reward import Estimate, Evaluation, estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One held-out document, and what the teacher made of it before and after training."""

    document_id: str
    source: str
    before: str
    after: str
    strategy_before: str
    strategy_after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSummary:
    """Gains are in nats a token of gold answers; intervals are 95% over documents."""

    rounds: int
    reward_first: Estimate
    """Mean reward of the first step's documents."""
    reward_last: Estimate
    """Mean reward of the last step's documents."""
    heldout: Mapping[str, Evaluation]
    """By arm: `raw`, `untrained`, `trained`; empty without held-out documents."""
    differences: Mapping[str, Estimate]
    """See `differences`."""
    strategies_first: Mapping[str, float]
    """Share of the samples, in the first step and in the last."""
    strategies_last: Mapping[str, float]
    examples: Sequence[Example]
    students: int
    """Student runs asked for in this call; those of an earlier, interrupted one come from the cache."""
    seconds: float
    checkpoint: Path


def summarise(
    config: Config,
    journal: Journal,
    heldout: Sequence[Document],
    arms: Mapping[str, Evaluation],
    checkpoint: Path,
    *,
    students: int,
    seconds: float,
) -> TrainSummary:
    """The summary of a finished run; its figures are those of the journal."""
    lines = read_json_lines(journal.rewrites.path)
    trained = [line for line in lines if line["arm"] == "train"]
    steps = [line["step"] for line in trained]
    first, last = ([line for line in trained if line["step"] == step] for step in (min(steps), max(steps)))
    return TrainSummary(
        rounds=config.rl.rounds,
        reward_first=_reward(first),
        reward_last=_reward(last),
        heldout=dict(arms),
        differences=differences(arms),
        strategies_first=_shares(first),
        strategies_last=_shares(last),
        examples=_examples(lines, heldout),
        students=students,
        seconds=seconds,
        checkpoint=checkpoint,
    )


def _reward(lines: Sequence[Record]) -> Estimate:
    by_document: dict[str, list[float]] = {}
    for line in lines:
        by_document.setdefault(line["document_id"], []).append(line["reward"])
    return estimate([statistics.fmean(values) for values in by_document.values()])


def _shares(lines: Sequence[Record]) -> dict[str, float]:
    names = sorted({line["strategy"] for line in lines})
    return {name: sum(line["strategy"] == name for line in lines) / len(lines) for name in names}


def differences(arms: Mapping[str, Evaluation]) -> dict[str, Estimate]:
    """The trained teacher's arm minus each other one, paired by document: `trained_minus_<arm>` of the gains, and
    `accuracy_minus_<arm>` of the accuracies."""
    found: dict[str, Estimate] = {}
    for other in arms if "trained" in arms else ():
        for name, measure in (("trained", "gains"), ("accuracy", "accuracies")):
            ours, theirs = getattr(arms["trained"], measure), getattr(arms[other], measure)
            if other != "trained":
                both = [d for d in ours if d in theirs]
                clusters = [arms["trained"].batches[d] for d in both]
                found[f"{name}_minus_{other}"] = estimate([ours[d] - theirs[d] for d in both], clusters)
    return found


def _examples(lines: Sequence[Record], heldout: Sequence[Document], count: int = 3) -> list[Example]:
    before, after = (
        {line["document_id"]: line for line in lines if line["arm"] == arm} for arm in ("untrained", "trained")
    )
    return [
        Example(
            document_id=document.id,
            source=document.text,
            before=before[document.id]["text"],
            after=after[document.id]["text"],
            strategy_before=before[document.id]["strategy"],
            strategy_after=after[document.id]["strategy"],
        )
        for document in heldout[:count]
        if document.id in before and document.id in after
    ]
