"""What can be set: one experiment, one YAML file, one `Config`.

Keys are strict (a misspelt one is refused with the nearest valid name, see `load.py`); the text under each
field is its documentation. `notewright train --help` points here.
"""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    """A part of the config: frozen, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Run(Section):
    dir: Path = Path("runs/experiment")
    """Where everything of this run goes: config, journal, checkpoints, report."""
    seed: int = 0
    """Seed of sampling, data order and adapter initialisation. The same seed gives the same bits on CPU."""


class Data(Section):
    train: tuple[str, ...] = ()
    """Documents with questions that the teacher learns on: JSONL or Parquet files, or globs."""
    heldout: tuple[str, ...] = ()
    """Documents the teacher never learns on; the gains reported at the end are measured here."""
    limit: int | None = Field(default=None, ge=1)
    """Use only the first `limit` documents of `train`."""
    heldout_limit: int | None = Field(default=None, ge=1)
    """Use only the first `heldout_limit` documents of `heldout`."""


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
    """Path or Hub id of the student's base model."""
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
    memory_fraction: float = Field(default=0.6, gt=0, le=1)
    """Share of the free memory that the plan may use."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Base weights. auto: bfloat16 on a GPU, float32 on CPU (bfloat16 on AVX2 is about 8x slower). Adapters are
    float32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    compile: bool = False
    """torch.compile the decoder layers."""
    gradient_checkpointing: bool = False
    prompt_template: str = "{question}"
    """How a question is put to the student, e.g. `Question: {question}\\nAnswer:`."""
    decode: bool = False
    """Also decode answers greedily and grade them (exact match, 60% token recall); log-likelihoods are always taken."""
    max_answer_tokens: int = Field(default=24, ge=1)
    """Longest answer decoded."""


class Teacher(Section):
    model: str = ""
    """Path or Hub id of the teacher's base model."""
    prompting: Literal["strategy", "policy"] = "strategy"
    """`strategy`: each prompt names the way of rewriting (teacher/strategies/*.txt) and samples are spread over
    `strategies`. `policy`: the prompt is the bare document and the teacher opens its completion with a strategy tag
    `<name>` of its own choice."""
    strategies: tuple[str, ...] = ("implications", "rewrite", "question-answer")
    """Ways of rewriting: names of files in teacher/strategies, or paths of your own .txt files."""
    max_new_tokens: int = Field(default=256, ge=1)
    """Longest rewrite sampled."""
    temperature: float = Field(default=1.0, ge=0)
    """Sampling temperature; 0 is greedy."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    batch_size: int = Field(default=16, ge=1)
    """Rewrites sampled at once."""
    lora: Lora | None = Lora()
    """Adapters that RL trains; null trains all weights (small teachers)."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"


class Gates(Section):
    """What a rewrite must pass before a student sees it; a gate's name is the reason it leaves."""

    min_words: int = Field(default=3, ge=1)
    max_tokens: int | None = Field(default=None, ge=1)
    """Longest accepted rewrite in teacher tokens; null accepts up to `teacher.max_new_tokens`."""
    max_repetition: float = Field(default=0.6, gt=0, le=1)
    """Largest share of a text's word 4-grams that may be repeats of an earlier one."""
    leak_ngram: int = Field(default=8, ge=2)
    """A rewrite that shares this many words in a row with a benchmark item, absent from its source, is a leak."""


class Reward(Section):
    credit: Literal["document", "shared", "shard"] = "shared"
    """`document`: one student a rewrite. `shared`: one student learns the j-th rewrite of every document of a batch,
    and each rewrite is rewarded with its own document's gain. `shard`: that student's gain over everything, for all."""
    documents_per_student: int = Field(default=8, ge=1)
    """Documents that share a student under `shared` and `shard`."""
    benchmarks: tuple[str, ...] = ()
    """Only under `shard` credit: `file:PATH.jsonl`, `text:PATH.jsonl`, `lm-eval:TASK`, `olmo:TASK`
    (student/benchmarks.py). Their `reward` items are asked beside the documents' own questions; their `heldout` items
    are kept out of lessons."""
    repeats: int = Field(default=1, ge=1)
    """Students per lesson with different seeds; their mean is the reward."""
    retention_texts: str | None = None
    """JSONL of texts (`text`) the student should not forget."""
    retention_weight: float = Field(default=0.0, ge=0)
    """Penalty a nat of loss gained on the retention texts."""
    length_weight: float = Field(default=0.0, ge=0)
    """Penalty for each lesson token a token of the document, beyond the first."""
    rejected: float = Field(default=-1.0, le=0)
    """Reward of a rewrite that a gate refused or whose student failed, added to the worst of its group."""


