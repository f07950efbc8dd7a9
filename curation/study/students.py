"""Students of candidate texts under one number of documents a student.

Documents that share students form a batch. In every repeat each document's candidates are dealt anew to the batch's
students. A rewrite is therefore taught beside other texts each time, and what these did to its gain counts as noise of
its reward. All students of a batch and repeat have one seed (common random numbers).
"""

import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from configs.errors import UserError
from configs.files import write_json
from configs.load import differences
from configs.schema import Config, Student
from configs.seeds import stable_seed
from curation.console.progress import StudentProgress
from curation.study.groups import Group
from student.benchmarks.sources import DocumentQuestions
from student.records import Job, Outcome, StudentPool
from teacher.reward.assignment import batches_of, clusters_of
from teacher.reward.costs import Costs
from teacher.reward.student_runs import StudentRuns, narrow
from teacher.run.journal import Journal, JsonLines

DISTRACTORS = 4
"""Of each question where all questions are asked and the config names no other number: `contrast` and `choice` need
some, whatever is rewarded."""

Gains = list[list[list[float | None]]]
"""Documents x candidates x repeats; None where a student failed."""
Outcomes = list[list[list[Outcome | None]]]
"""The same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """What was measured of all candidates."""

    repeats: int
    outcomes: Outcomes
    """Each narrowed to the document's own questions."""
    whole: Outcomes
    """The student's on all that it was asked."""
    students: int
    tokens: int
    """Tokens that all students trained on, in all their steps."""
    seconds_per_student: float | None
    """Training and exam; None where all were found in the journal."""
    errors: list[str]

    @property
    def own(self) -> Gains:
        """Gain on the document's own questions."""
        return self.table(lambda outcome: outcome.gain)

    @property
    def accuracy(self) -> Gains:
        """Share of the document's own questions that were right after the lesson."""
        return self.table(lambda outcome: outcome.metrics["accuracy_after"])

    def table(self, value: Callable[[Outcome], float | None], *, whole: bool = False) -> Gains:
        """A value of each student that did not fail."""
        return [
            [[None if outcome is None else value(outcome) for outcome in repeats] for repeats in candidates]
            for candidates in (self.whole if whole else self.outcomes)
        ]


def with_distractors(config: Config) -> Config:
    """The config with a number of distractors, see `DISTRACTORS`."""
    if config.reward.distractors is not None:
        return config
    return config.model_copy(update={"reward": config.reward.model_copy(update={"distractors": DISTRACTORS})})


class Session(NamedTuple):
    """What the students of one verb have in common."""

    config: Config
    groups: Sequence[Group]
    journal: Journal
    progress: StudentProgress
    costs: Costs

    def runs(self, student: Student | None = None, *, all_asked: bool = True) -> StudentRuns:
        """Runs of students by the config's settings or others. `all_asked`: questions of both splits, since nothing is
        trained by what is found; else the rewarded ones."""
        config = self.config if student is None else self.config.model_copy(update={"student": student})
        asked = DocumentQuestions(config.student.prompt_template, all_as="reward") if all_asked else None
        documents = [group.document for group in self.groups]
        return StudentRuns(config, documents, self.journal, benchmark=asked, on_progress=self.progress.within)


@contextmanager
def session(
    config: Config, groups: Sequence[Group], folder: Path, design: dict[str, Any] | None = None
) -> Iterator[Session]:
    """Students are kept in `folder`, so that a stopped call goes on; with what is compared, where it is fixed before
    anything is measured (`fix_design`). Raises UserError."""
    with Journal(folder) as journal, StudentProgress("measuring", 0) as progress:
        if design is not None:
            fix_design(folder, design, begun=len(journal.outcomes) > 0)
        costs = Costs(JsonLines(journal.dir / "costs.jsonl", ("work", "time")))
        yield Session(config, groups, journal, progress, costs)


def fix_design(folder: Path, design: dict[str, Any], *, begun: bool) -> None:
    """Writes the design with how it is analysed or, where students have been measured under one, holds it against that.
    Raises UserError where they differ."""
    path = folder / "design.json"
    design = json.loads(json.dumps(design))
    if begun and path.is_file():
        try:
            earlier = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise UserError(f"{path} cannot be read; name another run.dir") from None
        changed = [f"{key}: {old!r} -> {new!r}" for key, old, new in differences(earlier, design)]
        if changed:
            raise UserError(
                f"{folder} was begun with another design ({'; '.join(changed[:3])}); name another run.dir to measure"
                " this one"
            )
        return
    write_json(path, design)


