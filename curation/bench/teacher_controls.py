"""The controls of `notewright bench teacher`: what would have to fail if the gains were not the students'."""

import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from datatrove.data import Document

from configs.schema import Config
from configs.seeds import stable_seed
from curation.corpus.training_data import read_splits
from curation.lab import world
from curation.lab.build import RETENTION_TEXTS
from student.benchmarks.sources import DocumentQuestions
from student.pools import make_pool
from student.records import Exam, Job, OnDone, Outcome, Question, StudentPool
from teacher.gates.checks import build_gates, check
from teacher.gates.text import words
from teacher.reward.assignment import batches_of
from teacher.reward.evaluation import Evaluation
from teacher.reward.gain import GainReward
from teacher.reward.student_runs import StudentRuns
from teacher.run.journal import Journal
from teacher.sampling import Sampling, sample_rewrites
from teacher.training.context import evaluation_seeds, taught
from teacher.writers.local import load_teacher

OLD_PEOPLE = 24


class ShuffledPool:
    """Students whose answers are dealt at random among those that sat the same exam, document by document: a reward of
    the same size and spread that says nothing about the lesson.

    Whole students dealt at random would leave a reward that says something wrong: their lessons of all documents would
    change places together, and few such draws favour one strategy or another by chance.
    """

    def __init__(self, pool: StudentPool) -> None:
        self.pool = pool

    @property
    def fingerprint(self) -> str:
        return f"shuffled {self.pool.fingerprint}"

    @property
    def at_once(self) -> int:
        return self.pool.at_once

    def examine(self, jobs: list[Job], on_done: OnDone | None = None) -> list[Outcome]:
        """As the pool does; nothing is done before all are, so that all can be dealt. Failed students stay failed."""
        outcomes = self.pool.examine(jobs)
        alike: dict[tuple[Exam, int], list[int]] = {}
        for number, (job, outcome) in enumerate(zip(jobs, outcomes, strict=True)):
            if outcome.gain is not None:
                alike.setdefault((job.exam, job.lesson.seed), []).append(number)
        for (exam, seed), numbers in alike.items():
            by_document: dict[str | None, list[int]] = {}
            for place, question in enumerate(exam.questions):
                by_document.setdefault(question.document_id, []).append(place)
            answers = {number: list(outcomes[number].answers) for number in numbers}
            for document, places in by_document.items():
                sources = list(numbers)
                random.Random(f"{seed} {document} {len(numbers)}").shuffle(sources)
                for number, source in zip(numbers, sources, strict=True):
                    for place in places:
                        answers[number][place] = outcomes[source].answers[place]
            for number, own in answers.items():
                gain = statistics.fmean(answer.gain for answer in own)
                outcomes[number] = replace(outcomes[number], gain=gain, answers=tuple(own))
        return outcomes


def measure_strategies(config: Config) -> dict[str, Any]:
    """What each single strategy is worth to the config's student: the untrained teacher writes lessons of one strategy
    about the held-out people."""
    _, heldout = read_splits(config)
    writer = load_teacher(config.teacher).at(config.teacher.evaluation_temperature)
    n, seeds = config.rl.rewrites_per_lesson, evaluation_seeds(config, "heldout")
    arms = {"raw": [{document.id: [document.text] for document in heldout}] * len(seeds)}
    for name in config.teacher.strategies:
        sampling = Sampling(
            rewrites=n * len(seeds), seed=stable_seed(0, name), strategies=(name,), explore=1.0, rewrites_per_lesson=n
        )
        arms[name] = taught(sample_rewrites(writer, heldout, sampling, []), n)
    found = {}
    with TemporaryDirectory() as scratch, Journal(Path(scratch)) as journal:
        rewards = _gain_reward(config, heldout, journal)
        for name, lessons in arms.items():
            found[name] = arm_figures(rewards.evaluate(heldout, lessons, seeds))
    return {"strategy_arms": found, "students": rewards.runs.students}


def arm_figures(arm: Evaluation) -> dict[str, Any]:
    """What a unit's result keeps of an arm."""
    return {"gains": arm.gains, "accuracies": arm.accuracies, "batches": arm.batches}


