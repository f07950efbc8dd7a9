"""What a rewrite is worth: the gain of the students that learnt it.

D documents have a group of G lessons each, and a lesson is m rewrites (`rl.rewrites_per_lesson`) that are taught
together. Under `shared` and `shard` credit a student learns one lesson of every document in a batch; under `document`
credit a batch is one document. Every rewrite of a lesson earns the lesson's gain, or under `marginal` credit what the
lesson loses without it: a difference reward (Wolpert and Tumer 2002), with the same expected policy gradient and less
noise. Penalties are subtracted. Which students are trained is decided in `teacher.reward.step_students`.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from configs.seeds import stable_seed
from student.plans import TaughtText, plain
from student.records import Document, Job, Split, StudentPool
from student.statistics.adaptive import posterior_gains
from student.statistics.mixed_model import noise_degrees
from student.statistics.reliability import Noise, Reliability, measured_noise, pooled_noise, reliability
from student.text.words import count_words, overlap_shares
from teacher.records import Prediction, Reward, Rewrite, SamplingError
from teacher.reward.assignment import LessonResult, Results, RewriteSet, TaughtLesson, batches_of, clusters_of
from teacher.reward.evaluation import DocumentResult, Evaluation, mean_by_name
from teacher.reward.pooling import PooledPredictions
from teacher.reward.screen import Screen, Signs
from teacher.reward.step_students import StepStudents, across_models
from teacher.reward.student_runs import StudentRuns, forgotten, gains_of, narrow

PROBE_DOCUMENTS = 8
"""The lessons of so many documents of a step are taught twice, to know the reward's noise; of a whole batch where it is
larger. With groups of 8 that gives its variance 56 degrees of freedom a round."""


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
        self.reward = runs.config.reward

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
        students = StepStudents(self.runs, self.pools, self.screen)
        for groups in batches:
            students.teach(groups)
        repeated, shown, self.step_reliability = students.lessons_DG, students.results, None
        if probe and reward.repeats == 1:
            # Whole batches of documents that share students: these students are those of the step.
            together = reward.documents_together
            repeated = students.lessons_DG[: together * math.ceil(PROBE_DOCUMENTS / together)]
            shown = students.repeated(2, len(repeated))
            self.step_reliability = self._reliability(repeated, shown)
        self.step_noise = None if reward.adaptive else measured_noise(self._by_unit(repeated, shown, self._worth))
        self.noise = pooled_noise([self.noise, self.step_noise])
        # A lesson is worth the mean of its own gains, unless lessons have unequally many of them, or each noisy gain is
        # judged with the help of other documents.
        gains = self._posteriors(students) if reward.adaptive else {}
        forgotten_parts: dict[TaughtLesson, Prediction] = {}
        leads: dict[int, Prediction] = {}
        if reward.pool_strategies:
            pooled = PooledPredictions(students.lessons_DG, students.results, self.screen.known if self.screen else ())
            gains = pooled.of_students("gain") if reward.credit == "shard" else pooled.of_lessons(self.noise)
            forgotten_parts = pooled.of_students("forgotten")
            leads = pooled.leads(self.noise) if self.screen else {}
        rewards = []
        for d, lessons in enumerate(students.lessons_DG):
            earned: list[Reward | None] = []
            for g, lesson in enumerate(lessons):
                earned += self._rewards(lesson, TaughtLesson(d, g), students.results, gains, forgotten_parts)
            # A rewrite that was refused, or whose students all failed, is placed below the worst of its group.
            worst = min((accepted.value for accepted in earned if accepted is not None), default=0.0)
            refused, m = Reward(value=worst - abs(reward.rejected), outcome=None), students.rewrites_per_lesson
            signs, kept = students.signs_D[d], students.taught_DT[d]
            earned = [one and replace(one, ahead=leads.get(d)) for one in earned]
            rewards.append(
                [_with_signs(one or refused, signs.get(i // m), i // m in kept) for i, one in enumerate(earned)]
            )
        return rewards

    def reliability_of(self, groups: Sequence[Sequence[Rewrite]], repeats: int) -> Reliability:
        """Reliability of one run of the reward, from `repeats` students a lesson, in different company each time; the
        interval's clusters are the batches of documents that share students."""
        students = StepStudents(self.runs, self.pools)
        students.add(groups)
        return self._reliability(students.lessons_DG, students.repeated(repeats, len(groups)))

    def _reliability(self, lessons_DG: Sequence[Sequence[RewriteSet]], results: Results) -> Reliability:
        gains = self._by_unit(lessons_DG, results, lambda result: result.gain)
        known = [self.runs.documents[lessons[0][0].document_id] for lessons in lessons_DG]
        clusters = clusters_of(known, self.reward.documents_together)
        return reliability(gains, clusters=clusters, common_seeds=True)

    def _by_unit(
        self, lessons_DG: Sequence[Sequence[RewriteSet]], results: Results, measure: Callable[[LessonResult], float]
    ) -> list[list[list[float]]]:
        """The `measure` of what is rewarded (a lesson, or under `marginal` credit a rewrite) in each repeat, nan where
        its student failed: documents x units x repeats. Nothing of what never ran."""
        repeats = 1 + max((r.student.repeat for shown in results.values() for r in shown), default=0)
        values: list[list[list[float]]] = [[] for _ in lessons_DG]
        for d, lessons in enumerate(lessons_DG):
            for g, lesson in enumerate(lessons):
                for member in range(len(lesson)) if self.reward.set_credit == "marginal" else [None]:
                    found = dict(_by_repeat(TaughtLesson(d, g), member, results, measure))
                    values[d].append([found.get(repeat, math.nan) for repeat in range(repeats)] if found else [])
        return values

    def _worth(self, result: LessonResult) -> float:
        """The part of a reward that retraining makes noisy. What is pooled has its forgetting predicted apart."""
        weight = 0.0 if self.reward.pool_strategies else self.reward.retention_weight
        return result.gain - weight * result.forgotten

    def _posteriors(self, students: StepStudents) -> dict[TaughtLesson, Prediction]:
        """The posterior mean of each lesson's gain after adaptive repeats, where anything ran twice."""
        runs, usable = students.repeat_adaptively(), students.usable
        degrees = noise_degrees(runs)
        posteriors = posterior_gains(runs, list(map(len, usable))) if degrees else []
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
            member = i if self.reward.set_credit == "marginal" else None
            gains_of_rewrite = tuple(gain for _, gain in _by_repeat(taught, member, results))
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
        lessons: Sequence[Mapping[str, Sequence[TaughtText]]],
        seeds: Sequence[int],
        split: Split = "heldout",
    ) -> Evaluation:
        """Gain, accuracy and reward on the `split` questions of `documents`, as means over `lessons`. A lesson is the
        texts of every document, by its id; it is taught to students with a seed of its own, at equal steps.

        A document without texts (all rejected) keeps its place in the exam but teaches nothing. With several student
        models each document has their mean or worst, as in the reward, and the evaluation by each model stands beside.
        """
        clusters = clusters_of(documents, self.reward.documents_together)
        batches = {document.id: cluster for document, cluster in zip(documents, clusters, strict=True)}
        planned: list[tuple[list[str], Mapping[str, Sequence[TaughtText]], Job]] = []
        for number, batch in enumerate(batches_of(len(documents), self.reward.documents_together)):
            names = [documents[d].id for d in batch]
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
                    penalties = mean_by_name(self._penalties(name, plain(texts[name]) or [""], forgotten(outcome)))
                    accuracy = on_document.metrics["accuracy_after"]
                    results[name].append(DocumentResult(gain, accuracy, penalties, gains_of(on_document)))
            failed = sum(outcome.gain is None for outcome in outcomes)
            by_model[model] = Evaluation.of(results, batches, failed, measure=self.reward.measure)
        each = list(by_model.values())
        if len(each) == 1:
            return each[0]
        combined: dict[str, list[DocumentResult]] = {}
        for name in batches:
            if measured := [evaluation for evaluation in each if name in evaluation.gains]:
                gain = across_models(self.reward, [evaluation.gains[name] for evaluation in measured])
                accuracy = across_models(self.reward, [evaluation.accuracies[name] for evaluation in measured])
                penalties = mean_by_name([evaluation.penalties[name] for evaluation in measured])
                gains = mean_by_name([evaluation.measures[name] for evaluation in measured])
                combined[name] = [DocumentResult(gain, accuracy, penalties, gains)]
        return Evaluation.of(combined, batches, sum(e.failed for e in each), by_model, measure=self.reward.measure)


def _with_signs(reward: Reward, signs: Signs | None, taught: bool) -> Reward:
    """A lesson that has signs and is not taught was left out by the screen."""
    if signs is None:
        return reward
    return replace(reward, signs=signs) if taught else Reward(value=math.nan, outcome=None, taught=False, signs=signs)


def _by_repeat(
    lesson: TaughtLesson,
    without: int | None,
    results: Results,
    measure: Callable[[LessonResult], float] = lambda result: result.gain,
) -> list[tuple[int, float]]:
    """The repeat and the `measure` of each of a lesson's students; or what the lesson gained by the rewrite `without`,
    from each repeat in which the student that was spared it ran too: both have one seed."""
    whole = [(result.student.repeat, measure(result)) for result in results.get(lesson, [])]
    if without is None:
        return whole
    spared = {r.student.repeat: r.gain for r in results.get(lesson._replace(without=without), ())}
    return [(repeat, value - spared[repeat]) for repeat, value in whole if repeat in spared]
