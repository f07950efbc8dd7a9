"""`notewright init`: a config for documents of one's own, which loads, fits them, and overwrites nothing."""

import io
import json
import sys

import pytest
import yaml

from configs.load import json_schema, load_config
from curation.cli import main


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def model(teacher):
    return str(teacher)


def write_documents(path, count, questions=True, words=12):
    asked = {"questions": [{"question": "Where?", "answer": "Lisbon"}]} if questions else {}
    lines = [
        {"id": f"d{i}", "text": f"Person {i} " + "lived here " * words, "lang": "en"} | asked for i in range(count)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path.name


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_one_file_is_divided_and_questions_are_written_for_it(here, model, capsys):
    data = write_documents(here / "docs.jsonl", 43, questions=False)
    (here / data).write_text((here / data).read_text() * 2)  # every text occurs twice
    assert main(["init", "my", "--data", data, "--teacher", model, "--student", model]) == 0
    out = capsys.readouterr().out
    assert "86 documents, 0 with questions" in out and "0 to change" in out
    commands = [line.split()[:3] for line in out.splitlines() if line.startswith("  notewright")]
    assert commands == [["notewright", verb, "my/experiment.yaml"] for verb in ("plan", "train", "curate")]
    config = load_config("my/experiment.yaml")
    assert config.questions.model == "teacher" and config.teacher.model == config.student.model == model
    assert (config.data.train, config.data.heldout) == (("my/train.jsonl",), ("my/heldout.jsonl",))
    train, heldout = rows(here / "my/train.jsonl"), rows(here / "my/heldout.jsonl")
    assert (len(train), len(heldout)) == (35, 8)
    assert not {row["text"] for row in train} & {row["text"] for row in heldout}
    assert {row["lang"] for row in [*train, *heldout]} == {"en"} and heldout[0]["id"] == "d4"
    assert config.curation.input == (data,) and str(config.run.dir) == "my/run"


def test_documents_with_questions_and_others_held_out_are_named_as_they_are(here, model, capsys):
    data, heldout = write_documents(here / "a: b.jsonl", 5), write_documents(here / "held.jsonl", 3)
    assert main(["init", "--data", data, "--heldout", heldout, "--teacher", model, "--student", model]) == 0
    config = load_config("experiment.yaml")
    assert (config.data.train, config.data.heldout, config.questions.model) == ((data,), (heldout,), "")
    assert config.rl.documents_per_round == config.reward.documents_per_student == 5
    assert sorted(path.name for path in here.iterdir()) == ["a: b.jsonl", "experiment.yaml", "held.jsonl"]
    text = (here / "experiment.yaml").read_text()
    assert "questions:\n" not in text and "# yaml-language-server: $schema=/" in text
    pytest.importorskip("jsonschema").validate(yaml.safe_load(text), json_schema())


@pytest.mark.parametrize(("words", "tokens"), [(1, 64), (60, 192), (5000, 512)])
def test_rewrites_may_be_as_long_as_documents(here, model, words, tokens):
    data = write_documents(here / "docs.jsonl", 3, words=words)
    assert main(["init", "--data", data, "--heldout", data, "--teacher", model, "--student", model]) == 0
    assert load_config("experiment.yaml").teacher.max_new_tokens == tokens


def test_nothing_is_overwritten(here, model, capsys):
    call = ["init", "my", "--data", write_documents(here / "docs.jsonl", 5), "--teacher", model, "--student", model]
    (here / "my").mkdir()
    (here / "my/heldout.jsonl").write_text("mine")
    assert main(call) == 2 and "my/heldout.jsonl exists" in capsys.readouterr().err
    assert [path.name for path in (here / "my").iterdir()] == ["heldout.jsonl"], "nothing was begun"
    (here / "my/heldout.jsonl").unlink()
    (here / "my/experiment.yaml").write_text("mine")
    assert main(call) == 2 and "overwrites nothing" in capsys.readouterr().err
    assert (here / "my/experiment.yaml").read_text() == "mine"


def test_what_is_missing_is_named_where_there_is_no_terminal(here, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert main(["init", "--teacher", "m"]) == 2
    assert "missing --data FILES, --student MODEL" in capsys.readouterr().err and not list(here.iterdir())


def test_a_terminal_is_asked(here, model, monkeypatch, capsys):
    write_documents(here / "a.jsonl", 4)
    write_documents(here / "b.jsonl", 4)
    stdin = io.StringIO(f"a.jsonl b.jsonl\n\n{model}\n\n")
    stdin.isatty = lambda: True
    monkeypatch.setattr(sys, "stdin", stdin)
    assert main(["init"]) == 0
    config = load_config("experiment.yaml")
    assert config.curation.input == ("a.jsonl", "b.jsonl") and config.data.heldout == ("heldout.jsonl",)
    assert config.teacher.model == config.student.model == model


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "every row needs a `text`"), ('{"text": "alone"}\n', "one document, which cannot be divided")],
)
def test_documents_that_are_too_few(here, model, capsys, content, message):
    (here / "docs.jsonl").write_text(content)
    assert main(["init", "--data", "docs.jsonl", "--teacher", model, "--student", model]) == 2
    assert message in capsys.readouterr().err and [path.name for path in here.iterdir()] == ["docs.jsonl"]
