"""Loads causal language models and their tokenizers, from a folder or by a Hub id, in the type that suits the device,
and says what a model cannot read: tokens beyond its embedding, positions beyond its longest text."""

import json
import logging
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LogitsProcessor,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import AttentionInterface

from configs.errors import UserError
from configs.schema import Student
from student.engine.encoding import encode_prompt, encode_text
from student.engine.model_names import check_available
from student.engine.packing import ROW_TOKENS
from student.records import Exam, Question

log = logging.getLogger(__name__)

SPARE = 8
"""Positions that are not filled: for opening tokens, the space before an answer, and words that are cut in two."""

LEAST_WIDTH = 256
"""Width from which students are trained at least twice as fast in bfloat16 on a CPU that computes it: 2.0 times at 256,
2.2 at 384, 2.6 at 576, but 1.8 at 192, 1.5 at 128 and 1.0 at 96 (Llama shapes, one core with AVX-512 BF16)."""

FLOAT32_ATTENTION = "sdpa_float32"
"""The name under which transformers knows attention in float32."""


def pick_device(device: str) -> torch.device:
    """The torch device of a setting; `auto` is the GPU if there is one. Raises UserError for a missing GPU."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device 'cuda' is set, but torch sees no GPU; use device: auto or cpu")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The torch dtype of a setting; `auto` is bfloat16 on a GPU and float32 on a CPU, where bfloat16 is about 8 times
    slower without units for it (AVX2)."""
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return torch.float32 if dtype == "float32" else torch.bfloat16


@cache
def has_bfloat16(device_type: str) -> bool:
    """Whether products in bfloat16 are faster here than in float32: a GPU since NVIDIA's Ampere, or a processor whose
    flags name AVX-512 BF16 or AMX. Emulated on AVX2 they are 8 times slower."""
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    processor = Path("/proc/cpuinfo")
    flags = processor.read_text(encoding="utf-8").split() if processor.is_file() else []
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags)


def student_dtype(settings: Student, model: str | PretrainedConfig | None = None) -> str:
    """The type in which the base weights of students are loaded, `float32` or `bfloat16`. It follows from settings, the
    model's config and the processor's flags, not from a timing, so that every call on a machine takes the same.
    `model`, a name or a config, stands in for `student.model`. Raises UserError, OSError or ValueError where `auto` has
    to look at a config that cannot be read."""
    if settings.dtype != "auto":
        return settings.dtype
    if settings.mode == "full":
        return "float32"  # small updates of all weights vanish in bfloat16
    device = pick_device(settings.device)
    if device.type == "cuda":
        return "bfloat16"
    if not has_bfloat16(device.type):
        return "float32"
    config = model if isinstance(model, PretrainedConfig) else read_config(model or settings.model)
    width = getattr(config.get_text_config(), "hidden_size", None) or 0
    return "bfloat16" if width >= LEAST_WIDTH else "float32"


def load_student(settings: Student) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The base of students in its type, and its tokenizer. Raises UserError as `load_model`."""
    check_available(settings.model)
    try:
        dtype = student_dtype(settings)
    except (OSError, ValueError):
        dtype = "float32"  # the reason why the config cannot be read is given where the model is loaded
    return load_model(settings.model, device=settings.device, dtype=dtype)


@contextmanager
def loading(name: str) -> Iterator[None]:
    """Whatever is raised over a model's files becomes a UserError with the model's name: besides OSError and ValueError
    the libraries raise TypeError, KeyError and ZeroDivisionError for configs and tokenizers of another form, and
    errors of their own for truncated weights."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = next(filter(str.strip, str(error).splitlines()), type(error).__name__)
        raise UserError(f"cannot load model {name!r}: {reason}") from error


def read_config(name: str) -> PretrainedConfig:
    """The config of a model. Raises UserError."""
    with loading(name):
        return AutoConfig.from_pretrained(name)  # type: ignore[no-any-return]


def read_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, as it is. Raises UserError."""
    with loading(name):
        return AutoTokenizer.from_pretrained(name)  # type: ignore[no-any-return]


def load_model(
    name: str, *, device: str = "auto", dtype: str = "auto"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model in eval mode and its tokenizer, which fits it (see `fit_tokenizer`). Of the model's own
    generation config its end tokens are kept, see `generation_config`.

    Raises UserError if `name` is neither a model folder nor a Hub id that can be reached, and for a tokenizer that does
    not fit the model.
    """
    check_available(name)
    where = pick_device(device)
    tokenizer = read_tokenizer(name)
    with loading(name):
        model = AutoModelForCausalLM.from_pretrained(name, dtype=pick_dtype(dtype, where))
    fit_tokenizer(tokenizer, model.get_input_embeddings().weight.shape[0], name)
    model.generation_config = generation_config(model, tokenizer)
    # The declared return type of from_pretrained is wider than what it returns here.
    return model.to(where).eval(), tokenizer  # type: ignore[arg-type]


