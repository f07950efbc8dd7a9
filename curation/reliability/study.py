"""Students of candidate lessons: what `notewright reliability` measures, under one number of documents a student.

Documents that share students form a batch. In every repeat each document's candidates are dealt anew over the batch's
students, so that a rewrite meets other company each time and what its company did to it counts as noise of its reward,
not as its merit. All students of a batch and repeat have one seed (common random numbers).
"""

import random
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from datatrove.data import Document

from configs.errors import UserError, nearest
from configs.schema import Config
from configs.seeds import stable_seed
from curation.corpus.training_data import read_asked
from curation.lab import world
from student.records import Exam, Job, Lesson, StudentPool
from student.statistics.adaptive import PlannedRun
from teacher.gates.checks import build_gates
from teacher.reward.assignment import batches_of
from teacher.reward.exams import narrow
from teacher.reward.student_runs import StudentRuns, planned_steps
from teacher.sampling import Sampling, sample_rewrites
from teacher.writers.local import load_teacher

LAB = "lab"
RAW = "raw"


class Candidate(NamedTuple):
    """One text that a document's students may learn. A control is measured beside the rewrites and is none of them."""

    strategy: str
    text: str
    control: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """A document with its candidates."""

    document: Document
    candidates: tuple[Candidate, ...]

    @property
    def rewrites(self) -> list[int]:
        """Positions of the candidates that are no control."""
        return [g for g, candidate in enumerate(self.candidates) if not candidate.control]


@dataclass(slots=True)
class Recording:
    """What was measured: documents x candidates x repeats, None where a student failed."""

    documents_per_student: int
    repeats: int
    own: list[list[list[float | None]]]
    """Gain on the document's own questions."""
    whole: list[list[list[float | None]]]
    """Gain of the student on all that it was asked."""
    accuracy: list[list[list[float | None]]]
    """Share of the document's own questions that were right after the lesson."""
    students: int = 0
    seconds_per_student: float | None = None
    """Of training and exam; None where all were found in the cache."""
    errors: list[str] = field(default_factory=list)


def read_groups(config: Config, source: str | None, documents: int, rewrites: int | None) -> list[Group]:
    """The first `documents` documents of `source` with at most `rewrites` rewrites each.

    `source` is a file of documents with questions (null: `data.train`), or `lab`: fictional people that no student has
    read of, told in each of `teacher.strategies` (else each of the lab's ways) in turn. Where a document has
    `rewrites`, these are measured, with `raw` (its own text) as a control; where it has none, the teacher writes them.
    Questions that are missing are written as for training.
    Raises UserError.
    """
    if source == LAB:
        return _lab_groups(config, documents, rewrites)
    found = read_asked(config, config.data.train if source is None else (source,), documents)
    brought = [document.metadata.get("rewrites") for document in found]
    if all(brought):
        return [_brought_group(document, rewrites) for document in found]
    if any(brought):
        raise UserError(f"{source or 'data.train'}: some documents have `rewrites` and some have none")
    return _written_groups(config, found, rewrites or config.rl.group_size)


