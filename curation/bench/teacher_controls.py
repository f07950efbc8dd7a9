"""The controls of `notewright bench teacher`: each would fail if the gains did not come from the students."""

import itertools
import random
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from student.plans import TaughtText
from student.pools import make_pool
from student.records import Exam, Job, OnDone, Outcome, Proof, Question, StudentPool, mean_gain
from student.text.words import word_line, words
from teacher.gates.checks import build_gates, check
from teacher.reward.assignment import batches_of
from teacher.reward.evaluation import Evaluation
from teacher.reward.gain import GainReward
from teacher.reward.student_runs import StudentRuns
from teacher.run.journal import Journal
from teacher.sampling import Sampling, sample_rewrites
from teacher.training.context import evaluation_seeds, taught
from teacher.writers.local import load_teacher

OLD_PEOPLE = 24
PLANTED = 16


class ShuffledPool:
    """A pool that swaps answers at random between students of the same exam, document by document: a reward of the same
    size and spread that says nothing about the lesson.

    Swapping whole students would leave a reward that says something wrong: their lessons of all documents would change
    places together, and a few such draws favour one strategy or another by chance.
    """

    def __init__(self, pool: StudentPool) -> None:
        self.pool = pool

    @property
    def fingerprint(self) -> str:
        return f"shuffled {self.pool.fingerprint}"

    @property
    def proof(self) -> Proof:
        return self.pool.proof

    @property
    def at_once(self) -> int:
        return self.pool.at_once

    def keep(self, job: Job, folder: Path) -> Outcome:
        return self.pool.keep(job, folder)

    def close(self) -> None:
        self.pool.close()

    def examine(self, jobs: list[Job], on_done: OnDone | None = None) -> list[Outcome]:
        """As the pool does, and then shuffles. Failed students stay failed. `on_done` is not called: no outcome is
        final before all students are done."""
        outcomes = self.pool.examine(jobs)
        same_exam: dict[tuple[Exam, int], list[int]] = defaultdict(list)
        for number, (job, outcome) in enumerate(zip(jobs, outcomes, strict=True)):
            if outcome.gain is not None:
                same_exam[job.exam, job.lesson.seed].append(number)
        for (exam, seed), numbers in same_exam.items():
            questions_of: dict[str | None, list[int]] = defaultdict(list)
            for place, question in enumerate(exam.questions):
                questions_of[question.document_id].append(place)
            answers = {number: list(outcomes[number].answers) for number in numbers}
            for document, places in questions_of.items():
                sources = list(numbers)
                random.Random(f"{seed} {document} {len(numbers)}").shuffle(sources)
                for number, source in zip(numbers, sources, strict=True):
                    for place in places:
                        answers[number][place] = outcomes[source].answers[place]
            for number, shuffled in answers.items():
                gain = mean_gain(shuffled, "loglik")
                outcomes[number] = replace(outcomes[number], gain=gain, answers=tuple(shuffled))
        return outcomes


@contextmanager
def new_rewards(config: Config, documents: Sequence[Document]) -> Iterator[GainReward]:
    """The config's students, with a journal that is thrown away."""
    names = config.student.names
    pools = {name: make_pool(config.student.model_copy(update={"model": name}), sharing=len(names)) for name in names}
    with TemporaryDirectory() as folder, Journal(Path(folder)) as journal:
        yield GainReward(StudentRuns(config, documents, journal), pools)


def measure_strategies(config: Config) -> dict[str, Any]:
    """How much each single strategy teaches the config's student: the untrained teacher writes lessons of one strategy
    about the held-out people, at the temperature of evaluations."""
    _, heldout = read_splits(config)
    writer = load_teacher(config.teacher).at(config.teacher.evaluation_temperature)
    n, seeds = config.rl.rewrites_per_lesson, evaluation_seeds(config, "heldout")
    arms = {"raw": [{document.id: [document.text] for document in heldout}] * len(seeds)}
    sampling = Sampling(rewrites=n * len(seeds), seed=0, explore=1.0, rewrites_per_lesson=n)
    for name in config.teacher.strategies:
        sampling = replace(sampling, seed=stable_seed(0, name), strategies=(name,))
        arms[name] = taught(sample_rewrites(writer, heldout, sampling, []), n)
    with new_rewards(config, heldout) as rewards:
        measured = {name: arm_values(rewards.evaluate(heldout, lessons, seeds)) for name, lessons in arms.items()}
        return {"strategy_arms": measured, "students": rewards.runs.students}


