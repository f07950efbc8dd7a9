"""What can be set: one experiment, one YAML file, one `Config` of sections. Keys are strict (a misspelt one is refused
with the nearest valid name, see `configs/load.py`); the text under each field is its documentation."""

from typing import Any

from pydantic import model_validator

from configs.schema.curation import Curation, Filters
from configs.schema.evaluation import Evaluation
from configs.schema.executor import Ray, Slurm
from configs.schema.plans import PLAN, PlanOptions, Plans
from configs.schema.reward import Reward, Screen
from configs.schema.rl import Rl
from configs.schema.run import Data, Lab, Run, Tracking
from configs.schema.search import Search
from configs.schema.section import Section
from configs.schema.student import TEACHER, Lora, Student
from configs.schema.teacher import HEAD, Gates, Questions, Serving, Teacher
from configs.schema.validity import Validity

__all__ = [
    "Config", "Curation", "Data", "Evaluation", "Filters", "Gates", "Lab", "Lora", "PlanOptions", "Plans", "Questions",
    "Ray", "Reward", "Rl", "Run", "Screen", "Search", "Section", "Serving", "Slurm", "Student", "Teacher",
    "Tracking", "Validity",
]  # fmt: skip


class Config(Section):
    """One experiment."""

    run: Run = Run()
    data: Data = Data()
    student: Student = Student()
    teacher: Teacher = Teacher()
    serving: Serving = Serving()
    gates: Gates = Gates()
    reward: Reward = Reward()
    rl: Rl = Rl()
    questions: Questions = Questions()
    curation: Curation = Curation()
    evaluation: Evaluation = Evaluation()
    validity: Validity = Validity()
    search: Search = Search()
    lab: Lab = Lab()
    tracking: Tracking = Tracking()

    @property
    def written_strategies(self) -> list[str]:
        """All strategies that training, evaluation and search may write with."""
        alone = [arm.removeprefix("strategy:") for arm in self.evaluation.arms]
        return [*self.teacher.strategies, *self.evaluation.ensemble, *alone, *self.search.arms]

    @model_validator(mode="before")
    @classmethod
    def with_defaults_of_head(cls, settings: Any) -> Any:
        """A head has other defaults than a language model: steps of 2e-5 would not move it."""
        teacher, rl = (settings.get(name, {}) if isinstance(settings, dict) else None for name in ("teacher", "rl"))
        if not (isinstance(teacher, dict) and isinstance(rl, dict) and teacher.get("model") == HEAD):
            return settings
        teacher, rl = {"prompting": "policy", "lora": None} | teacher, {"learning_rate": 0.2} | rl
        return settings | {"teacher": teacher, "rl": rl}

    @model_validator(mode="after")
    def consistent(self) -> "Config":
        if self.reward.credit == "shared" and self.reward.documents_per_student == 1:
            raise ValueError("reward.credit 'shared' with documents_per_student 1 is 'document': say so")
        written = {part for name in (*self.teacher.strategies, *self.curation.strategies) for part in name.split("+")}
        if unused := next((name for name in self.gates.verify if name not in written), None):
            raise ValueError(f"gates.verify names {unused!r}, which is none of teacher.strategies: nothing is verified")
        for key, measure in (("reward.measure", self.reward.measure), ("rl.judged_by", self.rl.judged_by)):
            if measure == "recall" and not self.student.decode:
                raise ValueError(f"{key} 'recall' is of decoded answers: set student.decode to true")
            if measure in ("self_certainty", "majority") and self.student.sampled_answers < 2:
                raise ValueError(f"{key} {measure!r} is of sampled answers: set student.sampled_answers to 2 or more")
            if measure == "bits" and not self.data.continuation:
                raise ValueError(f"{key} 'bits' is of text: set data.continuation to the share of it that is asked")
        if self.rl.judged_by in ("contrast", "choice") and not self.reward.distractors_drawn:
            raise ValueError(f"rl.judged_by {self.rl.judged_by!r} needs wrong answers: set reward.distractors to 4")
        if self.reward.retention_weight and not self.reward.retention_texts:
            raise ValueError("reward.retention_weight without reward.retention_texts penalises nothing: name a file")
        if self.student.tokens_per_step and self.student.texts_per_step:
            raise ValueError("student.tokens_per_step and student.texts_per_step exclude each other: set one to null")
        if self.student.tokens_per_step and self.student.steps is None:
            raise ValueError("student.tokens_per_step needs student.steps: else longer lessons would get more steps")
        if self.student.models and self.student.model:
            raise ValueError("student.model and student.models exclude each other")
        for key in ("promotion_threshold", "patience", "judged_by"):
            if getattr(self.rl, key) is not None and not self.rl.validation_documents:
                raise ValueError(f"rl.{key} is about the validation gain: set rl.validation_documents")
        if self.reward.shuffled and self.rl.validation_documents:
            raise ValueError(
                "reward.shuffled is a control: validation would choose a round by gains that are not shuffled, set"
                " rl.validation_documents to 0"
            )
        if self.rl.explore and self.teacher.prompting == "strategy":
            raise ValueError("rl.explore is about strategies of the teacher's choice: set teacher.prompting 'policy'")
        if self.reward.set_credit == "marginal" and self.rl.rewrites_per_lesson == 1:
            raise ValueError("reward.set_credit 'marginal' leaves rewrites out: set rl.rewrites_per_lesson above 1")
        if self.reward.set_credit == "marginal" and (self.reward.adaptive or self.reward.pool_strategies):
            raise ValueError(
                "reward.set_credit 'marginal' goes with neither reward.adaptive nor reward.pool_strategies"
            )
        if self.reward.adaptive and self.reward.pool_strategies:
            raise ValueError("reward.adaptive and reward.pool_strategies are two models of the same noise: choose one")
        if self.reward.adaptive and self.reward.repeats < 2:
            raise ValueError("reward.adaptive spends repeats: set reward.repeats to 2 or more")
        if self.reward.screen.wanted:
            refused = {
                "rl.algorithm 'grpo' compares all samples of a document": self.rl.algorithm == "grpo",
                "reward.credit 'shard' gives no lesson a gain of its own": self.reward.credit == "shard",
                "reward.adaptive chooses whom it teaches by itself": self.reward.adaptive,
                "reward.set_credit 'marginal' has gains of parts of lessons": self.reward.set_credit == "marginal",
                "student.model 'teacher' is another one in each round": "teacher" in self.student.names,
            }
            for reason in (reason for reason, holds in refused.items() if holds):
                raise ValueError(f"reward.screen cannot be set where {reason}")
            if self.reward.screen.steps and self.student.steps and self.reward.screen.steps >= self.student.steps:
                raise ValueError("reward.screen.steps are fewer than student.steps")
        if self.teacher.writer == "endpoint" and not (self.serving.url and self.serving.model):
            raise ValueError("teacher.writer 'endpoint' needs serving.url and serving.model")
        if self.serving.chat and self.teacher.prompting == "policy" and self.curation.strategies:
            raise ValueError(
                "serving.chat begins no completion with a tag: curation.strategies needs teacher.prompting 'strategy'"
            )
        if self.teacher.chooses_only:
            if self.teacher.prompting != "policy" or self.teacher.writer != "transformers" or self.teacher.lora:
                raise ValueError(
                    "teacher.model 'head' chooses and is small: it goes with teacher.prompting 'policy', teacher.writer"
                    " 'transformers' and teacher.lora null"
                )
            if TEACHER in (*self.student.names, self.questions.model):
                raise ValueError("teacher.model 'head' reads no text: name another student.model and questions.model")
        if "oracle" in self.evaluation.arms and self.rl.rewrites_per_lesson > 1:
            raise ValueError("evaluation.arms 'oracle' has lessons of one strategy: set rl.rewrites_per_lesson to 1")
        replayed = self.evaluation.edits > 1 and self.evaluation.replay > 0
        options = bool(self.teacher.plan_options.fields)
        if options != (self.teacher.plans and self.teacher.chooses_only):
            raise ValueError(
                "teacher.plan_options are what a head chooses a plan from: they go with teacher.model 'head' and"
                " teacher.plans, and these need them"
            )
        named = " ".join([*self.teacher.strategies, *self.evaluation.ensemble, *self.evaluation.arms])
        if self.teacher.plans or PLAN in named:
            refused = {
                "reward.credit other than 'document'": self.reward.credit != "document",
                "rl.rewrites_per_lesson above 1": self.rl.rewrites_per_lesson > 1,
                "student.with_document": self.student.with_document,
                "reward.screen.steps": self.teacher.plans and self.reward.screen.steps is not None,
                "evaluation.scaling above 1": max(self.evaluation.scaling, default=1) > 1,
                "evaluation.replay with evaluation.edits above 1": replayed,
            }
            for setting in (setting for setting, holds in refused.items() if holds):
                raise ValueError(
                    f"a plan (teacher.plans, {PLAN}NAME) is how one student learns one document, without {setting}"
                )
        if self.reward.benchmarks and self.reward.credit != "shard":
            raise ValueError("reward.benchmarks are about no document: they need reward.credit 'shard'")
        return self
