"""The signals as tables: what students of the rewrites gained, by measure, unit of credit and number of steps, and the
signs that need none."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from configs.schema.reward import Credit, Measure
from curation.study.students import RewriteStudy
from student.records import Outcome, mean_gain
from student.statistics.reliability import gains_table, mean_of_runs
from teacher.reward.costs import Costs
from teacher.reward.signs import SIGNS, SignWork

NEEDS: dict[Measure, str] = {
    "contrast": "distractors", "choice": "distractors", "recall": "student.decode",
    "bits": "data.continuation", "self_certainty": "student.sampled_answers", "majority": "student.sampled_answers",
}  # fmt: skip
"""What an exam needs that not every exam has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """What a rewrite would be chosen by."""

    name: str
    kind: str
    """`students` or `sign`."""
    values_DG: np.ndarray
    """What the choice is made by; nan where it cannot be told."""
    runs_DGR: np.ndarray
    """The same by run, with further runs by which its noise is known. A sign without noise has two equal ones."""
    tokens: float
    """Tokens a rewrite that students train on."""
    seconds: float | None
    """Seconds a rewrite; None where none was timed."""
    needs: str
    """What is missing where no value can be told."""
    measure: Measure | None = None
    credit: Credit | None = None
    steps: int | None = None


def student_signals(
    study: RewriteStudy, credit: Credit, steps: int | None, costs: Costs
) -> tuple[list[Signal], list[str]]:
    """A signal for each of `validity.measures`, by the students of one unit of credit and number of steps; and the
    errors of students that failed. The first `validity.repeated_documents` are taught once more, for their noise."""
    settings, repeats = study.runs.config.validity, study.runs.config.reward.repeats
    work = f"{credit}, {steps} steps" if steps else credit
    with costs.of(work, study.runs):
        recording = study.record(repeats, settings.repeated_documents)
    # Without the repeats that show the noise.
    students_a_rewrite = study.students(repeats) / sum(len(group.candidates) for group in study.groups)
    seconds = costs.seconds_per_unit(work)
    signals = []
    for measure in settings.measures:
        runs_DGR = gains_table(recording.table(partial(_gain, measure)))
        signals.append(
            Signal(
                name=f"{measure}, {work}", kind="students", values_DG=mean_of_runs(runs_DGR[..., :repeats]),
                runs_DGR=runs_DGR, tokens=recording.tokens / recording.students * students_a_rewrite,
                seconds=None if seconds is None else seconds * students_a_rewrite,
                needs=NEEDS.get(measure, ""), measure=measure, credit=credit, steps=steps,
            )
        )  # fmt: skip
    return signals, recording.errors


def _gain(measure: Measure, outcome: Outcome) -> float | None:
    return mean_gain(outcome.answers, measure)


def sign_signals(names: Sequence[str], work: SignWork) -> list[Signal]:
    """The named signs."""
    signals = []
    for name in names:
        sign = SIGNS[name]
        values_DG = mean_of_runs(gains_table([[[value] for value in values] for values in sign.value(work)]))
        seconds: float | None = 0.0
        if sign.work:
            per_unit = work.costs.seconds_per_unit(sign.work)
            seconds = None if per_unit is None else per_unit * work.units[sign.work] / work.rewrites
        signals.append(
            Signal(
                name=sign.words, kind="sign", values_DG=values_DG, runs_DGR=np.repeat(values_DG[..., None], 2, -1),
                tokens=work.costs.tokens_per_rewrite.get(sign.work, 0.0), seconds=seconds, needs=sign.needs,
            )
        )  # fmt: skip
    return signals
