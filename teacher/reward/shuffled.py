"""A control of a reward: the same answers, dealt to the wrong lessons."""

import random
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from student.records import Exam, Job, OnDone, Outcome, Proof, StudentPool, mean_gain


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