class Rl(Section):
    algorithm: Literal["rest_em", "grpo"] = "rest_em"
    """ReST-EM (arXiv 2312.06585, SEAL's choice) or GRPO (arXiv 2402.03300)."""
    rounds: int = Field(default=2, ge=1)
    """Rounds of sample, score, update."""
    documents_per_round: int = Field(default=48, ge=1)
    """Documents drawn a round."""
    group_size: int = Field(default=8, ge=2)
    """Rewrites sampled a document (G)."""
    keep: int = Field(default=1, ge=1)
    """ReST-EM: the best `keep` rewrites of a document that beat the group's mean are learnt from."""
    learning_rate: float = Field(default=2e-5, gt=0)
    epochs: int = Field(default=2, ge=1)
    """ReST-EM: passes over the kept rewrites a round."""
    batch_size: int = Field(default=8, ge=1)
    """ReST-EM: kept rewrites a gradient step. (GRPO steps once a batch of `reward.documents_per_student` groups.)"""
    kl: float = Field(default=0.01, ge=0)
    """GRPO: weight of the KL to the teacher at the start."""


class Curation(Section):
    input: tuple[str, ...] = ()
    """Shards to curate: JSONL (plain, .gz, .zst) or Parquet files, or globs."""
    output: Path = Path("runs/experiment/dataset")
    """The dataset folder: data/*.parquet, manifest.json, README.md (the card)."""
    limit: int | None = Field(default=None, ge=1)
    """Use only the first `limit` documents of each file."""
    rewrites_per_document: int = Field(default=1, ge=1)
    temperature: float | None = Field(default=None, ge=0)
    """Sampling temperature while curating; null takes the teacher's."""
    workers: int = Field(default=1, ge=1)
    """Worker processes, one file each."""
    licence: str = "unknown"
    """Licence of rows whose metadata names none."""
    language: str = "en"
    """Language of the texts, as the dataset card names it (ISO 639-1)."""
    source_datasets: tuple[str, ...] = ("original",)
    """Hub ids of the datasets that the shards come from, for the card; `original` where they come from none."""


class Lab(Section):
    """The embedded world of fictional people (curation/lab)."""

    dir: Path = Path("models/lab")
    """Where the world's shards and base models are kept and found again."""
    base_people: int = Field(default=240, ge=16)
    """People the students know from pretraining."""
    train_people: int = Field(default=192, ge=8)
    heldout_people: int = Field(default=48, ge=8)
    curate_people: int = Field(default=64, ge=8)
    effort: float = Field(default=1.0, gt=0, le=1)
    """Share of the usual training steps of the lab's models; less is for trying the plumbing, the models are poor."""
    seed: int = 0


class Tracking(Section):
    wandb: Literal["disabled", "offline", "online"] = "disabled"
    """metrics.jsonl is always written; this mirrors it. `disabled` never imports wandb."""
    project: str = "notewright"


class Config(Section):
    """One experiment."""

    run: Run = Run()
    data: Data = Data()
    student: Student = Student()
    teacher: Teacher = Teacher()
    gates: Gates = Gates()
    reward: Reward = Reward()
    rl: Rl = Rl()
    curation: Curation = Curation()
    lab: Lab = Lab()
    tracking: Tracking = Tracking()

    @model_validator(mode="after")
    def consistent(self) -> "Config":
        if self.reward.credit == "shared" and self.reward.documents_per_student == 1:
            raise ValueError("reward.credit 'shared' with documents_per_student 1 is 'document': say so")
        if self.reward.retention_weight and not self.reward.retention_texts:
            raise ValueError("reward.retention_weight without reward.retention_texts penalises nothing: name a file")
        if self.reward.benchmarks and self.reward.credit != "shard":
            raise ValueError("reward.benchmarks are about no document: they need reward.credit 'shard'")
        return self
