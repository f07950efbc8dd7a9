"""Connects to a Ray cluster or starts one, and counts the actors that it has room for."""

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from configs.errors import RunError, UserError
from configs.schema import Student

STORE_BYTES = 256 * 2**20
"""Object store of a Ray that is started here. Jobs and outcomes pass through it, models do not; the students need the
30% of the memory that Ray would take."""


def connect(setting: str, *, store_bytes: int | None = STORE_BYTES, worker_logs: bool = False) -> tuple[Any, bool]:
    """The initialised `ray` module, and whether this call initialised it.

    It is as this process has it already, else connected to the cluster that RAY_ADDRESS names, else to one that is
    started on this machine and ends with this process; its object store has `store_bytes` (None: Ray's default).
    `setting` is the one that asks for Ray, for the message where Ray is missing; `worker_logs` prints what workers log.

    Raises UserError if Ray is missing or not reachable, RunError if it does not start.
    """
    # Before the import, which reads them. A cluster that is started here sends no usage reports unless the user wants
    # it to, and prints no advice about its future changes.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise UserError(f"{setting} needs Ray: pip install 'notewright[ray]'") from None
    if ray.is_initialized():
        return ray, False
    with _sigterm_kept():
        return _connect(ray, worker_logs, store_bytes)


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Ray's C++ part takes SIGTERM over and aborts with its stack; the command line has a better answer."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _connect(ray: Any, worker_logs: bool, store_bytes: int | None) -> tuple[Any, bool]:
    level = logging.WARNING if worker_logs else logging.ERROR
    options: dict[str, Any] = {"log_to_driver": worker_logs, "logging_level": level}
    address = os.environ.get("RAY_ADDRESS")
    if address:
        try:
            ray.init(address=address, **options)
        except ConnectionError:
            raise UserError(f"no Ray cluster answers at RAY_ADDRESS={address}") from None
        return ray, True
    # Ray's default niceness of 15 would hardly let students run beside anything else on the machine.
    options["_system_config"] = {"worker_niceness": 0}
    for last in (False, True):
        try:
            ray.init(address="local", include_dashboard=False, object_store_memory=store_bytes, **options)
            break
        except Exception as error:  # Ray raises no narrower type if its processes are not up within 30 s
            ray.shutdown()
            if last:
                raise RunError(f"Ray did not start on this machine: {str(error).splitlines()[0]}") from error
    return ray, True


def actor_resources(nodes: list[dict[str, Any]], settings: Student) -> dict[str, float]:
    """CPUs and GPUs of one actor. Raises UserError if `student.device` asks for a GPU and no node has one."""
    gpus = sum(node["Resources"].get("GPU", 0) for node in nodes if node["Alive"])
    if settings.device == "cuda" and not gpus:
        raise UserError("student.device=cuda: no node of the Ray cluster has a GPU; use device: auto or cpu")
    on_gpu = settings.device != "cpu" and gpus > 0
    return {"num_cpus": settings.cpus_per_actor, "num_gpus": settings.num_gpus_per_actor if on_gpu else 0.0}


def count_actors(nodes: list[dict[str, Any]], wanted: dict[str, float]) -> int:
    """Actors that fit on the nodes that are alive, whatever else runs there. Raises UserError if not one fits."""
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    have = [{"num_cpus": node.get("CPU", 0.0), "num_gpus": node.get("GPU", 0.0)} for node in alive]
    room = sum(int(min(node[kind] / amount for kind, amount in wanted.items() if amount) + 1e-6) for node in have)
    if not room:
        most = {kind: max((node[kind] for node in have), default=0.0) for kind in wanted}
        raise UserError(
            f"no node of the Ray cluster has {wanted['num_cpus']:g} CPUs and {wanted['num_gpus']:g} GPUs for an actor"
            f" (most: {most['num_cpus']:g} and {most['num_gpus']:g}): lower student.cpus_per_actor or"
            " student.num_gpus_per_actor"
        )
    return room
