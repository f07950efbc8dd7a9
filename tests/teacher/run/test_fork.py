import pytest

from configs.errors import UserError
from configs.files import read_json_lines
from configs.load import load_config
from teacher.run.journal import Journal
from teacher.run.ownership import acquire_run, fork_run
from teacher.training.loop import train_teacher


def quiet(_line):
    pass


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name[0] != "."}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, teacher_folder, make_documents, gold_pool):
    """A finished run of one round: its config, documents and held-out documents."""
    from tests.teacher.conftest import _config

    config = _config(teacher_folder, tmp_path_factory.mktemp("runs") / "old", rl={"rounds": 1})
    documents, heldout = make_documents(8), make_documents(4, "heldout")
    train_teacher(config, documents, heldout, lambda _: gold_pool(), quiet)
    return config, documents, heldout


def changed(config, **rl):
    return config.model_copy(update={"rl": config.rl.model_copy(update=rl)})


def test_a_fork_goes_on_from_the_last_finished_round(finished, gold_pool, tmp_path):
    config, documents, heldout = finished
    before = files(config.run.dir)
    more = changed(config, rounds=2, learning_rate=0.02)
    with pytest.raises(UserError, match=r"rl\.rounds: 1 -> 2.*--fork NEW_RUN"):
        train_teacher(more, documents, heldout, lambda _: gold_pool(), quiet)
    new = fork_run(more, tmp_path / "new")
    assert new.run.dir == tmp_path / "new"
    assert load_config(new.run.dir / "config.yaml") == new
    pool = gold_pool()
    summary = train_teacher(new, documents, heldout, lambda _: pool, quiet)
    assert summary.rounds == 2
    lines = read_json_lines(new.run.dir / "journal" / "metrics.jsonl")
    assert [(line["kind"], line["round"]) for line in lines if line["kind"] in ("step", "fork")] == [
        ("step", 1), ("fork", 1), ("step", 2),
    ]  # fmt: skip
    (update,) = (line for line in lines if line["kind"] == "update" and line["round"] == 2)
    assert "floor" not in update, "what students gained under other settings is no reference"
    first = "teacher/checkpoint-0001/model.safetensors"
    assert (new.run.dir / first).read_bytes() == before[first]
    taught = [job.lesson.texts for job in pool.jobs]
    assert (documents[0].text,) not in taught
    # One round: its students, those taught twice to know the reliability, and the trained arm.
    assert len(pool.jobs) <= 2 * 4 + 2 * 4 + 2, "the arms that did not change come from the cache"
    assert files(config.run.dir) == before, "the source is as it was"


def test_a_config_can_be_corrected_until_something_was_measured(make_config):
    config = make_config()
    acquire_run(config, "data")
    metrics = config.run.dir / "journal" / "metrics.jsonl"
    metrics.write_text('{"kind": "adapters", "round": 0}\n')  # what is known before the teacher is loaded
    acquire_run(changed(config, rounds=7), "data")
    with metrics.open("a") as file:
        file.write('{"kind": "heldout", "round": 0}\n')
    with pytest.raises(UserError, match=r"rl\.rounds: 7 -> 8"):
        acquire_run(changed(config, rounds=8), "data")


def test_a_fork_that_cannot_work_is_refused(finished, make_config, tmp_path):
    config, *_ = finished
    new = tmp_path / "new"
    other = config.model_copy(update={"teacher": config.teacher.model_copy(update={"model": "another/model"})})
    with pytest.raises(UserError, match=r"cannot change teacher\.model: .* -> another/model: the checkpoints"):
        fork_run(other, new)
    with pytest.raises(UserError, match=r"cannot change rl\.validation_documents: 0 -> 4: documents that the teacher"):
        fork_run(changed(config, validation_documents=4), new)
    with pytest.raises(UserError, match="holds no run"):
        fork_run(make_config(tmp_path / "absent"), new)
    with Journal(config.run.dir), pytest.raises(UserError, match="another process"):
        fork_run(config, new)
    assert not new.exists()
    new.mkdir()
    with pytest.raises(UserError, match=r"exists: `run\.dir="):
        fork_run(config, new)


def test_a_run_without_a_finished_round_has_nothing_to_fork(make_config, make_documents, gold_pool, tmp_path):
    class Interrupted(Exception):
        pass

    def interrupt(line):
        if line.startswith("round 1"):
            raise Interrupted

    config = make_config()
    with pytest.raises(Interrupted):
        train_teacher(config, make_documents(8), [], lambda _: gold_pool(), interrupt)
    with pytest.raises(UserError, match="no finished round to go on from"):
        fork_run(config, tmp_path / "new")
