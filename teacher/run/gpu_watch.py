"""How much of the time this machine's GPUs stood idle, as the driver counts it."""

import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterable

import torch

EVERY_MILLISECONDS = 200


class GpuWatch:
    """Asks `nvidia-smi` for each GPU's utilisation while the block lasts: the share of a moment in which any kernel of
    any process ran on it. Does nothing on a machine without a GPU."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._busy: list[tuple[float, float]] = []
        """Moments (`time.perf_counter`) and the utilisation then, in 0 ... 1."""

    def __enter__(self) -> "GpuWatch":
        program = shutil.which("nvidia-smi")
        if torch.cuda.is_available() and program is not None:
            command = [program, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
            if re.fullmatch(r"\d+(,\d+)*", visible := os.environ.get("CUDA_VISIBLE_DEVICES", "")):
                command += ["--id", visible]
            command += ["--loop-ms", str(EVERY_MILLISECONDS)]
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            threading.Thread(target=self._read, args=[self._process.stdout], name="gpu-watch", daemon=True).start()
        return self

    def _read(self, lines: Iterable[str]) -> None:
        for line in lines:
            if line.strip().isdigit():  # "[N/A]" where a GPU is shared out
                self._busy.append((time.perf_counter(), float(line) / 100))

    def idle_share(self, since: float) -> float | None:
        """Mean over GPUs and moments since then (`time.perf_counter`); None where nothing was measured."""
        busy = [share for moment, share in self._busy if moment >= since]
        return 1 - sum(busy) / len(busy) if busy else None

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
