"""Loading, saving and comparing configs: what a user typed, and the one line they get back."""

import json
from pathlib import Path

import pytest
import yaml

from configs import load
from configs.errors import UserError
from configs.load import config_difference, json_schema, load_config, save_config
from configs.schema import Config

PRESETS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


SCHEMA = PRESETS[0].parent / "schema.json"


@pytest.fixture
def write(tmp_path):
    def write(text: str, name: str = "experiment.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def refused(path, overrides=()) -> str:
    with pytest.raises(UserError) as caught:
        load_config(path, list(overrides))
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.name)
def test_every_preset_loads_and_survives_saving(path, tmp_path):
    config = load_config(path)
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.name)
def test_every_preset_names_its_schema_and_holds_to_it(path):
    jsonschema = pytest.importorskip("jsonschema")
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first == f"# yaml-language-server: $schema={SCHEMA.name}"
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    jsonschema.validate(yaml.safe_load(path.read_text(encoding="utf-8")), schema)
    for mistake in ({"rl": {"ronds": 3}}, {"rl": {"rounds": "many"}}, {"extends": 3}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(mistake, schema)


def test_the_schema_beside_the_presets_is_that_of_the_sections():
    schema = json_schema()
    assert json.loads(SCHEMA.read_text(encoding="utf-8")) == schema, "`notewright schema > configs/schema.json`"
    # What an editor shows for a field is the text under it.
    assert schema["$defs"]["Rl"]["properties"]["rounds"]["description"] == "Rounds of sample, score, update."
    assert "extends" in schema["properties"]


def test_the_later_source_wins(write):
    write("rl: {rounds: 3, group_size: 4}\nteacher: {lora: {rank: 8}}\n", "base.yaml")
    path = write("extends: base.yaml\nrl: {rounds: 5}\nstudent: {model: a}\n")
    config = load_config(path, ["student.model=b", "student.model=c", "teacher.lora.alpha=16"])
    assert (config.rl.rounds, config.rl.group_size, config.student.model) == (5, 4, "c")
    assert config.teacher.lora is not None and (config.teacher.lora.rank, config.teacher.lora.alpha) == (8, 16.0)


def test_override_values_are_yaml_where_no_text_is_wanted(write):
    overrides = [
        "data.train=[a.jsonl, b.jsonl]",
        "rl.learning_rate=1e-4",
        "teacher.lora=null",
        "student.prompt_template=Question: {question}\nAnswer: yes=no",
        "run.dir=2024",
        "reward.retention_texts=null",
    ]
    config = load_config(write(""), overrides)
    assert config.data.train == ("a.jsonl", "b.jsonl")
    assert config.rl.learning_rate == 1e-4 and config.teacher.lora is None and config.reward.retention_texts is None
    assert config.student.prompt_template == "Question: {question}\nAnswer: yes=no"
    assert config.run.dir == Path("2024")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("student:\n  lora:\n    rnak: 8\n", ["'student.lora.rnak'", "experiment.yaml:3", "did you mean 'rank'?"]),
        ("teacher: {lora: {rnak: 8}}\n", ["'teacher.lora.rnak'", "did you mean 'rank'?"]),
        ("studnet: {}\n", ["'studnet'", "did you mean 'student'?"]),
        ("extend: base.yaml\n", ["'extend'", "did you mean 'extends'?"]),
        ("seed: 1\nrl:\n  rounds: many\n", ["'seed'", "experiment.yaml:1", "and 1 more"]),
        ("rl:\n  group_size: 4\n  rounds: many\n", ["'rl.rounds'", "experiment.yaml:3", "valid integer", "'many'"]),
        ("rl: {rounds: 0}\n", ["'rl.rounds'", "greater than or equal to 1"]),
        ("rl: 3\n", ["'rl'", "expected a section", "rounds", "got 3"]),
        ("data: {train: a.jsonl}\n", ["'data.train'", "expected a list", "'a.jsonl'"]),
        ("reward: {credit: shred}\n", ["'reward.credit'", "'document', 'shared' or 'shard'", "'shred'"]),
        ("student: {mode: full}\nreward: {documents_per_student: 1}\n", ["experiment.yaml", "'document': say so"]),
        ("rl:\n  rounds: 2\n rl: 3\n", ["experiment.yaml:3", "not valid YAML"]),
        ("rl: {rounds: 1}\nrl: {rounds: 2}\n", ["experiment.yaml:2", "duplicate key rl"]),
        ("- rl\n", ["experiment.yaml", "not a list"]),
        ("some prose\n", ["unknown key 'some prose'", "experiment.yaml:1"]),
        ("run: {dir: '${nowhere}'}\n", ["experiment.yaml", "nowhere"]),
        ("extends: experiment.yaml\n", ["experiment.yaml", "circle"]),
        ("extends: gone.yaml\n", ["gone.yaml", "did you mean", "experiment.yaml"]),
    ],
)
def test_a_mistake_in_the_file_is_named_with_its_place(write, text, parts):
    message = refused(write(text))
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("rl.ronds=3", ["unknown key 'rl.ronds'", "override 'rl.ronds=3'", "did you mean 'rounds'?"]),
        ("rl.rounds", ["override 'rl.rounds'", "expected section.key=value"]),
        ("--rounds=3", ["override '--rounds=3'", "expected section.key=value"]),
        ("rl.rounds=many", ["'rl.rounds'", "override 'rl.rounds=many'", "valid integer"]),
        ("rl.rounds.x=1", ["'rl.rounds'", "override 'rl.rounds.x=1'"]),
        ("data.train=[a", ["override 'data.train=[a'", "expected a list"]),
        ("rl.rounds=[a", ["override 'rl.rounds=[a'", "not a YAML value"]),
        ("student.lora.target=3", ["'student.lora.target'", "override 'student.lora.target=3'"]),
    ],
)
def test_a_mistake_in_an_override_is_named(write, override, parts):
    message = refused(write("rl: {rounds: 2}\n"), [override])
    assert all(part in message for part in parts), message


