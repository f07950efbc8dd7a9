"""Students of candidate lessons: what `notewright reliability` measures, under one number of documents a student.

Documents that share students form a batch. In every repeat each document's candidates are dealt anew to the batch's
students. A rewrite is therefore taught beside other texts each time, and what these did to its gain counts as noise of
its reward. All students of a batch and repeat have one seed (common random numbers).
"""

import random
import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
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
from teacher.prompting.strategies import spread
from teacher.reward.assignment import batches_of
from teacher.reward.student_runs import StudentRuns, heldout_items, narrow, planned_steps
from teacher.sampling import Sampling, sample_rewrites
from teacher.writers.local import load_teacher

LAB = "lab"
RAW = "raw"


class Candidate(NamedTuple):
    """One text that a document's students may learn. A control is measured too, but is no rewrite."""

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


Gains = list[list[list[float | None]]]
"""Documents x candidates x repeats; None where a student failed."""


class Recording(NamedTuple):
    """What was measured of all candidates."""

    repeats: int
    own: Gains
    """Gain on the document's own questions."""
    whole: Gains
    """Gain of the student on all that it was asked."""
    accuracy: Gains
    """Share of the document's own questions that were right after the lesson."""
    students: int
    seconds_per_student: float | None
    """Training and exam; None where all were found in the journal."""
    errors: list[str]


def read_groups(config: Config, source: str | None, documents: int, rewrites: int | None) -> list[Group]:
    """The first `documents` documents of `source` with at most `rewrites` rewrites each.

    `source` is a file of documents with questions (null: `data.train`), or `lab`: fictional people whom no student has
    read of, described by each of `teacher.strategies` (else each of the lab's strategies) in turn. Where a document has
    `rewrites`, these are measured, with `raw` (its own text) as a control; where it has none, the teacher writes them.
    Questions that are missing are written as for training. Raises UserError.
    """
    if source == LAB:
        return _lab_groups(config, documents, rewrites)
    read = read_asked(config, config.data.train if source is None else (source,), documents)
    with_rewrites = [document for document in read if document.metadata.get("rewrites")]
    if len(with_rewrites) == len(read):
        return [_group_with_rewrites(document, rewrites) for document in read]
    if with_rewrites:
        raise UserError(f"{source or 'data.train'}: some documents have `rewrites` and some have none")
    writer = load_teacher(config.teacher)
    gates = build_gates(
        config.gates, config.teacher, writer.tokenizer, heldout_items(config, read), config.student.prompt_template
    )
    sampling = Sampling(rewrites=rewrites or config.rl.group_size, seed=stable_seed(config.run.seed, "reliability"))
    groups = []
    for document, written in zip(read, sample_rewrites(writer, read, sampling, gates), strict=True):
        # Rewrites that a gate refuses train nobody.
        candidates = [Candidate(rewrite.strategy, rewrite.text) for rewrite in written if rewrite.rejected is None]
        groups.append(Group(document, (*candidates, Candidate(RAW, document.text, control=True))))
    return groups


