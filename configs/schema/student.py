"""Settings of the students: their base models, how they are trained, and where."""

from typing import Literal

from pydantic import Field

from configs.schema.section import Named, Section

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
    """Which linear layers get an adapter: the last parts of their names, such as `q_proj`, or `all-linear`: all
    of the text decoder. A student's output layer, vision tower and experts' fused weights (3-D tensors, no linear
    layers) never get one; `doctor` and the run say what share of the decoder's weights the adapters cover."""


class Student(Section):
    model: Named = ""
    """Path or Hub id of the student's base model. `teacher`: the student is the teacher as it is at the round's start
    (SEAL's single-model mode, arXiv 2506.10943)."""
    models: tuple[Named, ...] = ()
    """Several base models instead of one: each lesson is taught to a student of each, see `reward.across_students`."""
    mode: Literal["lora", "full"] = "lora"
    """`lora`: many students in one batch. `full`: all weights, one student at a time (continued pretraining)."""
    lora: Lora = Lora()
    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak learning rate of AdamW, unless the lesson has its own."""
    epochs: int = Field(default=10, ge=1)
    """Passes over a lesson's texts, unless `steps` or the lesson says otherwise."""
    steps: int | None = Field(default=None, ge=1)
    """Optimiser steps of every lesson, however long it is; null takes `epochs`."""
    texts_per_step: int | None = Field(default=None, ge=1)
    """Texts in one optimiser step; null takes all of a lesson's texts at once."""
    tokens_per_step: int | None = Field(default=None, ge=8)
    """Instead of `texts_per_step`: tokens in one optimiser step, give or take one text. With `steps` all lessons get
    equal tokens and equal steps, so that a rewrite is not worth more because it is long."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Learning rate after the warm-up."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps of linear warm-up."""
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float | None = Field(default=1.0, gt=0)
    """Each student's own gradient is clipped to this norm; null never clips."""
    objective: Literal["text", "distill"] = "text"
    """What a student learns from a text about a document. `text`: its tokens. `distill`: to expect at each of its
    tokens what the student's own base expects with the document before the text (context distillation, Askell et al.
    2021, arXiv 2112.00861). A document and a text have to fit into the model's context together. Not with plans."""
    loss_on: str = "all"
    """The loss is on `all` tokens of a text, or on segments of one kind (`output`, or any that the lesson names)."""
    max_text_tokens: int = Field(default=2048, ge=8)
    """Most tokens of a text; a longer one is taught in parts of about equal length, cut between tokens."""
    max_lesson_tokens: int | None = Field(default=None, ge=8)
    """Most tokens that a student is trained on in all its steps; later steps are left out, and counted in `steps_cut`.
    null: no limit."""
    row_tokens: int | None = Field(default=None, ge=8)
    """Length of a packed row; null takes the length that packs most densely."""
    max_slots: int | None = Field(default=None, ge=1)
    """Most students that are trained at once; null: as many as fit, by measured memory."""
    pool: Literal["inline", "ray"] = "inline"
    """Where students run. `inline`: in this process, on one device. `ray`: on actors of the cluster that RAY_ADDRESS
    names, or else of this machine, one actor for each GPU or share of the CPUs."""
    actors: int | None = Field(default=None, ge=1)
    """Actors of `pool: ray`; null takes one for each GPU of the cluster, or for each share of its CPUs."""
    cpus_per_actor: int = Field(default=1, ge=1)
    """CPUs of an actor, which trains and examines its students in as many processes."""
    num_gpus_per_actor: float = Field(default=1.0, gt=0)
    """GPUs of an actor; below 1 several actors share a GPU. Ray does not know which GPU the teacher uses: to keep one
    for it, start Ray with the others (`CUDA_VISIBLE_DEVICES=1,2,3 ray start --head`)."""
    exact: bool = False
    """Train students in the same batches, with one thread each, on every pool and number of actors: outcomes are then
    equal to the last bit on a CPU. Else they are equal to rounding, and a few students keep all actors busy."""
    memory_fraction: float = Field(default=0.6, gt=0, le=1)
    """Share of the free memory that students may use."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the base weights; adapters are float32. `auto`: bfloat16 on a GPU, and on a CPU with AVX-512 BF16 or AMX
    for models of a width from 256 (twice as fast or more) if a step agrees with float32's; else float32. In `mode:
    full` the weights are float32 (small updates vanish in bfloat16), and `auto` computes their products in bfloat16
    (autocast) on GPUs and processors that do so faster; `float32` never does."""
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
    """Also decode answers greedily and grade them (exact match, 60% token recall), beside their log-likelihoods."""
    sampled_answers: int = Field(default=0, ge=0)
    """Answers that a student samples to each question, at temperature 1: by them `self_certainty` and `majority` are
    told, without an answer key."""
    max_answer_tokens: int = Field(default=24, ge=1)
    """Most tokens of a decoded answer."""

    @property
    def names(self) -> tuple[str, ...]:
        """The base models of all students."""
        return self.models or (self.model,)
