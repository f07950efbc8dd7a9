"""The parts of a run: the teacher that samples, the students that learn, and the journal that keeps what they did."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import RunError
from configs.schema import Config
from configs.seeds import stable_seed
from student.plans import TaughtText
from student.records import Document, Question, Split
from student.statistics.reliability import Noise
from teacher.algorithms.algorithm import Groups, Rewards
from teacher.gates.checks import Gate, build_gates
from teacher.records import Rewrite
from teacher.reward.assignment import lessons_of
from teacher.reward.evaluation import Evaluation
from teacher.reward.gain import GainReward
from teacher.reward.student_models import StudentPools, starting_bases
from teacher.reward.student_runs import StudentRuns, heldout_items
from teacher.run.clock import Clock, ahead
from teacher.run.history import History
from teacher.run.journal import Journal
from teacher.run.samples import journal_rewrites, read_rewrites, write_rewrites
from teacher.run.tracking import Tracker
from teacher.sampling import Sampling, sample_rewrites
from teacher.training.data import sampling_batches
from teacher.training.progress_lines import Progress
from teacher.writers.by_round import Writers


@dataclass(kw_only=True)
class RunContext:
    """Samples, examines and journals for one run. What an earlier attempt did already is read from disk."""

    config: Config
    documents: Sequence[Document]
    """To train and to validate on."""
    heldout: Sequence[Document]
    students: StudentPools
    writers: Writers
    journal: Journal
    tracker: Tracker
    clock: Clock
    progress: Progress
    exam_items: Sequence[Question] = ()
    """What other exams ask than those of this run; no lesson may hold it."""

    def __post_init__(self) -> None:
        config, heldout = self.config, self.heldout
        self.history = History(config.run.dir, self.journal, config.rl.judged_by)
        self.student_runs = StudentRuns(
            config,
            [*self.documents, *heldout],
            self.journal,
            on_progress=self._show_students,
            clock=self.clock,
            heldout_ids=[document.id for document in heldout],
        )
        # No lesson may quote what held-out exams ask. Validation asks rewarded questions.
        items = [*heldout_items(config, heldout, unasked=self.documents), *self.exam_items]
        self.gates: list[Gate] = build_gates(
            config.gates, config.teacher, self.writers.tokenizer, items, config.student.prompt_template
        )
        self._last_line = time.perf_counter()

    def sample(
        self,
        name: str,
        round: int,
        documents: Sequence[Document],
        lessons: int,
        stream: object,
        explore: float = 0.0,
        *,
        first: int = 0,
        evaluate: bool = False,
    ) -> list[list[Rewrite]]:
        """Gated rewrites for `lessons` lessons of each document, by the teacher after `round`.

        They are kept in `samples_file(name)`, and read from there where an earlier attempt got that far. `stream` names
        the random numbers, and `first` documents of it came before. `evaluate` samples at
        `teacher.evaluation_temperature`. Raises RunError where vLLM gave nothing, or the file holds another number of
        rewrites, as that of an earlier version may.
        """
        path, together = self.samples_file(name), self.config.rl.rewrites_per_lesson
        if not path.is_file():
            writer = self.writers.of(round)
            if evaluate:
                writer = writer.at(self.config.teacher.evaluation_temperature)
            seed = stable_seed(self.config.run.seed, "sample", stream)
            sampling = Sampling(
                rewrites=lessons * together, seed=seed, explore=explore, rewrites_per_lesson=together, first=first
            )
            with self.clock("sample"):
                groups = sample_rewrites(writer, documents, sampling, self.gates)
            write_rewrites(path, groups)
        groups = read_rewrites(path)
        if any(len(group) != lessons * together for group in groups):
            raise RunError(
                f"{path} does not hold {lessons} lessons of {together} rewrites a document: remove it to sample anew"
            )
        return groups

    def sample_batches(
        self, round: int, documents: Sequence[Document], explore: float
    ) -> Iterator[list[list[Rewrite]]]:
        """The rewrites that `round` learns from, by the teacher after the round before, batch by batch.

        Where the writer or the students run outside this process, the next batch is sampled while students learn from
        this one. A batch has its own random numbers and file, so its rewrites do not depend on when it is sampled.
        """
        batches = sampling_batches(self.config, len(documents))

        def task(batch: range) -> Callable[[], list[list[Rewrite]]]:
            name = f"round-{round:04d}"
            if len(batches) > 1:
                # Named by its documents: a run that goes on with another batch size must not take it for its own.
                name += f"-{batch.start:04d}-{batch.stop:04d}"
            stream = (round, batch.start) if batch.start else round
            part, lessons = documents[batch.start : batch.stop], self.config.rl.group_size
            return lambda: self.sample(name, round - 1, part, lessons, stream, explore, first=batch.start)

        outside = self.writers.on_server or self.config.student.pool != "inline"
        return ahead([task(batch) for batch in batches], overlap=outside and len(batches) > 1)

    def gain_reward(self, bases: Mapping[str, str] | None = None, earlier_noise: Noise | None = None) -> GainReward:
        """The reward by students of `bases`, the run's first ones where it is None."""
        pools = self.students.use(bases or starting_bases(self.config))
        return GainReward(self.student_runs, pools, self.writers.count_tokens, earlier_noise)

    def examine(
        self,
        documents: Sequence[Document],
        lessons: Sequence[Mapping[str, Sequence[TaughtText]]],
        name: str,
        split: Split,
        bases: Mapping[str, str] | None = None,
    ) -> Evaluation:
        """What students of `bases` (the run's first ones) gain from the lessons; `name` names the students' seeds."""
        return self.gain_reward(bases).evaluate(documents, lessons, evaluation_seeds(self.config, name), split)

    def log_rewrites(self, groups: Groups, rewards: Rewards = (), *, arm: str, round: int, step: int = 0) -> None:
        """Writes a line of rewrites.jsonl for each rewrite."""
        set_size = self.config.rl.rewrites_per_lesson
        journal_rewrites(self.journal, groups, rewards, arm=arm, round=round, step=step, set_size=set_size)

    def log(
        self,
        kind: str,
        round: int,
        metrics: Mapping[str, Any],
        *,
        students_before: int | None = None,
        step: int | None = None,
    ) -> dict[str, Any]:
        """Writes a line of metrics.jsonl and returns what it holds: `metrics`, `students` (the student runs since there
        were `students_before`), and `students_total`, those that the training has cost until now."""
        logged = dict(metrics)
        if students_before is not None:
            logged["students"] = self.student_runs.students - students_before
        self.history.add(kind, round, logged, step)
        logged["students_total"] = self.history.student_runs
        self.tracker.log(kind, round, logged, step=step)
        self.journal.sync()
        return logged

    def samples_file(self, name: str) -> Path:
        """Where rewrites are kept before they are journalled: `journal/samples/<name>.json`."""
        return self.journal.dir / "samples" / f"{name}.json"

    def _show_students(self, done: int, total: int) -> None:
        # A long wait shows a line no more often than every ten seconds.
        if done < total and time.perf_counter() - self._last_line > 10.0:
            self._last_line = time.perf_counter()
            self.progress(f"  students {done}/{total}")


def evaluation_seeds(config: Config, name: str) -> list[int]:
    """The seed of each lesson's students in a measurement."""
    return [stable_seed(config.run.seed, name, lesson) for lesson in range(config.rl.evaluation_lessons)]


def taught(groups: Groups, rewrites_per_lesson: int) -> list[dict[str, list[TaughtText]]]:
    """For each lesson, the texts of each document that passed the gates."""
    by_document = [lessons_of(group, rewrites_per_lesson) for group in groups]
    return [
        {lesson[0].document_id: [r.taught for r in lesson if r.rejected is None] for lesson in lessons}
        for lessons in zip(*by_document, strict=True)
    ]
