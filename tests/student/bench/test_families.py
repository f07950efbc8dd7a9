"""What the engine shows of itself on each family of causal language models is what separate PEFT runs say."""

import pytest

from student.bench.families import FAMILIES, VERDICTS, examine_family, markdown

SERVED = ("packed", "single")


def check(family):
    """What is off by more than rounding is refused; float32 rounds to about 1e-6."""
    assert family.verdict in VERDICTS
    if family.verdict in SERVED:
        assert family.loss < 1e-4 and family.gradient < 1e-3 and family.score < 1e-3, family
    else:
        assert family.reason, family


@pytest.mark.wild
@pytest.mark.parametrize(
    ("name", "verdict"),
    [("qwen2", "packed"), ("xglm", "single"), ("mamba", "single"), ("cohere", "refused"), ("doge", "refused")],
)
def test_a_family_serves_as_it_says_or_is_refused(name, verdict):
    family = examine_family(name)
    assert family.verdict == verdict
    check(family)


@pytest.mark.wild
def test_a_family_that_takes_too_long_is_not_tried_and_the_next_one_is():
    slow = examine_family("llama", most_seconds=0.001)
    assert slow.verdict == "not tried" and "too slow" in slow.reason
    assert examine_family("llama").verdict == "packed"


@pytest.mark.slow
@pytest.mark.wild
def test_every_family_of_transformers_serves_as_it_says_or_is_refused():
    families = [examine_family(name) for name in FAMILIES]
    for family in families:
        check(family)
    verdicts = {family.name: family.verdict for family in families}
    packed = (
        "llama mistral mixtral qwen2 qwen3 qwen3_moe gemma gemma3_text phi3 olmo2 granite deepseek_v3 smollm3 gpt_neox"
    )
    single = "opt bloom falcon mpt xglm mamba mamba2 rwkv jamba bamba nemotron_h lfm2 qwen3_next qwen3_5_text gpt_oss"
    for names, verdict in ((packed, "packed"), (single, "single"), ("gpt2 gemma2 cohere minicpm3", "refused")):
        assert {name: verdicts[name] for name in names.split()} == dict.fromkeys(names.split(), verdict)
    table = markdown(families)
    assert all(name in table for name in FAMILIES)
