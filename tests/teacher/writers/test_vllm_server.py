"""The server that we keep: here a stand-in for vLLM with an engine process of its own, which it does not clean up.

`tests/curation/bench/test_vllm.py` does the same with vLLM itself.
"""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from configs.errors import RunError, UserError
from teacher.records import Completion
from teacher.writers import by_round as writers
from teacher.writers import vllm_server
from teacher.writers.endpoint import load_endpoint
from teacher.writers.vllm_server import FOLDER_VARIABLE, STATE_VARIABLE, read_state, serving, state_file
from tests.processes import happens

STAND_IN = """
import json, os, random, subprocess, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

given = sys.argv[1:]
if "--fail" in given:
    print("loading"); sys.exit("ValueError: no such model")
# In a session of its own, it does not notice when the server dies; a stubborn one does not mind SIGTERM either.
stubborn = "signal.signal(15, signal.SIG_IGN);" if "--stubborn" in given else ""
engine = f"import os, signal, time; {stubborn} os.setsid(); time.sleep(3600)"
subprocess.Popen([sys.executable, "-c", engine])
time.sleep(float(given[given.index("--sleep") + 1]) if "--sleep" in given else 0)
adapters, asked = set(), []
sick = given[given.index("--sick") + 1] if "--sick" in given else "/nowhere"
free = given[given.index("--stuck") + 1] if "--stuck" in given else "/"

class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_): ...
    def reply(self, body, status=200):
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
    def do_GET(self):
        self.reply({}, 503 if os.path.exists(sick) else 200)
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.endswith("load_lora_adapter"):
            known = "unload" not in self.path and body["lora_name"] in adapters
            (adapters.discard if "unload" in self.path else adapters.add)(body["lora_name"])
            print(f"adapter {self.path} {body['lora_name']}\\n", end="", flush=True)
            return self.reply({"message": "has already been loaded"} if known else {}, 400 if known else 200)
        print(f"asked for {body['model']}\\n", end="", flush=True)
        if body["model"] not in adapters | {"base", "teacher"}:
            return self.reply({}, 404)
        if "--refuse" in given:
            return self.reply({"message": "too long"}, 422)
        # A stuck one answers three requests, and no more until there is that file.
        asked.append(body)
        while len(asked) > 3 and not os.path.exists(free): time.sleep(0.02)
        tokens = [body["prompt"][-2], body["stop_token_ids"][0]]
        if "--sampling" in given: tokens[:1] = [random.Random(body["seed"]).choice(body["prompt"]) for _ in range(4)]
        self.reply({"choices": [{"token_ids": tokens, "finish_reason": "stop"}], "model": body["model"]})

ThreadingHTTPServer(("127.0.0.1", int(given[given.index("--port") + 1])), Handler).serve_forever()
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Puts a package `vllm` in the way whose server is the one above."""
    package = tmp_path / "stand-in/vllm/entrypoints/openai"
    package.mkdir(parents=True)
    (package / "api_server.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "stand-in"))
    for module in (vllm_server, writers):
        monkeypatch.setattr(module, "find_vllm", lambda: sys.executable)
    monkeypatch.delenv(STATE_VARIABLE, raising=False)


def left(folder: Path) -> list[psutil.Process]:
    """What runs for the server of a folder: supervisor, server, engine."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(FOLDER_VARIABLE) == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def server_of(folder: Path) -> psutil.Process:
    return next(
        p for p in left(folder) if "vllm.entrypoints.openai.api_server" in p.cmdline() and "-P" not in p.cmdline()
    )


def config_with(make_config, *arguments, **settings):
    given = {"arguments": arguments, "start_seconds": 300, **settings}
    return make_config(teacher={"writer": "vllm"}, serving=given)


def writer_on_server(config):
    return load_endpoint(config.teacher, config.serving, None, Path(os.environ[STATE_VARIABLE]))


def test_other_writers_need_no_server(make_config, tmp_path):
    with serving(make_config(), None, tmp_path / "vllm") as url:
        assert url is None and STATE_VARIABLE not in os.environ and not (tmp_path / "vllm").exists()


def test_it_serves_while_the_block_lasts_and_leaves_nothing(make_config, tmp_path, stand_in):
    config, folder = config_with(make_config), tmp_path / "vllm"
    with serving(config, None, folder) as url:
        assert url is not None and url.startswith("http://127.0.0.1:")
        assert len(left(folder)) == 3, "supervisor, server, engine"
        # Another process of the run, or a block inside, finds it.
        assert state_file(config, None, tmp_path / "other") == folder / "server.json"
        with serving(config, None, tmp_path / "other") as inner:
            assert inner == url
        writer = writer_on_server(config)
        assert writer.write(["gold iron salt"], 1, 0) == [[Completion("iron", True)]]
    assert STATE_VARIABLE not in os.environ and not left(folder)
    with pytest.raises(RunError, match="is gone: the same command goes on"):
        writer.write(["gold iron salt"], 1, 0)


def test_requests_wait_for_a_server_that_was_killed(make_config, tmp_path, stand_in):
    free, folder = tmp_path / "free", tmp_path / "vllm"
    config = config_with(make_config, "--stuck", str(free), "--stubborn", concurrency=2)

    def kill():
        """Once two requests wait for a reply behind three that have theirs."""
        happens(lambda: (folder / "vllm.log").read_text().count("asked for") == 5)
        server_of(folder).kill()
        free.touch()

    with serving(config, None, folder) as url:
        writer = writer_on_server(config)
        first = {process.pid for process in left(folder)}
        killer = threading.Thread(target=kill, daemon=True)
        killer.start()
        written = writer.write([f"shop {i} salt" for i in range(10)], 1, 0)
        killer.join()
        assert [one.text for [one] in written] == [str(i) for i in range(10)]
        assert read_state(folder / "server.json").url != url
        # The engine that was left behind is gone too.
        assert not first & {process.pid for process in left(folder)} and len(left(folder)) == 3
    assert not left(folder)


def test_a_server_that_dies_too_often_ends_the_run(make_config, tmp_path, stand_in):
    config, folder = config_with(make_config, restarts=1), tmp_path / "vllm"
    with serving(config, None, folder):
        writer = writer_on_server(config)
        for url in (first := read_state(folder / "server.json").url, None):
            server_of(folder).kill()
            if url is not None:
                assert happens(lambda: read_state(folder / "server.json").url != first)
        with pytest.raises(RunError, match=r"died 2 times, the last time because it ended with status .*; its log is"):
            writer.write(["gold iron salt"], 1, 0)
    assert not left(folder)


def test_a_server_whose_engine_is_sick_is_replaced(make_config, tmp_path, stand_in, monkeypatch):
    monkeypatch.setattr(vllm_server, "SILENT_SECONDS", 1.0)
    sick = tmp_path / "sick"
    config, folder = config_with(make_config, "--sick", str(sick)), tmp_path / "vllm"
    with serving(config, None, folder):
        before = server_of(folder).pid
        sick.touch()
        assert happens(lambda: left(folder) and before not in {p.pid for p in left(folder)})
        sick.unlink()
        assert happens(lambda: len(left(folder)) == 3)
        writer_on_server(config).write(["gold iron salt"], 1, 0)


def test_a_server_that_does_not_start_says_why(make_config, tmp_path, stand_in):
    folder = tmp_path / "vllm"
    message = r"vLLM did not start: it ended with status 1: ValueError: no such model .*; its log is .*vllm\.log"
    with pytest.raises(RunError, match=message), serving(config_with(make_config, "--fail"), None, folder):
        pytest.fail("it started")
    slow = config_with(make_config, "--sleep", "3600", start_seconds=1)
    with pytest.raises(RunError, match="no answer in 1 seconds"), serving(slow, None, folder):
        pytest.fail("it started")
    assert not left(folder) and STATE_VARIABLE not in os.environ


def test_without_vllm_the_message_says_how_to_get_it(make_config, tmp_path, monkeypatch):
    monkeypatch.setattr(vllm_server.sys, "prefix", str(tmp_path))
    monkeypatch.setattr(vllm_server.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="make vllm"), serving(config_with(make_config), None, tmp_path):
        pytest.fail("it started")


CHILD = """
import sys, time
from pathlib import Path
from configs.load import load_config
from teacher.writers import vllm_server
vllm_server.find_vllm = lambda: sys.executable
with vllm_server.serving(load_config(sys.argv[1]), None, Path(sys.argv[2])) as url:
    print(url, flush=True)
    time.sleep(3600)
"""


@pytest.mark.parametrize("victims", ["parent's group", "supervisor first"])
def test_a_killed_parent_leaves_no_server(make_config, tmp_path, stand_in, victims):
    from configs.load import save_config

    folder = tmp_path / "vllm"
    config = config_with(make_config)
    save_config(config, tmp_path / "config.yaml")
    command = [sys.executable, "-c", CHILD, str(tmp_path / "config.yaml"), str(folder)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert child.stdout is not None and child.stdout.readline().startswith("http://127.0.0.1:")
    assert len(left(folder)) == 3
    if victims == "supervisor first":
        next(p for p in left(folder) if "-P" in p.cmdline()).kill()
        child.kill()
        child.wait()
        # What nobody was left to end, the next start of this run ends.
        assert left(folder)
        with serving(config, None, folder):
            assert len(left(folder)) == 3
    else:
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    assert happens(lambda: not left(folder))
