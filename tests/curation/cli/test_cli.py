"""The command line as a user meets it: exit codes, one line on stderr, and help that comes at once."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import curation.corpus.inputs
import curation.train
from configs.errors import RunError
from configs.load import json_schema
from curation.cli import app, main

PROGRAM = Path(sys.executable).with_name("notewright")
VERBS = [command.name or command.callback.__name__ for command in app.registered_commands]


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    """A config in an empty working directory, with one real document file; no model is needed to get it wrong."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "documents.jsonl").write_text(
        json.dumps(
            {"id": "1", "text": "Ada was born in Lisbon.", "questions": [{"question": "Where?", "answer": "Lisbon"}]}
        )
    )
    path = tmp_path / "experiment.yaml"
    path.write_text("data: {train: [documents.jsonl]}\nteacher: {model: models/none}\nstudent: {model: models/none}\n")
    return path


def refused(capsys, arguments, code=2) -> str:
    assert main([str(argument) for argument in arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert lines[-1].startswith("error: ") and "Traceback" not in captured.err
    return lines[-1]


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_help_lists_the_verbs_and_needs_no_heavy_import():
    done = subprocess.run([PROGRAM, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and all(verb in done.stdout for verb in VERBS)
    code = "import sys, curation.cli; print([m for m in ('torch', 'transformers', 'datatrove') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_shells_complete_the_verbs(capsys):
    # The shell is named here: Typer would look for it among the parent processes, which under make are a plain sh.
    named = os.environ | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    call = [PROGRAM, "--show-completion", "bash"]
    done = subprocess.run(call, capture_output=True, text=True, env=named)
    assert done.returncode == 0 and "_NOTEWRIGHT_COMPLETE=complete_bash" in done.stdout
    assert main(["--help"]) == 0
    assert "--install-completion" in plain(capsys.readouterr().out)
    request = {"_NOTEWRIGHT_COMPLETE": "complete_bash", "COMP_WORDS": "notewright warm", "COMP_CWORD": "1"}
    done = subprocess.run([PROGRAM], capture_output=True, text=True, env=os.environ | request)
    assert done.stdout.split() == ["warm-up"]


def test_the_schema_is_printed_as_json(capsys):
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == json_schema()


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_with_an_example(verb, capsys):
    assert main([verb, "--help"]) == 0
    assert f"Example: notewright {verb}" in " ".join(plain(capsys.readouterr().out).split())


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["trian"], ["No such command 'trian'", "train"]),
        (["train"], ["Missing argument 'CONFIG.yaml'", "notewright train --help"]),
        (["train", "gone.yaml"], ["no config file 'gone.yaml'", "experiment.yaml"]),
        (["train", "experiment.yaml", "rl.ronds=2"], ["'rl.ronds'", "did you mean 'rounds'?"]),
        (["train", "experiment.yaml", "--rounds", "2"], ["No such option", "--rounds"]),
        (["train", "experiment.yaml", "data.train=[gone.jsonl]"], ["no such file", "gone.jsonl"]),
        (["train", "experiment.yaml", "data.train=[]"], ["data.train is not set"]),
        (["train", "experiment.yaml"], ["teacher.model 'models/none'"]),
        (["curate", "experiment.yaml"], ["curation.input"]),
        (["report", "experiment.yaml"], ["holds no run"]),
        (
            ["score", "gone.jsonl", "--config", "experiment.yaml", "--output", "out.jsonl"],
            ["no such file", "gone.jsonl"],
        ),
        (["score", "documents.jsonl", "--output", "out.jsonl"], ["--config"]),
        (["reliability", "experiment.yaml", "--credit", "shred"], ["unknown credit 'shred'", "did you mean 'shared'?"]),
    ],
    ids=lambda value: " ".join(value) if value and isinstance(value[0], str) else None,
)
def test_a_mistake_is_one_line_and_exit_code_2(experiment, capsys, arguments, parts):
    message = refused(capsys, arguments)
    assert all(part in message for part in parts), message
    # Nothing was begun.
    assert sorted(path.name for path in experiment.parent.iterdir()) == ["documents.jsonl", "experiment.yaml"]


# Runs each line of arguments in a fork of its own: what it has imported at its end. With torch and transformers an
# answer takes ten times as long.
MEASURED = """
import os, sys
from curation.cli import main
for line in sys.argv[1:]:
    if (child := os.fork()) == 0:
        code = main(line.split())
        print(code, [m for m in ("torch", "transformers", "trl", "datasets", "datatrove") if m in sys.modules], line)
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(child, 0)
"""


def test_a_mistake_is_answered_before_anything_heavy_is_imported(experiment):
    mistakes = [
        "trian",
        "train experiment.yaml rl.grop_size=4",
        "train gone.yaml",
        "train experiment.yaml --rounds 2",
        "train experiment.yaml data.train=[gone.jsonl]",
        "train experiment.yaml",
        "plan experiment.yaml rl.grop_size=4",
        "doctor experiment.yaml rl.grop_size=4",
        "curate experiment.yaml",
        "curate experiment.yaml curation.input=[gone.jsonl]",
        "reliability experiment.yaml --credit shred",
        "export gone --repo-id me/lessons",
        "evaluate experiment.yaml rl.grop_size=4",
        "score gone.jsonl --config experiment.yaml --output out.jsonl",
        "bench injections experiment.yaml rl.grop_size=4",
        "quickstart rl.grop_size=4",
    ]
    done = subprocess.run([sys.executable, "-c", MEASURED, *mistakes], capture_output=True, text=True)
    assert done.stdout.splitlines() == [f"2 [] {line}" for line in mistakes], done.stderr


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (RunError("round 2 failed; round 1 is kept"), 1, "round 2 failed; round 1 is kept"),
        (OSError(28, "No space left on device", "runs/x/journal"), 1, "the disk is full at runs/x/journal"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
    ids=["run error", "full disk", "interrupted"],
)
def test_a_run_that_fails_on_the_way_says_so_in_one_line(experiment, capsys, monkeypatch, raised, code, said):
    def fail(config):
        raise raised

    monkeypatch.setattr(curation.corpus.inputs, "check_inputs", lambda config: None)
    monkeypatch.setattr(curation.train, "train_from_config", fail)
    assert said in refused(capsys, ["train", experiment], code)


def test_a_defect_of_ours_keeps_its_traceback(experiment, monkeypatch):
    def fail(config):
        raise ZeroDivisionError

    monkeypatch.setattr(curation.corpus.inputs, "check_inputs", lambda config: None)
    monkeypatch.setattr(curation.train, "train_from_config", fail)
    with pytest.raises(ZeroDivisionError):
        main(["train", str(experiment)])


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_help_that_cannot_be_written_is_no_success():
    with open("/dev/full", "w") as full:
        done = subprocess.run([PROGRAM, "--help"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode != 0


def test_the_program_returns_the_exit_code(experiment):
    done = subprocess.run([PROGRAM, "train", "gone.yaml"], capture_output=True, text=True, cwd=experiment.parent)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1


def test_sigterm_ends_a_verb_as_ctrl_c_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("curation.cli.app", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
    assert main(["plan"]) == 130
    assert capsys.readouterr().err.startswith("error: interrupted; what was finished is kept")
    assert signal.getsignal(signal.SIGTERM) is before
