"""One student model: every arm's students trained and examined, as rows of `records.ITEM_COLUMNS`.

Students of one batch of documents and seed share their random numbers over all arms. Outcomes are kept in the student's
own journal (`evaluation/students/<label>`), so that none is trained twice.
"""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from configs.schema import Config
from configs.seeds import stable_seed
from curation.evaluation.arms import ArmLine
from curation.evaluation.records import Setting
from curation.evaluation.texts import Groups, choose_best, lesson_texts
from student.benchmarks.sources import DocumentQuestions
from student.records import Document, Exam, Job, Outcome, Question, StudentPool
from teacher.reward.assignment import batches_of
from teacher.reward.gain import GainReward
from teacher.reward.student_runs import StudentRuns
from teacher.run.journal import Journal

Row = dict[str, Any]


class RunKey(NamedTuple):
    """What one student run stands for."""

    setting: Setting
    arm: str
    rewrites: int
    seed: int
    batch: int


class HeldoutQuestions:
    """Each document's own questions; with `all` of them those of either split count as held out."""

    def __init__(self, template: str, everything: bool) -> None:
        self.own, self.everything = DocumentQuestions(template), everything

    def exam(self, document: Document) -> Exam:
        exam = self.own.exam(document)
        if not self.everything:
            return exam
        return Exam(questions=tuple(replace(question, split="heldout") for question in exam.questions))


class StudentBench:
    """The students of one base model."""

    def __init__(
        self,
        config: Config,
        label: str,
        documents: Sequence[Document],
        extra: Mapping[tuple[str, str], Sequence[Question]],
        pool: StudentPool,
        journal: Journal,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """`config` names the one student; `extra` are the items asked of every student, by kind (`benchmark`,
        `retention`) and the config's line."""
        self.config, self.label, self.documents = config, label, list(documents)
        self.extra = {key: tuple(questions) for key, questions in extra.items()}
        benchmark = HeldoutQuestions(config.student.prompt_template, config.evaluation.questions == "all")
        self.runs = StudentRuns(config, benchmark, self.documents, journal, on_progress=on_progress)
        self.pool = pool

    def choose(self, groups: Groups) -> Groups:
        """The lessons of a `best-of` arm: chosen by the reward of their documents' `reward` questions."""

        gain_reward = GainReward(self.runs, {self.config.student.model: self.pool})

        def worth(groups: Groups) -> list[list[float]]:
            return [[reward.value for reward in rewards] for rewards in gain_reward.score(groups)]

        return choose_best(groups, self.config.rl.rewrites_per_lesson, worth)

    def plan(
        self,
        setting: Setting,
        arm: ArmLine,
        groups: Groups,
        rewrites: int,
        seeds: Sequence[int],
        documents: Sequence[Document] | None = None,
    ) -> Iterator[tuple[RunKey, Job]]:
        """The student runs of an arm: a student for each batch of documents and seed. Benchmarks and what was known
        before are asked in the setting `together` alone."""
        documents = self.documents if documents is None else documents
        texts = lesson_texts(groups, rewrites)
        together = 1 if setting == "single" else self.config.reward.documents_together
        for number, batch in enumerate(batches_of(len(documents), together)):
            ids = [documents[d].id for d in batch]
            taught = [(name, text) for name in ids for text in texts.get(name, ())]
            for seed in seeds:
                job = self.runs.job(ids, taught, stable_seed(self.config.run.seed, "evaluate", seed, number), "heldout")
                if arm.kind == "raw":
                    job = replace(job, lesson=replace(job.lesson, steps=None, epochs=self.config.student.epochs))
                if setting == "together":
                    questions = (q for items in self.extra.values() for q in items)
                    job = replace(job, exam=replace(job.exam, questions=(*job.exam.questions, *questions)))
                else:
                    job = replace(job, exam=replace(job.exam, retention_texts=()))
                yield RunKey(setting, arm.name, rewrites, seed, number), job

    def run(self, planned: Sequence[tuple[RunKey, Job]]) -> list[Row]:
        """Trains what is missing; a row for each question that a student was asked. Failed students leave none."""
        outcomes = self.runs.examine([job for _, job in planned], self.pool)
        return [
            row
            for (place, job), outcome in zip(planned, outcomes, strict=True)
            if outcome.error is None
            for row in self.rows(place, job, outcome)
        ]

    def rows(self, place: RunKey, job: Job, outcome: Outcome, edit: int = 0) -> Iterator[Row]:
        """The rows of one student: its documents' questions first, then the extra items in their order."""
        own = sum(question.document_id != "" for question in job.exam.questions)
        kinds = [("document", "")] * own
        if len(job.exam.questions) > own:
            kinds += [key for key, items in self.extra.items() for _ in items]
        metrics = outcome.metrics
        common = {
            "setting": place.setting,
            "student": self.label,
            "arm": place.arm,
            "rewrites": place.rewrites,
            "seed": place.seed,
            "batch": place.batch,
            "edit": edit,
            "steps": int(metrics.get("steps", 0)),
            "tokens": int(metrics.get("lesson_tokens", 0)),
            "retention_loss_before": metrics.get("retention_before"),
            "retention_loss_after": metrics.get("retention_after"),
        }
        for question, answer, (kind, source) in zip(job.exam.questions, outcome.answers, kinds, strict=True):
            yield common | {
                "kind": kind,
                "source": source,
                "document_id": question.document_id,
                "question": question.prompt,
                "answer": question.answer,
                "loglik_before": answer.loglik_before,
                "loglik_after": answer.loglik_after,
                "correct_before": answer.correct_before,
                "correct_after": answer.correct_after,
            }


def mean_by_document(rows: Sequence[Row], measure: str) -> dict[str, float]:
    """Of rows of kind `document`: mean over questions, then over seeds."""
    cells: dict[str, dict[int, list[float]]] = {}
    for row in rows:
        value = row["loglik_after"] - row["loglik_before"] if measure == "gain" else float(row["correct_after"])
        cells.setdefault(row["document_id"], {}).setdefault(row["seed"], []).append(value)
    return {
        name: statistics.fmean(statistics.fmean(values) for values in by_seed.values())
        for name, by_seed in cells.items()
    }
