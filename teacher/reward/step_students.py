"""Which students of a step are trained: decided here alone, and done.

`teacher.reward.assignment` deals lessons to students. `StepStudents` leaves out what the screen finds not promising,
teaches lessons again to know the reward's noise, and gives adaptive repeats to the lessons where they matter most. What
the students showed is judged in `teacher.reward.gain`.

All students of a batch have the same number of optimiser steps and, within a repeat, the same seed (common random
numbers), so that they differ in nothing but their lessons. Each repeat has other seeds and, where documents share
students, puts each lesson in other company. The lessons of a student that failed keep the gains of their other repeats.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence

from configs.schema import Reward
from configs.seeds import stable_seed
from student.plans import TaughtText
from student.records import Job, StudentPool
from student.statistics.adaptive import next_shared_runs
from student.statistics.mixed_model import MeasuredRun
from teacher.records import Rewrite
from teacher.reward.assignment import (
    LessonResult,
    PlannedStudent,
    Results,
    RewriteSet,
    TaughtLesson,
    assign,
    batches_of,
    lessons_of,
    strategy_of,
)
from teacher.reward.screen import SHORT, Screen, Signs
from teacher.reward.student_runs import StudentRuns, forgotten, narrow


class StepStudents:
    """The students of one step, over D documents with a group of G lessons each."""

    def __init__(self, runs: StudentRuns, pools: Mapping[str, StudentPool], screen: Screen | None = None) -> None:
        self.runs, self.pools, self.screen = runs, pools, screen
        self.reward, self.seed = runs.config.reward, runs.config.run.seed
        self.rewrites_per_lesson = runs.config.rl.rewrites_per_lesson
        self.lessons_DG: list[list[RewriteSet]] = []
        self.taught_DT: list[list[int]] = []
        """Numbers of each document's lessons that are taught: all without a screen."""
        self.signs_D: list[dict[int, Signs]] = []
        """What the screen read of each document's lessons."""
        self.results: Results = {}

    def add(self, groups: Sequence[Sequence[Rewrite]]) -> int:
        """Takes the groups of further documents, of which those that share students come together, and chooses which of
        their lessons are taught. Returns the number of the first."""
        first = len(self.lessons_DG)
        assert first % self.reward.documents_together == 0, "a batch ended among documents that share students"
        assert len({len(group) for group in groups}) <= 1, "groups are of one size"
        self.lessons_DG += [lessons_of(group, self.rewrites_per_lesson) for group in groups]
        self._choose(first)
        return first

    def teach(self, groups: Sequence[Sequence[Rewrite]]) -> None:
        """As `add`, and trains the students of these lessons."""
        first = self.add(groups)
        # Who shares a student depends on a document's number in the step: all students are planned again, which changes
        # none of the earlier ones, and those of the new documents are trained.
        students = [student for repeat in range(self.reward.full_repeats) for student in self._students(repeat)]
        self._train([s for s in students if s.lessons[0].document >= first], self.results)

    def repeated(self, repeats: int, documents: int) -> Results:
        """What the lessons of the first `documents` show in each of `repeats`; those of the step are in the journal
        already."""
        results: Results = {}
        students = [student for repeat in range(repeats) for student in self._students(repeat)]
        self._train([s for s in students if s.lessons[0].document < documents], results)
        return results

    def repeat_adaptively(self) -> list[MeasuredRun]:
        """Trains the students of all repeats but the first where they would most likely change which lesson is best.
        Returns all runs, with lessons numbered among `usable` ones."""
        usable, batches = self.usable, batches_of(len(self.lessons_DG), self.reward.documents_together)
        sizes, students = [len(lessons) for lessons in usable], len(self.lessons_DG[0])
        for repeat in range(1, self.reward.repeats):
            seed = stable_seed(self.seed, "adaptive", repeat)
            next_DK = next_shared_runs(self._runs_so_far(), sizes, students, seed=seed)
            planned = []
            for number, batch in enumerate(batches):
                for k in range(students):
                    # A document of which all was refused keeps a place that teaches nothing.
                    taught = tuple(TaughtLesson(d, usable[d][next_DK[d][k]] if next_DK[d] else 0) for d in batch)
                    # The same lesson may come several times. Alone in its student it needs a seed of its own each time;
                    # where documents share students, the company differs.
                    planned.append(PlannedStudent(taught, number, repeat if len(batch) > 1 else repeat * students + k))
            self._train(list(dict.fromkeys(planned)), self.results)
        return self._runs_so_far()

    @property
    def usable(self) -> list[list[int]]:
        """Numbers of each document's lessons of which something passed the gates."""
        return [
            [g for g, lesson in enumerate(lessons) if any(rewrite.rejected is None for rewrite in lesson)]
            for lessons in self.lessons_DG
        ]

    def _runs_so_far(self) -> list[MeasuredRun]:
        return [
            MeasuredRun(d, i, result.gain, result.student, result.student.repeat)
            for d, lessons in enumerate(self.usable)
            for i, g in enumerate(lessons)
            for result in self.results.get(TaughtLesson(d, g), ())
        ]

    def _choose(self, first: int) -> None:
        """Adds which lessons of the documents from `first` on are taught, and what the screen read of them."""
        screen, together = self.screen, self.reward.documents_together
        self.taught_DT += [list(range(len(lessons))) for lessons in self.lessons_DG[first:]]
        self.signs_D += [{} for _ in self.lessons_DG[first:]]
        if screen is None:
            return
        batches = [batch for batch in batches_of(len(self.lessons_DG), together) if batch.start >= first]
        measured = [d for batch in batches if screen.on or screen.untried or screen.whole(batch) for d in batch]
        screened = [d for batch in batches if screen.on and not screen.whole(batch) for d in batch]
        found = screen.read([self.lessons_DG[d] for d in measured], next(iter(self.pools.values()))) if measured else []
        for d, signs in zip(measured, found, strict=True):
            self.signs_D[d] = signs
        for d in screened:
            self.taught_DT[d] = screen.promising(0, self.taught_DT[d], self.signs_D[d])
        if screen.settings.steps is None:
            return
        short: Results = {}
        students = [student for student in self._students(0) if student.lessons[0].document in set(measured)]
        self._train(students, short, screen.settings.steps)
        for lesson, shown in short.items():
            self.signs_D[lesson.document].setdefault(lesson.lesson, {})[SHORT] = shown[0].gain
        for d in screened:
            self.taught_DT[d] = screen.promising(1, self.taught_DT[d], self.signs_D[d])

    def _students(self, repeat: int) -> Iterator[PlannedStudent]:
        """The students of one repeat, each followed by those without one rewrite under `marginal` credit."""
        reward, strategies = self.reward, None
        if reward.pool_strategies and (reward.retention_weight > 0 or reward.credit == "shard"):
            # Forgetting is measured per student, so students are sorted by strategy: false lessons cost 3.6 nats alone,
            # which is what a teacher that always writes them brings about, and 1.4 mixed (teacher/RESULTS.md).
            strategies = [[strategy_of(lesson) for lesson in lessons] for lessons in self.lessons_DG]
        seed = stable_seed(self.seed, "deal")
        for student in assign(self.taught_DT, reward.documents_together, repeat, seed, strategies=strategies):
            yield student
            for i in range(self.rewrites_per_lesson if reward.set_credit == "marginal" else 0):
                yield student._replace(lessons=tuple(lesson._replace(without=i) for lesson in student.lessons))

    def _train(self, students: Sequence[PlannedStudent], results: Results, steps: int | None = None) -> None:
        """Trains those of `students` that have anything to learn, and adds to `results` what each of their lessons
        gained; `steps` takes the place of the config's."""
        to_train: list[tuple[PlannedStudent, Job]] = []
        for student in students:
            documents: list[str] = []
            taught: list[tuple[str, TaughtText]] = []
            for d, g, without in student.lessons:
                rewrites = self.lessons_DG[d][g]
                # A document of which nothing is taught keeps its place in the exam and in the planned steps, so that
                # the students of a batch are asked the same and train equally long.
                documents.append(rewrites[0].document_id)
                accepted = [r for i, r in enumerate(rewrites) if r.rejected is None and i != without]
                taught += [(rewrite.document_id, rewrite.taught) for rewrite in accepted]
            # Common random numbers: nothing about the lessons goes into the seed.
            job = self.runs.job(documents, taught, stable_seed(self.seed, *documents, student.repeat), "reward", steps)
            if job.lesson.texts:
                to_train.append((student, job))
                continue
            # Where the rewrite that is left out was the only one, the gain is 0 and no student has to show it.
            for lesson in student.lessons:
                if lesson.without is not None:
                    results.setdefault(lesson, []).append(LessonResult(student, 0.0, 0.0, None))
        by_model = [self.runs.examine([job for _, job in to_train], pool) for pool in self.pools.values()]
        for (student, job), *outcomes in zip(to_train, *by_model, strict=True):
            # If one model's student failed, the others' do not count: means over different models do not compare.
            if any(outcome.gain is None for outcome in outcomes):
                continue
            forgotten_nats = statistics.fmean(forgotten(outcome) for outcome in outcomes)
            for lesson in student.lessons:
                rewrites = self.lessons_DG[lesson.document][lesson.lesson]
                if all(rewrite.rejected is not None for rewrite in rewrites):
                    continue
                measure, name = self.reward.measure, rewrites[0].document_id
                on_document = [narrow(job, outcome, name, measure) for outcome in outcomes]
                credited = on_document
                if self.reward.credit == "shard":
                    credited = [narrow(job, outcome, None, measure) for outcome in outcomes]
                gain = across_models(self.reward, [outcome.gain for outcome in credited if outcome.gain is not None])
                results.setdefault(lesson, []).append(LessonResult(student, gain, forgotten_nats, on_document[-1]))


def across_models(reward: Reward, values: Sequence[float]) -> float:
    """The mean or the worst of what students of several models show, as `reward.across_students` has it."""
    return min(values) if reward.across_students == "worst" else statistics.fmean(values)