def generation_config(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    temperature: float = 0.0,
    top_p: float = 1.0,
    max_new_tokens: int | None = None,
) -> GenerationConfig:
    """What `generate` does, and nothing else: it samples from softmax(logits / temperature), of the likeliest tokens
    that together have the probability `top_p`; at temperature 0 it takes the likeliest one.

    `generate` fills what its caller leaves open from the model's own config. Instruction models ship a
    `repetition_penalty` of 1.05 to 1.1 there, which counts the prompt's words and so punishes copying the document: at
    1.1 SmolLM2-135M samples at up to 3.3 nats from its own log-probabilities. So `load_model` replaces that config,
    too.
    """
    # top_k 0: the library's default of 50 would cut the tail that RL explores.
    sampling = {"temperature": temperature, "top_p": top_p, "top_k": 0} if temperature > 0 else {}
    return GenerationConfig(
        do_sample=temperature > 0,
        max_new_tokens=max_new_tokens,
        eos_token_id=sorted(end_ids(model.generation_config.eos_token_id, tokenizer)),
        # Unused, but the trainers tell of each one that differs from the tokenizer's.
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **sampling,
    )


class SampledAnswers(LogitsProcessor):
    """Makes greedy decoding sample from the model's distribution at temperature 1, by Gumbel noise on the logits
    (Maddison et al. 2014, arXiv 1411.0030), and notes how certain the model was of each token.

    Rows of equal seeds get equal noise, whatever else is decoded with them: two students' answers to a question differ
    by what the students know, and not by luck.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        """`seeds`: one of each row."""
        numbers = {seed: number for number, seed in enumerate(dict.fromkeys(seeds))}
        self._noise_of_row = torch.tensor([numbers[seed] for seed in seeds])
        self._generators = [torch.Generator().manual_seed(seed) for seed in numbers]
        self._steps: list[Tensor] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Logits (B, V) with noise; of a row that has ended they are not used."""
        logprobs_BV = scores.float().log_softmax(-1)
        self._steps.append(-logprobs_BV.mean(-1) - math.log(logprobs_BV.shape[-1]))
        vocabulary = scores.shape[-1]
        noise_SV = torch.stack([-torch.empty(vocabulary).exponential_(generator=g).log() for g in self._generators])
        return logprobs_BV + noise_SV[self._noise_of_row].to(scores.device)  # type: ignore[return-value]

    def certainties(self, lengths: Sequence[int]) -> list[float]:
        """Self-certainty of each row's answer, of so many tokens: the mean over them of KL(uniform || next token's
        distribution), in nats (arXiv 2505.19590)."""
        steps_BT = torch.stack(self._steps, dim=1).cpu()
        return [steps_BT[row, :length].mean().item() for row, length in enumerate(lengths)]


def end_ids(declared: int | list[int] | None, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Tokens that end a text: those that a model's generation config declares, and the tokenizer's."""
    ends = {*(declared if isinstance(declared, list) else [declared]), tokenizer.eos_token_id}
    return {int(end) for end in ends if end is not None}


def empty_model(name: str) -> PreTrainedModel:
    """The model by its config alone, on torch's meta device: shapes without weights. Raises UserError."""
    check_available(name)
    with torch.device("meta"), loading(name):
        return AutoModelForCausalLM.from_config(read_config(name))  # type: ignore[no-any-return]


def check_model(key: str, name: str) -> None:
    """Raises UserError if `name` is no model, or its tokenizer does not fit it. Reads config and tokenizer only,
    because the weights may be large."""
    try:
        check_available(name)
        rows = getattr(read_config(name).get_text_config(), "vocab_size", None)
        fit_tokenizer(read_tokenizer(name), rows or sys.maxsize, name)
    except UserError as error:
        raise UserError(f"{key} {name!r} cannot be loaded: {error}") from None


def fit_tokenizer(tokenizer: PreTrainedTokenizerBase, rows: int, name: str) -> None:
    """Makes the tokenizer of the model `name` give no token that its embedding of `rows` rows lacks, and pad.

    A padding token that is missing, or is beyond the embedding, is replaced by the end-of-text token. Other special
    tokens beyond it (Gemma 3's for images, in its text models) are read as the characters they are. Raises UserError
    for a tokenizer without an end-of-text token, and for one of another model, with ordinary tokens beyond.
    """
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"the tokenizer of {name} names no end-of-text token, so that no text would end: set eos_token in its"
            " tokenizer_config.json"
        )
    beyond = {token: id for token, id in tokenizer.get_vocab().items() if id >= rows}
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    if tokenizer.eos_token_id >= rows or beyond.keys() - special:
        raise UserError(
            f"the tokenizer of {name} has {len(beyond)} tokens beyond the {rows} rows of its embedding"
            f" ({min(beyond, key=beyond.__getitem__)!r} is the first): it is another model's, or the embedding was not"
            " resized"
        )
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id >= rows:
        tokenizer.pad_token = tokenizer.eos_token
    if beyond and tokenizer.is_fast:
        rules = json.loads(tokenizer.backend_tokenizer.to_str())
        rules["added_tokens"] = [token for token in rules["added_tokens"] if token["id"] < rows]
        # transformers has no method that forgets a token.
        tokenizer._tokenizer = type(tokenizer.backend_tokenizer).from_str(json.dumps(rules))