class ReliabilityStudy:
    """Trains the students of some groups; every student is trained once, by the journal of `runs`."""

    def __init__(self, runs: StudentRuns, pool: StudentPool, groups: Sequence[Group], documents_per_student: int):
        self.runs, self.pool, self.groups = runs, pool, list(groups)
        self.batches = batches_of(len(groups), documents_per_student)
        self.documents_per_student = documents_per_student
        self.clusters = [number for number, batch in enumerate(self.batches) for _ in batch]
        """The batch of each document: those of one batch have students in common."""

    def students(self, repeats: int) -> int:
        """Students that `record` trains."""
        return repeats * sum(max(len(self.groups[d].candidates) for d in batch) for batch in self.batches)

    def record(self, repeats: int) -> Recording:
        """Teaches every candidate once a repeat."""
        sizes = [len(group.candidates) for group in self.groups]
        tables: list[Gains] = [[[[None] * repeats for _ in range(size)] for size in sizes] for _ in range(3)]
        own, whole, accuracy = tables
        numbers = [(batch, repeat) for batch in self.batches for repeat in range(repeats)]
        planned = [(repeat, taught) for batch, repeat in numbers for taught in self._deal_candidates(batch, repeat)]
        jobs = [self._job(taught, "repeat", repeat) for repeat, taught in planned]
        trained, started = self.runs.trained, time.monotonic()
        outcomes = self.runs.examine(jobs, self.pool)
        trained, seconds = self.runs.trained - trained, time.monotonic() - started
        for (repeat, taught), job, outcome in zip(planned, jobs, outcomes, strict=True):
            for d, g in taught.items() if outcome.gain is not None else ():
                on_document = narrow(job, outcome, self.groups[d].document.id)
                own[d][g][repeat], whole[d][g][repeat] = on_document.gain, outcome.gain
                accuracy[d][g][repeat] = on_document.metrics["accuracy_after"]
        errors = [outcome.error for outcome in outcomes if outcome.error is not None]
        return Recording(repeats, own, whole, accuracy, len(jobs), seconds / trained if trained else None, errors)

    def rewrites_only(self, gains: Gains) -> Gains:
        """The table without the controls."""
        return [[runs[g] for g in group.rewrites] for group, runs in zip(self.groups, gains, strict=True)]

    def measure(self, runs: Sequence[PlannedRun]) -> list[float | None]:
        """The gain of each planned run on its document's questions, by fresh students: their seeds are none of the
        recording's. None where a student failed. Procedures that ask for the same student share it by its seed."""
        by_student: dict[Hashable, list[int]] = {}
        for i, run in enumerate(runs):
            by_student.setdefault(run.student, []).append(i)
        jobs = [
            self._job({runs[i].document: runs[i].rewrite for i in places}, "fresh", runs[places[0]].repeat)
            for places in by_student.values()
        ]
        gains: list[float | None] = [None] * len(runs)
        for places, job, outcome in zip(by_student.values(), jobs, self.runs.examine(jobs, self.pool), strict=True):
            for i in places if outcome.gain is not None else ():
                gains[i] = narrow(job, outcome, self.groups[runs[i].document].document.id).gain
        return gains

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
        documents = [self.groups[d].document for d in self.batches[self.clusters[min(taught)]]]
        names = [document.id for document in documents]
        return Job(
            lesson=Lesson(
                texts=tuple(self.groups[d].candidates[g].text for d, g in sorted(taught.items())),
                document_ids=tuple(self.groups[d].document.id for d in sorted(taught)),
                steps=planned_steps(self.runs.config.student, len(documents)),
                seed=stable_seed(self.runs.config.run.seed, purpose, *names, repeat),
            ),
            exam=Exam(questions=tuple(q for document in documents for q in self.runs.questions(document, "reward"))),
        )


def _lab_groups(config: Config, documents: int, rewrites: int | None) -> list[Group]:
    lab = config.lab
    set_in_config = "strategies" in config.teacher.model_fields_set
    strategies: tuple[str, ...] = config.teacher.strategies if set_in_config else world.STRATEGIES
    for name in strategies:
        if name not in world.STRATEGIES:
            raise UserError(f"teacher.strategies: the lab tells no {name!r}: {nearest(name, list(world.STRATEGIES))}")
    strangers = lab.base_people + lab.train_people + lab.heldout_people + lab.curate_people
    groups = []
    for number, person in enumerate(world.make_people(lab.seed, strangers, documents)):
        row = world.document(person, f"stranger-{number}")
        rng = random.Random(stable_seed(config.run.seed, "lab", row["id"]))
        of_candidates = spread(strategies, rewrites or max(2, len(strategies)))
        candidates = tuple(Candidate(name, world.rewrite(name, person, rng)) for name in of_candidates)
        groups.append(Group(Document(row["text"], row["id"], metadata={"questions": row["questions"]}), candidates))
    return groups


def _group_with_rewrites(document: Document, rewrites: int | None) -> Group:
    """A rewrite is a text, or an object with `text` and its `strategy`."""
    candidates = []
    for entry in document.metadata["rewrites"][:rewrites]:
        entry = {"text": entry} if isinstance(entry, str) else entry
        if not isinstance(entry, dict) or not isinstance(entry.get("text"), str) or not entry["text"].strip():
            raise UserError(f"document {document.id!r}: `rewrites` holds texts, or objects with `text` and `strategy`")
        candidates.append(Candidate(str(entry.get("strategy", "rewrite")), entry["text"]))
    return Group(document, (*candidates, Candidate(RAW, document.text, control=True)))
