"""What the engine shows of itself on each family of causal language models is what separate PEFT runs say."""

import pytest

from student.bench.families import FAMILIES, examine_family, markdown

SERVED = ("packed", "single")


def check(family):
    """What is off by more than rounding is refused; float32 rounds to about 1e-6."""
    if family.verdict in SERVED:
        assert family.loss < 1e-4 and family.gradient < 1e-3 and family.score < 1e-3, family
    else:
        assert family.reason, family


@pytest.mark.wild
@pytest.mark.parametrize(
    ("name", "verdict"), [("qwen2", "packed"), ("xglm", "single"), ("falcon_h1", "refused"), ("doge", "refused")]
)
def test_a_family_serves_as_it_says_or_is_refused(name, verdict):
    family = examine_family(name)
    assert family.verdict == verdict
    check(family)


@pytest.mark.slow
@pytest.mark.wild
def test_every_family_of_transformers_serves_as_it_says_or_is_refused():
    families = [examine_family(name) for name in FAMILIES]
    for family in families:
        check(family)
    verdicts = {family.name: family.verdict for family in families}
    for name in ("opt", "bloom", "falcon", "mpt", "mamba", "mamba2", "rwkv", "lfm2", "qwen3_next", "gpt_oss"):
        assert verdicts[name] == "single"
    assert sum(verdict in SERVED for verdict in verdicts.values()) >= 90
    assert sum(verdict == "not built" for verdict in verdicts.values()) <= 15
    table = markdown(families)
    assert all(name in table for name in FAMILIES)
