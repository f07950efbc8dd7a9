"""What can be set about a teacher that writes through a server; part of the config in `schema.py`."""

from typing import Any

from pydantic import Field

from configs.schema.section import Section


class Serving(Section):
    """Where `teacher.writer` is `vllm`, the server that we start; where it is `endpoint`, the one that you name."""

    url: str = ""
    """`endpoint`: base of its OpenAI-compatible API, e.g. https://host/v1."""
    model: str = ""
    """`endpoint`: the model's name there. `teacher.model` is then its tokenizer: what prompts are rendered and tokens
    counted with. Take any with a chat template where the model's own cannot be had and `chat` is on."""
    chat: bool = False
    """`endpoint`: send the user's turn to /chat/completions, which has its own chat template, instead of our rendered
    prompt to /completions."""
    api_key_variable: str = ""
    """`endpoint`: environment variable with its key; the key itself is never written anywhere."""
    body: dict[str, Any] = Field(default_factory=dict)
    """`endpoint`: further fields of a request; null takes out one of ours, e.g. {max_tokens: null,
    max_completion_tokens: 512}."""
    context_tokens: int | None = Field(default=None, ge=2)
    """Longest prompt and completion together; longer documents are cut. null: what the config of `teacher.model` says.
    vLLM reserves memory for one sequence of this length."""
    ngram_tokens: int = Field(default=0, ge=0)
    """`vllm`: tokens guessed ahead from the prompt (n-gram speculative decoding); 0 guesses none. Pays where rewrites
    quote their documents, and changes no distribution."""
    arguments: tuple[str, ...] = ()
    """`vllm`: further arguments of `vllm serve`, e.g. [--tensor-parallel-size, "2"]. The last of equal ones counts."""
    concurrency: int = Field(default=64, ge=1)
    """Most requests of one process under way; a batch (`teacher.batch_size` documents) should hold several times as
    many, so that few slots are empty while it ends."""
    timeout_seconds: float = Field(default=300, gt=0)
    """A reply that takes longer is given up, and asked for again."""
    deadline_seconds: float = Field(default=1800, gt=0)
    """A prompt without a reply after this time, whatever the cause, becomes its document's error. Waiting for a server
    of ours that starts again does not count."""
    start_seconds: float = Field(default=900, gt=0)
    """`vllm`: longest time that a start may take."""
    restarts: int = Field(default=5, ge=0)
    """`vllm`: how often a server that died is started again before the run fails."""

    def __hash__(self) -> int:
        # A config is a key of caches, and a dict has no hash.
        return hash(self.model_dump_json())
