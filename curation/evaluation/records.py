"""What `notewright evaluate` leaves in `run.dir`, typed.

    evaluation.json             `EvaluationResult`
    evaluation/items.parquet    one row a question asked of a student, `ITEM_COLUMNS`: every estimate follows from these
    evaluation/lessons.parquet  one row a document, arm and student: what was taught, `LESSON_COLUMNS`

A gain is the rise of a measure over the lesson, in the measure's unit (`student.records.UNITS`); where none is named
it is that of `reward.measure`, which verdicts are about. Accuracies are shares (0 ... 1) of gold answers
that greedy decoding would give after the lesson. All intervals are 95% and two-sided. A bound is None where one cluster
alone makes no interval possible.
"""

from pathlib import Path
from typing import Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from configs.files import read_own
from configs.schema.reward import Measure
from student.records import MEASURES

RESULT_FILE = "evaluation.json"
ITEMS_FILE = "evaluation/items.parquet"
LESSONS_FILE = "evaluation/lessons.parquet"

Setting = Literal["together", "single", "scaling", "sequence"]
"""`together`: documents share students as in training. `single`: one document, one student. `scaling`: as `together`,
with other numbers of rewrites a document. `sequence`: students edited again and again."""

ITEM_COLUMNS = pa.schema(
    [
        ("setting", pa.string()),
        ("student", pa.string()),  # label of the student model, as in `EvaluationResult.students`
        ("arm", pa.string()),  # name of the arm, as in `EvaluationResult.arms`; of a sequence: `none`, `replay`
        ("rewrites", pa.int32()),  # rewrites a document that the lesson may hold
        (
            "seed",
            pa.int32(),
        ),  # number of the repeat or sequence; arms of one number and batch share their luck
        ("batch", pa.int32()),  # documents of one batch share a student: a cluster; sequence: the edit that teaches it
        # What an interval draws: the batch; where each student learns one document, the documents of one title.
        ("cluster", pa.int32()),
        ("edit", pa.int32()),  # sequence: edits that the student has been through; else 0
        ("kind", pa.string()),  # `document`, `benchmark` (never rewarded) or `retention` (what the student knew)
        ("source", pa.string()),  # of a benchmark or retention item: the config's line; else empty
        ("document_id", pa.string()),  # of a document item; else empty
        ("question", pa.string()),  # as the student read it
        ("answer", pa.string()),
        # Each measure of `reward.measure`; null where the exam does not tell it.
        *((f"{measure}_{when}", pa.float64()) for measure in MEASURES for when in ("before", "after")),
        ("correct_before", pa.bool_()),
        ("correct_after", pa.bool_()),
        ("steps", pa.int32()),  # optimiser steps of the student
        ("steps_cut", pa.int32()),  # left out for `student.max_lesson_tokens`
        ("tokens", pa.int64()),  # it trained on in all steps; a text that comes twice counts twice
        ("longest_text", pa.int32()),  # tokens of its lesson's longest text
        ("planned_tokens", pa.int64()),  # steps times tokens a step, which arms of equal tokens are given
        ("retention_loss_before", pa.float64()),  # of the student on the retention texts, nats a token; null without
        ("retention_loss_after", pa.float64()),
    ]
)

LESSON_COLUMNS = pa.schema(
    [
        ("student", pa.string()),
        ("arm", pa.string()),
        ("document_id", pa.string()),
        ("document", pa.string()),  # the document's own text
        ("texts", pa.list_(pa.string())),  # what was taught, in the setting `together`
        ("strategies", pa.list_(pa.string())),  # of each text
        ("rejected", pa.list_(pa.string())),  # the gates' reasons for texts that were sampled and left out
        ("gain", pa.float64()),  # mean over the document's held-out questions and seeds; null where students failed
        ("accuracy", pa.float64()),
    ]
)


