"""Runs the tasks of a curation on a Ray cluster.

datatrove's RayPipelineExecutor ends without an error when a task raised, waits for ever for an actor whose node died
before it answered, and gives up a task in silence after three tries. Here an error of a task is raised, and a task
whose worker or node died starts again, up to `curation.ray.retries` times, and keeps the parts that it has written.
"""

import os
from pathlib import Path
from typing import Any

import dill
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep

from configs.errors import RunError
from configs.schema.executor import Ray
from curation.console.progress import say
from curation.pipeline.executors import local  # noqa: F401  # ends datatrove's logs
from student.pools.ray_cluster import connect


def run_on_ray(steps: list[PipelineStep], tasks: int, settings: Ray, logs: Path) -> None:
    """Runs the tasks that are not complete, as many at once as the cluster has room for, and no more than
    `most_at_once`.

    Uses the Ray that is initialised in this process, else that of RAY_ADDRESS, else starts one on this machine. Raises
    what a task raises, RunError if a task's worker died too often, UserError where Ray is missing or not reachable.
    """
    executor = LocalPipelineExecutor(pipeline=steps, tasks=tasks, logging_dir=str(logs.absolute()))
    ranks = executor.get_incomplete_ranks(range(tasks))
    if not ranks:
        return
    ray, started_here = connect("curation.executor=ray", store_bytes=None, worker_logs=True)
    try:
        _run(ray, executor, ranks, settings)
    finally:
        if started_here:
            ray.shutdown()


def _run(ray: Any, executor: LocalPipelineExecutor, ranks: list[int], settings: Ray) -> None:
    for kind, wanted in (("CPU", settings.cpus_per_task), ("GPU", settings.gpus_per_task)):
        most = max((node["Resources"].get(kind, 0) for node in ray.nodes() if node["Alive"]), default=0)
        if wanted > most:
            say(f"no node of the Ray cluster has {wanted:g} {kind}s for a task (most: {most:g}): waiting for one")
    options = {"num_cpus": settings.cpus_per_task, "max_retries": settings.retries, "scheduling_strategy": "SPREAD"}
    if settings.gpus_per_task:
        options["num_gpus"] = settings.gpus_per_task
    if settings.memory_gb_per_task:
        options["memory"] = int(settings.memory_gb_per_task * 2**30)
    task = ray.remote(run_rank).options(**options)
    # By dill, as datatrove pickles its steps for Slurm: unpickled only once the task is in its folder.
    pickled = ray.put(dill.dumps(executor))
    environment = {name: os.environ[name] for name in settings.pass_on if name in os.environ}
    waiting = list(reversed(ranks))
    running: list[Any] = []
    try:
        while waiting or running:
            while waiting and len(running) < (settings.most_at_once or len(ranks)):
                running.append(task.remote(pickled, waiting.pop(), os.getcwd(), environment))
            done, running = ray.wait(running, num_returns=1, timeout=None)
            try:
                ray.get(done[0])
            except ray.exceptions.RayTaskError as error:
                if error.cause is None:
                    raise
                raise error.cause from None
            except ray.exceptions.RayError as error:
                raise RunError(
                    f"a task's worker or node in the Ray cluster died again and again ({type(error).__name__}); "
                    "finished batches are kept, the same command goes on from there"
                ) from None
    finally:
        for reference in running:
            ray.cancel(reference, force=True)
        # Wait, so that their locks and their memory are free when this returns.
        if running:
            ray.wait(running, num_returns=len(running), timeout=30)


def run_rank(pickled: bytes, rank: int, folder: str, environment: dict[str, str]) -> None:
    """One task, in a worker of Ray's. Keys come in `environment`, which Ray does not show in its dashboard."""
    os.environ.update(environment)
    # Paths of the config are relative to where the run was started.
    os.chdir(folder)
    dill.loads(pickled)._run_for_rank(rank)
