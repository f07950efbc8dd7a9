"""Settings of the teacher and its server, of the gates for its texts, and of the model that writes questions."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from configs.schema.plans import PlanOptions, Plans
from configs.schema.section import Named, Section
from configs.schema.student import Lora

HEAD = "head"
"""Stands for a model in `teacher.model`: a softmax over strategies, from features of the document."""

Checker = Literal["sympy", "z3", "python"]
"""What can prove a solution (teacher/checkers)."""


class Teacher(Section):
    model: Named = ""
    """Path or Hub id of the teacher's base model. Not needed where all `strategies` are ready and nobody chooses.
    `head`: a small softmax that chooses among ready strategies by features of the document (its length, its shares of
    numbers and capitals ..., see teacher/prompting/features.py), and at first takes each as often. It has `prompting:
    policy`, `lora: null` and `rl.learning_rate: 0.2` unless you set others."""
    writer: Literal["transformers", "vllm", "endpoint"] = "transformers"
    """What samples: this process, a vLLM server that a run starts, or (for curation alone) an OpenAI-compatible
    endpoint; see `serving`. ReST-EM and DPO load each round's adapter into the running server; GRPO runs vLLM inside
    its trainer, on a GPU."""
    prompting: Literal["strategy", "policy"] = "strategy"
    """`strategy`: each prompt asks for one strategy (teacher/strategies/*.txt), and samples are spread over
    `strategies`. `policy`: the teacher begins its completion with a tag `<name>` of the strategy that it chooses; a
    model with a chat template is shown what `strategies` are, any other the document alone. Where some are ready, it
    chooses among the tags of `strategies` alone; the tag of a ready one is all that it writes and learns from, so that
    a small model can be a teacher."""
    strategies: tuple[Named, ...] = Field(default=("implications", "rewrite", "question-answer"), min_length=1)
    """Ways of rewriting. The teacher writes those that are names of files in teacher/strategies, or paths of your own
    .txt files. One whose file holds `{related}` (`connections`) also reads a second passage, and writes what follows
    from both: the next one of its document, or for a document that is not cut the one of another document that is most
    like it (BM25), whose licence can be combined with its own; the prompt has to have room for two. Ready without it
    are rules (`sentences`, `permutation`, `cloze`, `densest`, `echo`: made of the document's own sentences, see
    teacher/ready/rules.py) and `brought:NAME`: texts that documents bring in `rewrites: [{strategy: NAME, text: ...}]`,
    or in a list of texts `NAME`. `a+b` joins the texts of several, e.g. `sentences+question-answer` (arXiv 2603.23562)
    or `implications+rewrite+faq` (2603.18534). `plan:NAME`: no text but a plan (teacher/plans/*.json, or the path of
    your own) by which a student makes its data of a task of grids and trains on it, and `a+plan:NAME` a text with a
    plan; needs `reward.credit: document`."""
    plans: bool = False
    """The teacher also writes how the student learns its text: a plan (student/plans.py) of learning rate, steps, which
    tokens carry the loss, and the share of the raw document. A language model writes it as JSON before the text, a head
    chooses among `plan_options`; students of texts that nobody wrote have the settings of `student`. An invalid plan is
    a rejected lesson. Needs `reward.credit: document`. For tasks of grids take a strategy whose prompt asks for a plan
    and nothing else, as `plan` does. Where all `strategies` are so, a server is held to the schema of plans (`writer`
    `vllm`, or `endpoint` by `response_format`); where a text follows the plan, and in this process, nothing does."""
    plan_bounds: Plans = Plans()
    """What plans may ask for."""
    plan_options: PlanOptions = PlanOptions()
    """What a head chooses a plan from."""
    delimit: bool = True
    """Documents are data: a model with a chat template reads each between two markers that its author cannot know, and
    is told that nothing between them is an instruction. Other models get the document alone."""
    thinking_tags: tuple[str, str] | None = ("<think>", "</think>")
    """What a model writes between these before its rewrite is thinking, and no part of the rewrite; null keeps it. What
    an endpoint sends as `reasoning_content` never is. Thinking counts towards `max_new_tokens`."""
    max_new_tokens: int = Field(default=256, ge=1)
    """Most tokens of a sampled rewrite, or of each call for it, see `continuations`."""
    continuations: int = Field(default=0, ge=0)
    """How often a rewrite that reached `max_new_tokens` goes on in a further call, as long as prompt, text and call fit
    the teacher's context. Prompts keep the room of a single call. 0: such a rewrite is refused as `truncated`. GRPO,
    which samples by itself, takes 0 alone. Behind an endpoint with `serving.chat` the model is asked to go on where it
    stopped, and may write a word of the seam twice."""
    temperature: float = Field(default=1.0, ge=0)
    """Sampling temperature; 0 is greedy."""
    evaluation_temperature: float | None = Field(default=None, ge=0)
    """Temperature of validation and held-out lessons, and of curation unless it sets its own; null takes `temperature`.
    RL at a temperature below 1 sharpens the teacher with every round, until its rewrites repeat each other. Lessons
    that are used may be sampled below it."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Samples from the likeliest tokens that together have this probability. GRPO needs 1: it learns from the
    log-probabilities of the whole distribution."""
    batch_size: int = Field(default=16, ge=1)
    """Rewrites sampled at once."""
    lora: Lora | None = Lora()
    """Adapters that RL trains; null trains all weights (small teachers)."""
    gradient_checkpointing: bool = False
    """The update computes activations again in its backward pass instead of keeping them, which takes a third longer.
    `false`: only once memory ran out without. A pass of the update has at most `batch_size` rows, and half as many each
    time that memory runs out."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @property
    def longest(self) -> int:
        """Most tokens of a rewrite over all its calls."""
        return self.max_new_tokens * (1 + self.continuations)

    @property
    def chooses_only(self) -> bool:
        """Whether the teacher is a head, which is made here and writes nothing."""
        return self.model == HEAD

    @field_validator("thinking_tags")
    @classmethod
    def are_two(cls, tags: tuple[str, str] | None) -> tuple[str, str] | None:
        """Two texts that can be told apart."""
        if tags is not None and not (tags[0].strip() and tags[1].strip() and tags[0] != tags[1]):
            raise ValueError("expected an opening and a closing tag, e.g. [<think>, </think>]")
        return tags


class Serving(Section):
    """With `teacher.writer: vllm` the server that a run starts, with `endpoint` the server that you name."""

    url: str = ""
    """`endpoint`: base of its OpenAI-compatible API, e.g. https://host/v1."""
    model: str = ""
    """`endpoint`: the model's name there. `teacher.model` then names its tokenizer, which renders prompts and counts
    tokens. Where that cannot be had, and `chat` is on, take any tokenizer with a chat template."""
    chat: bool = False
    """`endpoint`: post messages to /chat/completions (it applies the chat template), not prompts to /completions.
    What its template adds, such as today's date, is the endpoint's affair and in no fingerprint."""
    api_key_variable: str = ""
    """`endpoint`: environment variable that holds the key; the key itself is never written to a file."""
    body: dict[str, Any] = Field(default_factory=dict)
    """`endpoint`: further fields of each request; null removes a field that is sent otherwise, e.g. {max_tokens: null,
    max_completion_tokens: 512}. An endpoint may have defaults of its own for what is not sent: one on vLLM takes them
    from the model's generation config unless the body has {top_k: 0, min_p: 0, repetition_penalty: 1}."""
    context_tokens: int | None = Field(default=None, ge=2)
    """Most tokens of prompt and completion together; longer documents are cut. null: the model's own limit. vLLM
    reserves memory for one sequence of this length."""
    ngram_tokens: int = Field(default=0, ge=0)
    """`vllm`: tokens that are guessed ahead from the prompt (n-gram speculative decoding); 0 guesses none. It is faster
    where rewrites quote their documents, and does not change their distribution."""
    arguments: tuple[str, ...] = ()
    """`vllm`: further arguments of `vllm serve`, e.g. [--tensor-parallel-size, "2"]. The last of equal ones counts."""
    concurrency: int = Field(default=64, ge=1)
    """Most requests that one process has open. A batch (`teacher.batch_size` documents) should be several times as
    large, so that few places are empty while it ends."""
    timeout_seconds: float = Field(default=300, gt=0)
    """A request that takes longer is cancelled and sent again."""
    deadline_seconds: float = Field(default=1800, gt=0)
    """If a prompt has no reply after this time, for whatever reason, its document is recorded as failed. The time in
    which a server of ours starts again does not count."""
    start_seconds: float = Field(default=900, gt=0)
    """`vllm`: longest time that the start of the server may take."""
    restarts: int = Field(default=5, ge=0)
    """`vllm`: how often a server that died is started again before the run fails."""

    @field_validator("url")
    @classmethod
    def is_base(cls, url: str) -> str:
        """An address that paths can be put after."""
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:  # half an IPv6 address, a port that is none
            usable = None
        if url and (not usable or url != "".join(url.split())):
            raise ValueError("expected the base of an API with its scheme, e.g. https://host/v1")
        if url and (parts.query or parts.fragment or parts.path.rstrip("/").endswith("/completions")):
            raise ValueError("expected the base of an API, e.g. https://host/v1: /completions is put after it")
        return url

    @field_validator("body")
    @classmethod
    def is_json(cls, body: dict[str, Any]) -> dict[str, Any]:
        """Fields that a request can carry, and whose reply can be read."""
        try:
            json.dumps(body, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"expected values that JSON has ({error})") from None
        if body.get("stream"):
            raise ValueError("expected no `stream`: whole replies are read, not streams")
        return body


class Gates(Section):
    """What a rewrite must pass before a student sees it. The gate's name is recorded as the reason of a refusal."""

    min_words: int = Field(default=3, ge=1)
    max_tokens: int | None = Field(default=None, ge=1)
    """Most tokens (of the teacher) of an accepted rewrite; null accepts all that it may write
    (`teacher.max_new_tokens`, `teacher.continuations`)."""
    truncated: bool = True
    """Refuse a rewrite that was cut before its end."""
    max_repetition: float = Field(default=0.6, gt=0, le=1)
    """Largest share of a text's word 4-grams that may occur earlier in it."""
    instructions: bool = True
    """Refuse a rewrite that followed what its document says to a model instead of rewriting it: it carries what it was
    ordered to write (`obeyed`), talks as an assistant or declines (`assistant_talk`), repeats the document's markers
    (`markers`), or is about something else (`unrelated`)."""
    min_shared: float = Field(default=0.15, ge=0, le=1)
    """Least share of a rewrite's content words that its document must hold (of the document's where those are fewer),
    from a teacher with a chat template; 0.3 at least where the document holds an injection. Of 1,000 English rewrites
    by Qwen2.5-7B none has less than 0.16. A text in another language passes with names and numbers of the document; 0
    for strategies that translate documents with few of these."""
    leak_ngram: int = Field(default=8, ge=2)
    """A rewrite that shares this many words in a row with a benchmark item, absent from its source, is a leak."""
    verify: dict[Named, Annotated[tuple[Checker, ...], Field(min_length=1)]] = Field(default_factory=dict)
    """Prompts whose texts are problems with solutions (teacher/strategies/problems.txt), each with its checkers, e.g.
    {problems: [sympy, python]}. A text that none of them proves is refused as `unproven`, so that no student and no
    dataset gets it. `sympy`: arithmetic, equations and units in formulas; `z3`: puzzles of whole numbers; `python`: a
    program that prints the answer, in a sandbox (teacher/checkers)."""


class Questions(Section):
    """Questions for documents that bring none. They are written once, and the teacher never sees them."""

    model: Named = ""
    """Path or Hub id of the model that writes them, `teacher` for the untrained teacher. Empty: only kinds that are
    made by rule can be written."""
    kinds: tuple[Named, ...] = ()
    """Kinds of questions: `fact`, `why`, `implication`, `term`, `number`, paths of your own .yaml files (see
    teacher/questions/kinds.py), and `cloze`: a sentence with a name or number left out, made by rule, also without a
    model. Empty writes `fact` where `model` is set, and else nothing. A model without a chat template writes `fact`
    alone."""
    file: Path | None = None
    """File that keeps them, one document in a line, which you may edit; null takes `run.dir/questions.jsonl`. A table
    of what was written, kept and refused stands beside it."""
    per_document: int = Field(default=5, ge=1)
    """Most questions that are kept of a document; kinds take turns."""
    heldout_share: float = Field(default=0.3, ge=0, le=1)
    """Share of the facts that are asked for by held-out questions alone; a document of two facts or more has some on
    each side. Those about `data.heldout` judge the run, and no lesson may hold them. Those about `data.train` are in no
    exam of it: lessons may hold them in training, and curated rows may not, so that you can ask them of your own
    models. 0 rewards all."""
    replace: bool = False
    """Put the own questions of `data.train` aside where others are written: shows what training on the bare text is
    worth, judged by the questions that `data.heldout` brings."""
    min_lift: float = Field(default=0.3, ge=0)
    """A question stays if the writing model finds its answer likelier by this many nats a token after document and
    question than after the question alone, the document alone, and the document with its other questions; 0 does not
    check. Of a passage's answers SmolLM2-135M keeps 13 of 18 at 0.3, and 3 or 4 of 36 put behind the wrong question."""
    max_known: float = Field(default=0.5, gt=0, le=1)
    """A question is refused, since nothing can be gained, if every student answers it before any lesson: the answer is
    what it would write, or its tokens are likelier than this (their geometric mean); 1 does not check."""

    @property
    def asked_kinds(self) -> tuple[str, ...]:
        """The kinds that are written; none where documents keep to what they bring."""
        return self.kinds or (("fact",) if self.model else ())
