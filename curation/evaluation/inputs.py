"""What an evaluation starts from: arms, documents, questions and students, read and checked before anything is run."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from datatrove.data import Document

from configs.errors import UserError
from configs.schema import Config, Evaluation, Student
from curation.console.progress import say
from curation.corpus.exam_items import ItemSource, evaluation_items
from curation.corpus.training_data import read_evaluated, read_splits
from curation.evaluation.arms import Arm, parse_arms
from curation.evaluation.teachers import teacher_of_run, training_config
from curation.evaluation.texts import LessonTexts
from curation.lab import world
from curation.lab.build import build_lab
from curation.lab.items import REWRITES, lab_rewrites
from student.benchmarks.sources import DocumentQuestions
from student.engine.models import check_model
from student.records import Question, Split
from teacher.prompting.features import head_tokenizer
from teacher.prompting.plans import check_plans
from teacher.prompting.strategies import brought_names
from teacher.ready.brought import check_brought
from teacher.reward.assignment import batches_of
from teacher.reward.distractors import telling_documents
from teacher.reward.student_models import labels
from teacher.reward.student_runs import heldout_items
from teacher.training.data import check_documents


def heldout_questions(student: Student, evaluation: Evaluation) -> DocumentQuestions:
    """Each document's own questions. With `evaluation.questions: all` those of either split count as held out."""
    return DocumentQuestions(student.prompt_template, all_as="heldout" if evaluation.questions == "all" else None)


class Inputs(NamedTuple):
    """What one evaluation compares. Picklable."""

    config: Config
    """With the students, steps, tokens and retention texts of the evaluation."""
    arms: Sequence[Arm]
    students: dict[str, str]
    """The model of each student, by its label."""
    train: Sequence[Document]
    """For teachers that are trained first; empty where none is."""
    documents: Sequence[Document]
    """Every one has held-out questions."""
    extra: Mapping[ItemSource, Sequence[Question]]
    """Items that are asked of every student beside the questions about its documents."""

    @property
    def secret_items(self) -> list[Question]:
        """What this evaluation asks, and held-out items of `reward.benchmarks`: a text that carries one is a leak."""
        exams = heldout_questions(self.config.student, self.config.evaluation)
        items = [q for document in self.documents for q in exams.exam(document).questions if q.split == "heldout"]
        extra = [question for questions in self.extra.values() for question in questions]
        return [*items, *heldout_items(self.config, ()), *extra]


def read_inputs(config: Config) -> Inputs:
    """Reads all that is compared, and builds the lab where `evaluation.lab` asks for it. Raises UserError for every
    mistake that can be seen before a model is trained."""
    config = _as_evaluated(config)
    settings, folder = config.evaluation, config.run.dir / "evaluation"
    arms = parse_arms(settings, config.teacher, folder / REWRITES)
    if settings.lab:
        # Built before documents are read: they and the file of the arm `file:lab` are part of it.
        build_lab(config.lab, progress=say)
    if settings.lab and config.lab.world == "people":
        most = max(config.rl.rewrites_per_lesson, *settings.scaling, 1)
        strategies = [name for name in settings.ensemble if name in world.STRATEGIES] or list(world.STRATEGIES)
        lab_rewrites(config.lab, folder, strategies, most)
    train, documents = _read_documents(config, arms)
    students = {label: model for model, label in labels(list(settings.students)).items()}
    inputs = Inputs(config, arms, students, train, documents, extra={})
    _check(inputs)
    return inputs._replace(extra=evaluation_items(config))


def _as_evaluated(config: Config) -> Config:
    """The config with its evaluation's students, steps, tokens and retention texts."""
    settings, student = config.evaluation, config.student
    steps, tokens = settings.steps or student.steps, settings.tokens_per_step or student.tokens_per_step
    if steps is None or tokens is None:
        raise UserError(
            "evaluate compares at equal tokens and equal steps: set evaluation.steps and evaluation.tokens_per_step"
        )
    students = settings.students or student.names
    if not students or "" in students:
        raise UserError("no student: set student.model, or evaluation.students")
    if "teacher" in students:
        raise UserError("evaluation.students: name the base models of students; 'teacher' is none here")
    texts = settings.retention_texts or config.reward.retention_texts
    return config.model_copy(
        update={
            "student": student.model_copy(update={"steps": steps, "tokens_per_step": tokens, "texts_per_step": None}),
            "evaluation": settings.model_copy(update={"students": tuple(students)}),
            "reward": config.reward.model_copy(update={"retention_texts": texts}),
        }
    )


def _read_documents(config: Config, arms: Sequence[Arm]) -> tuple[list[Document], list[Document]]:
    """Training documents (where a teacher is trained) and the evaluated ones, which have held-out questions."""
    if not config.data.heldout:
        raise UserError("data.heldout is not set: name the documents that are evaluated, with `questions`")
    train: list[Document] = []
    if any(arm.trained_here(config.evaluation) for arm in arms):
        train, documents = read_splits(config)
        check_documents(config, train, documents)
    else:
        documents = read_evaluated(config)
    exams = heldout_questions(config.student, config.evaluation)
    kept = _asked(config, documents, "heldout", exams)
    if any(arm.kind == "best-of" for arm in arms):
        kept = _asked(config, kept, "reward", exams)
    return train, kept


def _asked(config: Config, documents: list[Document], split: Split, exams: DocumentQuestions) -> list[Document]:
    """Those that have a question of the split, and whose questions tell what is rewarded."""
    kept = [d for d in documents if any(question.split == split for question in exams.exam(d).questions)]
    name = "held-out question, see `split`" if split == "heldout" else "reward question, by which best-of chooses"
    if not kept:
        raise UserError(f"data.heldout: none of {len(documents)} documents has a {name}")
    if left_out := len(documents) - len(kept):
        say(f"warning: data.heldout: {left_out} of {len(documents)} documents have no {name}, left out")
    return telling_documents(kept, exams, split, config.reward, "data.heldout", say)


def _check(inputs: Inputs) -> None:
    config, arms, documents = inputs.config, inputs.arms, inputs.documents
    for model in inputs.students.values():
        check_model("evaluation.students", model)
    if any(arm.needs_model(config.evaluation, config.teacher) for arm in arms):
        if config.teacher.chooses_only:
            head_tokenizer(config.teacher)  # for its checks
        else:
            check_model("teacher.model", config.teacher.model)
    for arm in arms:
        if arm.written or arm.chosen:
            strategies = arm.strategies(config.evaluation, config.teacher)
            check_brought(brought_names(strategies), documents, "evaluation.arms")
            distill = arm.distilled or config.student.objective == "distill"
            check_plans(config.teacher, strategies, documents, "evaluation.arms", distill=distill)
    batches, edits = len(batches_of(len(documents), config.reward.documents_together)), config.evaluation.edits
    if edits > batches:
        raise UserError(f"evaluation.edits={edits}, but {len(documents)} documents are {batches} batches")
    # Files and runs that arms name are looked into now, so that none is found wanting after hours of training.
    texts = LessonTexts(config, documents, ())
    for arm in arms:
        if arm.kind == "file":
            texts.of(arm)
        elif arm.trained_here(config.evaluation):
            for label, model in inputs.students.items():
                training_config(config, arm, label, model)
        elif arm.kind == "trained":
            teacher_of_run(config, arm)
