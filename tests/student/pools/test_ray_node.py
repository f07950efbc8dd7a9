"""A node of a Ray cluster that goes while its students run: in a module of its own, as the cluster is another then."""

from pathlib import Path

import pytest

from student.pools.ray import RayPool
from tests.ray_cluster import NODE, Noting, lose_node, name_of, times_begun, two_nodes
from tests.student.pools.test_ray import differences, inline, jobs, settings, wait_for_all  # noqa: F401  (fixtures)

pytest.importorskip("ray")


@pytest.mark.slow
def test_the_pool_goes_on_without_a_node_that_dies(inline, settings):  # noqa: F811
    gone = []
    with two_nodes(__name__, "tests.student.pools.test_ray") as cluster:
        pool = RayPool(settings, build=Noting)
        wait_for_all(pool)
        (Path(settings.model) / "noted").unlink()
        node = next(node for node in cluster.list_all_nodes() if not node.head)

        def remove(found):
            if not gone:
                gone.append(node)
                lose_node(cluster, node)

        outcomes = pool.examine(jobs(18), remove)
        assert gone
        assert not differences(outcomes, inline.examine(jobs(18)))
        begun = times_begun(settings.model)
        assert set(begun) == set(map(name_of, jobs(18))) and sum(begun.values()) <= 18 + 4
        cluster.add_node(**NODE)
        wait_for_all(pool)  # what comes back is taken up again
        pool.close()
