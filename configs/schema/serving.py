"""Settings of a teacher that writes through a server."""

from typing import Any

from pydantic import Field

from configs.schema.section import Section


class Serving(Section):
    """With `teacher.writer: vllm` the server that a run starts, with `endpoint` the server that you name."""

    url: str = ""
    """`endpoint`: base of its OpenAI-compatible API, e.g. https://host/v1."""
    model: str = ""
    """`endpoint`: the model's name there. `teacher.model` then names its tokenizer, which renders prompts and counts
    tokens. Where that cannot be had, and `chat` is on, take any tokenizer with a chat template."""
    chat: bool = False
    """`endpoint`: send the user's message to /chat/completions, where the server applies the chat template, instead of
    a rendered prompt to /completions."""
    api_key_variable: str = ""
    """`endpoint`: environment variable that holds the key; the key itself is never written to a file."""
    body: dict[str, Any] = Field(default_factory=dict)
    """`endpoint`: further fields of each request; null removes a field that is sent otherwise, e.g. {max_tokens: null,
    max_completion_tokens: 512}."""
    context_tokens: int | None = Field(default=None, ge=2)
    """Most tokens of prompt and completion together; longer documents are cut. null: the model's own limit. vLLM
    reserves memory for one sequence of this length."""
    ngram_tokens: int = Field(default=0, ge=0)
    """`vllm`: tokens that are guessed ahead from the prompt (n-gram speculative decoding); 0 guesses none. It is faster
    where rewrites quote their documents, and does not change their distribution."""
    arguments: tuple[str, ...] = ()
    """`vllm`: further arguments of `vllm serve`, e.g. [--tensor-parallel-size, "2"]. If one occurs twice, the last one
    counts."""
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

    def __hash__(self) -> int:
        # A config is a key of caches, and a dict has no hash.
        return hash(self.model_dump_json())
