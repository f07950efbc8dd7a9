"""Students on a Ray cluster: one actor for each GPU or CPU share, each an `InlinePool` in a process of its own.

    pool = RayPool(config.student)
    outcomes = pool.examine(jobs)

This process divides jobs into batches, longest first, and gives an actor its next one when it has finished the last, so
that nothing queues behind a slow actor. Every actor loads the base model from its path, which all nodes must see. The
jobs of a batch travel together, so that what they share (exams, retention texts) travels once.

An actor that dies, with its process or its node, is started again wherever there is room, and its batch runs again. A
batch that has killed two actors is halved until the one student that does it is known: it becomes an outcome with
`error`, and no other is lost. With `student.exact` outcomes are those of an `InlinePool` to the last bit on a CPU, but
for students that were in one batch with such a student.
"""

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from configs.errors import RunError, UserError
from configs.schema import Student
from student.engine.model_names import check_name
from student.pools.batching import JobBatch, TrainingSize, batch_sizes, chunks, longest_first
from student.pools.inline import InlinePool, most_slots
from student.pools.ray_cluster import actor_resources, connect, count_actors
from student.records import Job, OnDone, Outcome, Proof, StudentPool

log = logging.getLogger(__name__)

START_SECONDS = 900.0
"""A pool gives up when it has had no actor for so long: loading a large model over a network takes minutes."""

FAILED_STARTS = 5
"""A pool gives up when so many actors in a row have died while they started."""


class StudentActor:
    """The actor: a pool in a process of its own."""

    def start(self, settings: Student, build: Callable[[Student], StudentPool]) -> tuple[str, Proof]:
        """Loads the model; returns the pool's fingerprint and proof."""
        torch.set_num_threads(settings.cpus_per_actor)
        # Actors on a CPU share its memory; `exact` plans its batches as a process that is alone would.
        if settings.device == "cpu" and not settings.exact:
            share = min(1.0, settings.cpus_per_actor / (os.cpu_count() or 1))
            settings = settings.model_copy(update={"memory_fraction": settings.memory_fraction * share})
        self.pool = build(settings)
        return self.pool.fingerprint, self.pool.proof

    def examine(self, jobs: list[Job]) -> list[Outcome]:
        return self.pool.examine(jobs)

    def keep(self, job: Job, folder: Path) -> Outcome:
        return self.pool.keep(job, folder)


@dataclass(slots=True, eq=False)
class _Worker:
    """An actor, seen from this process."""

    actor: Any
    task: Any
    """The reference to the call that it works on; None if it is idle."""
    ready: bool = False
    """Its model is loaded."""
    batch: JobBatch | None = None


