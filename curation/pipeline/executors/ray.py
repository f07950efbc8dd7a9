"""The tasks of a curation on a Ray cluster.

Not by datatrove's RayPipelineExecutor: it ends without an error when a task raised, waits for ever for an actor whose
node died before it answered, and gives a task up in silence after three tries. Here an error of a task comes out, and a
task whose worker or node died starts again, up to `curation.ray.retries` times; the parts that it left are kept.
"""

import os
from pathlib import Path
from typing import Any

import dill
from datatrove.pipeline.base import PipelineStep

from configs.errors import RunError
from configs.schema.executor import Ray
from curation.console.progress import say
from curation.pipeline.executors.local import WatchedExecutor
from student.pools.ray_cluster import connect


def run_on_ray(steps: list[PipelineStep], tasks: int, settings: Ray, logs: Path) -> None:
    """Runs the tasks that are not complete, as many at once as the cluster has room for, and no more than
    `most_at_once`.

    Uses the Ray that is initialised in this process, else that of RAY_ADDRESS, else starts one on this machine. Raises
    what a task raises, RunError if a task's worker died too often, UserError where Ray is missing or not reachable.
    """
    executor = WatchedExecutor(pipeline=steps, tasks=tasks, workers=1, logging_dir=str(logs.absolute()))
    ranks = executor.get_incomplete_ranks(range(tasks))
    if not ranks:
        return
    ray, ours = connect("curation.executor=ray", store_bytes=None, worker_logs=True)
    try:
        _run(ray, executor, ranks, settings)
    finally:
        if ours:
            ray.shutdown()


def _run(ray: Any, executor: WatchedExecutor, ranks: list[int], settings: Ray) -> None:
    _warn_of_no_room(ray, settings)
    options = {"num_cpus": settings.cpus_per_task, "max_retries": settings.retries, "scheduling_strategy": "SPREAD"}
    if settings.gpus_per_task:
        options["num_gpus"] = settings.gpus_per_task
    if settings.memory_gb_per_task:
        options["memory"] = int(settings.memory_gb_per_task * 2**30)
    task = ray.remote(run_rank).options(**options)
    # By dill, as datatrove pickles its steps for Slurm: unpickled only once the task is in its folder.
    given = ray.put(dill.dumps(executor))
    environment = {name: os.environ[name] for name in settings.pass_on if name in os.environ}
    waiting = list(reversed(ranks))
    running: list[Any] = []
    try:
        while waiting or running:
            while waiting and len(running) < (settings.most_at_once or len(ranks)):
                running.append(task.remote(given, waiting.pop(), os.getcwd(), environment))
            done, running = ray.wait(running, num_returns=1, timeout=None)
            _check(ray, done[0])
    finally:
        for reference in running:
            ray.cancel(reference, force=True)
        # Their locks and their memory are free when this returns.
        if running:
            ray.wait(running, num_returns=len(running), timeout=30)


def run_rank(pickled: bytes, rank: int, folder: str, environment: dict[str, str]) -> None:
    """One task, in a worker of Ray's. Keys come in `environment`, which Ray does not show in its dashboard."""
    os.environ.update(environment)
    # Paths of the config are relative to where the run was started.
    os.chdir(folder)
    dill.loads(pickled)._run_for_rank(rank)


def _check(ray: Any, reference: Any) -> None:
    try:
        ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if error.cause is None:
            raise
        raise error.cause from None
    except ray.exceptions.RayError as error:
        raise RunError(
            f"a task's worker or node in the Ray cluster died again and again ({type(error).__name__}); finished "
            "batches are kept, the same command goes on from there"
        ) from None


def _warn_of_no_room(ray: Any, settings: Ray) -> None:
    wanted = {"CPU": settings.cpus_per_task, "GPU": settings.gpus_per_task}
    for kind, amount in wanted.items():
        most = max((node["Resources"].get(kind, 0) for node in ray.nodes() if node["Alive"]), default=0)
        if amount > most:
            say(f"no node of the Ray cluster has {amount:g} {kind}s for a task (most: {most:g}): waiting for one")
