"""What can be set: one experiment, one YAML file, one `Config`.

Keys are strict (a misspelt one is refused with the nearest valid name, see `load.py`); the text under each
field is its documentation. `notewright train --help` points here.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from configs.curation import Curation
from configs.evaluation import Evaluation
from configs.section import Section
from configs.serving import Serving


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


class Teacher(Section):
    model: str = ""
    """Path or Hub id of the teacher's base model."""
    writer: Literal["transformers", "vllm", "endpoint"] = "transformers"
    """What samples: this process, a vLLM server that we start, or (curating alone) an OpenAI-compatible endpoint; see
    `serving`. ReST-EM and DPO load each round's adapter into the running server; GRPO runs vLLM inside its trainer, on
    a GPU."""
    prompting: Literal["strategy", "policy"] = "strategy"
    """`strategy`: each prompt names the way of rewriting (teacher/strategies/*.txt) and samples are spread over
    `strategies`. `policy`: the teacher opens its completion with a strategy tag `<name>` of its own choice; a model
    with a chat template is shown the menu of `strategies`, another the bare document."""
    strategies: tuple[str, ...] = ("implications", "rewrite", "question-answer")
    """Ways of rewriting: names of files in teacher/strategies, or paths of your own .txt files."""
    delimit: bool = True
    """Documents are data: a model with a chat template reads each between two markers that its author cannot know, and
    is told that nothing between them is an instruction. Others get the bare document."""
    max_new_tokens: int = Field(default=256, ge=1)
    """Longest rewrite sampled."""
    temperature: float = Field(default=1.0, ge=0)
    """Sampling temperature; 0 is greedy."""
    evaluation_temperature: float | None = Field(default=None, ge=0)
    """Of validation and held-out lessons, and of curation where that sets none; null takes `temperature`. RL at a
    temperature below 1 sharpens the teacher a little more with every round, until its rewrites repeat each other; what
    is used may well be sampled below it."""
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
    truncated: bool = True
    """Refuse a rewrite that reached `teacher.max_new_tokens` before its end."""
    max_repetition: float = Field(default=0.6, gt=0, le=1)
    """Largest share of a text's word 4-grams that may be repeats of an earlier one."""
    instructions: bool = True
    """Refuse a rewrite that followed what its document says to a model instead of rewriting it: it carries what it was
    ordered to write (`obeyed`), talks as an assistant or declines (`assistant_talk`), repeats the document's markers
    (`markers`), or is about something else (`unrelated`)."""
    min_shared: float = Field(default=0.15, ge=0, le=1)
    """Least share of a rewrite's content words that its document must hold (of the document's where those are fewer),
    from a teacher with a chat template; 0.3 at least where the document holds an order to a model. The lowest of 1,000
    rewrites by Qwen2.5-7B is 0.17. 0 for strategies that translate."""
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
    """Students per lesson with different seeds and, where documents share students, in different company; their mean is
    the reward. With one, some lessons of each round are taught twice, so that the reward's reliability is known."""
    adaptive: bool = False
    """Spend the students of all repeats but the first where they would most likely change which lesson is best."""
    pool_strategies: bool = False
    """Judge a lesson's gain with the help of what its strategies gained on all documents of the step (a mixed model,
    teacher/pooling.py): fewer students for the same ranking, where strategies are worth much the same everywhere."""
    set_credit: Literal["whole", "marginal"] = "whole"
    """With `rl.rewrites_per_lesson` above 1. `whole`: each rewrite of a set earns the set's gain. `marginal`: the set's
    gain minus the gain of the set without it, which costs one more student a rewrite of the set."""
    across_students: Literal["mean", "worst"] = "mean"
    """With several `student.models`: a lesson's gain is the mean over students, or that of the student it helps
    least."""
    minimum_reliability: float = Field(default=0.0, ge=0, lt=1)
    """Before the first round some lessons are taught repeatedly; where the reliability of the reward is below this, RL
    would fit noise and the run does not start. 0 does not measure."""
    retention_texts: str | None = None
    """JSONL of texts (`text`) the student should not forget."""
    retention_weight: float = Field(default=0.0, ge=0)
    """Penalty a nat of loss gained on the retention texts."""
    length_weight: float = Field(default=0.0, ge=0)
    """Penalty for each lesson token a token of the document, beyond the first."""
    overlap_weight: float = Field(default=0.0, ge=0)
    """Penalty for the share of a rewrite's word 4-grams that other rewrites of its set hold too: pays for diversity."""
    rejected: float = Field(default=-1.0, le=0)
    """Reward of a rewrite that a gate refused or whose student failed, added to the worst of its group."""


