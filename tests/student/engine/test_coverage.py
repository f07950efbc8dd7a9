"""Adapters are on the text decoder alone, where PEFT trains and loads the same, and their coverage is said."""

import copy

import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    CLIPVisionConfig,
    Gemma3Config,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MixtralConfig,
    Qwen3MoeConfig,
)

from configs.schema import Lora
from student.engine.lora import AdapterStack, adapter_coverage, decoder_config, peft_config, target_names
from student.engine.packing import Rows

LORA = Lora(rank=2, alpha=4)
TEXT = {
    "vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "initializer_range": 0.2,
}  # fmt: skip
VISION = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip


def multimodal(family):
    torch.manual_seed(0)
    if family == "gemma3":
        config = Gemma3Config(text_config=TEXT, vision_config=VISION, mm_tokens_per_image=4)
        return AutoModelForCausalLM.from_config(config).eval()
    config = LlavaConfig(text_config=LlamaConfig(**TEXT), vision_config=CLIPVisionConfig(**VISION))
    return LlavaForConditionalGeneration(config).eval()


def mixture(family):
    torch.manual_seed(0)
    if family == "mixtral":
        config = MixtralConfig(**TEXT, num_local_experts=4)
    else:
        config = Qwen3MoeConfig(**TEXT, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24)
    return AutoModelForCausalLM.from_config(config).eval()


def adapted_by_peft(model, config):
    adapted = get_peft_model(copy.deepcopy(model), config)
    return {
        name.removeprefix("base_model.model.").removesuffix(".lora_A.default.weight")
        for name, parameter in adapted.named_parameters()
        if parameter.requires_grad and "lora_A" in name
    }


@pytest.mark.parametrize("family", ["gemma3", "llava"])
def test_a_multimodal_model_gets_adapters_on_its_text_decoder_alone(family, tmp_path):
    model = multimodal(family)
    names = target_names(model, LORA)
    assert len(names) == 14 and all(name.startswith("model.language_model.layers.") for name in names)
    assert adapted_by_peft(model, decoder_config(model, LORA)) == set(names)
    assert any("vision" in name for name in adapted_by_peft(model, peft_config(LORA, "all-linear"))), (
        "PEFT alone adapts the tower"
    )
    # `q_proj` is in both; the tower has it under its own name.
    assert target_names(model, Lora(target=("q_proj",))) == [name for name in names if name.endswith("q_proj")]

    base = copy.deepcopy(model)
    stack = AdapterStack(model, LORA)
    stack.allocate([1])
    with torch.no_grad():
        stack.params_KP.normal_(std=0.3)
    ids = torch.arange(6)[None]
    with torch.no_grad(), stack.using(Rows.of([0], 1, model.device)):
        ours = model(input_ids=ids).logits
    stack.export(0, tmp_path / "adapter")
    with torch.no_grad():
        untrained = base(input_ids=ids).logits
        theirs = PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()(input_ids=ids).logits
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    assert (ours - untrained).abs().max() > 0.1


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_fused_experts_carry_no_adapters_and_it_is_said(family):
    model = mixture(family)
    names = target_names(model, LORA)
    by_peft = adapted_by_peft(model, decoder_config(model, LORA))
    assert set(names) == {name for name in by_peft if ".mlp." not in name}, "PEFT may adapt experts and routers as well"
    coverage = adapter_coverage(model, LORA)
    assert set(coverage.modules) == {"q_proj", "k_proj", "v_proj", "o_proj"}
    experts = sum(p.numel() for name, p in model.named_parameters() if ".experts." in name)
    layers = sum(p.numel() for name, p in model.model.named_parameters() if "embed_tokens" not in name)
    assert coverage.fused == experts / layers > 0.5
    assert coverage.adapted + coverage.fused == pytest.approx(1, abs=0.02), "norms and routers are the rest"
    assert str(coverage).endswith(f"experts' fused weights, {coverage.fused:.1%}, carry none")


def test_a_dense_model_is_covered_whole(any_model):
    coverage = adapter_coverage(any_model, LORA)
    assert coverage.fused == 0 and coverage.adapted > 0.95 and "fused" not in str(coverage)