class RewriteStudy:
    """Trains the students of some groups; every student is trained once, by the journal of `runs`. `steps` takes the
    place of the config's number of optimiser steps, with a warm-up in proportion. Students of another `purpose` have
    other seeds."""

    def __init__(
        self, runs: StudentRuns, pool: StudentPool, groups: Sequence[Group], documents_per_student: int, *,
        steps: int | None = None, purpose: str = "repeat",
    ):  # fmt: skip
        self.runs, self.pool, self.groups = runs, pool, list(groups)
        self.steps, self.purpose = steps, purpose
        self.batches = batches_of(len(groups), documents_per_student)
        self.documents_per_student = documents_per_student
        self.batch_of = [number for number, batch in enumerate(self.batches) for _ in batch]
        self.clusters = clusters_of([group.document for group in groups], documents_per_student)
        """Of each document, for intervals."""

    def students(self, repeats: int, repeated_documents: int = 0) -> int:
        """Students that `record` trains."""
        return sum(
            max(len(self.groups[d].candidates) for d in batch)
            for batch, _ in self._batches_and_repeats(repeats, repeated_documents)
        )

    def _batches_and_repeats(self, repeats: int, repeated_documents: int) -> list[tuple[range, int]]:
        return [
            (batch, repeat) for batch in self.batches for repeat in range(repeats + (batch.start < repeated_documents))
        ]

    def record(self, repeats: int, repeated_documents: int = 0) -> Recording:
        """Teaches every candidate once a repeat, and once more those of the batches in which the first
        `repeated_documents` documents are, so that the noise is known."""
        sizes = [len(group.candidates) for group in self.groups]
        numbers = self._batches_and_repeats(repeats, repeated_documents)
        runs = Counter(d for batch, _ in numbers for d in batch)
        outcomes: Outcomes = [[[None] * runs[d] for _ in range(n)] for d, n in enumerate(sizes)]
        whole: Outcomes = [[[None] * runs[d] for _ in range(n)] for d, n in enumerate(sizes)]
        planned = [(repeat, taught) for batch, repeat in numbers for taught in self._deal_candidates(batch, repeat)]
        jobs = [self._job(taught, self.purpose, repeat) for repeat, taught in planned]
        trained, started = self.runs.trained, time.monotonic()
        examined = self.runs.examine(jobs, self.pool)
        trained, seconds = self.runs.trained - trained, time.monotonic() - started
        for (repeat, taught), job, outcome in zip(planned, jobs, examined, strict=True):
            for d, g in taught.items() if outcome.gain is not None else ():
                measure = self.runs.config.reward.measure
                outcomes[d][g][repeat] = narrow(job, outcome, self.groups[d].document.id, measure)
                whole[d][g][repeat] = narrow(job, outcome, None, measure)
        return Recording(
            repeats=repeats,
            outcomes=outcomes,
            whole=whole,
            students=len(jobs),
            tokens=round(sum(outcome.metrics.get("lesson_tokens", 0) for outcome in examined)),
            seconds_per_student=seconds / trained if trained else None,
            errors=[outcome.error for outcome in examined if outcome.error is not None],
        )

    def rewrites_only(self, gains: Gains) -> Gains:
        """The table without the controls."""
        return [[runs[g] for g in group.rewrites] for group, runs in zip(self.groups, gains, strict=True)]

    def _deal_candidates(self, batch: range, repeat: int) -> list[dict[int, int]]:
        """Deals each document's candidates at random to the students of one batch and repeat. For each student: the
        candidate's number, keyed by its document's number."""
        students: list[dict[int, int]] = [{} for _ in range(max(len(self.groups[d].candidates) for d in batch))]
        for d in batch:
            order = list(range(len(students)))
            seed = stable_seed(self.runs.config.run.seed, "deal", self.groups[d].document.id, repeat)
            random.Random(seed).shuffle(order)
            for g in range(len(self.groups[d].candidates)):
                students[order[g]][d] = g
        return students

    def _job(self, taught: Mapping[int, int], purpose: str, repeat: int) -> Job:
        """A student that is asked about all documents of its batch."""
        names = [self.groups[d].document.id for d in self.batches[self.batch_of[min(taught)]]]
        texts = [(self.groups[d].document.id, self.groups[d].candidates[g].text) for d, g in sorted(taught.items())]
        seed = stable_seed(self.runs.config.run.seed, purpose, *names, repeat)
        return self.runs.job(names, texts, seed, "reward", self.steps)