def _heldout_items(config: Config, heldout: Sequence[Document]) -> list[Question]:
    benchmark = DocumentQuestions(config.student.prompt_template)
    return [q for d in heldout for q in benchmark.exam(d).questions if q.split == "heldout"]


def planted_questions(config: Config, documents: int = 16) -> dict[str, Any]:
    """Plants a held-out item about somebody else in each of some documents: how many texts that carry it on (a copy of
    the document, and what the teacher writes where it is told to copy) the leak gate refuses, and how many clean copies
    it refuses."""
    _, heldout = read_splits(config)
    items = _heldout_items(config, heldout)
    writer = load_teacher(config.teacher)
    gates = build_gates(config.gates, config.teacher, writer.tokenizer, items, config.student.prompt_template)
    planted, carriers = [], {}
    for number, document in enumerate(heldout[:documents]):
        item = next(q for q in items if q.document_id == heldout[(number + 1) % len(heldout)].id)
        carriers[document.id] = item
        text = f"{item.prompt} {item.answer}. {document.text}"
        planted.append(Document(text=text, id=document.id, metadata=document.metadata))
    sampling = Sampling(rewrites=config.rl.group_size, seed=0, strategies=("copy",), explore=1.0)
    written = sample_rewrites(writer, planted, sampling, gates)
    copies = [check(document, document.text, gates) for document in planted]
    told = [w for group in written for w in group if _holds(w.text, carriers[w.document_id].prompt)]
    return {
        "carried": len(copies) + len(told),
        "carried_by_the_teacher": len(told),
        "gated": sum(reason == "leak" for reason in (*copies, *(w.rejected for w in told))),
        "clean": len(planted),
        "clean_gated": sum(check(document, document.text, gates) is not None for document in heldout[:documents]),
    }


def _holds(text: str, item: str) -> bool:
    """Whether the item's words stand in the text one after the other."""
    return f" {' '.join(words(item))} " in f" {' '.join(words(text))} "


def old_knowledge(
    config: Config, heldout: Sequence[Document], lessons: Sequence[Mapping[str, Sequence[str]]]
) -> dict[str, list[float]]:
    """Share of right answers about people the student knew, before and after it learnt one of `lessons` (texts by
    document) about the held-out ones: one figure for each batch of these.

    None of these people are in the retention texts that a penalty may watch.
    """
    people = world.make_people(config.lab.seed, 0, config.lab.base_people)
    asked = tuple(
        Question(prompt=item["question"], answer=item["answer"], split="heldout")
        for person in people[2 * RETENTION_TEXTS :: 2][:OLD_PEOPLE]
        for item in world.exam_items(person)
    )
    together = config.reward.documents_per_student
    with TemporaryDirectory() as scratch, Journal(Path(scratch)) as journal:
        rewards = _gain_reward(config, heldout, journal)
        jobs = []
        for number, batch in enumerate(batches_of(len(heldout), together)):
            ids = [heldout[d].id for d in batch]
            for texts, seed in zip(lessons, evaluation_seeds(config, "heldout"), strict=True):
                own = [(name, text) for name in ids for text in texts[name]]
                job = rewards.runs.job(ids, own, stable_seed(seed, number), "heldout")
                jobs.append(replace(job, exam=replace(job.exam, questions=asked)))
        [pool] = rewards.pools.values()
        outcomes = rewards.runs.examine(jobs, pool)
    by_batch = [
        [answer for number in students for answer in outcomes[number].answers]
        for students in batches_of(len(outcomes), len(lessons))
    ]
    return {
        "before": [statistics.fmean(answer.correct_before for answer in answers) for answers in by_batch],
        "after": [statistics.fmean(answer.correct_after for answer in answers) for answers in by_batch],
    }


def _gain_reward(config: Config, documents: Sequence[Document], journal: Journal) -> GainReward:
    names = config.student.names
    pools = {name: make_pool(config.student.model_copy(update={"model": name}), sharing=len(names)) for name in names}
    benchmark = DocumentQuestions(config.student.prompt_template)
    return GainReward(StudentRuns(config, benchmark, documents, journal), pools)
