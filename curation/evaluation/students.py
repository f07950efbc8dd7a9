"""Students of one base model: taught the texts of arms, and their answers as rows of `records.ITEM_COLUMNS`.

Students of one batch of documents and seed share their random numbers over all arms. Outcomes are kept in the model's
own journal (`evaluation/students/<label>`), so that no student is trained twice.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from configs.errors import RunError
from configs.schema import Student
from configs.seeds import stable_seed
from curation.evaluation.arms import Arm
from curation.evaluation.inputs import Inputs, heldout_questions
from curation.evaluation.records import Setting
from curation.evaluation.texts import Groups, choose_best, taught_texts
from student.benchmarks.sources import DocumentQuestions
from student.records import MEASURES, Job, Outcome, StudentPool
from teacher.reward.assignment import batches_of, clusters_of
from teacher.reward.gain import GainReward
from teacher.reward.student_runs import StudentRuns
from teacher.run.journal import Journal

Row = dict[str, Any]


class RunKey(NamedTuple):
    """What one student run was made for."""

    setting: Setting
    arm: str
    rewrites: int
    seed: int
    batch: int


class ArmStudents:
    """The students of one base model, whichever arm they are taught."""

    def __init__(
        self,
        inputs: Inputs,
        label: str,
        settings: Student,
        pool: StudentPool,
        journal: Journal,
        on_progress: Callable[[int, int], None],
    ) -> None:
        """`settings` names the one model, `pool` trains its students."""
        self.inputs, self.label, self.settings, self.pool = inputs, label, settings, pool
        self.config = inputs.config.model_copy(update={"student": settings})
        questions = heldout_questions(settings, self.config.evaluation)
        self.runs = StudentRuns(self.config, inputs.documents, journal, benchmark=questions, on_progress=on_progress)
        self.titles = clusters_of(inputs.documents, 1)
        """For each document the number of the first one under its title."""
        self._of_oracle = 0
        self.extra_questions = tuple(question for items in inputs.extra.values() for question in items)

    @property
    def students(self) -> int:
        """Different students requested so far, those by which `oracle` chose among them."""
        return self.runs.students + self._of_oracle

    def choose(self, groups: Groups, arm: Arm) -> Groups:
        """The lessons of an arm that are chosen by their reward: on their documents' `reward` questions, of `oracle` on
        all of their questions."""
        runs = self.runs
        if arm.kind == "oracle":
            questions = DocumentQuestions(self.settings.prompt_template, all_as="reward")
            runs = StudentRuns(
                self.config, self.inputs.documents, runs.journal, benchmark=questions, on_progress=runs.on_progress
            )
        gain_reward = GainReward(runs, {self.settings.model: self.pool})
        values = [[reward.value for reward in rewards] for rewards in gain_reward.score(groups)]
        self._of_oracle += runs.students if runs is not self.runs else 0
        return choose_best(groups, self.config.rl.rewrites_per_lesson, values)

    def plan(
        self, setting: Setting, arm: Arm, groups: Groups, seeds: Sequence[int], rewrites: int | None = None
    ) -> Iterator[tuple[RunKey, Job]]:
        """The student runs of an arm: a student for each batch of documents and seed, taught `rewrites` (None:
        `rl.rewrites_per_lesson`) rewrites a document. Only those of `together` are asked items about no document."""
        documents, rewrites = self.inputs.documents, rewrites or self.config.rl.rewrites_per_lesson
        texts = taught_texts(groups, rewrites)
        batch_size = self.config.reward.documents_together
        if setting == "single":
            documents, batch_size = documents[: self.config.evaluation.single_documents], 1
        for number, batch in enumerate(batches_of(len(documents), batch_size)):
            names = [documents[d].id for d in batch]
            taught = [(name, text) for name in names for text in texts.get(name, ())]
            for seed in seeds:
                chance = stable_seed(self.config.run.seed, "evaluate", seed, number)
                job = self.runs.job(names, taught, chance, "heldout", distill=arm.distilled)
                # As users do it without lessons: every document a few times, however many steps that takes.
                if arm.kind == "raw":
                    job = replace(job, lesson=replace(job.lesson, steps=None, epochs=self.settings.epochs))
                if setting == "together":
                    job = self.with_extra_questions(job)
                else:
                    job = replace(job, exam=replace(job.exam, retention_texts=()))
                yield RunKey(setting, arm.name, rewrites, seed, number), job

    def with_extra_questions(self, job: Job) -> Job:
        """The job with the items about no document after its own questions."""
        return replace(job, exam=replace(job.exam, questions=(*job.exam.questions, *self.extra_questions)))

    def run(self, planned: Sequence[tuple[RunKey, Job]]) -> list[Row]:
        """Trains what is missing; a row for each question that a student was asked. Failed students leave none. Raises
        RunError where all failed."""
        outcomes = self.runs.examine([job for _, job in planned], self.pool)
        if planned and all(outcome.error is not None for outcome in outcomes):
            raise RunError(f"no student of {self.label} gave an outcome, the first since {outcomes[0].error}")
        return [
            row
            for (key, job), outcome in zip(planned, outcomes, strict=True)
            if outcome.error is None
            for row in self.rows(key, job, outcome)
        ]

    def rows(self, key: RunKey, job: Job, outcome: Outcome, edit: int = 0) -> Iterator[Row]:
        """The rows of one student: its documents' questions first, then the extra items in their order."""
        kinds = [("document", "") for question in job.exam.questions if question.document_id]
        # `with_extra_questions` put the items about no document at the end, in the order of `extra`.
        if len(job.exam.questions) > len(kinds):
            kinds += [source for source, items in self.inputs.extra.items() for _ in items]
        metrics = outcome.metrics
        alone = key.setting == "single" or (key.setting != "sequence" and self.config.reward.documents_together == 1)
        of_student = {
            **key._asdict(),
            "cluster": self.titles[key.batch] if alone else key.batch,
            "student": self.label,
            "edit": edit,
            "steps": int(metrics.get("steps", 0)),
            "steps_cut": int(metrics.get("steps_cut", 0)),
            "tokens": int(metrics.get("lesson_tokens", 0)),
            "longest_text": int(metrics.get("longest_text", 0)),
            "planned_tokens": (self.settings.steps or 0) * (self.settings.tokens_per_step or 0),
            "retention_loss_before": metrics.get("retention_before"),
            "retention_loss_after": metrics.get("retention_after"),
        }
        for question, answer, (kind, source) in zip(job.exam.questions, outcome.answers, kinds, strict=True):
            yield of_student | {
                "kind": kind,
                "source": source,
                "document_id": question.document_id,
                "question": question.prompt,
                "answer": question.answer,
                "correct_before": answer.correct_before,
                "correct_after": answer.correct_after,
                **{
                    f"{measure}_{when}": value
                    for measure in MEASURES
                    for when, value in zip(("before", "after"), answer.told(measure) or (None, None), strict=True)
                },
            }
