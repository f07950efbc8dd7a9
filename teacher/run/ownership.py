"""Whose a run directory is: one config's, on one set of documents."""

from configs.errors import UserError
from configs.files import write_whole
from configs.load import config_difference, load_config, save_config
from configs.schema import Config

FREE_KEYS = ("run.dir:", "curation.", "evaluation.", "tracking.", "reward.minimum_reliability:")
"""What may differ when a run is resumed: it changes nothing that the teacher learns."""


def acquire_run(config: Config, data: str) -> None:
    """Writes config.yaml and the data's hash into the run directory, or checks that the run is this config's, on this
    data. Raises UserError.

    A run that has done nothing yet is anyone's: a model that is not there is told when it is loaded, after this.
    """
    named = config.run.dir / "journal" / "data"
    if named.is_file() and not _has_begun(config):
        save_config(config, config.run.dir / "config.yaml")
        write_whole(named, data + "\n")
        return
    if named.is_file() and named.read_text().strip() != data:
        raise UserError(
            f"{config.run.dir} is a run on other contents: the documents, their questions, a strategy file, the"
            " retention texts or a benchmark file has changed since"
        )
    acquire_config(config)
    write_whole(named, data + "\n")


def _has_begun(config: Config) -> bool:
    """Whether anything was measured or sampled in the run directory."""
    journal = config.run.dir / "journal"
    metrics = journal / "metrics.jsonl"
    return (metrics.is_file() and metrics.stat().st_size > 0) or any((journal / "samples").glob("*"))


def acquire_config(config: Config) -> None:
    """Writes config.yaml into the run directory, or checks that the one there differs in free keys alone. Raises
    UserError."""
    path = config.run.dir / "config.yaml"
    if path.is_file():
        changes = [line for line in config_difference(load_config(path), config) if not line.startswith(FREE_KEYS)]
        if changes:
            raise UserError(
                f"{config.run.dir} is a run of another config ({'; '.join(changes)}): choose another run.dir, or"
                " --fork NEW_RUN to go on from its last finished round under the new config"
            )
    save_config(config, path)
