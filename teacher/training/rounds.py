"""The rounds of one run: sample, gate, reward, update, checkpoint, validate; and the measurements around them."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from configs.schema.student import TEACHER
from student.plans import TaughtText
from student.records import Document
from student.statistics.reliability import Noise, pooled_noise
from teacher.algorithms.algorithm import SamplingRound
from teacher.algorithms.distributed import Ranks
from teacher.algorithms.selection import accepted
from teacher.algorithms.table import algorithm_of
from teacher.records import Reward, Rewrite
from teacher.reward.best_of import fit_for_curation, write_screen
from teacher.reward.evaluation import Evaluation
from teacher.reward.gain import GainReward
from teacher.reward.screen import Screen, known_lessons, taught_whole
from teacher.reward.student_models import (
    promote,
    round_bases,
    starting_bases,
)
from teacher.run.checkpoints import best_round, checkpoint_of, finished_rounds, save_checkpoint
from teacher.run.samples import read_rewrites, write_rewrites
from teacher.sampling import explore_share
from teacher.training.context import RunContext, taught
from teacher.training.data import round_documents
from teacher.training.metrics import (
    PILOT_DOCUMENTS,
    PILOT_REPEATS,
    check_pilot,
    diversity_alarm,
    estimate_metrics,
    evaluation_metrics,
    noise_figures,
    noise_of,
    pilot_metrics,
    step_metrics,
    strategy_shares,
)
from teacher.training.progress_lines import (
    arm_line,
    clock_line,
    nothing_kept_line,
    patience_line,
    promotion_line,
    step_line,
)


class TeacherLoop:
    """The rounds of one run, and the measurements around them."""

    def __init__(
        self, context: RunContext, train: Sequence[Document], validation: Sequence[Document], ranks: Ranks
    ) -> None:
        self.context, self.config, self.progress = context, context.config, context.progress
        self.train, self.validation, self.heldout, self.ranks = train, validation, context.heldout, ranks
        self.algorithm = algorithm_of(self.config.rl)
        documents_per_round = min(self.config.rl.documents_per_round, len(train))
        self.steps_per_round = len(self.algorithm.step_sizes(self.config.reward, documents_per_round))
        self.arms: dict[str, Evaluation] = {}
        """The held-out arms that were measured."""
        self._started = time.perf_counter()
        self._steps_done = 0

    @property
    def best(self) -> int:
        """The round whose teacher is to be used; 0 is the untrained one."""
        best = best_round(self.config.run.dir)
        return finished_rounds(self.config.run.dir) if best is None else best

    def run(self) -> None:
        """Runs all rounds that are not finished, until the last or until `rl.patience` is at its end."""
        round, patience = finished_rounds(self.config.run.dir), self.config.rl.patience
        for finished in range(round + 1):  # a fork measures the earlier ones again
            self.validate(finished)
        self.promote(round)
        while round < self.config.rl.rounds and (patience is None or round - self.best < patience):
            round += 1
            self.run_round(round)
            self.validate(round)
            self.promote(round)
        if round < self.config.rl.rounds:
            then, now = (self.context.history.lines["validation", number] for number in (self.best, round))
            self.progress(patience_line(then, now, self.config.rl.judged_by, round, self.best))
        if self.validation and not self.best:
            self.progress(
                "no round gained more than the untrained teacher on the validation documents: it is the one to use"
            )

    def run_round(self, round: int) -> None:
        """Samples, scores, updates and saves. All of the round is on disk before its checkpoint appears."""
        context, start = self.context, checkpoint_of(self.config.run.dir, round - 1)
        earlier = self._steps_with_students_of(round)
        gain_reward = context.gain_reward(round_bases(self.config, start), pooled_noise(map(noise_of, earlier)))
        # What the first round's lessons gained on average, those of the untrained teacher. In that round the mean of a
        # document's own group says it. A promoted student knows more and gains less, and a fork teaches otherwise: they
        # start a reference of their own.
        floor = next((line["gain/mean"] for line in earlier if line.get("gain/mean") is not None), None)
        documents = round_documents(self.config, self.train, round)
        context.clock.restart()
        optimizer = None
        kept: list[Rewrite] = []
        score = partial(self._score, gain_reward, kept, floor, round)
        with context.writers.training(round - 1) as load_writer:
            if self.algorithm.train_round is not None:
                writer = load_writer()
                sampling_round = SamplingRound(
                    config=self.config, number=round, writer=writer, documents=documents, gates=context.gates,
                    score=lambda step, groups: score(step, [groups])[1], start=start, clock=context.clock,
                    ranks=self.ranks,
                )  # fmt: skip
                self.ranks.broadcast(round)
                with context.clock("update"):
                    metrics, optimizer = self.algorithm.train_round(sampling_round)
            else:
                assert self.algorithm.update is not None
                batches = context.sample_batches(round, documents, explore_share(self.config.rl, round))
                groups, rewards = score(1, batches)
                # Where a server writes, this model is loaded only now: students had the memory until here.
                writer = load_writer()
                with context.clock("update"):
                    metrics = self.algorithm.update(self.config, round, writer, groups, rewards, floor)
                metrics |= {"floor": floor} if floor is not None else {}
                if not metrics["kept"]:
                    self.progress(nothing_kept_line(round, rewards, floor))
            if self.config.rl.promotion_threshold is not None:
                write_rewrites(context.samples_file(f"accepted-{round:04d}"), [kept])
            seconds = context.clock.figures()
            context.log("update", round, metrics | seconds)
            self.progress(clock_line(f"round {round}/{self.config.rl.rounds}", seconds))
            save_checkpoint(self.config.run.dir, round, writer.model, writer.tokenizer, writer.settings, optimizer)

    def _steps_with_students_of(self, round: int) -> list[Mapping[str, Any]]:
        """The lines of the earlier rounds whose students started from the same model as this round's, under the same
        settings, in order: gains and noise of others do not compare."""
        if TEACHER in self.config.student.names:
            return []
        lines, first = self.context.history.lines, self._first_round_with_students_of(round)
        return [lines["step", number] for number in range(first, round) if ("step", number) in lines]

    def _first_round_with_students_of(self, round: int) -> int:
        """The first round whose students started from the same model as this round's, under the same settings."""
        others = ("promotion", "fork")  # a fork may have other settings
        lines = self.context.history.lines
        return 1 + max((number for kind, number in lines if kind in others and number < round), default=0)

    def _score(
        self,
        reward: GainReward,
        kept: list[Rewrite],
        floor: float | None,
        round: int,
        step: int,
        batches: Iterable[list[list[Rewrite]]],
    ) -> tuple[list[list[Rewrite]], list[list[Reward]]]:
        """Scores and journals the `step`-th step of the round; returns the groups of all batches and their rewards, and
        adds to `kept` what a promoted student learns."""
        context, runs, rl = self.context, self.context.student_runs, self.config.rl
        students_before, trained_before = runs.students, runs.trained
        seconds_before = context.clock.seconds("students")
        groups: list[list[Rewrite]] = []
        number = (round - 1) * self.steps_per_round + step
        reward.screen = self._screen(round, number, reward.noise)

        def collected() -> Iterator[list[list[Rewrite]]]:
            for batch in batches:
                groups.extend(batch)
                yield batch

        if step == 1:  # an update that ran out of memory may have begun again
            kept.clear()
        rewards = reward.score_batches(collected(), probe=step == 1)
        seconds = context.clock.seconds("students") - seconds_before
        metrics = step_metrics(groups, rewards, self.config.reward, rl.rewrites_per_lesson)
        if reward.step_reliability is not None:
            metrics["reward/reliability"] = reward.step_reliability.reliability
        metrics |= noise_figures(reward.step_noise)
        # Only students that were trained now: a resumed step reads the others from the journal in no time.
        metrics |= {"students_per_second": (runs.trained - trained_before) / max(seconds, 1e-9), "seconds": seconds}
        if reward.screen is not None:
            metrics |= reward.screen.figures(rl.group_size)
        context.log_rewrites(groups, rewards, arm="train", round=round, step=number)
        metrics = context.log("step", round, metrics, students_before=students_before, step=number)
        self._steps_done += 1
        seconds_per_step = (time.perf_counter() - self._started) / self._steps_done
        seconds_left = (rl.rounds * self.steps_per_round - number) * seconds_per_step
        self.progress(step_line(f"round {round}/{rl.rounds} step {step}/{self.steps_per_round}", metrics, seconds_left))
        if alarm := diversity_alarm(metrics, context.history.first_step or {}, rl.diversity_alarm):
            self.progress(f"warning: {alarm}")
        if rl.promotion_threshold is not None:
            kept.extend(accepted(self.config.reward, rl, groups, rewards, floor))
        if step == self.steps_per_round:
            lines, rounds = context.journal.rewrites.read(), self._rounds_of_screen(round)
            fitted = fit_for_curation(runs, next(iter(reward.pools.values())), lines, rounds)
            if fitted is not None:
                write_screen(self.config.run.dir, fitted)
        return groups, rewards

    def _screen(self, round: int, step: int, noise: Noise | None) -> Screen | None:
        """The screen of a step, fitted on the last rounds' outcomes; None where none is wanted."""
        settings = self.config.reward.screen
        if not settings.wanted:
            return None
        lines, together = self.context.journal.rewrites.read(), self.config.reward.documents_together
        documents = taught_whole(lines, self._rounds_of_screen(round), together, before=step)
        known = known_lessons(documents, [[of[0].get("signs") for of in one.lessons] for one in documents])
        return Screen(settings, self.context.student_runs, step, known, noise)

    def _rounds_of_screen(self, round: int) -> range:
        """The rounds whose outcomes a screen is fitted on."""
        first = max(self._first_round_with_students_of(round), round - self.config.reward.screen.rounds)
        return range(round if TEACHER in self.config.student.names else first, round + 1)

    def pilot(self) -> None:
        """Measures the reward's reliability before the first round, where `reward.minimum_reliability` asks for it.
        Raises RunError where the reliability is too low, in a resumed run too."""
        context, reward = self.context, self.config.reward
        if not reward.minimum_reliability or finished_rounds(self.config.run.dir):
            return
        if ("pilot", 0) not in context.history.lines:
            students_before, explore = context.student_runs.students, explore_share(self.config.rl, 1)
            documents = round_documents(self.config, self.train, 1)[:PILOT_DOCUMENTS]
            groups = context.sample("pilot", 0, documents, self.config.rl.group_size, "pilot", explore)
            reliability = context.gain_reward().reliability_of(groups, PILOT_REPEATS)
            context.log("pilot", 0, pilot_metrics(reward, reliability), students_before=students_before)
        self.progress(check_pilot(reward, context.history.lines["pilot", 0]))

    def validate(self, round: int) -> None:
        """Measures a round's teacher on the validation documents' reward questions, and records the best so far.

        The best is judged by `rl.judged_by`, or by what is rewarded: the gain minus the penalties. The same random
        numbers sample every round's teacher, and all teach the students of the run's start. A promotion is decided on
        the present students.
        """
        context, rl = self.context, self.config.rl
        if not self.validation or ("validation", round) in context.history.lines:
            return
        students_before = context.student_runs.students
        name = f"validation-{round:04d}"
        groups = context.sample(name, round, self.validation, rl.evaluation_lessons, "validation", evaluate=True)
        lessons = taught(groups, rl.rewrites_per_lesson)
        evaluation = context.examine(self.validation, lessons, "validation", "reward")
        shares = strategy_shares(groups)
        metrics = evaluation_metrics(evaluation) | shares | {"documents": len(self.validation)}
        present_bases = round_bases(self.config, None)
        if present_bases != starting_bases(self.config):
            present = context.examine(self.validation, lessons, "validation", "reward", present_bases)
            metrics |= estimate_metrics({"gain_of_promoted": present.gain})
        context.log_rewrites(groups, arm="validation", round=round)
        context.log("validation", round, metrics, students_before=students_before)
        best = f"round {self.best}" if self.best else "the untrained teacher"
        self.progress(f"{arm_line(f'validation round {round}', evaluation, shares)} · best: {best}")

    def promote(self, round: int) -> None:
        """Makes students taught with the round's accepted lessons the base of the next rounds, where the validation
        gain passes `rl.promotion_threshold`."""
        context, threshold = self.context, self.config.rl.promotion_threshold
        lines, accepted_file = context.history.lines, context.samples_file(f"accepted-{round:04d}")
        if threshold is None or ("promotion", round) in lines or not accepted_file.is_file():
            return
        validated = lines["validation", round]
        gain = validated.get("gain_of_promoted/mean", validated["gain/mean"])
        if gain is None or not gain > threshold:
            return
        [lessons] = read_rewrites(accepted_file)
        metrics = promote(round, lessons, context.students, context.student_runs)
        metrics |= {"threshold": threshold, "validation_gain": gain}
        context.log("promotion", round, metrics)
        self.progress(promotion_line(round, metrics))

    def evaluate(self, arm: str, round: int) -> None:
        """Measures an arm on the held-out documents: `raw` text, or the `untrained` or `trained` teacher of `round`."""
        context, rl, groups = self.context, self.config.rl, []
        raw: dict[str, list[TaughtText]] = {document.id: [document.text] for document in self.heldout}
        lessons = [raw] * rl.evaluation_lessons
        if arm != "raw":
            # The same random numbers sample the untrained and the trained teacher.
            groups = context.sample(f"heldout-{arm}", round, self.heldout, rl.evaluation_lessons, 0, evaluate=True)
            lessons = taught(groups, rl.rewrites_per_lesson)
        students_before = context.student_runs.students
        evaluation = self.arms[arm] = context.examine(self.heldout, lessons, "heldout", "heldout")
        counts = {"documents": len(self.heldout), "students": context.student_runs.students - students_before}
        shares = strategy_shares(groups)
        context.tracker.log("heldout", round, evaluation_metrics(evaluation) | shares | counts, arm=arm)
        context.log_rewrites(groups, arm=arm, round=round)
        self.progress(arm_line(f"held-out {arm}", evaluation, shares))
