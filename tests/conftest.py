"""Every test runs without network; a model or file that is not on this machine is an error, not a download."""

import gc
import os
import sys

import pytest
from hypothesis import HealthCheck, settings

# Read when huggingface_hub and datasets are first imported, so they are set before any test is collected.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["WANDB_SILENT"] = "true"
# Servers of tests are on this machine, and what starts tests (a job of Slurm or Ray, `torchrun`) is not their matter.
for name in list(os.environ):
    if name.upper().endswith("_PROXY") or name.startswith(("SLURM_", "RAY_")) or name in ("RANK", "WORLD_SIZE"):
        del os.environ[name]
# The tests' models are so small that a second thread costs more than it brings.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples on every machine, however long a busy one takes.
settings.register_profile("steady", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """A full collection of garbage goes through every object of torch and transformers, in 0.3 s, and whoever closes a
    pool or a trainer asks for one. What the tests import is left out of it."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Why a test failed is printed when it fails, so that a run that is cut off has said it."""
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        print(f"\n{report.nodeid} failed ({report.when}):\n{report.longreprtext}", file=sys.__stderr__, flush=True)


def in_ray() -> bool:
    return "ray" in sys.modules and sys.modules["ray"].is_initialized()


@pytest.fixture(autouse=True)
def process_as_it_was():
    """No later test meets the threads of torch, which last bits depend on, or the Ray session that this one leaves."""
    torch, before = sys.modules.get("torch"), in_ray()
    threads = torch and torch.get_num_threads()
    yield
    if torch and torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    if in_ray() and not before:
        sys.modules["ray"].shutdown()
