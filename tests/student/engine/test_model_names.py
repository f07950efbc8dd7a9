"""What a model's name is, what is said where the model is not there, and how often the Hub is asked."""

import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from configs.errors import UserError
from student.engine.model_names import MissingFolder, check_available, check_name, is_path
from tests.processes import refusing_port


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ask(code: str, endpoint: str, home: Path) -> list[str]:
    """What a fresh process prints that may go to a Hub at `endpoint`. At the end stand how often it connected, and
    which heavy packages it has imported."""
    script = f"""
import sys
from student.engine import model_names
from student.engine.model_names import *
model_names.HUB_SECONDS = 300  # a busy machine takes its time
connected = []
sys.addaudithook(lambda event, given: connected.append(given[1]) if event == "socket.connect" else None)
{code}
print(len(connected))
print([name for name in ("torch", "transformers") if name in sys.modules])
"""
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout.splitlines()


def test_a_path_is_told_from_a_hub_id(folder):
    for name in ("./a/b", "../b", "/a/b", "~/a", "a/b/c", "model", "models/new", "runs/lab"):
        assert is_path(name), name
    assert not is_path("Qwen/Qwen2.5-7B")
    (folder / "Qwen").mkdir()
    assert is_path("Qwen/Qwen2.5-7B"), "the owner's name is a folder here"


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("models/smollm2-135m-instruct", "`make smollm2`"),
        ("models/lab/teacher", "`notewright lab CONFIG`"),
        ("models/mine", ""),
        ("./models-of-mine", ""),
    ],
)
def test_a_missing_folder_is_no_hub_id_and_names_the_command_that_makes_it(name, command):
    with pytest.raises(MissingFolder) as caught:
        check_name(name)
    assert str(caught.value) == f"there is no folder {name}" + (f": run {command}" if command else "")
    assert caught.value.command == command


def test_the_lab_may_be_elsewhere(folder):
    with pytest.raises(UserError, match="run `notewright lab CONFIG`"):
        check_name("my/own/world/teacher", lab=Path("my/own/world"))


def test_a_model_that_is_neither_here_nor_to_be_asked_for():
    check_name("Qwen/Qwen2.5-0.5B")
    with pytest.raises(UserError, match="is not on this machine, and HF_HUB_OFFLINE is set: copy the folder here"):
        check_available("Qwen/Qwen2.5-0.5B")


def test_a_hub_that_cannot_be_reached_is_asked_once_and_named_in_one_line(tmp_path):
    code = """
for name in ("Qwen/Qwen2.5-0.5B", "org/other"):
    try:
        check_available(name)
    except UserError as error:
        print(error)
from huggingface_hub import is_offline_mode
print(is_offline_mode(), os.environ["HF_HUB_OFFLINE"])
"""
    with refusing_port() as port:
        *lines, offline, connections, imported = ask(code, f"http://127.0.0.1:{port}", tmp_path)
    assert len(lines) == 2 and (offline, connections, imported) == ("True 1", "1", "[]")
    said = f"is not on this machine, and the Hub (http://127.0.0.1:{port}) cannot be reached"
    assert f"Qwen/Qwen2.5-0.5B {said}" in lines[0]


def test_a_model_in_the_cache_is_taken_where_the_hub_cannot_be_reached(tmp_path):
    snapshot = tmp_path / "hub/models--org--model/snapshots/abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (tmp_path / "hub/models--org--model/refs").mkdir()
    (tmp_path / "hub/models--org--model/refs/main").write_text("abc")
    with refusing_port() as port:
        assert ask('check_available("org/model")', f"http://127.0.0.1:{port}", tmp_path) == ["1", "[]"]


def test_a_hub_that_answers_is_left_to_say_what_it_has(tmp_path):
    asked = []

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self):
            asked.append(self.path)
            self.send_response(404)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    code = 'check_available("org/model"); check_available("org/other"); print("HF_HUB_OFFLINE" in os.environ)'
    said = ask(code, f"http://127.0.0.1:{server.server_port}", tmp_path)
    server.shutdown()
    server.server_close()
    assert said == ["False", "1", "[]"] and len(asked) == 1
