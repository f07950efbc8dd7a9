"""Tiny real models of the families that students come from, and a tokenizer that knows the tests' words."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

WORDS = "the a cat dog bird sat ran flew on over mat rug sea where what did it was is red blue green".split()
VOCABULARY = [*WORDS, *(f"Ġ{word}" for word in WORDS), ".", "?", "Ġ.", "Ġ?", "<eos>", "<pad>", "<unk>"]
SHAPE = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>", pad_token="<pad>", unk_token="<unk>")


def build(family: str) -> PreTrainedModel:
    """A fresh model, the same bits each time; weights large enough that attention matters."""
    torch.manual_seed(0)
    grouped = {**SHAPE, "num_key_value_heads": 1, "head_dim": 16, "initializer_range": 0.2}
    match family:
        case "llama":
            model = LlamaForCausalLM(LlamaConfig(**grouped, tie_word_embeddings=True))
        case "qwen2":
            model = Qwen2ForCausalLM(Qwen2Config(**grouped))
        case "qwen3":
            model = Qwen3ForCausalLM(Qwen3Config(**grouped))
        case "gemma3":
            layers = ["sliding_attention", "full_attention"]
            model = Gemma3ForCausalLM(Gemma3TextConfig(**grouped, sliding_window=8, layer_types=layers))
        case "gpt_neox":
            model = GPTNeoXForCausalLM(GPTNeoXConfig(**SHAPE, initializer_range=0.2))
        case _:
            raise AssertionError(family)
    return model.eval()


FAMILIES = ["llama", "qwen2", "qwen3", "gemma3", "gpt_neox"]


@pytest.fixture(params=FAMILIES)
def any_model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return build(request.param)


@pytest.fixture
def llama() -> PreTrainedModel:
    return build("llama")
