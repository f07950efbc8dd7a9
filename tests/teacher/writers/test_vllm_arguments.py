"""What vLLM is started with, from a config and a checkpoint."""

import json
from pathlib import Path

import pytest

from configs.schema import Config
from teacher.writers.vllm_server import arguments


def config_with(teacher: dict | None = None, **serving) -> Config:
    given = {"model": "org/model", "writer": "vllm", "device": "cpu", **(teacher or {})}
    return Config.model_validate({"run": {"seed": 7}, "teacher": given, "serving": serving})


def value(given: tuple[str, ...], name: str) -> str:
    """The last one counts, as it does for vLLM."""
    return given[len(given) - 1 - given[::-1].index(name) + 1]


def test_a_base_model() -> None:
    given, model = arguments(config_with(), None)
    assert model == "base" and value(given, "--model") == "org/model" and value(given, "--served-model-name") == "base"
    assert "--enable-prefix-caching" in given and value(given, "--seed") == "7"
    # bfloat16 on AVX2 is eight times slower than float32.
    assert value(given, "--dtype") == "float32"
    assert value(arguments(config_with({"dtype": "bfloat16"}), None)[0], "--dtype") == "bfloat16"
    # The server is ours alone to place, and loads no code of the model's author.
    absent = {"--host", "--port", "--trust-remote-code", "--enable-lora", "--max-model-len", "--speculative-config"}
    assert not absent & set(given)
    # Sampling defaults of the model's folder do not stand in for ours.
    assert value(given, "--generation-config") == "vllm"


def test_settings_of_serving() -> None:
    given, _ = arguments(config_with(context_tokens=1024, ngram_tokens=5, arguments=["--seed", "9"]), None)
    assert value(given, "--max-model-len") == "1024" and value(given, "--seed") == "9"
    guess = json.loads(value(given, "--speculative-config"))
    assert guess["method"] == "ngram" and guess["num_speculative_tokens"] == 5


@pytest.mark.parametrize(("rank", "room"), [(4, 8), (8, 8), (20, 32), (64, 64), (200, 256), (600, 600)])
def test_an_adapter_is_served_on_its_base(tmp_path: Path, rank: int, room: int) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": rank}))
    given, model = arguments(config_with(), tmp_path)
    assert model == "teacher" and value(given, "--model") == "org/model"
    assert value(given, "--lora-modules") == f"teacher={tmp_path}" and value(given, "--max-lora-rank") == str(room)


def test_a_whole_checkpoint_is_the_model(tmp_path: Path) -> None:
    given, model = arguments(config_with(), tmp_path)
    assert model == "base" and value(given, "--model") == str(tmp_path) and "--enable-lora" not in given