def positions_of(config: PretrainedConfig) -> int | None:
    """Tokens of the longest text that a model was made for; None where its config sets no limit. Models with learned
    positions (GPT-2, OPT) fail beyond it, those with rotary ones have met no text so long."""
    text_config = config.get_text_config()
    names = ("max_position_embeddings", "max_seq_len")
    limits = [getattr(text_config, name, None) for name in names]
    return next((int(limit) for limit in limits if limit is not None and limit > 0), None)


def within_positions(settings: Student, config: PretrainedConfig) -> Student:
    """The settings with texts, and rows that texts share, no longer than the model's positions."""
    positions = positions_of(config)
    if positions is None:
        return settings
    if positions < settings.max_text_tokens:
        log.info(
            "%s reads %d tokens: longer texts are split there, not at student.max_text_tokens %d",
            config.get_text_config().model_type, positions, settings.max_text_tokens,
        )  # fmt: skip
    shared = settings.row_tokens or ROW_TOKENS
    bounds = {"max_text_tokens": min(positions, settings.max_text_tokens), "row_tokens": min(positions, shared)}
    # Left open, a row's length is packing's own choice.
    return settings.model_copy(update=bounds if shared > positions else {"max_text_tokens": bounds["max_text_tokens"]})


def exam_problem(tokenizer: PreTrainedTokenizerBase, exam: Exam, positions: int | None) -> str | None:
    """Why a model with so many positions cannot be asked these questions: an answer leaves no room for any of its
    prompt. None where it can."""
    for question in exam.questions:
        answers = (question.answer, *question.distractors)
        # No tokenizer needs more tokens than bytes.
        if positions is None or max(map(_bytes, answers)) + SPARE < positions:
            continue
        if _room(tokenizer, answers, positions) < 1:
            return f"an answer is longer than the model's {positions} positions: {question.answer[:40]!r}"
    return None


def fitted_prompt(
    tokenizer: PreTrainedTokenizerBase, question: Question, positions: int | None, decoded: int = 0
) -> str:
    """The prompt of a question, or as much of its end as a model with so many positions can read before the longest of
    its answers and before `decoded` new tokens: what is left out stands first, as in lm-eval."""
    answers = (question.answer, *question.distractors)
    most = _bytes(question.prompt) + max(decoded, *map(_bytes, answers)) + SPARE
    if positions is None or most < positions:
        return question.prompt
    excess = len(encode_prompt(tokenizer, question.prompt)) - min(
        _room(tokenizer, answers, positions), positions - decoded
    )
    if excess <= 0:
        return question.prompt
    log.warning("a question is longer than the model's %d positions: its prompt is cut at the beginning", positions)
    offsets = tokenizer(question.prompt, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    # A token more, since what is left may tokenize differently at its new beginning.
    return question.prompt[offsets[excess + 1][0] :] if excess + 1 < len(offsets) else ""


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


def _room(tokenizer: PreTrainedTokenizerBase, answers: Sequence[str], positions: int) -> int:
    """Tokens that the longest answer leaves to its prompt."""
    longest = max(len(encode_text(tokenizer, answer, "all", sys.maxsize)[0]) for answer in answers)
    return positions - longest - SPARE


def attend_in_float32(model: PreTrainedModel) -> None:
    """Has the decoder of a bfloat16 model on a CPU compute attention in float32: torch's kernel for its backward pass
    takes half as long there, and the one for the forward pass no longer (9 heads, 8 rows of 100 positions)."""
    decoder = model.get_decoder()
    if model.dtype == torch.bfloat16 and model.device.type == "cpu" and decoder.config._attn_implementation == "sdpa":
        AttentionInterface.register(FLOAT32_ATTENTION, _attention)
        AttentionMaskInterface.register(FLOAT32_ATTENTION, sdpa_mask)
        decoder.set_attn_implementation(FLOAT32_ATTENTION)


def _attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Scaled dot-product attention in float32 for inputs of any type, as transformers calls it."""
    if attention_mask is not None and attention_mask.is_floating_point():
        attention_mask = attention_mask.float()
    output, _ = sdpa_attention_forward(module, query.float(), key.float(), value.float(), attention_mask, **options)
    return output.to(query.dtype), None
