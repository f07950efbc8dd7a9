"""The teacher loop: sample, gate, reward, update, checkpoint, validate; again, and on from where it stopped.

    summary = train_teacher(config, train, heldout)

What is random is seeded from the config and the round, ReST-EM's and DPO's completions are kept before they are scored
(GRPO samples them again, the same on CPU) and rewards come from the cache, so a run that was killed goes on as if it
had not been.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from transformers.utils.logging import disable_progress_bar

from configs.schema import Config
from student.pools.inline import InlinePool
from student.records import Document
from teacher.algorithms.algorithm import SamplingRound
from teacher.algorithms.distributed import Ranks
from teacher.algorithms.selection import accepted
from teacher.algorithms.table import algorithm_of, check_algorithm, writes_on_server
from teacher.records import Reward, Rewrite
from teacher.reward.evaluation import Evaluation
from teacher.reward.exams import external_questions, retention_texts
from teacher.reward.gain import GainReward
from teacher.reward.student_models import MakePool, Students, check_students, promote, round_bases, starting_bases
from teacher.run.checkpoints import best_checkpoint, best_round, checkpoint_of, finished_rounds, save_checkpoint
from teacher.run.clock import Clock
from teacher.run.journal import Journal
from teacher.run.ownership import acquire_run
from teacher.run.samples import read_rewrites, write_rewrites
from teacher.run.tracking import Tracker
from teacher.sampling import explore_share
from teacher.training.context import RunContext, taught
from teacher.training.data import check_documents, data_hash, round_documents, set_apart
from teacher.training.metrics import diversity_alarm, step_metrics
from teacher.training.pilot import PILOT_DOCUMENTS, PILOT_REPEATS, check_pilot, pilot_figures
from teacher.training.progress_lines import (
    Progress,
    arm_line,
    best_words,
    clock_line,
    estimate_figures,
    evaluation_figures,
    promotion_line,
    share_figures,
    step_line,
)
from teacher.training.summary import TrainSummary, differences, summarise
from teacher.writers.by_round import Writers, check_writer
from teacher.writers.local import load_teacher


def train_teacher(
    config: Config,
    train: Sequence[Document],
    heldout: Sequence[Document],
    make_pool: MakePool = InlinePool,
    progress: Progress = print,
) -> TrainSummary:
    """Trains the teacher for `rl.rounds` rounds in `run.dir` and measures it on `heldout` documents before and after.

    A finished round is never run again. The trained arm is the best round's, see `best_checkpoint`. All arms teach the
    students that the run started with, whatever became the students' base on the way: it is the lessons that are
    compared. (With `student.model: teacher` that is the untrained teacher as student; SEAL itself examines the updated
    model after its own lesson, which mixes what the model has learnt with what the lesson taught.) Without `heldout`
    documents the summary has no arms.

    Raises:
        UserError: a document without questions, an unknown strategy, a run directory of another config.
        RunError: the reward is less reliable than `reward.minimum_reliability`, the teacher's weights became
            non-finite, or the disk is full; finished rounds are kept.
    """
    check_documents(config, train, heldout)
    check_students(config)
    check_writer(config.teacher, on_server=writes_on_server(config))
    ranks = Ranks()
    check_algorithm(config, ranks)
    external_questions(config.reward, config.student.prompt_template)
    retention_texts(config.reward)
    training, validation = set_apart(config, train)
    disable_progress_bar()  # a bar for every model loaded would drown our line a step
    ranks.start()
    if ranks.is_helper:
        _help(config, training, ranks)
        raise SystemExit(0)  # the run is another process's: this one has nothing to return
    students = Students(config, make_pool)
    acquire_run(config, data_hash(config, train, heldout))
    started = time.perf_counter()
    with (
        closing(students),
        Journal(config.run.dir) as journal,
        Tracker(config, journal) as tracker,
        Writers(config, on_server=writes_on_server(config)) as writers,
        Clock() as clock,
    ):
        for note in journal.notes:
            progress(note)
        context = RunContext(config, train, heldout, students, writers, journal, tracker, clock, progress)
        loop = TeacherLoop(config, training, validation, heldout, context, ranks)
        loop.pilot()
        for arm in ("raw", "untrained") if heldout else ():
            loop.evaluate(arm, 0)
        loop.run()
        ranks.broadcast(None)  # no further round
        if heldout:
            loop.evaluate("trained", loop.best)
            loop.compare()
        journal.sync()
        return summarise(
            config,
            journal,
            heldout,
            loop.arms,
            best_checkpoint(config.run.dir),
            rounds=finished_rounds(config.run.dir),
            best_round=best_round(config.run.dir),
            students=context.student_runs.students,
            student_runs=context.history.student_runs,
            seconds=time.perf_counter() - started,
        )


def _help(config: Config, training: Sequence[Document], ranks: Ranks) -> None:
    """Takes part in the rounds whose numbers rank 0 broadcasts, until it broadcasts None."""
    train_round = algorithm_of(config.rl).train_round
    assert train_round is not None, "the algorithm was checked"

    def never(_step: int, _groups: list[list[Rewrite]]) -> list[list[Reward]]:
        raise AssertionError("rank 0 scores")

    while (number := ranks.broadcast(None)) is not None:
        start = checkpoint_of(config.run.dir, number - 1)
        train_round(
            SamplingRound(
                config=config, number=number, writer=load_teacher(config.teacher, start, train_seed=config.run.seed),
                documents=round_documents(config, training, number), gates=[], score=never, start=start, clock=Clock(),
                ranks=ranks,
            )
        )  # fmt: skip


class TeacherLoop:
    """One run's rounds, and what is measured around them."""

    def __init__(
        self,
        config: Config,
        train: Sequence[Document],
        validation: Sequence[Document],
        heldout: Sequence[Document],
        context: RunContext,
        ranks: Ranks,
    ) -> None:
        self.ranks, self.algorithm = ranks, algorithm_of(config.rl)
        self.config, self.train, self.validation, self.heldout = config, train, validation, heldout
        self.context, self.progress = context, context.progress
        self.arms: dict[str, Evaluation] = {}
        self._started = time.perf_counter()
        self._steps_done = 0

    def run(self) -> None:
        """All rounds that are not finished yet, until the last or until `rl.patience` is at its end."""
        round = finished_rounds(self.config.run.dir)
        for earlier in range(round):  # a fork measures them again
            self.validate(earlier)
        self.validate(round)
        self.promote(round)
        while round < self.config.rl.rounds and not self._patience_is_over(round):
            round += 1
            self.run_round(round)
            self.validate(round)
            self.promote(round)
        if self.validation and not self.best:
            self.progress("no round beat the untrained teacher on the validation documents: it is the one to use")

    def run_round(self, round: int) -> None:
        """Sample, score, update and save; everything of the round is on disk before its checkpoint appears."""
        context, start = self.context, checkpoint_of(self.config.run.dir, round - 1)
        gain_reward = context.gain_reward(round_bases(self.config, start))
        documents = round_documents(self.config, self.train, round)
        context.clock.restart()
        optimizer = None
        scored: list[tuple[list[list[Rewrite]], list[list[Reward]]]] = []

        def score(step: int, batches: Iterable[list[list[Rewrite]]]) -> tuple[list[list[Rewrite]], list[list[Reward]]]:
            number = (round - 1) * self.steps_per_round + step
            scored.append(self._score(gain_reward, round, number, batches))
            return scored[-1]

        if not context.writers.on_server:
            context.writers.trainable(round - 1)  # the one that samples is the one that is trained
        if self.algorithm.train_round is not None:
            writer = context.writers.trainable(round - 1)
            sampling_round = SamplingRound(
                config=self.config, number=round, writer=writer, documents=documents, gates=context.gates,
                score=lambda step, groups: score(step, [groups])[1], start=start, clock=context.clock, ranks=self.ranks,
            )  # fmt: skip
            self.ranks.broadcast(round)
            with context.clock("update"):
                metrics, optimizer = self.algorithm.train_round(sampling_round)
        else:
            assert self.algorithm.update is not None
            batches = context.sample_batches(round, documents, explore_share(self.config.rl, round))
            groups, rewards = score(1, batches)
            # Loaded after the students are done: where vLLM writes, the GPU's memory was theirs.
            writer = context.writers.trainable(round - 1)
            with context.clock("update"):
                metrics = self.algorithm.update(self.config, round, writer, groups, rewards)
        if self.config.rl.promotion_threshold is not None:
            kept = [w for part in scored for w in accepted(self.config.reward, self.config.rl, *part)]
            write_rewrites(self._accepted(round), [kept])
        context.log("update", round, metrics | (spent := context.clock.figures()))
        self.progress(clock_line(f"round {round}/{self.config.rl.rounds}", spent))
        save_checkpoint(self.config.run.dir, round, writer.model, writer.tokenizer, optimizer)
        context.writers.release()

    @property
    def steps_per_round(self) -> int:
        """Scored steps of a round."""
        documents = min(self.config.rl.documents_per_round, len(self.train))
        return len(self.algorithm.step_sizes(self.config.reward, documents))

    @property
    def best(self) -> int:
        """The round whose teacher is to be used, 0 for the untrained one."""
        best = best_round(self.config.run.dir)
        return finished_rounds(self.config.run.dir) if best is None else best

    def pilot(self) -> None:
        """Measures the reward's reliability before the first round, where `reward.minimum_reliability` asks for it.

        Raises RunError where it is below, in a resumed run too.
        """
        context = self.context
        if not self.config.reward.minimum_reliability or finished_rounds(self.config.run.dir):
            return
        if ("pilot", 0) not in context.history.lines:
            asked, explore = context.student_runs.students, explore_share(self.config.rl, 1)
            documents = round_documents(self.config, self.train, 1)[:PILOT_DOCUMENTS]
            groups = context.sample("pilot", 0, documents, self.config.rl.group_size, "pilot", explore)
            found = context.gain_reward().reliability_of(groups, PILOT_REPEATS)
            context.log("pilot", 0, pilot_figures(self.config, found), asked=asked)
        self.progress(check_pilot(self.config, context.history.lines["pilot", 0]))

    def validate(self, round: int) -> None:
        """Measures a round's teacher on the validation documents' reward questions, and records the best so far by
        what is rewarded: the gain minus the penalties.

        The same random numbers sample every round's teacher, and all teach the students that the run started with. The
        gain that promotes is measured on the present ones.
        """
        context = self.context
        if not self.validation or ("validation", round) in context.history.lines:
            return
        asked = context.student_runs.students
        rl = self.config.rl
        groups = context.sample(
            f"validation-{round:04d}", round, self.validation, rl.evaluation_lessons, "validation", evaluate=True
        )
        lessons = taught(groups, rl.rewrites_per_lesson)
        found = context.examine(self.validation, lessons, "validation", "reward")
        figures = evaluation_figures(found) | share_figures(groups) | {"documents": len(self.validation)}
        bases = round_bases(self.config, None)
        if bases != starting_bases(self.config):
            present = context.examine(self.validation, lessons, "validation", "reward", bases)
            figures |= estimate_figures("gain_of_promoted", present.gain)
        context.log_rewrites(groups, arm="validation", round=round)
        context.log("validation", round, figures, asked=asked)
        self.progress(f"{arm_line(f'validation round {round}', found, groups)} · {best_words(self.best)}")

    def promote(self, round: int) -> None:
        """Makes students taught with the round's accepted lessons the base of the next rounds, where the validation
        gain says so."""
        threshold, accepted, lines = (
            self.config.rl.promotion_threshold,
            self._accepted(round),
            self.context.history.lines,
        )
        if threshold is None or ("promotion", round) in lines or not accepted.is_file():
            return
        validated = lines["validation", round]
        gain = validated.get("gain_of_promoted/mean", validated["gain/mean"])
        if gain is None or not gain > threshold:
            return
        [lessons] = read_rewrites(accepted)
        figures = promote(round, lessons, self.context.students, self.context.student_runs)
        figures |= {"threshold": threshold, "validation_gain": gain}
        self.context.log("promotion", round, figures)
        self.progress(promotion_line(round, figures))

    def evaluate(self, arm: str, round: int) -> None:
        """Measures one arm on the held-out documents: `raw` text, the `untrained` teacher, or the `trained` one of
        `round`."""
        context, rl, groups = self.context, self.config.rl, []
        lessons = [{document.id: [document.text] for document in self.heldout}] * rl.evaluation_lessons
        if arm != "raw":
            # The same random numbers sample the untrained and the trained teacher.
            groups = context.sample(f"heldout-{arm}", round, self.heldout, rl.evaluation_lessons, 0, evaluate=True)
            lessons = taught(groups, rl.rewrites_per_lesson)
        asked = context.student_runs.students
        found = self.arms[arm] = context.examine(self.heldout, lessons, "heldout", "heldout")
        counts = {"documents": len(self.heldout), "students": context.student_runs.students - asked}
        figures = evaluation_figures(found) | share_figures(groups) | counts
        context.tracker.log("heldout", round, figures, arm=arm)
        context.log_rewrites(groups, arm=arm, round=round)
        self.progress(arm_line(f"held-out {arm}", found, groups))

    def compare(self) -> None:
        """Logs the trained teacher's held-out arm against the others, paired by document."""
        figures: dict[str, Any] = {}
        for name, found in differences(self.arms).items():
            figures |= estimate_figures(name, found)
        self.context.tracker.log("difference", self.best, figures)

    def _score(
        self, gain_reward: GainReward, round: int, step: int, batches: Iterable[list[list[Rewrite]]]
    ) -> tuple[list[list[Rewrite]], list[list[Reward]]]:
        """All groups of the batches, as they came, and their rewards."""
        context, runs = self.context, self.context.student_runs
        before, asked, trained = context.clock.seconds("students"), runs.students, runs.trained
        groups: list[list[Rewrite]] = []

        def kept() -> Iterator[list[list[Rewrite]]]:
            for batch in batches:
                groups.extend(batch)
                yield batch

        rewards = gain_reward.score_batches(kept())
        seconds = context.clock.seconds("students") - before
        metrics = step_metrics(groups, rewards, self.config.reward, self.config.rl.rewrites_per_lesson)
        if self.config.reward.repeats == 1 and (step - 1) % self.steps_per_round == 0:
            metrics |= {"reward/reliability": gain_reward.probe(groups).reliability}
        # Of those trained now: a resumed step finds its students in the cache, in no time.
        metrics |= {"students_per_second": (runs.trained - trained) / max(seconds, 1e-9), "seconds": seconds}
        context.log_rewrites(groups, rewards, arm="train", round=round, step=step)
        metrics = context.log("step", round, metrics, asked=asked, step=step)
        first = context.history.first_step
        alarm = diversity_alarm(metrics, first, self.config.rl.diversity_alarm) if first else None
        self._steps_done += 1
        steps, rounds = self.steps_per_round, self.config.rl.rounds
        left = (rounds * steps - step) * (time.perf_counter() - self._started) / self._steps_done
        self.progress(step_line(f"round {round}/{rounds} step {(step - 1) % steps + 1}/{steps}", metrics, left))
        if alarm is not None:
            self.progress(f"warning: {alarm}")
        return groups, rewards

    def _patience_is_over(self, round: int) -> bool:
        patience = self.config.rl.patience
        return patience is not None and round - self.best >= patience

    def _accepted(self, round: int) -> Path:
        """Where the lessons are kept that a round learnt from, for the students that may be promoted."""
        return self.context.journal.dir / "samples" / f"accepted-{round:04d}.json"
