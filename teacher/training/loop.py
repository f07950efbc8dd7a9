"""The training loop: sample, gate, reward, update, checkpoint, validate, round after round.

    summary = train_teacher(config, train, heldout)

`teacher/minimal_loop.py` shows the idea without all that surrounds it here. A run that was killed goes on as if it had
not been: random numbers are seeded from the config and the round, completions are kept before they are scored (an
algorithm that samples by itself samples them again, the same on a CPU), and students are kept in the journal.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import closing

from transformers.utils.logging import disable_progress_bar

from configs.files import read_json_lines
from configs.schema import Config
from student.benchmarks.sources import DocumentQuestions
from student.pools.inline import InlinePool
from student.records import Document, Question
from teacher.algorithms.algorithm import SamplingRound
from teacher.algorithms.distributed import Ranks
from teacher.algorithms.table import algorithm_of, start_ranks, writes_on_server
from teacher.records import Reward, Rewrite
from teacher.reward.distractors import telling_documents
from teacher.reward.student_models import (
    MakePool,
    StudentPools,
    adapter_coverages,
    check_students,
)
from teacher.reward.student_runs import external_questions, retention_texts
from teacher.run.checkpoints import checkpoint_of
from teacher.run.clock import Clock
from teacher.run.journal import Journal
from teacher.run.ownership import acquire_run
from teacher.run.tracking import Tracker
from teacher.training.context import RunContext
from teacher.training.data import check_documents, data_hash, round_documents, split_validation
from teacher.training.metrics import (
    estimate_metrics,
)
from teacher.training.progress_lines import Progress
from teacher.training.rounds import TeacherLoop
from teacher.training.summary import TrainSummary, differences, summarise
from teacher.writers.by_round import Writers, check_writer
from teacher.writers.local import load_teacher


def train_teacher(
    config: Config,
    train: Sequence[Document],
    heldout: Sequence[Document],
    make_pool: MakePool = InlinePool,
    progress: Progress = print,
    ranks: Ranks | None = None,
    exam_items: Sequence[Question] = (),
) -> TrainSummary:
    """Trains the teacher for `rl.rounds` rounds in `run.dir` and measures it on `heldout` documents before and after.

    A finished round is never run again. The trained arm is the best round's, see `best_checkpoint`. All arms teach the
    students that the run started with, also after promotions, so that lessons alone are compared. (Under
    `student.model: teacher` that is the untrained teacher; SEAL itself examines the updated model after its own lesson,
    which mixes what the model has learnt with what the lesson taught.) Without `heldout` the summary has no arms.
    `exam_items` are what exams after this run ask: no lesson may hold them, nor a held-out question of any document.

    Raises UserError for documents without questions, an unknown strategy, or a run directory of another config, and
    RunError where the reward is less reliable than `reward.minimum_reliability`, the teacher's weights become
    non-finite, or the disk is full; finished rounds are kept.
    """
    check_documents(config, train, heldout)
    check_students(config)
    check_writer(config.teacher, on_server=writes_on_server(config))
    ranks = ranks or start_ranks(config)
    external_questions(config.reward, config.student.prompt_template)
    retention_texts(config.reward)
    # Now, since held-out exams are asked after all rounds.
    benchmark = DocumentQuestions(config.student.prompt_template)
    tell: Progress = (lambda _: None) if ranks.is_helper else progress
    train = telling_documents(train, benchmark, "reward", config.reward, "data.train", tell)
    heldout = telling_documents(heldout, benchmark, "heldout", config.reward, "data.heldout", tell)
    training, validation = split_validation(config, train)
    disable_progress_bar()  # a bar for every model loaded would drown our line a step
    if ranks.is_helper:
        _help(config, training, ranks)
        raise SystemExit(0)  # rank 0 returns the summary
    students = StudentPools(config, make_pool)
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
        _describe_students(config, students, journal, progress)
        context = RunContext(
            config=config, documents=train, heldout=heldout, students=students, writers=writers, journal=journal,
            tracker=tracker, clock=clock, progress=progress, exam_items=exam_items,
        )  # fmt: skip
        loop = TeacherLoop(context, training, validation, ranks)
        loop.pilot()
        for arm in ("raw", "untrained") if heldout else ():
            loop.evaluate(arm, 0)
        loop.run()
        ranks.broadcast(None)  # no further round
        if heldout:
            loop.evaluate("trained", loop.best)
            tracker.log("difference", loop.best, estimate_metrics(differences(loop.arms)))
        journal.sync()
        return summarise(context, loop.arms, seconds=time.perf_counter() - started)


def _describe_students(
    config: Config, students: StudentPools, journal: Journal, progress: Callable[[str], None]
) -> None:
    """Says what of each student's model carries adapters, and what the engine showed of itself on it."""
    for name, coverage in adapter_coverages(config):
        progress(f"student {name}: {coverage}")
        journal.metric({"kind": "adapters", "round": 0, "arm": name, **coverage._asdict()})
    for name, pool in students.pools.items():
        base = students.bases[name]
        progress(f"student {base}: {pool.proof}")
        if not journal.metric({"kind": "proof", "round": 0, "arm": base, **pool.proof._asdict()}):
            lines = read_json_lines(journal.metrics.path)
            earlier = next(line["dtype"] for line in lines if (line["kind"], line.get("arm")) == ("proof", base))
            if earlier != pool.proof.dtype:
                progress(f"student {base}: this run began in {earlier}, whose outcomes are not reused")


def _help(config: Config, training: Sequence[Document], ranks: Ranks) -> None:
    """Takes part in the rounds whose numbers rank 0 broadcasts, until it broadcasts None."""
    train_round = algorithm_of(config.rl).train_round
    assert train_round is not None, "the algorithm was checked"

    def never(_step: int, _groups: list[list[Rewrite]]) -> list[list[Reward]]:
        raise AssertionError("rank 0 scores")

    while (number := ranks.broadcast(None)) is not None:
        start = checkpoint_of(config.run.dir, number - 1)
        writer = load_teacher(config.teacher, start, train_seed=config.run.seed)
        sampling_round = SamplingRound(
            config=config, number=number, writer=writer, documents=round_documents(config, training, number), gates=[],
            score=never, start=start, clock=Clock(), ranks=ranks,
        )  # fmt: skip
        train_round(sampling_round)
