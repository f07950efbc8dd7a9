"""What a rewrite is worth: the gain of the students that learnt it.

A document's rewrites form a group of G lessons of m rewrites each (`rl.rewrites_per_lesson`; D documents). Under
`shared` and `shard` credit a student learns one lesson of every document in a batch; under `document` credit a batch is
one document. All students of a batch have the same seed within a repeat (common random numbers) and the same number of
steps. Every rewrite of a lesson earns the lesson's gain, or under `marginal` credit what the lesson loses without it: a
difference reward (Wolpert and Tumer 2002), of the same expected policy gradient with less noise.

Penalties are subtracted from that, in rewards and in evaluations alike. What a student forgot is charged to each of its
lessons at face value; with `reward.pool_strategies` each is charged with its own part, see `teacher.reward.pooling`.
"""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from configs.seeds import stable_seed
from student.records import Document, Job, Split
from student.statistics.adaptive import next_shared_runs, posterior_gains
from student.statistics.reliability import Reliability, reliability
from teacher.gates.text import overlap_shares
from teacher.records import Reward, Rewrite
from teacher.reward.assignment import (
    PlannedStudent,
    RewriteSet,
    TaughtLesson,
    assign,
    batches_of,
    lessons_of,
    strategy_of,
    without_each,
)
from teacher.reward.evaluation import Evaluation, mean_penalties
from teacher.reward.exams import asked_about, forgotten, narrow
from teacher.reward.pooling import LessonResults, PooledBeliefs, runs_of_usable
from teacher.reward.student_runs import StudentRuns

PROBE_DOCUMENTS = 8
"""Documents of a step that are taught twice to know the reward's reliability, or a whole batch where it is larger."""