def test_an_unknown_key_is_blamed_on_the_file_that_has_it(write):
    write("rl: {ronds: 2}\n", "base.yaml")
    message = refused(write("extends: base.yaml\nrl: {group_size: 4}\n"), ["rl.group_size=6"])
    assert "base.yaml:1" in message and "experiment.yaml" not in message


def test_a_key_that_was_renamed_is_refused_with_its_new_name(write, monkeypatch):
    monkeypatch.setattr(
        load, "RENAMED", {"rl.keep_best": ("rl.keep",), "rl.old.rate": ("rl.learning_rate", "rl.grpo.kl")}
    )
    in_file = write("rl:\n  rounds: 2\n  keep_best: 2\n", "begun.yaml")
    assert refused(in_file) == f"'rl.keep_best' in {in_file}:3 is now called 'rl.keep': write the new name"
    # Of a file that another extends, and where other keys are wrong as well.
    assert f"{in_file}:3" in refused(write("extends: begun.yaml\nrl: {ronds: 2}\n"))
    current = write("rl: {rounds: 2}\n", "current.yaml")
    message = refused(current, ["rl.old.rate=1e-4"])
    assert (
        message.startswith("'rl.old.rate' in override 'rl.old.rate=1e-4'")
        and "'rl.learning_rate' or 'rl.grpo.kl'" in message
    )
    assert load_config(current).rl.rounds == 2


def test_a_missing_file_names_the_nearest_one(write, tmp_path):
    write("")
    assert "did you mean" in refused(tmp_path / "experimant.yaml")
    assert "no config file" in refused(tmp_path / "nowhere" / "x.yaml")


def test_difference_lists_each_changed_key():
    old = Config()
    new = Config.model_validate({"rl": {"rounds": 3}, "teacher": {"lora": None}, "data": {"train": ["a"]}})
    assert config_difference(old, old) == {}
    lines = [f"{key}: {change}" for key, change in config_difference(old, new).items()]
    assert "rl.rounds: 2 -> 3" in lines and "data.train: [] -> [a]" in lines
    assert any(line.startswith("teacher.lora: {rank: 32") and line.endswith("-> null") for line in lines)
    assert len(lines) == 3


def test_saving_replaces_the_old_file_or_leaves_it(write, tmp_path, monkeypatch):
    path = write("rl: {rounds: 7}\n")

    def full_disk(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("configs.files.os.fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_config(Config(), path)
    assert load_config(path).rl.rounds == 7
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
