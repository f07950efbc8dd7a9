"""Students on a Ray cluster of two nodes: the same outcomes as in this process, whatever dies meanwhile."""

import os
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from peft import PeftModel

from configs.errors import RunError, UserError
from configs.schema import Lora, Student
from student.pools import make_pool
from student.pools.inline import InlinePool
from student.pools.ray import RayPool
from student.pools.ray_cluster import actor_resources, count_actors
from student.records import Exam, Job, Lesson, Question
from tests.processes import happens
from tests.ray_cluster import Noting, kill_another, name_of, noted, times_begun, two_nodes
from tests.student.conftest import build

pytest.importorskip("ray")

EXAM = Exam(
    questions=(
        Question(prompt="where did the cat sat ?", answer="mat"),
        Question(prompt="what is red ?", answer="the rug", distractors=("a sea",)),
    ),
    retention_texts=("the bird flew over the sea .",),
)
TEXTS = ("where did the cat sat ? mat", "what is red ? the rug", "it was it was", "the dog ran over the mat .")


def jobs(count):
    """Lessons of one to four texts."""
    return [Job(lesson=Lesson(texts=TEXTS[: 1 + n % 4], seed=n), exam=EXAM) for n in range(count)]


@pytest.fixture(scope="module")
def cluster():
    with two_nodes(__name__) as found:
        yield found


