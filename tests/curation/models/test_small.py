"""A student that is pretrained from scratch on shards."""

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from configs.errors import UserError
from curation.models import small
from curation.models.small import pretrain
from student.engine.models import check_model
from tests.curation.datasets import write_jsonl

TEXT = "The station measures wind. Größe, 天気 and `max_tokens` are words, too.\n\n    code = 1\n"


def test_a_small_model_learns_its_shards_and_loads_like_any_other(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(small, "ROWS", 2)
    monkeypatch.setattr(small, "CONTEXT", 32)
    shard = write_jsonl(tmp_path / "a.jsonl", [{"text": f"{TEXT}{i}"} for i in range(40)])
    losses = []
    for steps in (1, 30):
        pretrain([str(shard)], tmp_path / f"model-{steps}", steps)
        losses.append(float(capsys.readouterr().err.split("  loss ")[-1].split()[0]))
    assert losses[1] < 0.5 * losses[0]
    check_model("student.model", str(tmp_path / "model-30"))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model-30")
    ids = tokenizer(TEXT)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == TEXT and ids[0] == tokenizer.bos_token_id
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model-30").config.vocab_size == len(tokenizer)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "model-1", "model-30"]
    with pytest.raises(UserError, match="no such file"):
        pretrain([str(tmp_path / "gone.jsonl")], tmp_path / "model", 1)
    with pytest.raises(UserError, match="model-1 is there already"):
        pretrain([str(shard)], tmp_path / "model-1", 1)
