"""Rounds whose students run on a Ray cluster of two nodes, of which one is lost on the way."""

import sqlite3
from contextlib import closing

import pytest

from configs.files import read_json_lines
from student.pools.inline import InlinePool
from student.pools.ray import RayPool
from teacher.training.loop import train_teacher
from tests.ray_cluster import Noting, kill_another, lose_node, times_begun, two_nodes

ray = pytest.importorskip("ray")


@pytest.fixture
def cluster():  # for each test: what lost a node is another afterwards
    with two_nodes(__name__) as found:
        yield found


class Losing(RayPool):
    """Loses the other actor, when a batch is done and that one is at work, or a node with the first batch."""

    def __init__(self, settings, lose):
        super().__init__(settings, build=Noting)
        self.lose, self.lost = lose, False
        while not all(worker.ready for worker in self._workers):  # there has to be another to lose
            self._finished()

    def examine(self, jobs, on_done=None):
        def noting(found):
            on_done(found)
            if not self.lost:
                self.lost = self.lose([jobs[place] for place in found])

        return super().examine(jobs, noting)


def left(run_dir):
    """Metrics without times, rewrites, cached outcomes, and the teacher's weights."""
    timed = ("time", "seconds", "students_per_second", "idle_share")
    lines = read_json_lines(run_dir / "journal" / "metrics.jsonl")
    with closing(sqlite3.connect(run_dir / "journal" / "outcomes.sqlite")) as database:
        outcomes = dict(database.execute("SELECT key, outcome FROM outcomes"))
    return (
        [{key: value for key, value in line.items() if not key.startswith(timed)} for line in lines],
        read_json_lines(run_dir / "journal" / "rewrites.jsonl"),
        outcomes,
        [path.read_bytes() for path in sorted((run_dir / "teacher").rglob("model.safetensors"))],
    )


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "what"), [("rest_em", "actor"), ("grpo", "actor"), ("rest_em", "node")])
def test_a_round_that_loses_students_ends_as_the_inline_one_to_the_last_bit(
    cluster, make_config, make_documents, student_folder, tmp_path, algorithm, what
):
    (student_folder / "noted").unlink(missing_ok=True)

    def config(pool):
        student = {
            "model": str(student_folder), "steps": 3, "learning_rate": 0.01, "device": "cpu", "pool": pool,
            "lora": {"rank": 2, "alpha": 4.0}, "exact": True, "max_slots": 4,
        }  # fmt: skip
        return make_config(
            tmp_path / pool, student=student, rl={"rounds": 1, "algorithm": algorithm}, reward={"repeats": 2}
        )

    def lose(finished):
        if what == "actor":
            return kill_another(student_folder, finished)
        lose_node(cluster, next(node for node in cluster.list_all_nodes() if not node.head))
        return True

    pools = []

    def make_pool(settings):
        pools.append(Losing(settings, lose))
        return pools[-1]

    for name, make in (("inline", InlinePool), ("ray", make_pool)):
        train_teacher(config(name), make_documents(8), make_documents(4, "heldout"), make, lambda _: None)
    assert [pool.lost for pool in pools] == [True]
    assert pools[0].restarts >= 1
    inline, on_ray = left(tmp_path / "inline"), left(tmp_path / "ray")
    for of_inline, of_ray in zip(inline, on_ray, strict=True):
        assert of_ray == of_inline
    # Nobody ran without need: of the lost actor's batch, and of another that went to an actor as it died, twice.
    assert sum(times_begun(student_folder).values()) <= len(on_ray[2]) + 2 * 4
    assert not pools[0]._workers, "the actors are given back when the run ends"