class GainReward(StudentRuns):
    """Turns rewrites into rewards through the student pools, each student trained once and cached in the journal."""

    def score(self, groups: Sequence[Sequence[Rewrite]]) -> list[list[Reward]]:
        """Rewards of D groups of G x m rewrites, aligned with them.

        A rejected rewrite teaches nobody and leaves its place in the lesson empty.
        """
        return self.score_batches([groups])

    def score_batches(self, batches: Iterable[Sequence[Sequence[Rewrite]]]) -> list[list[Reward]]:
        """As `score`, of groups that come in batches: each is taught when it is there, and all are judged together.

        Documents that share students are in one batch.
        """
        reward = self.config.reward
        table: list[list[Sequence[Rewrite]]] = []
        runs: dict[TaughtLesson, LessonResults] = defaultdict(LessonResults)
        uniform = 1 if reward.adaptive else reward.repeats
        asked = 0
        for groups in batches:
            first = len(table)
            assert first % self.config.reward.documents_together == 0, (
                "a batch ended among documents that share students"
            )
            table += self._lessons(groups)
            every = [student for repeat in range(uniform) for student in self._students(table, repeat)]
            students = [student for student in every if student.lessons[0].document >= first]
            self._run(students, table, runs, asked)
            asked += len(students)
        believed = self._repeat_adaptively(table, runs) if reward.adaptive else {}
        lost: dict[TaughtLesson, float] = {}
        if reward.pool_strategies:
            pooled = PooledBeliefs(table, runs, self.config.reward.documents_together)
            believed = pooled.of_students("gains") if reward.credit == "shard" else pooled.of_lessons()
            lost = pooled.of_students("forgotten")
        return [
            place_worst(
                [
                    earned
                    for g, lesson in enumerate(lessons)
                    for earned in self._rewards(lesson, TaughtLesson(d, g), runs, believed, lost)
                ],
                reward.rejected,
            )
            for d, lessons in enumerate(table)
        ]

    def reliability_of(self, groups: Sequence[Sequence[Rewrite]], repeats: int) -> Reliability:
        """Reliability of one run of the reward, from `repeats` students a lesson, in different company each time; the
        bootstrap draws batches of documents that share students."""
        table = self._lessons(groups)
        gains: list[list[list[float | None]]] = [[] for _ in table]
        runs: dict[TaughtLesson, LessonResults] = defaultdict(LessonResults)
        self._run([student for repeat in range(repeats) for student in self._students(table, repeat)], table, runs)
        for d, lessons in enumerate(table):
            for g, lesson in enumerate(lessons):
                members = range(len(lesson)) if self.config.reward.set_credit == "marginal" else [None]
                gains[d] += [list(self._unit_gains(TaughtLesson(d, g), i, runs)) for i in members]
        size = self.config.reward.documents_together
        clusters = [number for number, batch in enumerate(batches_of(len(table), size)) for _ in batch]
        return reliability(gains, clusters=clusters, common_seeds=True)

    def probe(self, groups: Sequence[Sequence[Rewrite]]) -> Reliability:
        """Reliability of one run, from lessons of `score`'s first documents that are taught once more."""
        return self.reliability_of(groups[: max(PROBE_DOCUMENTS, self.config.reward.documents_together)], repeats=2)

    def evaluate(
        self,
        documents: Sequence[Document],
        lessons: Sequence[Mapping[str, Sequence[str]]],
        seeds: Sequence[int],
        split: Split = "heldout",
    ) -> Evaluation:
        """Gain, accuracy and reward on the `split` questions of `documents`, taught at equal steps: the mean over
        `lessons`, each of which is the texts of every document and is taught to students of its own seed.

        A document without texts (all rejected) keeps its place in the exam but teaches nothing. With several students
        the figures are their mean or worst by document, as in the reward, and each student's own are beside them.
        """
        jobs, texts_of_jobs = [], []
        batches: dict[str, int] = {}
        for number, batch in enumerate(batches_of(len(documents), self.config.reward.documents_together)):
            ids = [documents[d].id for d in batch]
            batches |= dict.fromkeys(ids, number)
            for texts_by_document, seed in zip(lessons, seeds, strict=True):
                taught = [(name, text) for name in ids for text in texts_by_document[name]]
                # Every batch has seeds of its own, so that what a seed does is part of the spread between batches.
                jobs.append(self.job(ids, taught, stable_seed(seed, number), split))
                texts_of_jobs.append(texts_by_document)
        names = [document.id for document in documents]
        # What is rewarded is what validates: under shard credit the gain over all that the student was asked.
        whole = self.config.reward.credit == "shard" and split == "reward"
        found: dict[str, Evaluation] = {}
        for student, outcomes in self.examine_all(jobs).items():
            gains: dict[str, list[float]] = {name: [] for name in names}
            accuracies: dict[str, list[float]] = {name: [] for name in names}
            charged: dict[str, list[dict[str, float]]] = {name: [] for name in names}
            for job, texts_by_document, outcome in zip(jobs, texts_of_jobs, outcomes, strict=True):
                for name in asked_about(job) if outcome.gain is not None else ():
                    own = narrow(job, outcome, name)
                    gain = outcome.gain if whole else own.gain
                    assert gain is not None
                    gains[name].append(gain)
                    accuracies[name].append(own.metrics["accuracy_after"])
                    texts = texts_by_document[name] or [""]
                    charged[name].append(mean_penalties(self._penalties(name, texts, forgotten(outcome))))
            failed = sum(outcome.gain is None for outcome in outcomes)
            penalties = {name: mean_penalties(found) for name, found in charged.items() if found}
            found[student] = Evaluation.of(gains, accuracies, batches, penalties, failed)
        if len(found) == 1:
            return next(iter(found.values()))
        each = list(found.values())

        def combined(measured: list[dict[str, float]]) -> dict[str, list[float]]:
            by_name = {name: [values[name] for values in measured if name in values] for name in names}
            return {name: [self._across(values)] for name, values in by_name.items() if values}

        gains, accuracies = combined([e.gains for e in each]), combined([e.accuracies for e in each])
        penalties = {name: mean_penalties([e.penalties[name] for e in each if name in e.penalties]) for name in names}
        return Evaluation.of(gains, accuracies, batches, penalties, sum(e.failed for e in each), by_student=found)

    def _lessons(self, groups: Sequence[Sequence[Rewrite]]) -> list[list[Sequence[Rewrite]]]:
        assert len({len(group) for group in groups}) <= 1, "groups are of one size"
        return [lessons_of(group, self.config.rl.rewrites_per_lesson) for group in groups]

    def _students(self, table: list, repeat: int) -> Iterator[PlannedStudent]:
        """The students of one repeat, each followed by those without a member under `marginal` credit."""
        reward, seed = self.config.reward, stable_seed(self.config.run.seed, "deal")
        marginal = reward.set_credit == "marginal"
        # Of students that all learn the same mix of strategies, what whole students show could not be traced; and what
        # it is in other mixes does not tell what a teacher brings about that writes nothing else.
        traced = reward.pool_strategies and (reward.retention_weight > 0 or reward.credit == "shard")
        strategies = [[strategy_of(lesson) for lesson in lessons] for lessons in table] if traced else None
        for student in assign(
            len(table), len(table[0]), self.config.reward.documents_together, repeat, seed, strategies=strategies
        ):
            yield student
            if marginal:
                yield from without_each(student, self.config.rl.rewrites_per_lesson)

    def _run(
        self, students: Sequence[PlannedStudent], table: list, runs: dict[TaughtLesson, LessonResults], first: int = 0
    ) -> None:
        """Trains `students` (those that have anything to learn) and notes what each lesson's document gained. They are
        numbered from `first` on."""
        jobs = [self._job_of(student, table) for student in students]
        asked = [(student, job) for student, job in zip(students, jobs, strict=True) if job.lesson.texts]
        for student, job in zip(students, jobs, strict=True):
            for seat in student.lessons if not job.lesson.texts else ():
                if seat.without is not None:  # nothing is left to learn, and nothing gained
                    runs[seat].note(0.0, 0.0, None, student.repeat, -1)
        by_pool = self.examine_all([job for _, job in asked]).values()
        for number, ((student, job), *outcomes) in enumerate(zip(asked, *by_pool, strict=True), first):
            ran = [outcome for outcome in outcomes if outcome.gain is not None]
            if len(ran) < len(outcomes):  # a lesson is judged by all students or by none
                continue
            for seat in student.lessons:
                if all(rewrite.rejected is not None for rewrite in table[seat.document][seat.lesson]):
                    continue
                own = [narrow(job, outcome, table[seat.document][seat.lesson][0].document_id) for outcome in ran]
                credited = ran if self.config.reward.credit == "shard" else own
                gain = self._across([outcome.gain for outcome in credited if outcome.gain is not None])
                lost = statistics.fmean(forgotten(outcome) for outcome in ran)
                runs[seat].note(gain, lost, own[-1], student.repeat, number)

    def _across(self, values: Sequence[float]) -> float:
        """One figure from those of several students."""
        return min(values) if self.config.reward.across_students == "worst" else statistics.fmean(values)

    def _repeat_adaptively(self, table: list, runs: dict[TaughtLesson, LessonResults]) -> dict[TaughtLesson, float]:
        """Spends the students of all repeats but the first where they tell most, and returns what is then believed of
        each lesson's gain: runs are unequal in number, so that their plain means would not compare."""
        usable = [
            [g for g, lesson in enumerate(lessons) if any(w.rejected is None for w in lesson)] for lessons in table
        ]
        sizes, students = [len(lessons) for lessons in usable], len(table[0])
        together = self.config.reward.documents_together
        for repeat in range(1, self.config.reward.repeats):
            seed = stable_seed(self.config.run.seed, "adaptive", repeat)
            seats = next_shared_runs(runs_of_usable(usable, runs), sizes, students, seed=seed)
            asked = [
                PlannedStudent(
                    # A document of which all was refused keeps a place that teaches nothing.
                    tuple(TaughtLesson(d, usable[d][seats[d][k]] if seats[d] else 0) for d in batch),
                    number,
                    # A student of its own for each run of one text: with company, that differs anyhow.
                    repeat if len(batch) > 1 else repeat * students + k,
                )
                for number, batch in enumerate(batches_of(len(table), together))
                for k in range(students)
            ]
            self._run(list(dict.fromkeys(asked)), table, runs)  # equal seats are one student, not two
        gains = posterior_gains(runs_of_usable(usable, runs), sizes)
        return {
            TaughtLesson(d, g): float(gains[d][i]) for d, lessons in enumerate(usable) for i, g in enumerate(lessons)
        }  # fmt: skip

    def _job_of(self, student: PlannedStudent, table: list) -> Job:
        documents = [table[seat.document][seat.lesson][0].document_id for seat in student.lessons]
        taught = [
            (rewrite.document_id, rewrite.text)
            for seat in student.lessons
            for i, rewrite in enumerate(table[seat.document][seat.lesson])
            if rewrite.rejected is None and i != seat.without
        ]
        seed = stable_seed(self.config.run.seed, *documents, student.repeat)
        return self.job(documents, taught, seed, "reward")

    def _rewards(
        self,
        lesson: RewriteSet,
        seat: TaughtLesson,
        runs: dict[TaughtLesson, LessonResults],
        believed: Mapping[TaughtLesson, float],
        lost: Mapping[TaughtLesson, float],
    ) -> list[Reward | None]:
        """Of a lesson's rewrites; None for one that was rejected, and for all where its students failed."""
        whole = runs.get(seat)
        if whole is None or not whole.gains:
            return [None] * len(lesson)
        taught = [i for i, rewrite in enumerate(lesson) if rewrite.rejected is None]
        forgot = lost.get(seat, statistics.fmean(whole.forgotten))
        charged = self._penalties(lesson[0].document_id, [lesson[i].text for i in taught], forgot)
        penalties = dict(zip(taught, charged, strict=True))
        marginal = self.config.reward.set_credit == "marginal"
        rewards: list[Reward | None] = []
        for i in range(len(lesson)):
            gains = self._unit_gains(seat, i if marginal else None, runs)
            if i not in penalties or not gains:
                rewards.append(None)
                continue
            rewards.append(
                Reward(
                    value=believed.get(seat, statistics.fmean(gains)) - sum(penalties[i].values()),
                    outcome=whole.last,
                    gains=gains,
                    noise=statistics.stdev(gains) if len(gains) > 1 else None,
                    penalties=penalties[i],
                )
            )
        return rewards

    @staticmethod
    def _unit_gains(
        seat: TaughtLesson, member: int | None, runs: Mapping[TaughtLesson, LessonResults]
    ) -> tuple[float, ...]:
        """What a lesson gained in each of its runs; or what it gained through `member`, where the student without it
        ran too: both have one seed."""
        whole = runs.get(seat)
        if whole is None or member is None:
            return tuple(whole.gains) if whole else ()
        without = runs.get(seat._replace(without=member), LessonResults())
        alone = {repeat: gain for (repeat, _), gain in zip(without.students, without.gains, strict=True)}
        with_it = zip(whole.students, whole.gains, strict=True)
        return tuple(gain - alone[repeat] for (repeat, _), gain in with_it if repeat in alone)

    def _penalties(self, document_id: str, texts: Sequence[str], lost: float) -> list[dict[str, float]]:
        """What is taken off each of a lesson's texts, whose student `lost` so many nats a token on the retention
        texts."""
        settings = self.config.reward
        source = max(1, self.count_tokens(self.documents[document_id].text)) if settings.length_weight else 1
        charged = []
        for text, overlap in zip(texts, overlap_shares(texts), strict=True):
            penalties = {}
            if settings.length_weight:
                penalties["length"] = settings.length_weight * max(0.0, self.count_tokens(text) / source - 1)
            if settings.overlap_weight:
                penalties["overlap"] = settings.overlap_weight * overlap
            if settings.retention_weight:
                penalties["retention"] = settings.retention_weight * max(0.0, lost)
            charged.append(penalties)
        return charged


def place_worst(rewards: Sequence[Reward | None], rejected: float) -> list[Reward]:
    """The group with a reward below its worst (by |`rejected`|) for each None: refused, or its student failed."""
    worst = min((reward.value for reward in rewards if reward is not None), default=0.0)
    return [reward or Reward(value=worst - abs(rejected), outcome=None) for reward in rewards]
