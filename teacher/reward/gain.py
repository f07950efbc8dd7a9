"""What a rewrite is worth: the gain of the students that learnt it.

D documents have a group of G lessons each, and a lesson is m rewrites (`rl.rewrites_per_lesson`) that are taught
together. Under `shared` and `shard` credit a student learns one lesson of every document in a batch; under `document`
credit a batch is one document. Every rewrite of a lesson earns the lesson's gain, or under `marginal` credit what the
lesson loses without it: a difference reward (Wolpert and Tumer 2002), with the same expected policy gradient and less
noise. Penalties are subtracted.

All students of a batch have the same number of optimiser steps and, within a repeat, the same seed (common random
numbers), so that they differ in nothing but their lessons. Each repeat has other seeds and, where documents share
students, puts each lesson in other company. The lessons of a student that failed keep the gains of their other repeats.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from configs.seeds import stable_seed
from student.records import Document, Job, Split, StudentPool
from student.statistics.adaptive import next_shared_runs, posterior_gains
from student.statistics.mixed_model import MeasuredRun, noise_degrees
from student.statistics.reliability import Noise, Reliability, measured_noise, pooled_noise, reliability
from student.text.words import count_words, overlap_shares
from teacher.records import Reward, Rewrite, SamplingError
from teacher.reward.assignment import (
    LessonResult,
    PlannedStudent,
    RewriteSet,
    TaughtLesson,
    assign,
    batches_of,
    lessons_of,
    strategy_of,
)
from teacher.reward.evaluation import DocumentResult, Evaluation, mean_by_name, mean_penalties
from teacher.reward.pooling import PooledPredictions, Prediction
from teacher.reward.screen import SHORT, Screen, Signs
from teacher.reward.student_runs import StudentRuns, forgotten, gains_of, narrow

PROBE_DOCUMENTS = 8
"""The lessons of so many documents of a step are taught twice, to know the reward's noise; of a whole batch where it is
larger. With groups of 8 that gives its variance 56 degrees of freedom a round."""

Lessons = list[list[RewriteSet]]
"""D x G."""

Results = dict[TaughtLesson, list[LessonResult]]
"""In the order of the students that learnt the lesson; failed ones are left out."""


class GainReward:
    """The reward by students of the models in `pools`. No student is trained twice: outcomes are in the journal of
    `runs`."""

    def __init__(
        self,
        runs: StudentRuns,
        pools: Mapping[str, StudentPool],
        count_tokens: Callable[[str], int] = count_words,
        earlier_noise: Noise | None = None,
        screen: Screen | None = None,
    ) -> None:
        self.runs, self.pools, self.count_tokens = runs, pools, count_tokens
        self.screen = screen
        """Chooses which lessons of the next step are taught; None teaches all."""
        self.noise = earlier_noise
        """Noise of one run of the reward, over all lessons that were taught repeatedly: those of earlier rounds
        (`earlier_noise`) and of the steps that were scored. None as long as there are none."""
        self.step_noise: Noise | None = None
        """By the last step's lessons alone."""
        self.step_reliability: Reliability | None = None
        """Of one run, by the last step's lessons that were taught again to measure it."""
        self.reward, self.seed = runs.config.reward, runs.config.run.seed
        self.rewrites_per_lesson = runs.config.rl.rewrites_per_lesson

    def score(self, groups: Sequence[Sequence[Rewrite]]) -> list[list[Reward]]:
        """Rewards of D groups of G x m rewrites, aligned with them. A rejected rewrite teaches nobody and leaves its
        place in the lesson empty."""
        return self.score_batches([groups])

    def score_batches(
        self, batches: Iterable[Sequence[Sequence[Rewrite]]], *, probe: bool = False
    ) -> list[list[Reward]]:
        """As `score`, of groups that come in batches: each is taught when it is there, and all are judged together.
        Documents that share students are in one batch.

        `probe` teaches the lessons of the first documents once more where none is repeated anyway, to measure the noise
        that the rewards' errors and `reward.pool_strategies` need. The rewards themselves stay those of the first runs.
        """
        reward = self.reward
        lessons_DG: Lessons = []
        taught_DT: list[list[int]] = []
        signs_D: list[dict[int, Signs]] = []
        results: Results = {}
        for groups in batches:
            first = len(lessons_DG)
            assert first % reward.documents_together == 0, "a batch ended among documents that share students"
            lessons_DG += self._lessons(groups)
            self._choose(lessons_DG, taught_DT, signs_D)
            # Who shares a student depends on a document's number in the step: all students are planned again, which
            # changes none of the earlier ones, and those of the new documents are trained.
            repeats = range(reward.full_repeats)
            students = [student for repeat in repeats for student in self._students(lessons_DG, repeat, taught_DT)]
            self._train([s for s in students if s.lessons[0].document >= first], lessons_DG, results)
        repeated, shown, self.step_reliability = lessons_DG, results, None
        if probe and reward.repeats == 1:
            # Whole batches of documents that share students: these students are those of the step.
            together = reward.documents_together
            repeated = lessons_DG[: together * math.ceil(PROBE_DOCUMENTS / together)]
            shown = self._taught_repeatedly(repeated, 2, taught_DT[: len(repeated)])
            self.step_reliability = self._reliability(repeated, shown)
        self.step_noise = None if reward.adaptive else measured_noise(self._by_unit(repeated, shown, self._worth))
        self.noise = pooled_noise([self.noise, self.step_noise])
        # A lesson is worth the mean of its own gains, unless lessons have unequally many of them, or each noisy gain is
        # judged with the help of other documents.
        gains = self._repeat_adaptively(lessons_DG, results) if reward.adaptive else {}
        forgotten_parts: dict[TaughtLesson, Prediction] = {}
        if reward.pool_strategies:
            pooled = PooledPredictions(lessons_DG, results)
            gains = pooled.of_students("gain") if reward.credit == "shard" else pooled.of_lessons(self.noise)
            forgotten_parts = pooled.of_students("forgotten")
        rewards = []
        for d, lessons in enumerate(lessons_DG):
            earned: list[Reward | None] = []
            for g, lesson in enumerate(lessons):
                earned += self._rewards(lesson, TaughtLesson(d, g), results, gains, forgotten_parts)
            # A rewrite that was refused, or whose students all failed, is placed below the worst of its group.
            worst = min((accepted.value for accepted in earned if accepted is not None), default=0.0)
            refused, m = Reward(value=worst - abs(reward.rejected), outcome=None), self.rewrites_per_lesson
            rewards.append(
                [
                    _with_signs(one or refused, signs_D[d].get(i // m), i // m in taught_DT[d])
                    for i, one in enumerate(earned)
                ]
            )
        return rewards

    def reliability_of(self, groups: Sequence[Sequence[Rewrite]], repeats: int) -> Reliability:
        """Reliability of one run of the reward, from `repeats` students a lesson, in different company each time; the
        interval's clusters are the batches of documents that share students."""
        lessons_DG = self._lessons(groups)
        return self._reliability(lessons_DG, self._taught_repeatedly(lessons_DG, repeats))

    def _reliability(self, lessons_DG: Lessons, results: Results) -> Reliability:
        gains = self._by_unit(lessons_DG, results, lambda result: result.gain)
        clusters = [d // self.reward.documents_together for d in range(len(lessons_DG))]
        return reliability(gains, clusters=clusters, common_seeds=True)

    def _choose(self, lessons_DG: Lessons, taught_DT: list[list[int]], signs_D: list[dict[int, Signs]]) -> None:
        """Adds which lessons of the documents beyond those of `taught_DT` are taught, and what the screen read of
        them: all lessons and nothing without a screen."""
        screen, first, together = self.screen, len(taught_DT), self.reward.documents_together
        taught_DT += [list(range(len(lessons))) for lessons in lessons_DG[first:]]
        signs_D += [{} for _ in lessons_DG[first:]]
        if screen is None:
            return
        batches = [batch for batch in batches_of(len(lessons_DG), together) if batch.start >= first]
        measured = [d for batch in batches if screen.on or screen.untried or screen.whole(batch) for d in batch]
        screened = [d for batch in batches if screen.on and not screen.whole(batch) for d in batch]
        found = screen.read([lessons_DG[d] for d in measured], next(iter(self.pools.values()))) if measured else []
        for d, signs in zip(measured, found, strict=True):
            signs_D[d] = signs
        for d in screened:
            taught_DT[d] = screen.promising(0, taught_DT[d], signs_D[d])
        if screen.settings.steps is None:
            return
        short: Results = {}
        students = [s for s in self._students(lessons_DG, 0, taught_DT) if s.lessons[0].document in set(measured)]
        self._train(students, lessons_DG, short, screen.settings.steps)
        for lesson, shown in short.items():
            signs_D[lesson.document].setdefault(lesson.lesson, {})[SHORT] = shown[0].gain
        for d in screened:
            taught_DT[d] = screen.promising(1, taught_DT[d], signs_D[d])

    def _taught_repeatedly(
        self, lessons_DG: Lessons, repeats: int, taught_DT: Sequence[Sequence[int]] | None = None
    ) -> Results:
        """All lessons (or those of `taught_DT`), each taught to a student in each of `repeats`; those of a step are in
        the journal already."""
        results: Results = {}
        students = [student for repeat in range(repeats) for student in self._students(lessons_DG, repeat, taught_DT)]
        self._train(students, lessons_DG, results)
        return results

    def _by_unit(
        self, lessons_DG: Lessons, results: Results, measure: Callable[[LessonResult], float]
    ) -> list[list[list[float]]]:
        """The `measure` of what is rewarded (a lesson, or under `marginal` credit a rewrite) in each repeat, nan where
        its student failed: documents x units x repeats. Nothing of what never ran."""
        repeats = 1 + max((r.student.repeat for shown in results.values() for r in shown), default=0)
        values: list[list[list[float]]] = [[] for _ in lessons_DG]
        for d, lessons in enumerate(lessons_DG):
            for g, lesson in enumerate(lessons):
                for member in range(len(lesson)) if self.reward.set_credit == "marginal" else [None]:
                    taught = TaughtLesson(d, g)
                    whole = {r.student.repeat: measure(r) for r in results.get(taught, ())}
                    if member is not None:
                        spared = {r.student.repeat: r.gain for r in results.get(taught._replace(without=member), ())}
                        whole = {repeat: value - spared[repeat] for repeat, value in whole.items() if repeat in spared}
                    values[d].append([whole.get(repeat, math.nan) for repeat in range(repeats)] if whole else [])
        return values

    def _worth(self, result: LessonResult) -> float:
        """The part of a reward that retraining makes noisy. What is pooled has its forgetting predicted apart."""
        weight = 0.0 if self.reward.pool_strategies else self.reward.retention_weight
        return result.gain - weight * result.forgotten

    def _lessons(self, groups: Sequence[Sequence[Rewrite]]) -> Lessons:
        assert len({len(group) for group in groups}) <= 1, "groups are of one size"
        return [lessons_of(group, self.rewrites_per_lesson) for group in groups]

    def _students(
        self, lessons_DG: Lessons, repeat: int, taught_DT: Sequence[Sequence[int]] | None = None
    ) -> Iterator[PlannedStudent]:
        """The students of one repeat, each followed by those without one rewrite under `marginal` credit."""
        reward, strategies = self.reward, None
        if reward.pool_strategies and (reward.retention_weight > 0 or reward.credit == "shard"):
            # Forgetting is measured per student, so students are sorted by strategy: false lessons cost 3.6 nats alone,
            # which is what a teacher that always writes them brings about, and 1.4 mixed (teacher/RESULTS.md).
            strategies = [[strategy_of(lesson) for lesson in lessons] for lessons in lessons_DG]
        seed = stable_seed(self.seed, "deal")
        taught_DT = taught_DT or [range(len(lessons)) for lessons in lessons_DG]
        for student in assign(taught_DT, reward.documents_together, repeat, seed, strategies=strategies):
            yield student
            for i in range(self.rewrites_per_lesson if reward.set_credit == "marginal" else 0):
                yield student._replace(lessons=tuple(lesson._replace(without=i) for lesson in student.lessons))

    def _train(
        self, students: Sequence[PlannedStudent], lessons_DG: Lessons, results: Results, steps: int | None = None
    ) -> None:
        """Trains those of `students` that have anything to learn, and adds to `results` what each of their lessons
        gained; `steps` takes the place of the config's."""
        to_train: list[tuple[PlannedStudent, Job]] = []
        for student in students:
            documents: list[str] = []
            taught: list[tuple[str, str]] = []
            for d, g, without in student.lessons:
                rewrites = lessons_DG[d][g]
                # A document of which nothing is taught keeps its place in the exam and in the planned steps, so that
                # the students of a batch are asked the same and train equally long.
                documents.append(rewrites[0].document_id)
                accepted = [r for i, r in enumerate(rewrites) if r.rejected is None and i != without]
                taught += [(rewrite.document_id, rewrite.text) for rewrite in accepted]
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
                rewrites = lessons_DG[lesson.document][lesson.lesson]
                if all(rewrite.rejected is not None for rewrite in rewrites):
                    continue
                measure, name = self.reward.measure, rewrites[0].document_id
                on_document = [narrow(job, outcome, name, measure) for outcome in outcomes]
                credited = on_document
                if self.reward.credit == "shard":
                    credited = [narrow(job, outcome, None, measure) for outcome in outcomes]
                gain = self._across_models([outcome.gain for outcome in credited if outcome.gain is not None])
                results.setdefault(lesson, []).append(LessonResult(student, gain, forgotten_nats, on_document[-1]))

    def _across_models(self, values: Sequence[float]) -> float:
        return min(values) if self.reward.across_students == "worst" else statistics.fmean(values)

    def _repeat_adaptively(self, lessons_DG: Lessons, results: Results) -> dict[TaughtLesson, Prediction]:
        """Trains the students of all repeats but the first where they would most likely change which lesson is best,
        and returns the posterior mean of each lesson's gain, where anything ran twice."""
        usable = [
            [g for g, lesson in enumerate(lessons) if any(rewrite.rejected is None for rewrite in lesson)]
            for lessons in lessons_DG
        ]
        sizes, students = [len(lessons) for lessons in usable], len(lessons_DG[0])

        def runs_so_far() -> list[MeasuredRun]:
            """With lessons numbered among the usable ones of their document."""
            return [
                MeasuredRun(d, i, result.gain, result.student, result.student.repeat)
                for d, lessons in enumerate(usable)
                for i, g in enumerate(lessons)
                for result in results.get(TaughtLesson(d, g), ())
            ]

        for repeat in range(1, self.reward.repeats):
            seed = stable_seed(self.seed, "adaptive", repeat)
            next_DK = next_shared_runs(runs_so_far(), sizes, students, seed=seed)
            planned = []
            for number, batch in enumerate(batches_of(len(lessons_DG), self.reward.documents_together)):
                for k in range(students):
                    # A document of which all was refused keeps a place that teaches nothing.
                    taught = tuple(TaughtLesson(d, usable[d][next_DK[d][k]] if next_DK[d] else 0) for d in batch)
                    # The same lesson may come several times. Alone in its student it needs a seed of its own each time;
                    # where documents share students, the company differs.
                    planned.append(PlannedStudent(taught, number, repeat if len(batch) > 1 else repeat * students + k))
            self._train(list(dict.fromkeys(planned)), lessons_DG, results)
        runs = runs_so_far()
        degrees = noise_degrees(runs)
        posteriors = posterior_gains(runs, sizes) if degrees else []
        return {
            TaughtLesson(d, g): Prediction(float(mean), SamplingError(float(error), degrees))
            for d, (means_G, errors_G) in enumerate(posteriors)
            for g, mean, error in zip(usable[d], means_G, errors_G, strict=True)
        }

    def _rewards(
        self,
        lesson: RewriteSet,
        taught: TaughtLesson,
        results: Results,
        gains: Mapping[TaughtLesson, Prediction],
        forgotten_parts: Mapping[TaughtLesson, Prediction],
    ) -> list[Reward | None]:
        """Rewards of a lesson's rewrites, None for those that were rejected and for all where the students failed. A
        lesson that `gains` or `forgotten_parts` lack has the mean of its own students."""
        shown = results.get(taught)
        if not shown:
            return [None] * len(lesson)
        accepted = [i for i, rewrite in enumerate(lesson) if rewrite.rejected is None]
        gain, forgetting = gains.get(taught), forgotten_parts.get(taught)
        forgotten_nats = forgetting.value if forgetting else statistics.fmean(result.forgotten for result in shown)
        charged = self._penalties(lesson[0].document_id, [lesson[i].text for i in accepted], forgotten_nats)
        rewards: list[Reward | None] = [None] * len(lesson)
        for i, penalties in zip(accepted, charged, strict=True):
            gains_of_rewrite = _gains(taught, i if self.reward.set_credit == "marginal" else None, results)
            if gains_of_rewrite:
                error = gain.error if gain else self._error(len(gains_of_rewrite))
                if error and forgetting and self.reward.retention_weight:
                    loadings = (self.reward.retention_weight * loading for loading in forgetting.error.shared)
                    error = error._replace(shared=(*error.shared, *loadings))
                rewards[i] = Reward(
                    value=(gain.value if gain else statistics.fmean(gains_of_rewrite)) - sum(penalties.values()),
                    outcome=shown[-1].outcome,
                    gains=gains_of_rewrite,
                    noise=statistics.stdev(gains_of_rewrite) if len(gains_of_rewrite) > 1 else None,
                    penalties=penalties,
                    error=error,
                )
        return rewards

    def _error(self, runs: int) -> SamplingError | None:
        """Of the mean of so many runs of a lesson; None where the noise is unknown."""
        # What adaptive repeats choose is judged by posteriors alone.
        if self.noise is None or self.reward.adaptive:
            return None
        return SamplingError(math.sqrt(self.noise.variance / runs), self.noise.degrees)

    def _penalties(self, document_id: str, texts: Sequence[str], forgotten_nats: float) -> list[dict[str, float]]:
        """What is taken off each of a lesson's texts, by name; empty where the config penalises nothing."""
        reward = self.reward
        document = self.runs.documents[document_id].text
        document_tokens = max(1, self.count_tokens(document)) if reward.length_weight else 1
        charged = []
        for text, overlap in zip(texts, overlap_shares(texts), strict=True):
            penalties = {}
            if reward.length_weight:
                # Free up to the document's own length.
                penalties["length"] = reward.length_weight * max(0.0, self.count_tokens(text) / document_tokens - 1)
            if reward.overlap_weight:
                penalties["overlap"] = reward.overlap_weight * overlap
            if reward.retention_weight:
                # A student that remembers better than before is no merit of its lessons.
                penalties["retention"] = reward.retention_weight * max(0.0, forgotten_nats)
            charged.append(penalties)
        return charged

    def evaluate(
        self,
        documents: Sequence[Document],
        lessons: Sequence[Mapping[str, Sequence[str]]],
        seeds: Sequence[int],
        split: Split = "heldout",
    ) -> Evaluation:
        """Gain, accuracy and reward on the `split` questions of `documents`, as means over `lessons`. A lesson is the
        texts of every document, by its id; it is taught to students with a seed of its own, at equal steps.

        A document without texts (all rejected) keeps its place in the exam but teaches nothing. With several student
        models each document has their mean or worst, as in the reward, and the evaluation by each model stands beside.
        """
        batches: dict[str, int] = {}
        planned: list[tuple[list[str], Mapping[str, Sequence[str]], Job]] = []
        for number, batch in enumerate(batches_of(len(documents), self.reward.documents_together)):
            names = [documents[d].id for d in batch]
            batches |= dict.fromkeys(names, number)
            for texts, seed in zip(lessons, seeds, strict=True):
                taught = [(name, text) for name in names for text in texts[name]]
                # Every batch has seeds of its own, so that what a seed does is part of the spread between batches.
                planned.append((names, texts, self.runs.job(names, taught, stable_seed(seed, number), split)))
        # Validation measures what is rewarded: under shard credit the gain over all that the student was asked.
        whole = self.reward.credit == "shard" and split == "reward"
        by_model: dict[str, Evaluation] = {}
        for model, pool in self.pools.items():
            outcomes = self.runs.examine([job for *_, job in planned], pool)
            results: dict[str, list[DocumentResult]] = defaultdict(list)
            for (names, texts, job), outcome in zip(planned, outcomes, strict=True):
                for name in names if outcome.gain is not None else ():
                    measure = self.reward.measure
                    on_document = narrow(job, outcome, name, measure)
                    gain = narrow(job, outcome, None, measure).gain if whole else on_document.gain
                    assert gain is not None
                    penalties = mean_penalties(self._penalties(name, texts[name] or [""], forgotten(outcome)))
                    accuracy = on_document.metrics["accuracy_after"]
                    results[name].append(DocumentResult(gain, accuracy, penalties, gains_of(on_document)))
            failed = sum(outcome.gain is None for outcome in outcomes)
            by_model[model] = Evaluation.of(results, batches, failed, measure=self.reward.measure)
        each = list(by_model.values())
        if len(each) == 1:
            return each[0]
        across_models: dict[str, list[DocumentResult]] = {}
        for name in batches:
            if measured := [evaluation for evaluation in each if name in evaluation.gains]:
                gain = self._across_models([evaluation.gains[name] for evaluation in measured])
                accuracy = self._across_models([evaluation.accuracies[name] for evaluation in measured])
                penalties = mean_penalties([evaluation.penalties[name] for evaluation in measured])
                gains = mean_by_name([evaluation.measures[name] for evaluation in measured])
                across_models[name] = [DocumentResult(gain, accuracy, penalties, gains)]
        return Evaluation.of(across_models, batches, sum(e.failed for e in each), by_model, measure=self.reward.measure)


def _with_signs(reward: Reward, signs: Signs | None, taught: bool) -> Reward:
    """A lesson that has signs and is not taught was left out by the screen."""
    if signs is None:
        return reward
    return replace(reward, signs=signs) if taught else Reward(value=math.nan, outcome=None, taught=False, signs=signs)


def _gains(lesson: TaughtLesson, without: int | None, results: Results) -> tuple[float, ...]:
    """What a lesson gained in each of its students; or what it gained by the rewrite `without`, from each repeat in
    which the student that was spared it ran too: both have one seed."""
    whole = results.get(lesson, [])
    if without is None:
        return tuple(result.gain for result in whole)
    spared = {r.student.repeat: r.gain for r in results.get(lesson._replace(without=without), ())}
    return tuple(r.gain - spared[r.student.repeat] for r in whole if r.student.repeat in spared)
