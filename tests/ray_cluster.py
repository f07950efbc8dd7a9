"""A Ray cluster of two nodes with a core each, on this machine, and students that leave a trace of what they began."""

import hashlib
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from student.pools.inline import InlinePool
from student.records import Job
from tests.processes import happens

NODE = {"num_cpus": 1, "object_store_memory": 100 * 2**20}


@contextmanager
def two_nodes(*modules: str) -> Iterator:
    """The cluster, and this process connected to it. Classes of the test modules travel by value."""
    import ray
    from ray.cluster_utils import Cluster

    for name in (__name__, *modules):
        ray.cloudpickle.register_pickle_by_value(sys.modules[name])
    # Ray would kill actors where other processes fill this machine's memory, and starve them where they want its cores.
    system = {"_system_config": {"memory_monitor_refresh_ms": 0, "worker_niceness": 0}}
    cluster = Cluster(initialize_head=True, head_node_args=NODE | system)
    cluster.add_node(**NODE)
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def lose_node(cluster, node) -> None:
    """Kills a node, and waits until Ray knows: until then its processes may go on, and what they do may count."""
    import ray

    alive = sum(known["Alive"] for known in ray.nodes())
    cluster.remove_node(node, allow_graceful=False)
    assert happens(lambda: sum(known["Alive"] for known in ray.nodes()) < alive, pause=0.05), "Ray does not notice"


class Noting(InlinePool):
    """Writes its process and the names of each batch that it begins into a file beside its model: the one place that an
    actor and a test both know. Dies of the word `poison`."""

    def examine(self, jobs, on_done=None):
        with (Path(self.settings.model) / "noted").open("a") as file:
            file.write(f"{os.getpid()} {' '.join(map(name_of, jobs))}\n")
        if any("poison" in text for job in jobs for text in job.lesson.texts):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().examine(jobs, on_done)


def name_of(job: Job) -> str:
    return hashlib.sha256(repr(job.lesson).encode()).hexdigest()[:12]


def noted(model: str | Path) -> list[tuple[int, list[str]]]:
    """(process, names of the jobs) of each batch that was begun."""
    lines = (Path(model) / "noted").read_text().splitlines()
    return [(int(line.split()[0]), line.split()[1:]) for line in lines]


def times_begun(model: str | Path) -> Counter[str]:
    return Counter(name for _, names in noted(model) for name in names)


def kill_another(model: str | Path, finished: list[Job]) -> bool:
    """Kills a process that has begun none of the `finished` jobs, if there is one."""
    done = {name_of(job) for job in finished}
    others = [process for process, names in noted(model) if not done & set(names)]
    if others:
        os.kill(others[-1], signal.SIGKILL)
    return bool(others)
