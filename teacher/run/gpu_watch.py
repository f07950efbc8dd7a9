"""How much of the time this machine's GPUs stood idle, as the driver counts it."""

import os
import re
import shutil
import subprocess
import threading
import time

import torch

EVERY_MILLISECONDS = 200


class GpuWatch:
    """Asks `nvidia-smi` for each GPU's utilisation while the block lasts: the share of a moment in which any kernel ran
    on it, of whatever process. Does nothing on a machine without a GPU."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._seen: list[tuple[float, float]] = []

    def __enter__(self) -> "GpuWatch":
        if torch.cuda.is_available():
            self._start()
        return self

    def _start(self) -> None:
        if (program := shutil.which("nvidia-smi")) is None:
            return
        command = [program, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        if re.fullmatch(r"\d+(,\d+)*", visible := os.environ.get("CUDA_VISIBLE_DEVICES", "")):
            command += ["--id", visible]
        self._process = subprocess.Popen(
            [*command, "--loop-ms", str(EVERY_MILLISECONDS)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True,
        )  # fmt: skip
        threading.Thread(target=self._read, name="gpu-watch", daemon=True).start()

    def _read(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        for line in self._process.stdout:
            if line.strip().isdigit():  # "[N/A]" where a GPU is shared out
                self._seen.append((time.perf_counter(), float(line) / 100))

    def idle_share(self, since: float) -> float | None:
        """Mean over GPUs and moments since then (`time.perf_counter`); None where nothing was seen."""
        seen = [busy for moment, busy in self._seen if moment >= since]
        return 1 - sum(seen) / len(seen) if seen else None

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
