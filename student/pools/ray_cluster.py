"""The Ray cluster that students run on: found or started, and how many actors it has room for."""

import logging
import os
from typing import Any

from configs.errors import RunError, UserError
from configs.schema import Student

STORE_BYTES = 256 * 2**20
"""Object store of a Ray that is started here: jobs and outcomes pass through it, models do not. Ray's own default is
30% of the memory, which the students need."""


def connect(setting: str, *, store_bytes: int | None = STORE_BYTES, worker_logs: bool = False) -> tuple[Any, bool]:
    """The `ray` module, initialised, and whether that was done here: as this process has it already, else on the
    cluster that RAY_ADDRESS names, else on one that is started on this machine and ends with this process.

    Args:
        setting: what in the config asks for Ray.
        store_bytes: object store of a Ray that is started here; None leaves it to Ray.
        worker_logs: print what the workers log.

    Raises UserError where Ray is missing or not reachable, RunError where it does not start.
    """
    # Before the import, which reads them. A cluster that is started here reports to nobody unless the user wants it
    # to, and gives no advice on what it will change some day.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise UserError(f"{setting} needs Ray: pip install 'notewright[ray]'") from None
    if ray.is_initialized():
        return ray, False
    level = logging.WARNING if worker_logs else logging.ERROR
    options: dict[str, Any] = {"log_to_driver": worker_logs, "logging_level": level}
    address = os.environ.get("RAY_ADDRESS")
    if address:
        try:
            ray.init(address=address, **options)
        except ConnectionError:
            raise UserError(f"no Ray cluster answers at RAY_ADDRESS={address}") from None
        return ray, True
    # By itself Ray runs workers at niceness 15: beside anything else on the machine, students would hardly run at all.
    options["_system_config"] = {"worker_niceness": 0}
    for last in (False, True):
        try:
            ray.init(address="local", include_dashboard=False, object_store_memory=store_bytes, **options)
            break
        except Exception as error:  # that is all the type it has where Ray's processes are not up within 30 s
            ray.shutdown()
            if last:
                raise RunError(f"Ray did not start on this machine: {str(error).splitlines()[0]}") from error
    return ray, True


def actor_resources(nodes: list[dict[str, Any]], settings: Student) -> dict[str, float]:
    """What one actor asks of Ray: CPUs, and GPUs where `student.device` wants them. Raises UserError where a GPU is
    wanted and none is there."""
    gpus = sum(node["Resources"].get("GPU", 0) for node in nodes if node["Alive"])
    if settings.device == "cuda" and not gpus:
        raise UserError("student.device=cuda: no node of the Ray cluster has a GPU; use device: auto or cpu")
    on_gpu = settings.device != "cpu" and gpus > 0
    return {"num_cpus": settings.cpus_per_actor, "num_gpus": settings.num_gpus_per_actor if on_gpu else 0.0}


def count_actors(nodes: list[dict[str, Any]], wanted: dict[str, float]) -> int:
    """Actors that the nodes which are alive have room for, whatever else runs on them. Raises UserError where not one
    fits."""
    room, most = 0, {"num_cpus": 0.0, "num_gpus": 0.0}
    for node in nodes:
        if node["Alive"]:
            has = {"num_cpus": node["Resources"].get("CPU", 0.0), "num_gpus": node["Resources"].get("GPU", 0.0)}
            most = {kind: max(most[kind], has[kind]) for kind in most}
            room += int(min(has[kind] / amount for kind, amount in wanted.items() if amount) + 1e-6)
    if not room:
        raise UserError(
            f"no node of the Ray cluster has {wanted['num_cpus']:g} CPUs and {wanted['num_gpus']:g} GPUs for an actor"
            f" (most: {most['num_cpus']:g} and {most['num_gpus']:g}): lower student.cpus_per_actor or"
            " student.num_gpus_per_actor"
        )
    return room