class RayPool:
    """Students on the actors of a Ray cluster.

    Raises UserError if Ray is missing or not reachable, no actor fits on any node, or the model cannot be loaded;
    RunError if actors die while they start, or none gets a place.
    """

    def __init__(
        self, settings: Student, *, sharing: int = 1, build: Callable[[Student], StudentPool] = InlinePool
    ) -> None:
        check_name(settings.model)
        self._ray, _ = connect("student.pool=ray")
        nodes = self._ray.nodes()
        whole = actor_resources(nodes, settings)
        room = count_actors(nodes, whole)
        # Pools of several student models take turns: each asks for a part of the resources, so that all fit.
        self.resources = {kind: amount / sharing for kind, amount in whole.items()}
        if (settings.actors or 0) > room:
            log.warning("student.actors=%d: the Ray cluster has room for %d, the others wait", settings.actors, room)
        folder, on_gpu = Path(settings.model), self.resources["num_gpus"] > 0
        actor_settings = {
            "model": str(folder.absolute()) if folder.exists() else settings.model,
            "device": "cuda" if on_gpu else "cpu",
            "memory_fraction": settings.memory_fraction * (min(1.0, settings.num_gpus_per_actor) if on_gpu else 1.0),
        }
        self.settings, self._build = settings.model_copy(update=actor_settings), build
        self._failed_starts, self.restarts, self._last_loss = 0, 0, ""
        self._workers = [_Worker(*self._start()) for _ in range(settings.actors or room)]
        # Those of an `InlinePool` of the same model and settings, once an actor is ready.
        self.fingerprint, self.proof = "", Proof("", packed=False, shares_prompts=False)
        self._until_one_is_ready()

    @property
    def at_once(self) -> int:
        """A batch for every actor."""
        return self._most * len(self._workers)

    @property
    def _most(self) -> int:
        """Most students of one batch."""
        if self.settings.mode == "full":
            return 1  # an actor trains them one by one, so that any idle actor can take the next
        return most_slots(self.settings, "cuda" if self.resources["num_gpus"] else "cpu")

    def examine(self, jobs: list[Job], on_done: OnDone | None = None) -> list[Outcome]:
        """Trains and examines one student for each job on the actors; see `InlinePool.examine`.

        Raises what an actor raises (a bug, or its node cannot load the model), and RunError if no actor can be started.
        The pool is closed then.
        """
        waiting = deque(self._batches(jobs))
        outcomes: dict[int, Outcome] = {}
        try:
            while len(outcomes) < len(jobs):
                for worker in self._workers:
                    if waiting and worker.ready and worker.task is None:
                        worker.batch = waiting.popleft()
                        worker.task = worker.actor.examine.remote([jobs[i] for i in worker.batch.jobs])
                for worker in self._finished():
                    batch, worker.batch = worker.batch, None
                    assert batch is not None
                    results = self._result(worker)
                    if results is None:
                        retries = batch.after_death()
                        waiting.extendleft(reversed(retries))
                        if retries:
                            continue
                        results = [Outcome(gain=None, error="its process died each time that it was run")]
                    batch_outcomes = dict(zip(batch.jobs, results, strict=True))
                    outcomes |= batch_outcomes
                    if on_done:
                        on_done(batch_outcomes)
        except BaseException:
            self.close()  # nobody can use what is still running
            raise
        return [outcomes[i] for i in range(len(jobs))]

    def keep(self, job: Job, folder: Path) -> Outcome:
        """Trains one student on an actor, which saves it; see `InlinePool.keep`.

        Raises RunError if this process does not see the folder that the actor wrote, or if the actor dies twice.
        """
        folder.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(2):
            self._until_one_is_ready()
            worker = next(worker for worker in self._workers if worker.ready)
            worker.task = worker.actor.keep.remote(job, folder.absolute())
            outcome = self._result(worker)
            if outcome is not None:
                if not folder.is_dir():
                    raise RunError(f"{folder} was written on another node and is not here: run.dir must be shared")
                return outcome
        raise RunError(f"the process that was to save a student to {folder} died twice")

    def close(self) -> None:
        """Ends the actors; the pool cannot be used any more. Ray itself runs until this process ends."""
        for worker in self._workers:
            self._ray.kill(worker.actor)
        self._workers = []

    def _batches(self, jobs: list[Job]) -> Iterator[JobBatch]:
        """Batches of all jobs, longest first."""
        sizes = [TrainingSize.of(job.lesson, self.settings) for job in jobs]
        order = longest_first(sizes)
        if self.settings.exact:  # the batches of an `InlinePool`
            return map(JobBatch, chunks(order, self._most))
        remaining = iter(order)
        counts = batch_sizes([sizes[i].cost for i in order], self._most, len(self._workers))
        return (JobBatch([next(remaining) for _ in range(count)]) for count in counts)

    def _finished(self) -> list[_Worker]:
        """Waits until a call to any actor ends; returns the workers whose batch is done or lost. Actors that have
        loaded their model become ready."""
        busy = {worker.task: worker for worker in self._workers if worker.task is not None}
        started = time.monotonic()
        while True:
            done, rest = self._ray.wait(list(busy), num_returns=1, timeout=10.0)
            if done:
                break
            if not any(worker.ready for worker in self._workers) and time.monotonic() - started > START_SECONDS:
                raise RunError(
                    f"no student actor was given a place in the Ray cluster for {START_SECONDS:.0f} s (each needs"
                    f" {self.resources['num_cpus']:g} CPUs and {self.resources['num_gpus']:g} GPUs); the same command"
                    " resumes"
                )
        if rest:  # others may be done too: collecting them now saves a wait over all actors for each
            done += self._ray.wait(rest, num_returns=len(rest), timeout=0)[0]
        workers = [busy[task] for task in done]
        for worker in workers:
            if not worker.ready:
                self._finish_start(worker)
        return [worker for worker in workers if worker.batch is not None]

    def _until_one_is_ready(self) -> None:
        while not any(worker.ready for worker in self._workers):
            self._finished()

    def _finish_start(self, worker: _Worker) -> None:
        """Makes an actor ready whose model is loaded. Raises what it raised, and RunError if its model is not that of
        the first actor, or if too many actors in a row died before this point."""
        started = self._result(worker)
        if started is None:
            self._failed_starts += 1
            if self._failed_starts >= FAILED_STARTS:
                raise RunError(
                    f"{FAILED_STARTS} student actors in a row died while they loaded {self.settings.model}"
                    f" (the last: {self._last_loss})"
                )
            return
        self._failed_starts, worker.ready = 0, True
        if not self.fingerprint:
            self.fingerprint, self.proof = started
        here, there = self.proof.dtype, started[1].dtype
        if here != there:
            raise RunError(
                f"some nodes of the Ray cluster compute {self.settings.model} in {here} and some in {there}:"
                " student.dtype=float32 makes them the same"
            )
        if started[0] != self.fingerprint:
            raise RunError(f"{self.settings.model} is not the same model on all nodes of the Ray cluster")

    def _result(self, worker: _Worker) -> Any:
        """The result of the worker's call; None if the actor died, in whose place another one is starting then."""
        errors = self._ray.exceptions
        task, worker.task = worker.task, None
        try:
            return self._ray.get(task)
        except errors.RayTaskError as error:
            if isinstance(error.cause, UserError | RunError):
                raise error.cause from None
            raise
        except errors.RayError as error:  # the process, its node or the connection is gone
            self._last_loss = type(error).__name__
            log.warning("a student actor was lost (%s); another takes its place", self._last_loss)
            self._ray.kill(worker.actor)
            worker.actor, worker.task, worker.ready = *self._start(), False
            self.restarts += 1
            return None

    def _start(self) -> tuple[Any, Any]:
        """A new actor, and the reference to its start."""
        # Each actor is placed on its own: a placement group would wait until all of them fit at once.
        actor = self._ray.remote(StudentActor).options(**self.resources, scheduling_strategy="SPREAD").remote()
        return actor, actor.start.remote(self.settings, self._build)
