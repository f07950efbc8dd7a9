"""Broken configs, overrides, arguments, models, runs, datasets, output folders and endpoints: one line each."""

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.curation.wild.world import CONFIG, complaint

pytestmark = [pytest.mark.wild, pytest.mark.timeout(120)]

VERBS = {
    "train": "train {}",
    "evaluate": "evaluate {}",
    "preview": "preview {}",
    "plan": "plan {}",
    "doctor": "doctor {}",
    "curate": "curate {}",
    "report": "report {}",
    "reliability": "reliability {}",
    "validity": "validity {}",
    "lab": "lab {}",
    "quickstart": "quickstart {}",
    "bench injections": "bench injections {}",
    "score": "score train.jsonl --config {} --output out.jsonl",
    "warm-up": "warm-up {} --model student --data train.jsonl --output new",
}
CONFIGS = {
    "text": b"just words",
    "number": b"7",
    "list": b"- a\n- b\n",
    "binary": bytes(range(256)),
    "zeros": bytes(100),
    "tab": b"\trun: 1\n",
    "bomb": b"a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b]\n"
    b"d: &d [*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d,*d]\n",
    "alias of itself": b"run: &a [*a]\n",
    "unknown alias": b"run: *a\n",
    "twice": b"run: {seed: 1}\nrun: {seed: 2}\n",
    "two documents": b"run: {seed: 1}\n---\nrun: {seed: 2}\n",
    "deep": b"run: " + b"[" * 5000 + b"]" * 5000,
    "open brace": b"run: {seed: 1\n",
    "python": b"run: !!python/object/apply:os.system [ls]\n",
    "tag": b"run: !x y\n",
    "time": b"run: {seed: !!timestamp 3}\n",
    "bytes": b"run: {seed: !!binary x}\n",
    "set": b"run: !!set {seed}\n",
    "key of a list": b"? [a, b]\n: c\n",
    "null key": b"null: 1\n",
    "number key": b"7: 1\n",
    "UTF-16": CONFIG.encode("utf-16"),
    "Latin-1": b"run: {dir: caf\xe9}\n",
    "half pair": b'run: {dir: "a\\ud83d"}\n',
    "NUL": b'run: {dir: "a\\0b"}\n',
    "NUL in a list": b'data: {train: ["a\\0b"]}\n',
    "interpolation": b"run: {dir: '${nobody.home}'}\n",
    "open interpolation": b"run: {dir: '${'}\n",
    "no variable": b"run: {dir: '${oc.env:NOBODY_SET_THIS}'}\n",
    "digits": b"run: {seed: " + b"9" * 5000 + b"}\n",
    "huge": b"run: {seed: 1" + b"0" * 40 + b"}\n",
    "NaN": b"student: {learning_rate: .nan}\n",
    "infinite": b"student: {learning_rate: .inf}\n",
    "negative": b"student: {steps: -1}\n",
    "text for a number": b"student: {steps: many}\n",
    "list for a section": b"student: [1]\n",
    "text for a section": b"student: x\n",
    "null section": b"student: null\n",
    "section for a number": b"student: {steps: {a: 1}}\n",
    "unknown section": b"studnet: {steps: 1}\n",
    "unknown key": b"student: {stpes: 1}\n",
    "extends itself": b"extends: c.yaml\n",
    "extends a list": b"extends: [a]\n",
    "extends nothing": b"extends: gone.yaml\n",
    "extends a folder": b"extends: teacher\n",
    "missing value": b"run: {seed: ???}\n",
    "web page": b"<!DOCTYPE html><html></html>",
    "JSON lines": b'{"a": 1}\n{"b": 2}\n',
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_configs(kind, world, capfd):
    (world / "c.yaml").write_bytes(CONFIGS[kind])
    names = list(VERBS)
    for verb in {"report", names[list(CONFIGS).index(kind) % len(names)]}:
        arguments = VERBS[verb].format("c.yaml").split(" ")
        assert not (wrong := complaint(capfd, arguments, ("c.yaml", "gone.yaml", "teacher"))), wrong


@pytest.mark.parametrize("verb", VERBS)
def test_places_of_configs(verb, world, capfd):
    (world / "loop.yaml").symlink_to("loop.yaml")
    (world / "nowhere.yaml").symlink_to("gone")
    (world / "mem.yaml").symlink_to("/proc/self/mem")
    (world / "zero.yaml").symlink_to("/dev/zero")
    os.mkfifo(world / "fifo.yaml")
    for name in (
        "gone.yaml",
        "teacher",
        "loop.yaml",
        "nowhere.yaml",
        "mem.yaml",
        "zero.yaml",
        "fifo.yaml",
        "x" * 300,
        "e.yaml/x",
    ):
        if (verb, name) == ("report", "teacher"):  # a folder is a run there
            continue
        arguments = VERBS[verb].format(name).split(" ")
        assert not (wrong := complaint(capfd, arguments, (name,))), (name, wrong)


OVERRIDES = (
    "rl.rounds",
    "rl.rounds=",
    "=3",
    "rl.rounds==3",
    "rl.rounds=3=4",
    "rl=3",
    "rl=[1]",
    "rl={a: 1}",
    "rl.rounds.x=1",
    "rounds=3",
    "rl.ronds=3",
    "rl.rounds=-1",
    "rl.rounds=.inf",
    "rl.rounds=1e400",
    "rl.rounds=" + "9" * 5000,
    "rl.rounds=[",
    "rl.rounds=???",
    "rl.rounds=!!timestamp 3",
    "rl.rounds=*a",
    "student.learning_rate=nan",
    "student.learning_rate=.nan",
    "student.learning_rate=0",
    "student.learning_rate=-1e-3",
    "student.steps=1.5",
    "student.steps=true",
    "student.lora=null",
    "student.lora.rank=0",
    "student.lora.target=7",
    "student.device=tpu",
    "student.dtype=int8",
    "run.dir=",
    "run.dir=a\0b",
    "data.train=[\0]",
    "data.train=3",
    "data.train={a: 1}",
    "data.train=['']",
    "data.limit=0",
    "teacher.strategies=[]",
    "teacher.strategies=['']",
    "teacher.temperature=.inf",
    "teacher.thinking_tags=[a]",
    "teacher.thinking_tags=[a, a]",
    "reward.credit=shred",
    "reward.benchmarks=[x]",
    "reward.benchmarks=[file:]",
    "gates.max_repetition=2",
    "curation.strategies={a: -1}",
    "curation.strategies={a: .nan}",
    "student.prompt_template=x",
    "student.prompt_template={question} {x}",
    "run.seed=x",
    "student.models=[a, a]",
    "RL.rounds=1",
    "rl.rounds =1",
    "--rl.rounds=1",
    "\ud83d=1",
    "run.dir=\udcff",
)


@pytest.mark.parametrize("override", OVERRIDES)
def test_overrides(override, world, capfd):
    key = override.partition("=")[0] or "=3"
    says = (key, key.rpartition(".")[2], repr(override)[1:30])
    assert not (wrong := complaint(capfd, ["train", "e.yaml", override], says)), wrong


ARGUMENTS = {
    "": "Usage",
    "trian": "trian",
    "train": "CONFIG.yaml",
    "train e.yaml --fork": "--fork",
    "train e.yaml --no-such": "--no-such",
    "train e.yaml e.yaml": "e.yaml",
    "train e.yaml --fork new": "run",
    "train --fork e.yaml": "CONFIG.yaml",
    "warm-up e.yaml": "--model",
    "warm-up e.yaml --model student --output x": "--data",
    "warm-up e.yaml --model student --data train.jsonl --output teacher": "teacher",
    "warm-up e.yaml --model student --data train.jsonl --output x --tokens 0": "--tokens",
    "warm-up e.yaml --model student --data train.jsonl --output x --tokens many": "--tokens",
    "warm-up e.yaml --model student --data train.jsonl --output x --format other": "--format",
    "warm-up e.yaml --model student --data train.jsonl --output x --learning-rate nan": "learning",
    "warm-up e.yaml --model gone --data train.jsonl --output x": "gone",
    "preview e.yaml --documents 0": "--documents",
    "preview e.yaml --documents x": "--documents",
    "plan e.yaml --device toaster": "toaster",
    "plan e.yaml --price -1": "--price",
    "plan e.yaml --price nan": "price",
    "plan e.yaml --parameters 0": "--parameters",
    "plan e.yaml --parameters inf": "parameters",
    "export": "DIR",
    "export gone --repo-id a/b": "gone",
    "export e.yaml --repo-id a/b": "e.yaml",
    "export teacher": "--repo-id",
    "export teacher --repo-id a/b": "teacher",
    "export teacher --repo-id a//b": "a//b",
    "report": "RUN",
    "report gone": "gone",
    "report teacher": "teacher",
    "report train.jsonl": "train.jsonl",
    "score train.jsonl --config e.yaml": "--output",
    "score gone.jsonl --config e.yaml --output x.jsonl": "gone.jsonl",
    "score train.jsonl --config e.yaml --output train.jsonl": "train.jsonl",
    "score train.jsonl --config e.yaml --output teacher": "teacher",
    "score teacher --config e.yaml --output x.jsonl": "teacher",
    "reliability e.yaml --credit shred": "shred",
    "reliability e.yaml --documents 0": "--documents",
    "reliability e.yaml --repeats 1": "--repeats",
    "reliability e.yaml --source gone.jsonl": "gone.jsonl",
    "reliability e.yaml --source": "--source",
    "validity e.yaml --source gone.jsonl": "gone.jsonl",
    "validity e.yaml validity.signs=[x]": "x",
    "validity e.yaml validity.target=student validity.target_student={x:1}": "x",
    "quickstart gone.yaml": "gone.yaml",
    "quickstart a=b=c": "a=b=c",
    "schema x": "x",
    "lab": "CONFIG.yaml",
    "lab gone.yaml": "gone.yaml",
    "init --data train.jsonl": "--teacher",
    "init . --data gone.jsonl --teacher t --student s": "gone.jsonl",
    "init e.yaml --data train.jsonl --teacher teacher --student student": "e.yaml",
    "bench": "Usage",
    "bench x": "x",
    "bench student --model gone/x": "gone/x",
    "bench student --model gone": "gone",
    "bench student --dtype int8": "int8",
    "bench student --students 0": "--students",
    "bench teacher": "teacher",
    "bench lab x.y=1 --dir b": "x.y",
    "bench curate --rows 1": "--rows",
    "bench pool --students 1": "--students",
    "bench selection --rounds 0": "--rounds",
    "bench round x.y=1 --dir b": "x.y",
    "bench injections e.yaml --samples 0": "--samples",
    "bench intervals --draws 1": "--draws",
}


@pytest.mark.parametrize("line", ARGUMENTS)
def test_arguments(line, world, capfd):
    if ARGUMENTS[line] == "Usage":
        pytest.skip("no arguments print the help")
    assert not (wrong := complaint(capfd, line.split(), (ARGUMENTS[line],))), wrong


def _config(**changes):
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


MODELS = {
    "gone": shutil.rmtree,
    "empty folder": lambda folder: (shutil.rmtree(folder), folder.mkdir()),
    "a file": lambda folder: (shutil.rmtree(folder), folder.write_text("x")),
    "empty config": lambda folder: (folder / "config.json").write_text(""),
    "config is a list": lambda folder: (folder / "config.json").write_text("[1]"),
    "config is a number": lambda folder: (folder / "config.json").write_text("7"),
    "config is a folder": lambda folder: ((folder / "config.json").unlink(), (folder / "config.json").mkdir()),
    "binary config": lambda folder: (folder / "config.json").write_bytes(bytes(range(256))),
    "unknown type": _config(model_type="no-such-model"),
    "no type": _config(model_type=None),
    "text for a size": _config(hidden_size="wide"),
    "negative size": _config(hidden_size=-32),
    "another size": _config(hidden_size=48),
    "no heads": _config(num_attention_heads=0),
    "truncated weights": lambda folder: os.truncate(folder / "model.safetensors", 1000),
    "empty weights": lambda folder: os.truncate(folder / "model.safetensors", 0),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "weights of garbage": lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 64),
    "no tokenizer": lambda folder: [path.unlink() for path in folder.glob("token*")],
    "empty tokenizer": lambda folder: (folder / "tokenizer.json").write_text(""),
    "tokenizer is a list": lambda folder: (folder / "tokenizer.json").write_text("[1]"),
    "tokenizer without model": lambda folder: (folder / "tokenizer.json").write_text("{}"),
    "tokenizer config is a list": lambda folder: (folder / "tokenizer_config.json").write_text("[1]"),
}
USERS = {
    "train": "train e.yaml {key}=broken",
    "curate": "curate e.yaml teacher.model=broken",
    "preview": "preview e.yaml teacher.model=broken",
    "plan": "plan e.yaml teacher.model=broken",
    "doctor": "doctor e.yaml teacher.model=broken",
    "evaluate": "evaluate e.yaml student.model=broken",
    "score": "score train.jsonl --config e.yaml --output out.jsonl student.model=broken",
    "reliability": "reliability e.yaml --documents 2 student.model=broken",
    "validity": "validity e.yaml validity.target=student student.model=broken",
    "warm-up": "warm-up e.yaml --model broken --data bare.jsonl --data corpus.jsonl --output new",
    "questions": "train e.yaml data.train=[bare.jsonl] questions.model=broken",
    "bench student": "bench student --model ./broken --students 1 --steps 1",
    "bench injections": "bench injections e.yaml --gates teacher.model=broken",
}
MODEL_PAIRS = [
    pytest.param(user, kind, marks=[] if (u + k) % 6 == 0 else pytest.mark.slow, id=f"{user}-{kind}")
    for k, kind in enumerate(MODELS)
    for u, user in enumerate(USERS)
    if (u + k) % 3 == 0
]


@pytest.mark.parametrize(("user", "kind"), MODEL_PAIRS)
def test_models(user, kind, world, capfd):
    shutil.copytree(world / "teacher", world / "broken")
    MODELS[kind](world / "broken")
    key = ("student.model", "teacher.model")[list(MODELS).index(kind) % 2]
    arguments = [part.format(key=key) for part in USERS[user].split(" ")]
    # What reads no weights does not miss them.
    without = user in ("doctor", "plan", "bench injections") or kind == "no type"
    assert not (wrong := complaint(capfd, arguments, ("broken", "4 titles"), passes=() if without else None)), wrong