class Record(BaseModel):
    """Frozen, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Estimate(Record):
    """A mean over documents with its 95% interval over the batches of documents that share students, or where none do
    over titles."""

    mean: float
    low: float | None
    high: float | None
    n: int
    """Documents (of a benchmark or retention estimate: batches of documents)."""
    clusters: int
    """Batches or titles; the interval has `clusters - 1` degrees of freedom."""

    @property
    def bounds(self) -> tuple[float, float | None, float | None]:
        """Mean, low and high."""
        return self.mean, self.low, self.high


class ArmEstimates(Record):
    """What one arm was worth to one student model in one setting."""

    gain: Estimate | None
    """On held-out questions of held-out documents; None where all students failed."""
    measures: dict[Measure, Estimate]
    """The gain in every measure that the exam tells, the rewarded one among them; of the others as a description."""
    accuracy: Estimate | None
    benchmarks: dict[str, Estimate]
    """Gain in loglik on each external benchmark (`evaluation.benchmarks`), which was never rewarded."""
    benchmark_accuracies: dict[str, Estimate]
    retention_loss: Estimate | None
    """Loss gained on the retention texts, nats a token: positive is forgotten. None without `retention_texts`."""
    retention_accuracy: Estimate | None
    """On questions that the student could answer before, after the lesson. None without `retention_questions`."""
    steps: float
    """Optimiser steps of a student, mean."""
    tokens: float
    """Tokens that a student trained on in all its steps, mean over students."""
    tokens_least: int
    tokens_most: int
    """Those of the student with the fewest, and of the one with the most."""
    planned_tokens: int
    """Tokens that every student of an arm with `equal_tokens` is given: steps times tokens a step."""
    as_planned: bool
    """Whether every student trained on `planned_tokens`, give or take its longest text."""
    failed: int
    """Students that gave no outcome; their documents count with the other seeds."""
    cut: int = 0
    """Students whose last steps were left out for `student.max_lesson_tokens`."""


class ArmResult(Record):
    """What an arm teaches one student."""

    words: str
    """What it is, in words for a table or a plot."""
    equal_tokens: bool
    """False for `none` and for `raw` (the documents alone, `student.epochs` times): no part of the equal comparison.
    False also where a student did not train on the planned tokens, see `ArmEstimates.as_planned`."""
    lesson_tokens: float
    """Different tokens of a document's lesson, in student tokens, mean over documents."""
    texts: float
    """Texts a document, mean."""
    rejected: int
    """Texts that a gate refused."""
    overlap: float
    """Share (0 ... 1) of a text's word 4-grams that another text of its lesson holds too, mean: high is not diverse."""
    strategies: dict[str, float]
    """Share of the texts by the strategy they were written with, the most frequent first; empty where there is none."""
    together: ArmEstimates
    single: ArmEstimates | None
    training_runs: int = 1
    """Of a trained teacher: training runs that were measured, whose mean this is."""
    strategies_by_run: list[dict[str, float]] = []
    """`strategies` of each of several training runs; empty for one."""


class ScalingPoint(Record):
    """An arm with that many rewrites a document, at the same tokens and steps as every other point."""

    rewrites: int
    lesson_tokens: float
    """Different tokens of a document's lesson: the x axis of a token-scaling curve."""
    overlap: float
    gain: Estimate
    measures: dict[Measure, Estimate]
    """As in `ArmEstimates`."""
    accuracy: Estimate
    more: Estimate | None = None
    """What the most rewrites gain above these, paired by document and batch; None at the most."""
    more_p: float | None = None
    """Of `more`, two-sided, by Holm over all points of a student's curves."""


class Comparison(Record):
    """Two arms of one student, paired by document (items about no document: by batch), question and seed."""

    measure: Literal["gain", "accuracy", "benchmark", "retention"]
    """`gain` and `accuracy` on held-out questions; `benchmark`: gain in loglik on the items of all
    `evaluation.benchmarks`; `retention`: accuracy on `evaluation.retention_questions`."""
    setting: Literal["together", "single"]
    arm: str
    against: str
    difference: Estimate
    """`arm` minus `against`; its interval is cluster-robust and not corrected for the number of comparisons."""
    measures: dict[Measure, Estimate]
    """Of a `gain`: the same difference in every measure that the exam tells, the rewarded one among them. The others
    describe and have no verdict, so that none is chosen after looking."""
    p: float | None
    """Two-sided, of Student's t on the clusters; None where one cluster gives none."""
    p_corrected: float | None
    """By Holm, over the `Correction.families` entry of its measure and setting."""
    detectable: float | None
    """Minimum detectable effect: a true difference of this size is found in 80% of such evaluations (uncorrected)."""
    verdict: Literal["better", "worse", "no detectable difference"]
    """Of what the texts of `arm` teach: better or worse where p_corrected < 0.05, else no detectable difference. Of a
    trained teacher's texts it is said of this one training run: another run's teacher was not compared."""


