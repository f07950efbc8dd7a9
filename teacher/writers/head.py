"""A small policy: a softmax over options, linear in what a document's prompt tells (teacher/prompting/features.py).

It has the form of a causal language model, whose prompt is the features and whose completion is one token, the option
that it chooses: so what samples, trains, keeps and resumes a language model does the same for it, by the same code. Its
weights are a score for each pair of a told token and an option, all 0 at first: each option is as likely as any other.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationMixin,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput

from configs.errors import UserError
from configs.schema import Teacher
from student.engine.models import generation_config, pick_device
from teacher.prompting.features import absences, choices, head_tokenizer

ABSENT = -1e3
"""Score of an option that the document has no text for. Its probability is 0 in float32, unless all are absent."""
CLOSED = -1e6
"""Score of a token that is no option here. Finite, since a trainer multiplies log-probabilities by probabilities."""


class HeadConfig(PretrainedConfig):
    """The shape of a head."""

    model_type = "notewright-head"
    auto_map: ClassVar[dict[str, str]] = {}  # TRL asks for it where a class is none of transformers'

    def __init__(
        self,
        vocab_size: int = 0,
        fields: Sequence[Sequence[int]] = (),
        absent: Sequence[Sequence[int]] = (),
        **settings: Any,
    ) -> None:
        """`fields` are the choices that a completion makes, one after another, each the token ids of its options; a
        later choice sees the earlier ones. `absent` are pairs: the token that says that an option cannot be had, and
        the option."""
        self.vocab_size = self.hidden_size = vocab_size
        self.fields = [list(options) for options in fields]
        self.absent = [list(pair) for pair in absent]
        self.use_cache = False
        super().__init__(**settings)


class Scores(nn.Module):
    """The score of every token as the next one (B, T, V): the mean of the weights of the tokens before it."""

    closed: Tensor
    absent: Tensor
    option: Tensor

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        V, fields = config.vocab_size, config.fields
        self.weights = nn.Parameter(torch.zeros(V, V))
        # Kept with the weights: what is not is lost where transformers makes a model without memory and fills it.
        closed_FV = torch.full((len(fields) + 1, V), CLOSED)
        for field, options in enumerate(fields):
            closed_FV[field, options] = 0.0
        closed_FV[-1, config.eos_token_id] = 0.0
        self.register_buffer("closed", closed_FV)
        absent_VV = torch.zeros(V, V)
        for told, option in config.absent:
            absent_VV[told, option] = ABSENT
        self.register_buffer("absent", absent_VV)
        option_V = torch.zeros(V, dtype=torch.long)
        option_V[[option for options in fields for option in options]] = 1
        self.register_buffer("option", option_V)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any) -> BaseModelOutput:
        """With a mean, a step of Adam moves a score by the learning rate at most, however much a prompt tells."""
        mask_BT = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        weights_BTV = self.weights[input_ids] * mask_BT[..., None]
        mean_BTV = weights_BTV.cumsum(1) / mask_BT.cumsum(1).clamp(min=1)[..., None]
        absent_BTV = (self.absent[input_ids] * mask_BT[..., None]).cumsum(1)
        chosen_BT = (self.option[input_ids] * mask_BT).cumsum(1).clamp(max=len(self.closed) - 1)
        return BaseModelOutput(last_hidden_state=mean_BTV + absent_BTV + self.closed[chosen_BT])


class Identity(nn.Module):
    """Stands for the output embedding, by which trainers multiply the last hidden state: scores are logits already."""

    bias = None

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.eye(size))


class Head(PreTrainedModel, GenerationMixin):
    """Scores as a causal language model."""

    config_class = HeadConfig
    base_model_prefix = "scores"

    def __init__(self, config: HeadConfig) -> None:
        super().__init__(config)
        self.scores = Scores(config)
        self.identity = Identity(config.vocab_size)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """All have their values."""

    def get_input_embeddings(self) -> nn.Module:
        return self.identity

    def get_output_embeddings(self) -> nn.Module:
        return self.identity

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any) -> CausalLMOutput:
        """Logits (B, T, V)."""
        return CausalLMOutput(logits=self.scores(input_ids, attention_mask).last_hidden_state)

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any
    ) -> dict[str, Any]:
        """The whole row at every step: there is no cache."""
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False


AutoConfig.register(HeadConfig.model_type, HeadConfig)
AutoModelForCausalLM.register(HeadConfig, Head)  # GRPO loads its reference by this


def load_head(settings: Teacher, checkpoint: Path | None) -> tuple[Head, PreTrainedTokenizerFast]:
    """The head over `teacher.strategies` at a checkpoint, or at its start where that is None, with its tokenizer.
    Raises UserError for strategies that it cannot choose among, or a checkpoint that cannot be read or chooses among
    others."""
    tokenizer = head_tokenizer(settings)
    if checkpoint is None:
        to_ids = tokenizer.convert_tokens_to_ids
        head = Head(
            HeadConfig(
                vocab_size=len(tokenizer), fields=[to_ids(tokens) for tokens in choices(settings)],
                absent=absences(tokenizer, settings), eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )  # fmt: skip
    else:
        try:
            kept = PreTrainedTokenizerFast.from_pretrained(checkpoint)
            head = Head.from_pretrained(checkpoint)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise UserError(f"cannot load the head at {checkpoint}: {str(error).splitlines()[0]}") from error
        chosen = ("<", "{", '"')
        had, has = ({token for token in some.get_vocab() if token.startswith(chosen)} for some in (kept, tokenizer))
        if had != has:
            changed = ", ".join(sorted(token for token in had ^ has if not token.startswith("<no ")))
            raise UserError(
                f"the head at {checkpoint} was trained to choose among other options ({changed} differ): set"
                " teacher.strategies and teacher.plan_options as they were, or train anew"
            )
        if kept.get_vocab().keys() != tokenizer.get_vocab().keys():
            raise UserError(f"the head at {checkpoint} reads other features than this version tells: train anew")
        tokenizer = kept
    head.generation_config = generation_config(head, tokenizer)
    return head.to(pick_device(settings.device)).eval(), tokenizer


@contextmanager
def untrained_name(settings: Teacher) -> Iterator[str]:
    """The name by which a trainer loads the untrained teacher: its model's, for a head that of a folder, which is
    removed with the block."""
    if not settings.chooses_only:
        yield settings.model
        return
    with TemporaryDirectory() as folder:
        load_head(settings, None)[0].save_pretrained(folder)
        yield folder
