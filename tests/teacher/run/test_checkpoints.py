from pathlib import Path

import pytest

from configs.errors import RunError
from teacher.run.checkpoints import (
    best_checkpoint,
    best_round,
    finished_rounds,
    latest_checkpoint,
    save_checkpoint,
    save_folder,
    write_best,
)
from teacher.writers.local import load_teacher


def test_the_latest_checkpoint_is_the_last_round_by_number(tmp_path):
    assert latest_checkpoint(tmp_path) is None
    assert finished_rounds(tmp_path) == 0
    for name in ("checkpoint-0002", "checkpoint-10000", "checkpoint-9999", ".checkpoint-10001.partial", "checkpoint-x"):
        (tmp_path / "teacher" / name).mkdir(parents=True)
    assert latest_checkpoint(tmp_path) == tmp_path / "teacher" / "checkpoint-10000"
    assert finished_rounds(tmp_path) == 10000


def test_the_best_checkpoint_is_the_one_that_validated_best(tmp_path):
    for round in (1, 2, 3):
        (tmp_path / "teacher" / f"checkpoint-{round:04d}").mkdir(parents=True)
    assert best_round(tmp_path) is None
    assert best_checkpoint(tmp_path) == latest_checkpoint(tmp_path), "nothing was validated"
    write_best(tmp_path, 2, 0.5)
    assert best_checkpoint(tmp_path) == tmp_path / "teacher" / "checkpoint-0002"
    write_best(tmp_path, 0, 0.7)
    assert best_checkpoint(tmp_path) is None, "no round gained more than the untrained teacher"
    assert best_round(tmp_path) == 0


def test_weights_that_are_not_finite_are_never_saved(make_config):
    config = make_config()
    writer = load_teacher(config.teacher, train_seed=config.run.seed)
    next(writer.model.parameters()).data[0] = float("nan")
    with pytest.raises(RunError, match="learning_rate"):
        save_checkpoint(config.run.dir, 1, writer.model, writer.tokenizer, writer.settings, None)
    assert latest_checkpoint(config.run.dir) is None


def test_a_folder_on_a_full_disk_is_not_there_at_all(tmp_path):
    def save(folder: Path) -> None:
        folder.mkdir()
        (folder / "half").write_text("half")
        (folder / "full").symlink_to("/dev/full")
        (folder / "full").write_text("more" * 4096)

    with pytest.raises(RunError, match=r"cannot save .*kept.*No space left.*; go on"):
        save_folder(tmp_path / "kept", save, "go on")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_whose_writer_gives_up_is_not_there_at_all(tmp_path):
    class GivenUp(Exception):
        pass

    def save(folder: Path) -> None:
        folder.mkdir()
        raise GivenUp

    with pytest.raises(GivenUp):
        save_folder(tmp_path / "kept", save, "go on")
    assert list(tmp_path.iterdir()) == []