@pytest.fixture(scope="module")
def settings(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    build("llama").save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Student(model=str(folder), lora=Lora(rank=4, alpha=8), learning_rate=2e-2, steps=6, exact=True, max_slots=4)


@pytest.fixture(scope="module")
def opened():
    """The pool that tests share, while it is open: it takes both cores of the cluster."""
    pools = []
    yield pools
    for pool in pools:
        pool.close()


@pytest.fixture
def pool(cluster, settings, opened):
    if not opened:  # starting an actor is most of these tests' time: its process imports torch and transformers
        opened.append(RayPool(settings, build=Noting))
        opened[0].examine(jobs(1))
        wait_for_all(opened[0])
    (Path(settings.model) / "noted").unlink(missing_ok=True)
    return opened[0]


@pytest.fixture
def room(cluster, opened):
    """Both cores of the cluster are free."""
    while opened:
        opened.pop().close()


@pytest.fixture(scope="module")
def inline(settings):
    found = make_pool(settings)
    assert isinstance(found, InlinePool)
    return found


def wait_for_all(pool):
    def all_ready():
        return pool.examine(jobs(1)) and all(worker.ready for worker in pool._workers)

    assert happens(all_ready, pause=0.2)


def differences(outcomes, expected):
    """Places with what is not equal there, to the last bit."""
    return {
        place: {
            name: (a.metrics[name], b.metrics.get(name)) for name in a.metrics if a.metrics[name] != b.metrics.get(name)
        }
        for place, (a, b) in enumerate(zip(outcomes, expected, strict=True))
        if a != b
    }


@pytest.mark.slow
def test_a_pool_of_two_nodes_is_the_inline_pool_to_the_last_bit(pool, inline, settings):
    assert pool.fingerprint == inline.fingerprint
    assert pool.at_once == 2 * inline.at_once == 8
    done = []
    outcomes = pool.examine(jobs(18), done.append)
    assert not differences(outcomes, inline.examine(jobs(18)))
    assert sorted(len(found) for found in done) == [2, 4, 4, 4, 4]
    assert {place: outcome for found in done for place, outcome in found.items()} == dict(enumerate(outcomes))
    assert len({process for process, _ in noted(settings.model)}) == 2, "both actors worked"
    assert times_begun(settings.model) == Counter(map(name_of, jobs(18)))


@pytest.mark.slow
def test_an_actor_that_is_killed_costs_its_batch_and_nothing_else(pool, inline, settings):
    killed, before = [], pool.restarts

    def kill_the_other(found):
        if not killed and kill_another(settings.model, [jobs(18)[place] for place in found]):
            killed.append(True)

    outcomes = pool.examine(jobs(18), kill_the_other)
    assert killed and pool.restarts == before + 1
    assert not differences(outcomes, inline.examine(jobs(18)))
    begun = times_begun(settings.model)
    assert set(begun) == set(map(name_of, jobs(18))) and sum(begun.values()) <= 18 + 4, "one batch was begun again"


@pytest.mark.slow
def test_a_job_that_kills_its_process_is_an_error_and_stops_nobody(pool, inline, settings):
    lessons = jobs(8)
    lessons[5] = replace(lessons[5], lesson=replace(lessons[5].lesson, texts=("poison",)))
    outcomes = pool.examine(lessons)
    assert [place for place, outcome in enumerate(outcomes) if outcome.error] == [5]
    assert outcomes[5].gain is None and "process died" in outcomes[5].error
    expected = inline.examine(jobs(8))
    for place in set(range(8)) - {5}:
        assert outcomes[place].gain == pytest.approx(expected[place].gain, abs=1e-4)
    assert times_begun(settings.model)[name_of(lessons[5])] == 4, "in the whole batch, twice; in a half; alone"


@pytest.mark.slow
def test_a_student_is_saved_by_an_actor(pool, inline, tmp_path):
    [job] = jobs(1)
    outcome = pool.keep(job, tmp_path / "kept")
    assert outcome.gain == pytest.approx(inline.examine([job])[0].gain, abs=1e-4)
    PeftModel.from_pretrained(build("llama"), tmp_path / "kept")


@pytest.mark.slow
def test_without_exact_few_students_still_keep_both_actors_busy(room, settings):
    loose = settings.model_copy(update={"exact": False, "max_slots": None})
    pool = RayPool(loose, build=Noting)
    wait_for_all(pool)
    (Path(settings.model) / "noted").unlink()
    outcomes = pool.examine(jobs(6))
    pool.close()
    expected = InlinePool(loose).examine(jobs(6))
    assert [o.gain for o in outcomes] == pytest.approx([o.gain for o in expected], abs=1e-4)
    assert len(noted(settings.model)) == len({process for process, _ in noted(settings.model)}) == 2


class Failing(InlinePool):
    def examine(self, jobs, on_done=None):
        raise ZeroDivisionError("a bug")


@pytest.mark.slow
def test_errors_of_model_and_code_reach_the_caller(room, settings, tmp_path):
    with pytest.raises(UserError, match="there is no folder"):
        RayPool(settings.model_copy(update={"model": str(tmp_path / "none")}))
    alone = settings.model_copy(update={"actors": 1})
    with pytest.raises(UserError, match="did you mean 'q_proj'"):
        RayPool(alone.model_copy(update={"lora": Lora(target=("q_prj",))}))
    with pytest.raises(ZeroDivisionError, match="a bug"):
        RayPool(alone, build=Failing).examine(jobs(2))


class Dying(InlinePool):
    def __init__(self, settings):
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_actors_that_die_while_they_start_end_the_run(room, settings, monkeypatch):
    monkeypatch.setattr("student.pools.ray.FAILED_STARTS", 2)
    with pytest.raises(RunError, match="died while they loaded"):
        RayPool(settings.model_copy(update={"actors": 1}), build=Dying)


@pytest.mark.slow
def test_pools_of_two_models_share_the_cluster(room, settings):
    pools = [RayPool(settings, sharing=2, build=Noting) for _ in "ab"]
    for pool in pools:
        assert len(pool._workers) == 2
        wait_for_all(pool)
    assert pools[0].examine(jobs(8)) == pools[1].examine(jobs(8))
    for pool in pools:
        pool.close()


def node(cpus, gpus=0.0, alive=True):
    return {"Alive": alive, "Resources": {"CPU": cpus, "GPU": gpus}}


def test_actors_are_counted_by_what_each_node_has():
    gpu = {"num_cpus": 2.0, "num_gpus": 0.5}
    assert count_actors([node(16, 4), node(5, 8), node(64, 8, alive=False), node(8)], gpu) == 8 + 2
    assert count_actors([node(3), node(4)], {"num_cpus": 2.0, "num_gpus": 0.0}) == 1 + 2
    with pytest.raises(UserError, match=r"most: 8 and 0.*num_gpus_per_actor"):
        count_actors([node(8)], gpu)


def test_gpus_are_asked_for_where_there_are_any():
    settings = Student(cpus_per_actor=2, num_gpus_per_actor=0.5)
    assert actor_resources([node(8, 2)], settings) == {"num_cpus": 2, "num_gpus": 0.5}
    assert actor_resources([node(8)], settings)["num_gpus"] == 0
    assert actor_resources([node(8, 2)], settings.model_copy(update={"device": "cpu"}))["num_gpus"] == 0
    with pytest.raises(UserError, match="no node of the Ray cluster has a GPU"):
        actor_resources([node(8), node(8, 2, alive=False)], settings.model_copy(update={"device": "cuda"}))