def arm_values(evaluation: Evaluation) -> dict[str, Any]:
    """What a unit's result keeps of an arm, by document."""
    return {"gains": evaluation.gains, "accuracies": evaluation.accuracies, "batches": evaluation.batches}


def planted_questions(config: Config) -> dict[str, Any]:
    """Plants held-out questions with their answers, and counts how many texts that carry one the leak gate refuses.

    A question about somebody else is put into each of some documents: a copy of it carries the question, and so may
    what the teacher writes where it is told to copy. The other texts are clean copies with a question behind them that
    the document does not hold: its own, its own in capitals without punctuation, and somebody else's. Clean copies are
    counted too; the gates should refuse none.
    """
    _, heldout = read_splits(config)
    benchmark = DocumentQuestions(config.student.prompt_template)
    questions = [q for document in heldout for q in benchmark.exam(document).questions if q.split == "heldout"]
    first_about = {question.document_id: question for question in reversed(questions)}
    writer = load_teacher(config.teacher)
    gates = build_gates(config.gates, config.teacher, writer.tokenizer, questions, config.student.prompt_template)
    clean, planted, foreign = heldout[:PLANTED], [], {}
    verdicts = []
    for number, document in enumerate(clean):
        own, other = (first_about[heldout[n % len(heldout)].id] for n in (number, number + 1))
        foreign[document.id] = word_line(words(other.prompt))
        planted.append(
            Document(f"{other.prompt} {other.answer}. {document.text}", document.id, metadata=document.metadata)
        )
        lines = [f"{question.prompt} {question.answer}" for question in (own, other)]
        lines.append(" ".join(words(lines[0])).upper())
        verdicts += [check(document, f"{document.text} {line}.", gates) for line in lines]
    verdicts += [check(document, document.text, gates) for document in planted]
    sampling = Sampling(rewrites=config.rl.group_size, seed=0, strategies=("copy",), explore=1.0)
    written = itertools.chain(*sample_rewrites(writer, planted, sampling, gates))
    carried = [r for r in written if foreign[r.document_id] in word_line(words(r.text))]
    verdicts += [rewrite.rejected for rewrite in carried]
    return {
        "carried": len(verdicts),
        "carried_by_the_teacher": len(carried),
        "gated": sum(reason == "leak" for reason in verdicts),
        "clean": len(clean),
        "clean_gated": sum(check(document, document.text, gates) is not None for document in clean),
    }


def old_knowledge(
    config: Config, heldout: Sequence[Document], lessons: Sequence[Mapping[str, Sequence[TaughtText]]]
) -> dict[str, list[float]]:
    """Share of right answers about people the student knew, before and after it learnt one of `lessons` (texts by
    document) about the held-out ones: one value for each batch of these.

    None of these people are in the retention texts that a penalty may watch.
    """
    people = world.make_people(config.lab.seed, 0, config.lab.base_people)
    known = tuple(
        Question(prompt=item["question"], answer=item["answer"], split="heldout")
        for person in people[2 * RETENTION_TEXTS :: 2][:OLD_PEOPLE]
        for item in world.exam_items(person)
    )
    with new_rewards(config, heldout) as rewards:
        jobs = []
        for number, batch in enumerate(batches_of(len(heldout), config.reward.documents_per_student)):
            ids = [heldout[index].id for index in batch]
            for texts, seed in zip(lessons, evaluation_seeds(config, "heldout"), strict=True):
                named_texts = [(name, text) for name in ids for text in texts[name]]
                job = rewards.runs.job(ids, named_texts, stable_seed(seed, number), "heldout")
                jobs.append(replace(job, exam=replace(job.exam, questions=known)))
        [pool] = rewards.pools.values()
        outcomes = rewards.runs.examine(jobs, pool)
    by_batch = [
        [answer for index in students for answer in outcomes[index].answers]
        for students in batches_of(len(outcomes), len(lessons))
    ]
    return {
        moment: [statistics.fmean(getattr(answer, f"correct_{moment}") for answer in answers) for answers in by_batch]
        for moment in ("before", "after")
    }
