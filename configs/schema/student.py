"""Settings of the students: their base models, how they are trained, and where."""

from typing import Literal

from pydantic import Field

from configs.schema.section import Section

TEACHER = "teacher"
"""Stands for a model: for the round's teacher in `student.model`, for the untrained teacher in `questions.model`."""


class Lora(Section):
    rank: int = Field(default=32, ge=1)
    """Rank r of the adapters."""
    alpha: float = Field(default=64.0, gt=0)
    """Scale numerator: the update is alpha/r * BA, or alpha/sqrt(r) * BA with `rslora`."""
    rslora: bool = False
    """Rank-stabilised scaling (arXiv 2312.03732)."""
    target: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Names of the linear layers that get an adapter (suffix match as in PEFT), or every one but the output layer."""


class Student(Section):
    model: str = ""
    """Path or Hub id of the student's base model. `teacher`: the student is the teacher as it is at the round's start
    (SEAL's single-model mode, arXiv 2506.10943)."""
    models: tuple[str, ...] = ()
    """Several students instead of one: each lesson is taught to each, see `reward.across_students`."""
    mode: Literal["lora", "full"] = "lora"
    """`lora`: many students in one batch. `full`: all weights, one student at a time (continued pretraining)."""
    lora: Lora = Lora()
    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak learning rate of AdamW, where the lesson does not choose its own."""
    epochs: int = Field(default=10, ge=1)
    """Passes over a lesson's texts, where neither `steps` nor the lesson says otherwise."""
    steps: int | None = Field(default=None, ge=1)
    """Optimiser steps whatever the lesson's length; lessons of one group then get equal steps."""
    texts_per_step: int | None = Field(default=None, ge=1)
    """Texts in one optimiser step; null takes all of a lesson's texts at once."""
    tokens_per_step: int | None = Field(default=None, ge=8)
    """Instead of `texts_per_step`: tokens in one optimiser step, give or take a text. With `steps` all lessons get
    equal tokens and equal steps, so that a long rewrite is not worth more for being long."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Learning rate after the warm-up."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps of linear warm-up."""
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float | None = Field(default=1.0, gt=0)
    """Each student's gradient is clipped to this norm on its own; null never clips."""
    loss_on: str = "all"
    """`all` tokens of a text, or only segments of this kind (`output`, or any kind the lesson names)."""
    max_text_tokens: int = Field(default=2048, ge=8)
    """Longer lesson texts are cut here, and counted."""
    row_tokens: int | None = Field(default=None, ge=8)
    """Length of a packed row; null picks the fullest packing by itself."""
    max_slots: int | None = Field(default=None, ge=1)
    """Most students trained at once; null plans it from measured memory."""
    pool: Literal["inline", "ray"] = "inline"
    """Where students run. `inline`: in this process, on one device. `ray`: on actors, one a GPU or CPU share, of the
    cluster that RAY_ADDRESS names, else of this machine."""
    actors: int | None = Field(default=None, ge=1)
    """Actors of `pool: ray`; null takes one for each GPU of the cluster, or for each of its CPU shares."""
    cpus_per_actor: int = Field(default=1, ge=1)
    """CPUs of an actor. Training is dealt to as many processes, but exams share each operation among as many threads,
    so that on a CPU many actors of one are faster than few of many."""
    num_gpus_per_actor: float = Field(default=1.0, gt=0)
    """GPUs of an actor; below 1 several share a GPU. Ray knows of its own processes alone: to keep a GPU for the
    teacher, start Ray with the others (`CUDA_VISIBLE_DEVICES=1,2,3 ray start --head`)."""
    exact: bool = False
    """Students are trained in the same batches, one thread each, on every pool and number of actors: outcomes equal to
    the last bit on a CPU. Otherwise they equal each other to rounding, and few students still keep all actors busy."""
    memory_fraction: float = Field(default=0.6, gt=0, le=1)
    """Share of the free memory that the plan may use."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Base weights. auto: bfloat16 on a GPU, float32 on CPU (bfloat16 on AVX2 is about 8x slower). Adapters are
    float32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    compile: bool = False
    """torch.compile the decoder layers."""
    gradient_checkpointing: bool = False
    split_lines: bool = False
    """Each line of a rewrite is a training text of its own, as in SEAL."""
    with_document: bool = False
    """Every lesson also holds the document itself, as in SEAL."""
    prompt_template: str = "{question}"
    """How a question is put to the student, e.g. `Question: {question}\\nAnswer:`."""
    decode: bool = False
    """Also decode answers greedily and grade them (exact match, 60% token recall); log-likelihoods are always taken."""
    max_answer_tokens: int = Field(default=24, ge=1)
    """Longest answer decoded."""

    @property
    def names(self) -> tuple[str, ...]:
        """The base models of all students."""
        return self.models or (self.model,)
