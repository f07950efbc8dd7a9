"""What a training run came to, from its journal."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.files import Record, read_json_lines
from configs.schema import Config
from student.records import Document
from student.statistics.intervals import Estimate, estimate
from teacher.reward.assignment import batches_of
from teacher.reward.evaluation import Evaluation
from teacher.reward.student_models import labels
from teacher.run.journal import Journal


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

    algorithm: str
    rounds: int
    """Rounds that were run: fewer than `rl.rounds` where `rl.patience` came to its end."""
    best_round: int | None
    """The round that validated best, 0 for the untrained teacher; None where nothing validates."""
    reward_first: Estimate
    """Mean reward of the first step's documents."""
    reward_last: Estimate
    """Mean reward of the last step's documents."""
    heldout: Mapping[str, Evaluation]
    """By arm: `raw`, `untrained`, `trained`; empty without held-out documents. Where there are several students each is
    in `by_student`."""
    differences: Mapping[str, Estimate]
    """See `differences`."""
    strategies_first: Mapping[str, float]
    """Share of the samples, in the first step and in the last."""
    strategies_last: Mapping[str, float]
    examples: Sequence[Example]
    students: int
    """Student runs asked for in this call; those of an earlier, interrupted one come from the cache."""
    student_runs: int
    """Student runs that training has cost, over all calls: pilot, rewards, validation and promotion, not the held-out
    arms."""
    seconds: float
    checkpoint: Path | None
    """The teacher to use; None where no round beat the untrained one."""


def summarise(
    config: Config,
    journal: Journal,
    heldout: Sequence[Document],
    arms: Mapping[str, Evaluation],
    checkpoint: Path | None,
    *,
    rounds: int,
    best_round: int | None,
    students: int,
    student_runs: int,
    seconds: float,
) -> TrainSummary:
    """The summary of a finished run; its figures are those of the journal."""
    lines = read_json_lines(journal.rewrites.path)
    trained = [line for line in lines if line["arm"] == "train"]
    # A fork may count its steps otherwise than the rounds that it took over.
    steps = [(line["round"], line["step"]) for line in trained]
    first, last = (
        [line for line, step in zip(trained, steps, strict=True) if step == end] for end in (min(steps), max(steps))
    )
    return TrainSummary(
        algorithm=config.rl.algorithm,
        rounds=rounds,
        best_round=best_round,
        reward_first=_reward(first, config),
        reward_last=_reward(last, config),
        heldout=dict(arms),
        differences=differences(arms),
        strategies_first=_shares(first),
        strategies_last=_shares(last),
        examples=_examples(lines, heldout),
        students=students,
        student_runs=student_runs,
        seconds=seconds,
        checkpoint=checkpoint,
    )


def _reward(lines: Sequence[Record], config: Config) -> Estimate:
    by_document: dict[str, list[float]] = {}
    for line in lines:
        by_document.setdefault(line["document_id"], []).append(line["reward"])
    shared = batches_of(len(by_document), config.reward.documents_together)
    batches = [number for number, batch in enumerate(shared) for _ in batch]
    return estimate([statistics.fmean(values) for values in by_document.values()], batches)


def _shares(lines: Sequence[Record]) -> dict[str, float]:
    names = sorted({line["strategy"] for line in lines})
    return {name: sum(line["strategy"] == name for line in lines) / len(lines) for name in names}


def differences(arms: Mapping[str, Evaluation]) -> dict[str, Estimate]:
    """The trained teacher's arm minus each other one, paired by document: `trained_minus_<arm>` of the gains, and
    `accuracy_minus_<arm>` of the accuracies. Where there are several students the same of each, under
    `student/<name>/`."""
    found: dict[str, Estimate] = {}
    for other in arms if "trained" in arms else ():
        for name, measure in (("trained", "gains"), ("accuracy", "accuracies")):
            ours, theirs = getattr(arms["trained"], measure), getattr(arms[other], measure)
            if other != "trained":
                both = [d for d in ours if d in theirs]
                clusters = [arms["trained"].batches[d] for d in both]
                found[f"{name}_minus_{other}"] = estimate([ours[d] - theirs[d] for d in both], clusters)
    students = list(arms["trained"].by_student) if found else []
    for student, label in labels(students).items():
        own = differences({arm: evaluation.by_student[student] for arm, evaluation in arms.items()})
        found |= {f"student/{label}/{name}": figure for name, figure in own.items()}
    return found


def _examples(lines: Sequence[Record], heldout: Sequence[Document], count: int = 3) -> list[Example]:
    before, after = (_lessons(lines, arm) for arm in ("untrained", "trained"))
    return [
        Example(
            document_id=document.id,
            source=document.text,
            before=_together(before[document.id], "text", "\n\n"),
            after=_together(after[document.id], "text", "\n\n"),
            strategy_before=_together(before[document.id], "strategy", ", "),
            strategy_after=_together(after[document.id], "strategy", ", "),
        )
        for document in heldout[:count]
        if document.id in before and document.id in after
    ]


def _lessons(lines: Sequence[Record], arm: str) -> dict[str, list[Record]]:
    """The rewrites of each document's first lesson."""
    found: dict[str, list[Record]] = {}
    for line in lines:
        if line["arm"] == arm and line["set"] == 0:
            found.setdefault(line["document_id"], []).append(line)
    return found


def _together(lesson: Sequence[Record], key: str, separator: str) -> str:
    return separator.join(line[key] for line in lesson)
