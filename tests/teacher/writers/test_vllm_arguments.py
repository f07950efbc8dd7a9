"""What vLLM is started with, from a config and a checkpoint."""

import json
from pathlib import Path

import pytest

from configs.schema import Config
from teacher.writers.vllm_server import Launch, plan_launch


def config_with(teacher: dict | None = None, **serving) -> Config:
    given = {"model": "org/model", "writer": "vllm", "device": "cpu", **(teacher or {})}
    return Config.model_validate({"run": {"seed": 7}, "teacher": given, "serving": serving})


def launch(config: Config, checkpoint: Path | None = None) -> Launch:
    return plan_launch(config.teacher, config.serving, config.run.seed, checkpoint)


def value(arguments: tuple[str, ...], name: str) -> str:
    """The last one counts, as it does for vLLM."""
    return arguments[len(arguments) - arguments[::-1].index(name)]


def test_a_base_model() -> None:
    arguments, model = launch(config_with())
    assert model == value(arguments, "--served-model-name") == "base" and value(arguments, "--model") == "org/model"
    assert "--enable-prefix-caching" in arguments and value(arguments, "--seed") == "7"
    # bfloat16 on AVX2 is eight times slower than float32.
    assert value(arguments, "--dtype") == "float32"
    assert value(launch(config_with({"dtype": "bfloat16"})).arguments, "--dtype") == "bfloat16"
    # The server is ours alone to place, and loads no code of the model's author.
    absent = {"--host", "--port", "--trust-remote-code", "--enable-lora", "--max-model-len", "--speculative-config"}
    assert not absent & set(arguments)
    # Sampling defaults of the model's folder do not stand in for ours.
    assert value(arguments, "--generation-config") == "vllm"


def test_settings_of_serving() -> None:
    arguments, _ = launch(config_with(context_tokens=1024, ngram_tokens=5, arguments=["--seed", "9"]))
    assert value(arguments, "--max-model-len") == "1024" and value(arguments, "--seed") == "9"
    guess = json.loads(value(arguments, "--speculative-config"))
    assert guess["method"] == "ngram" and guess["num_speculative_tokens"] == 5


@pytest.mark.parametrize(("rank", "room"), [(4, 8), (8, 8), (20, 32), (64, 64), (200, 256), (600, 600)])
def test_an_adapter_is_served_on_its_base(tmp_path: Path, rank: int, room: int) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": rank}))
    arguments, model = launch(config_with(), tmp_path)
    assert model == "teacher" and value(arguments, "--model") == "org/model"
    assert value(arguments, "--lora-modules") == f"teacher={tmp_path}"
    assert value(arguments, "--max-lora-rank") == str(room)


def test_a_whole_checkpoint_is_the_model(tmp_path: Path) -> None:
    arguments, model = launch(config_with(), tmp_path)
    assert model == "base" and value(arguments, "--model") == str(tmp_path) and "--enable-lora" not in arguments
