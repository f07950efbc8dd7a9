"""Settings of the RL rounds and of their algorithm."""

from typing import Literal

from pydantic import Field

from configs.schema.reward import Measure
from configs.schema.section import Section


class Epochs(Section):
    """Passes over what a round found worth learning."""

    epochs: int = Field(default=2, ge=1)
    """Passes over the kept rewrites (pairs) of a round."""
    batch_size: int = Field(default=8, ge=1)
    """Kept rewrites (pairs) of a gradient step."""


class RestEm(Epochs):
    """ReST-EM (arXiv 2312.06585): the teacher is fine-tuned on the rewrites that `rl.keep` selects."""


class Dpo(Epochs):
    """DPO (arXiv 2305.18290): the rewrites that `rl.keep` selects win against the worst of their document."""

    beta: float = Field(default=0.01, gt=0)
    """Weight of the KL to the teacher at the round's start."""


class Grpo(Section):
    """GRPO (arXiv 2402.03300): a gradient step for every `reward.documents_per_student` documents."""

    kl: float = Field(default=0.01, ge=0)
    """Weight of the KL to the untrained teacher."""


class Rl(Section):
    algorithm: Literal["rest_em", "grpo", "dpo"] = "rest_em"
    """ReST-EM (arXiv 2312.06585, SEAL's choice), GRPO (arXiv 2402.03300), or DPO (arXiv 2305.18290) on best and worst
    (as in Montessori-Instruct, arXiv 2410.14208). What it alone reads is in the section of its name."""
    rest_em: RestEm = RestEm()
    dpo: Dpo = Dpo()
    grpo: Grpo = Grpo()
    rounds: int = Field(default=2, ge=1)
    """Rounds of sample, score, update."""
    documents_per_round: int = Field(default=48, ge=1)
    """Documents drawn a round."""
    documents_per_batch: int | None = Field(default=None, ge=1)
    """ReST-EM and DPO: documents whose rewrites are sampled at once, in whole batches of documents that share students.
    While the students of one batch run, the next is sampled, if the writer or the students are outside this process
    (`teacher.writer: vllm`, `student.pool: ray`). null: enough documents for students that fill a pool."""
    group_size: int = Field(default=8, ge=2)
    """Lessons that are sampled for each document (G)."""
    rewrites_per_lesson: int = Field(default=1, ge=1)
    """Rewrites in a lesson: they are sampled, taught and credited as a set, so that diversity inside it pays."""
    explore: float = Field(default=0.0, ge=0, le=1)
    """`policy` prompting: share of the first round's samples whose strategy is assigned, evenly over
    `teacher.strategies`, instead of chosen by the teacher; it falls linearly to 0 over `explore_rounds`."""
    explore_rounds: int = Field(default=2, ge=1)
    """Rounds with assigned strategies."""
    keep: int = Field(default=1, ge=1)
    """The best `keep` lessons of a document, of those that pass `false_keep`: ReST-EM learns from them, they win DPO's
    pairs, and a student that is promoted was taught with them."""
    false_keep: float | None = Field(default=0.05, gt=0, lt=1)
    """Share of documents whose lessons all teach equally, of which a lesson would be kept all the same: the best of
    `group_size` noisy gains always stands out. The noise is measured by lessons that are taught twice
    (`reward.repeats`). From the second round on a kept lesson also gained more than the untrained teacher's did on
    average. A strict level learns from few documents where the reward is unreliable: raise `reward.repeats`, or the
    level. null keeps the best of every group that has a contrast, as SEAL does."""
    learning_rate: float = Field(default=2e-5, gt=0)
    """Learning rate of the teacher's optimiser, the same through the run."""
    validation_documents: int = Field(default=0, ge=0)
    """Documents of `data.train` that are never trained on: the gain on them after each round picks the checkpoint that
    is kept. 0 keeps the last."""
    judged_by: Measure | None = None
    """The measure by which rounds are judged on the validation documents; null: the reward. Where students are rewarded
    for their own confidence, a measure that knows the answers (`loglik`) says from which round on the two part: the
    teacher of the round that is best by it is kept, and `rl.patience` ends the run."""
    evaluation_lessons: int = Field(default=2, ge=1)
    """Lessons that a teacher writes for each validation or held-out document, each taught to a student of its own. The
    raw text is taught to as many students."""
    patience: int | None = Field(default=None, ge=1)
    """The run ends after so many rounds without a better validation gain; null runs all rounds."""
    promotion_threshold: float | None = Field(default=None, gt=0)
    """When a round's validation gain (in `reward.measure`) passes it, the student trained on the accepted lessons
    becomes the base of the next round's students (SOAR, arXiv 2601.18778)."""
    diversity_alarm: float = Field(default=1.5, gt=1)
    """Warn that the teacher repeats itself when a group's texts compress so many times better than at first."""

    @property
    def rewrites_per_document(self) -> int:
        """Rewrites that a document has in a round: G lessons of m rewrites."""
        return self.group_size * self.rewrites_per_lesson
