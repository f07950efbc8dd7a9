"""To whom a run directory belongs: to one config, on one set of documents. `--fork` goes on from its last finished
round under another name and a changed config."""

import shutil
import time
from pathlib import Path

from configs.errors import UserError
from configs.files import read_json_lines, write_json_lines, write_whole
from configs.load import config_difference, load_config, save_config
from configs.schema import Config
from teacher.run.checkpoints import BEST_FILE, SCREEN_FILE, finished_rounds, save_folder
from teacher.run.journal import held

FREE_KEYS = ("run.dir", "curation.", "evaluation.", "tracking.", "reward.minimum_reliability")
"""What may differ when a run is resumed: it changes nothing that the teacher learns."""

SAME_TEACHER = ("teacher.model", "teacher.lora")
"""What a fork cannot change: its checkpoints are of this model."""

SAME_VALIDATION = (
    "rl.validation_documents", "run.seed", "data.train", "data.limit", "data.titles", "reward.credit",
    "reward.documents_per_student",
)  # fmt: skip
"""What a fork cannot change where either run validates: documents that were trained on would validate it."""

KNOWN_AT_START = ("adapters", "proof")
"""Kinds of metrics that are written before anything is measured."""

MEASURED_ANEW = (*KNOWN_AT_START, "validation", "heldout", "difference")
"""Kinds of metrics that a fork measures again, under its own config; students that did not change are in the cache."""


def acquire_run(config: Config, data: str) -> None:
    """Writes config.yaml and the data's hash into the run directory, or checks that the run has this config and this
    data. Raises UserError."""
    journal = config.run.dir / "journal"
    metrics, data_file = journal / "metrics.jsonl", journal / "data"
    measured = any(line["kind"] not in KNOWN_AT_START for line in read_json_lines(metrics, "kind"))
    begun = measured or any((journal / "samples").glob("*"))
    if data_file.is_file() and not begun:
        # Nothing was measured or sampled: a mistake in the config that shows only later, such as a model that cannot
        # be loaded, can be corrected in the same directory.
        save_config(config, config.run.dir / "config.yaml")
    elif data_file.is_file() and data_file.read_text().strip() != data:
        raise UserError(
            f"{config.run.dir} is a run on other contents: the documents, their questions, a strategy file, the"
            " retention texts or a benchmark file has changed since"
        )
    else:
        acquire_config(config)
    write_whole(data_file, data + "\n")


def acquire_config(config: Config) -> None:
    """Writes config.yaml into the run directory, or checks that the one there differs in free keys alone. Raises
    UserError."""
    path = config.run.dir / "config.yaml"
    if path.is_file():
        changed = config_difference(load_config(path), config)
        changes = [f"{key}: {change}" for key, change in changed.items() if not key.startswith(FREE_KEYS)]
        if changes:
            raise UserError(
                f"{config.run.dir} is a run of another config ({'; '.join(changes)}): choose another run.dir, or"
                " --fork NEW_RUN to go on from its last finished round under the new config"
            )
    save_config(config, path)


def fork_run(config: Config, new_dir: Path) -> Config:
    """Copies the finished rounds of the run in `config.run.dir` to `new_dir`, whole or not at all, and returns `config`
    with `run.dir` set to it: checkpoints, promoted students, the reward cache and the journal, without what the run
    measured on held-out and validation documents, since the changed config may measure it otherwise.

    Raises:
        UserError: `new_dir` exists, the source has no finished round or is at work, or the config changes what cannot
            change within a run.
        RunError: the copy cannot be written.
    """
    source = config.run.dir
    config = config.model_copy(update={"run": config.run.model_copy(update={"dir": new_dir})})
    if new_dir.exists():
        raise UserError(f"--fork: {new_dir} exists: `run.dir={new_dir}` goes on with it, or name another")
    if not (source / "config.yaml").is_file():
        raise UserError(f"--fork: run.dir {source} holds no run: no config.yaml")
    rounds = finished_rounds(source)
    if not rounds:
        raise UserError(
            f"--fork: the run in {source} has no finished round to go on from: train {new_dir} from scratch"
        )
    old = load_config(source / "config.yaml")
    validates = bool(old.rl.validation_documents or config.rl.validation_documents)
    for keys, reason in (
        (SAME_TEACHER, "the checkpoints would not fit"),
        (SAME_VALIDATION if validates else (), "documents that the teacher has trained on would validate it"),
    ):
        changed = config_difference(old, config)
        refused = [f"{key}: {change}" for key, change in changed.items() if key.startswith(keys)]
        if refused:
            raise UserError(f"--fork cannot change {'; '.join(refused)}: {reason}")

    def save(folder: Path) -> None:
        for part in ("teacher", "student"):
            if (source / part).is_dir():
                shutil.copytree(source / part, folder / part, ignore=shutil.ignore_patterns(".*"))
        # The new run validates its rounds anew, and then knows which is best. It may have other students.
        for name in (BEST_FILE, SCREEN_FILE):
            (folder / "teacher" / name).unlink(missing_ok=True)
        if (source / "questions.jsonl").is_file():
            shutil.copyfile(source / "questions.jsonl", folder / "questions.jsonl")
        _copy_journal(source, folder, rounds, same_data=validates)
        save_config(config, folder / "config.yaml")

    with held(source):
        save_folder(new_dir, save, "nothing was changed")
    return config


def _copy_journal(source: Path, folder: Path, rounds: int, *, same_data: bool) -> None:
    old, new = source / "journal", folder / "journal"
    (new / "samples").mkdir(parents=True)
    # The data's hash is copied where the fork has to train on the same documents.
    names = ["outcomes.sqlite", "outcomes.sqlite-wal", *(["data"] if same_data else [])]
    for path in [*(old / name for name in names), *(old / "samples").glob("accepted-*.json")]:
        if path.is_file():
            shutil.copyfile(path, new / path.relative_to(old))
    finished = {
        name: [line for line in read_json_lines(old / name, "round") if line["round"] <= rounds]
        for name in ("metrics.jsonl", "rewrites.jsonl")
    }
    metrics = [line for line in finished["metrics.jsonl"] if line["kind"] not in MEASURED_ANEW]
    metrics.append({"time": round(time.time(), 3), "kind": "fork", "round": rounds, "source": str(source)})
    write_json_lines(new / "metrics.jsonl", metrics)
    write_json_lines(new / "rewrites.jsonl", [line for line in finished["rewrites.jsonl"] if line["arm"] == "train"])