class ReliabilityStudy:
    """Trains the students of some groups; every student is trained once, by the cache of the reward model."""

    def __init__(self, runs: StudentRuns, pool: StudentPool, groups: Sequence[Group], documents_per_student: int):
        self.runs, self.pool, self.groups = runs, pool, list(groups)
        self.batches: list[list[int]] = [list(batch) for batch in batches_of(len(groups), documents_per_student)]
        self.documents_per_student = documents_per_student
        self.seed = runs.config.run.seed

    @property
    def clusters(self) -> list[int]:
        """The batch of each document: what has students in common."""
        return [b for b, batch in enumerate(self.batches) for _ in batch]

    def students(self, repeats: int) -> int:
        """Students that `record` trains."""
        return repeats * sum(max(len(self.groups[d].candidates) for d in batch) for batch in self.batches)

    def record(self, repeats: int) -> Recording:
        """Every candidate once a repeat."""

        def table() -> list[list[list[float | None]]]:
            return [[[None] * repeats for _ in group.candidates] for group in self.groups]

        own, whole, accuracy = table(), table(), table()
        recording = Recording(self.documents_per_student, repeats, own, whole, accuracy)
        places = [
            (b, r, held)
            for b, batch in enumerate(self.batches)
            for r in range(repeats)
            for held in self._deal(batch, r)
        ]
        jobs = [self._job(b, held, stable_seed(self.seed, "repeat", *self._ids(b), r)) for b, r, held in places]
        trained, started = self.runs.trained, time.monotonic()
        outcomes = self.runs.examine(jobs, self.pool)
        trained, seconds = self.runs.trained - trained, time.monotonic() - started
        recording.students = len(jobs)
        recording.seconds_per_student = seconds / trained if trained else None
        for (_, r, held), job, outcome in zip(places, jobs, outcomes, strict=True):
            if outcome.error is not None:
                recording.errors.append(outcome.error)
            for d, g in held.items() if outcome.gain is not None else ():
                mine = narrow(job, outcome, self.groups[d].document.id)
                own[d][g][r], whole[d][g][r] = mine.gain, outcome.gain
                accuracy[d][g][r] = mine.metrics["accuracy_after"]
        return recording

    def _deal(self, batch: list[int], repeat: int) -> list[dict[int, int]]:
        """The students of one batch and repeat: which candidate each holds of each document."""
        students: list[dict[int, int]] = [{} for _ in range(max(len(self.groups[d].candidates) for d in batch))]
        for d in batch:
            places = list(range(len(students)))
            random.Random(stable_seed(self.seed, "deal", self.groups[d].document.id, repeat)).shuffle(places)
            for g in range(len(self.groups[d].candidates)):
                students[places[g]][d] = g
        return students

    def _ids(self, b: int) -> list[str]:
        return [self.groups[d].document.id for d in self.batches[b]]

    def _job(self, b: int, held: dict[int, int], seed: int) -> Job:
        """A student of batch `b` that learns candidate `held[d]` of each document d, asked about all of the batch."""
        questions = [q for d in self.batches[b] for q in self.runs.questions(self.groups[d].document, "reward")]
        return Job(
            lesson=Lesson(
                texts=tuple(self.groups[d].candidates[g].text for d, g in sorted(held.items())),
                document_ids=tuple(self.groups[d].document.id for d in sorted(held)),
                steps=planned_steps(self.runs.config.student, len(self.batches[b])),
                seed=seed,
            ),
            exam=Exam(questions=tuple(questions)),
        )

    def measure(self, seats: Sequence[PlannedRun]) -> list[float | None]:
        """Own-document gains of fresh students, one for each seat; their seeds are none of the recording's.

        Students of one batch and repeat have one seed, so that procedures which ask for the same student share it.
        """
        students: dict[Hashable, list[int]] = {}
        for i, seat in enumerate(seats):
            students.setdefault(seat.student, []).append(i)
        jobs = []
        for held in students.values():
            b = self.clusters[seats[held[0]].document]
            seed = stable_seed(self.seed, "fresh", *self._ids(b), seats[held[0]].repeat)
            jobs.append(self._job(b, {seats[i].document: seats[i].rewrite for i in held}, seed))
        gains: list[float | None] = [None] * len(seats)
        for held, job, outcome in zip(students.values(), jobs, self.runs.examine(jobs, self.pool), strict=True):
            for i in held if outcome.gain is not None else ():
                gains[i] = narrow(job, outcome, self.groups[seats[i].document].document.id).gain
        return gains


def _lab_groups(config: Config, documents: int, rewrites: int | None) -> list[Group]:
    lab = config.lab
    told: tuple[str, ...] = world.STRATEGIES
    if "strategies" in config.teacher.model_fields_set:
        told = config.teacher.strategies
    for way in told:
        if way not in world.STRATEGIES:
            raise UserError(f"teacher.strategies: the lab tells no {way!r}: {nearest(way, list(world.STRATEGIES))}")
    strangers = lab.base_people + lab.train_people + lab.heldout_people + lab.curate_people
    groups = []
    for number, person in enumerate(world.make_people(lab.seed, strangers, documents)):
        row = world.document(person, f"stranger-{number}")
        rng = random.Random(stable_seed(config.run.seed, "lab", row["id"]))
        ways = [told[g % len(told)] for g in range(rewrites or max(2, len(told)))]
        candidates = tuple(Candidate(way, world.rewrite(way, person, rng)) for way in ways)
        groups.append(Group(Document(row["text"], row["id"], metadata={"questions": row["questions"]}), candidates))
    return groups


def _brought_group(document: Document, rewrites: int | None) -> Group:
    """A rewrite is a text, or an object with `text` and its `strategy`."""
    candidates = []
    for entry in document.metadata["rewrites"][:rewrites]:
        entry = {"text": entry} if isinstance(entry, str) else entry
        if not isinstance(entry, dict) or not isinstance(entry.get("text"), str) or not entry["text"].strip():
            raise UserError(f"document {document.id!r}: `rewrites` holds texts, or objects with `text` and `strategy`")
        candidates.append(Candidate(str(entry.get("strategy", "rewrite")), entry["text"]))
    return Group(document, (*candidates, Candidate(RAW, document.text, control=True)))


def _written_groups(config: Config, documents: Sequence[Document], rewrites: int) -> list[Group]:
    """What the untrained teacher writes; rewrites that a gate refuses train nobody."""
    writer = load_teacher(config.teacher)
    gates = build_gates(config.gates, config.teacher, writer.tokenizer)
    sampling = Sampling(rewrites=rewrites, seed=stable_seed(config.run.seed, "reliability"))
    written = sample_rewrites(writer, documents, sampling, gates)
    return [
        Group(
            document,
            (
                *(Candidate(rewrite.strategy, rewrite.text) for rewrite in group if rewrite.rejected is None),
                Candidate(RAW, document.text, control=True),
            ),
        )
        for document, group in zip(documents, written, strict=True)
    ]