class Correction(Record):
    """How multiple comparisons are dealt with."""

    method: Literal["holm"]
    level: float
    """Chance that any comparison of a family differs by luck alone."""
    families: dict[str, int]
    """Comparisons made, over all students, by `<setting>/<measure>`."""


class EditSequences(Record):
    """Students that are each edited with one batch of documents after the other, the adapter merged each time: one a
    sequence. Means, intervals and `n` are of sequences, which share the documents and differ in their order, in which
    documents come together, and in the seeds; a state is the mean of those that came so far."""

    arm: str
    """Whose lessons were taught."""
    replay: float
    """Share of a lesson's documents that come from earlier edits; 0 without replay."""
    sequences: int
    accuracy: list[list[Estimate]]
    """(edits + 1) x edits: row i is the student after i edits (row 0: never edited), column j the documents of edit
    j + 1: share of their held-out questions answered right."""
    studied: list[Estimate]
    """For each row from 1 on: accuracy on all documents taught so far."""
    studied_unedited: list[Estimate]
    """For each row from 1 on: the never-edited student's accuracy on the same documents."""
    studied_difference: list[Estimate]
    """`studied` minus `studied_unedited`, paired by sequence."""
    retention_accuracy: list[Estimate] | None
    """For each row from 0 on: accuracy on the retention questions."""


class ReplayEffect(Record):
    """The sequences with replay minus those without, paired by sequence: after each edit from the second on, since they
    have the first in common."""

    studied: list[Estimate]
    """Accuracy on all documents taught so far."""
    retention_accuracy: list[Estimate] | None


class StudentResult(Record):
    """Everything about one student model."""

    model: str
    teacher: str | None
    """Folder of the trained teacher's checkpoint; None without the arm `trained`, or where no round was better than the
    untrained teacher."""
    arms: dict[str, ArmResult]
    """In the order of the config."""
    comparisons: list[Comparison]
    scaling: dict[str, list[ScalingPoint]]
    """By arm, rising numbers of rewrites."""
    sequences: list[EditSequences]
    """Without replay, then with it; empty where the config asks for none."""
    replay_effect: ReplayEffect | None
    """None without replay."""


class StrategyMixes(Record):
    """How far apart the strategies of training runs of two students are: total variation distances (0 ... 1)."""

    between: list[float]
    """Of two runs of different students."""
    within: list[float]
    """Of two runs of one student, which differ by chance."""
    p: float
    """Share of the ways to divide the runs between two students that set them as far apart as these are; with five runs
    each it cannot fall below 2 of 252."""


class EvaluationResult(Record):
    """`evaluation.json`."""

    format: Literal[4] = 4
    measure: Measure
    """`reward.measure`, fixed before the students ran: what every `gain` and verdict is in."""
    documents: int
    documents_per_student: int
    seeds: int
    """Students a batch and arm."""
    steps: int
    tokens_per_step: int
    rewrites: int
    """Rewrites a document in the settings `together` and `single`."""
    reference: str
    """The arm that every other is compared with."""
    students: dict[str, StudentResult]
    """By label: the model folder's name."""
    correction: Correction
    strategy_mixes: dict[str, StrategyMixes] = {}
    """By arm of several training runs, where there are two students."""
    student_runs: int
    """Different students trained for this result, in this call and earlier ones."""
    seconds: float
    """Duration of this call."""
    notes: list[str]
    """What a reader must know of how it was measured, a sentence each."""


def read_result(run_dir: Path) -> EvaluationResult | None:
    """The evaluation in a run directory; None where there is none. Raises UserError for another format."""
    path = run_dir / RESULT_FILE
    return read_own(path, EvaluationResult.model_validate) if path.is_file() else None
