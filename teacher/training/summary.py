"""The results of a training run, from its journal."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.files import Record, read_json_lines
from student.records import MEASURES, Document
from student.statistics.intervals import Estimate, estimate_difference
from teacher.reward.evaluation import Evaluation, difference_name, estimate_gains
from teacher.reward.student_models import labels
from teacher.run.checkpoints import best_checkpoint, best_round, finished_rounds
from teacher.training.context import RunContext


@dataclass(frozen=True, slots=True)
class Example:
    """A held-out document, and its first lesson by the teacher before and after training."""

    document_id: str
    source: str
    before: str
    after: str
    strategy_before: str
    strategy_after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSummary:
    """Gains are in `reward.measure`; intervals are 95% over documents, of this one training run."""

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
    """By arm: `raw`, `untrained`, `trained`; empty without held-out documents."""
    differences: Mapping[str, Estimate]
    """See `differences`."""
    strategies_first: Mapping[str, float]
    """Share of the samples, in the first step and in the last."""
    strategies_last: Mapping[str, float]
    examples: Sequence[Example]
    students: int
    """Student runs asked for in this call; those of an earlier, interrupted one come from the cache."""
    student_runs: int
    """Student runs that training has cost, over all calls: all but those of the held-out arms."""
    seconds: float
    checkpoint: Path | None
    """The teacher to use; None where no round gained more than the untrained one."""


def summarise(context: RunContext, arms: Mapping[str, Evaluation], seconds: float) -> TrainSummary:
    """The summary of a finished run; its numbers are those of the journal."""
    config, journal = context.config, context.journal
    steps = [line for line in read_json_lines(journal.metrics.path) if line["kind"] == "step"]
    # A fork may count its steps differently from the run whose rounds it took over, so the round comes first.
    steps.sort(key=lambda line: (line["round"], line["step"]))
    rewards, strategies = [], []
    for line in (steps[0], steps[-1]):
        bounds = [line[f"reward/{part}"] for part in Estimate._fields]
        rewards.append(Estimate(*(math.nan if bound is None else bound for bound in bounds)))
        strategies.append(
            {name.removeprefix("strategy/"): share for name, share in line.items() if name.startswith("strategy/")}
        )
    return TrainSummary(
        algorithm=config.rl.algorithm, rounds=finished_rounds(config.run.dir), best_round=best_round(config.run.dir),
        reward_first=rewards[0], reward_last=rewards[-1], heldout=dict(arms), differences=differences(arms),
        strategies_first=strategies[0], strategies_last=strategies[-1],
        examples=_examples(read_json_lines(journal.rewrites.path), context.heldout),
        students=context.student_runs.students, student_runs=context.history.student_runs, seconds=seconds,
        checkpoint=best_checkpoint(config.run.dir),
    )  # fmt: skip


def differences(arms: Mapping[str, Evaluation]) -> dict[str, Estimate]:
    """The trained teacher's arm minus each other one, paired by document; empty where it was not measured.

    `trained_minus_<arm>` is the difference of the gains, `accuracy_minus_<arm>` that of the accuracies, and
    `<measure>_minus_<arm>` that of the gains in a measure that is not rewarded. Where there are several students the
    same of each follows, under `student/<name>/`.
    """
    if "trained" not in arms:
        return {}
    trained, results = arms["trained"], {}
    for arm, other in arms.items():
        if arm != "trained":
            paired, clusters = _paired(trained.accuracies, other.accuracies, trained.batches)
            results[f"accuracy_minus_{arm}"] = estimate_difference(paired, clusters)
            for measure in MEASURES:
                paired, clusters = _paired(trained.in_measure(measure), other.in_measure(measure), trained.batches)
                if paired:
                    name = difference_name(measure, trained.measure, arm)
                    results[name] = estimate_gains(paired, clusters, measure)
    for student, label in labels(list(trained.by_student)).items():
        of_student = differences({arm: evaluation.by_student[student] for arm, evaluation in arms.items()})
        results |= {f"student/{label}/{name}": difference for name, difference in of_student.items()}
    return results


def _paired(
    values: Mapping[str, float], others: Mapping[str, float], batches: Mapping[str, int]
) -> tuple[list[float], list[int]]:
    """The differences of the documents that both have, and their batches."""
    both = [document for document in values if document in others]
    return [values[d] - others[d] for d in both], [batches[d] for d in both]


def _examples(lines: Sequence[Record], heldout: Sequence[Document], count: int = 3) -> list[Example]:
    """Those of the first held-out documents that both teachers rewrote."""
    first_lessons: dict[tuple[str, str], list[Record]] = {}
    for line in lines:
        if line["set"] == 0:
            first_lessons.setdefault((line["arm"], line["document_id"]), []).append(line)
    examples = []
    for document in heldout[:count]:
        before, after = (first_lessons.get((arm, document.id)) for arm in ("untrained", "trained"))
        if before and after:
            texts = ("\n\n".join(line["text"] for line in lesson) for lesson in (before, after))
            strategies = (", ".join(line["strategy"] for line in lesson) for lesson in (before, after))
            examples.append(Example(document.id, document.text, *texts, *strategies))
    return examples
