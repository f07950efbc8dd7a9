"""The signals as tables: what students of the rewrites gained, by measure, unit of credit and number of steps, and the
signs that need none."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from configs.schema.reward import Credit, Measure
from curation.study.groups import Group
from curation.study.students import RewriteStudy
from student.records import Outcome, StudentPool, mean_gain
from student.statistics.reliability import gains_table, mean_of_runs
from teacher.reward.costs import Costs
from teacher.reward.signs import SIGNS, SignWork
from teacher.reward.student_runs import StudentRuns

NEEDS: dict[Measure, str] = {
    "contrast": "distractors", "choice": "distractors", "recall": "student.decode",
    "bits": "data.continuation",
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


class MeasuredStudents:
    """The students of one unit of credit and number of steps."""

    def __init__(
        self, runs: StudentRuns, pool: StudentPool, groups: Sequence[Group], credit: Credit, steps: int | None
    ) -> None:
        config = runs.config
        self.credit, self.steps, self.repeats = credit, steps, config.reward.repeats
        self.groups = list(groups)
        size = 1 if credit == "document" else config.reward.documents_per_student
        self.repeated = min(config.validity.repeated_documents, len(groups))
        self.study = RewriteStudy(runs, pool, groups, size, steps=steps, purpose="signal")

    @property
    def students(self) -> int:
        """Students that are trained."""
        return self.study.students(self.repeats, self.repeated)

    def signals(self, measures: Sequence[Measure], costs: Costs) -> tuple[list[Signal], list[str]]:
        """A signal for each measure, and the errors of students that failed."""
        credit, steps = self.credit, self.steps
        work = f"{credit}, {steps} steps" if steps else credit
        with costs.of(work, self.study.runs):
            recording = self.study.record(self.repeats, self.repeated)
        # Without the repeats that show the noise.
        students_a_rewrite = self.study.students(self.repeats) / sum(len(group.candidates) for group in self.groups)
        seconds = costs.seconds_per_unit(work)
        signals = []
        for measure in measures:

            def value(outcome: Outcome, measure: Measure = measure) -> float | None:
                return mean_gain(outcome.answers, measure)

            runs_DGR = gains_table(recording.table(value))
            values_DG = mean_of_runs(runs_DGR[..., : self.repeats])
            signals.append(
                Signal(
                    name=f"{measure}, {work}", kind="students", values_DG=values_DG, runs_DGR=runs_DGR,
                    tokens=recording.tokens / recording.students * students_a_rewrite,
                    seconds=None if seconds is None else seconds * students_a_rewrite,
                    needs=NEEDS.get(measure, ""), measure=measure, credit=credit, steps=steps,
                )
            )  # fmt: skip
        return signals, recording.errors


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