class Rl(Section):
    algorithm: Literal["rest_em", "grpo", "dpo"] = "rest_em"
    """ReST-EM (arXiv 2312.06585, SEAL's choice), GRPO (arXiv 2402.03300), or DPO (arXiv 2305.18290) on best and worst
    (as in Montessori-Instruct, arXiv 2410.14208)."""
    rounds: int = Field(default=2, ge=1)
    """Rounds of sample, score, update."""
    documents_per_round: int = Field(default=48, ge=1)
    """Documents drawn a round."""
    documents_per_batch: int | None = Field(default=None, ge=1)
    """ReST-EM and DPO: documents whose rewrites are sampled in one go, in whole batches of documents that share
    students. While students of one batch run the next is sampled, where the writer or the students are outside this
    process (`teacher.writer: vllm`, `student.pool: ray`). null: such that each has students enough to fill a pool."""
    group_size: int = Field(default=8, ge=2)
    """Lessons sampled a document (G)."""
    rewrites_per_lesson: int = Field(default=1, ge=1)
    """Rewrites in a lesson: they are sampled, taught and credited as a set, so that diversity inside it pays."""
    explore: float = Field(default=0.0, ge=0, le=1)
    """`policy` prompting: share of the first round's samples whose strategy is dealt evenly over `teacher.strategies`
    instead of chosen; falls linearly to 0 over `explore_rounds`."""
    explore_rounds: int = Field(default=2, ge=1)
    """Rounds with dealt strategies."""
    keep: int = Field(default=1, ge=1)
    """ReST-EM and DPO: the best `keep` lessons of a document that beat the group's mean by more than noise are learnt
    from."""
    learning_rate: float = Field(default=2e-5, gt=0)
    epochs: int = Field(default=2, ge=1)
    """ReST-EM and DPO: passes over the kept rewrites a round."""
    batch_size: int = Field(default=8, ge=1)
    """ReST-EM and DPO: kept rewrites (pairs) a gradient step. (GRPO steps once a batch of
    `reward.documents_per_student` groups.)"""
    kl: float = Field(default=0.01, ge=0)
    """GRPO: weight of the KL to the teacher at the start. DPO: its beta is the same weight, at least 0.01."""
    validation_documents: int = Field(default=0, ge=0)
    """Documents of `data.train` that are never trained on: the gain on them after each round picks the checkpoint that
    is kept as best. 0 keeps the last."""
    evaluation_lessons: int = Field(default=2, ge=1)
    """Lessons a document that a teacher writes where it is measured, on validation and on held-out documents, each
    taught to a student of its own. The raw text is taught to as many."""
    patience: int | None = Field(default=None, ge=1)
    """End after so many rounds without a better validation gain; null runs all rounds."""
    promotion_threshold: float | None = Field(default=None, gt=0)
    """Nats a token: when a round's validation gain passes it, the student trained on the accepted lessons becomes the
    base of the next round's students (SOAR, arXiv 2601.18778)."""
    diversity_alarm: float = Field(default=1.5, gt=1)
    """Warn when a group's texts compress this many times better than in the first step: the teacher repeats itself."""


class Questions(Section):
    """For documents without questions: written once, never shown to the teacher."""

    model: str = ""
    """Path or Hub id of the model that writes them, `teacher` for the untrained teacher; empty writes none."""
    file: Path | None = None
    """Where they are kept, one document a line, yours to edit; null takes `run.dir/questions.jsonl`."""
    per_document: int = Field(default=5, ge=1)
    """Questions asked of the writer for a document."""
    min_lift: float = Field(default=0.3, ge=0)
    """A question stays if the writing model finds its answer likelier by this many nats a token after document and
    question than after the question alone, the document alone, and the document with its other questions; 0 does not
    check. Of a passage's answers SmolLM2-135M keeps 13 of 18 at 0.3, and 3 or 4 of 36 put behind the wrong question."""


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
    serving: Serving = Serving()
    gates: Gates = Gates()
    reward: Reward = Reward()
    rl: Rl = Rl()
    questions: Questions = Questions()
    curation: Curation = Curation()
    evaluation: Evaluation = Evaluation()
    lab: Lab = Lab()
    tracking: Tracking = Tracking()

    @model_validator(mode="after")
    def consistent(self) -> "Config":
        if self.reward.credit == "shared" and self.reward.documents_per_student == 1:
            raise ValueError("reward.credit 'shared' with documents_per_student 1 is 'document': say so")
        if self.reward.retention_weight and not self.reward.retention_texts:
            raise ValueError("reward.retention_weight without reward.retention_texts penalises nothing: name a file")
        if self.student.tokens_per_step and self.student.texts_per_step:
            raise ValueError("student.tokens_per_step and student.texts_per_step exclude each other: set one to null")
        if self.student.tokens_per_step and self.student.steps is None:
            raise ValueError("student.tokens_per_step needs student.steps: else longer lessons would get more steps")
        if self.student.models and self.student.model:
            raise ValueError("student.model and student.models exclude each other")
        if self.rl.promotion_threshold is not None and not self.rl.validation_documents:
            raise ValueError("rl.promotion_threshold is about the validation gain: set rl.validation_documents")
        if self.rl.patience is not None and not self.rl.validation_documents:
            raise ValueError("rl.patience is about the validation gain: set rl.validation_documents")
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
        if self.teacher.writer == "endpoint" and not (self.serving.url and self.serving.model):
            raise ValueError("teacher.writer 'endpoint' needs serving.url and serving.model")
        if self.serving.chat and self.teacher.prompting == "policy" and self.curation.strategies:
            raise ValueError(
                "serving.chat begins no completion with a tag: curation.strategies needs teacher.prompting 'strategy'"
            )
        if self.reward.benchmarks and self.reward.credit != "shard":
            raise ValueError("reward.benchmarks are about no document: they need reward.credit 'shard'")
        return self
