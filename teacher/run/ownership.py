"""To whom a run directory belongs: to one config, on one set of documents."""

from configs.errors import UserError
from configs.files import write_whole
from configs.load import config_difference, load_config, save_config
from configs.schema import Config

FREE_KEYS = ("run.dir:", "curation.", "evaluation.", "tracking.", "reward.minimum_reliability:")
"""What may differ when a run is resumed: it changes nothing that the teacher learns."""


def acquire_run(config: Config, data: str) -> None:
    """Writes config.yaml and the data's hash into the run directory, or checks that the run has this config and this
    data. Raises UserError."""
    journal = config.run.dir / "journal"
    metrics, data_file = journal / "metrics.jsonl", journal / "data"
    begun = (metrics.is_file() and metrics.stat().st_size > 0) or any((journal / "samples").glob("*"))
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
        changes = [line for line in config_difference(load_config(path), config) if not line.startswith(FREE_KEYS)]
        if changes:
            raise UserError(
                f"{config.run.dir} is a run of another config ({'; '.join(changes)}): choose another run.dir, or"
                " --fork NEW_RUN to go on from its last finished round under the new config"
            )
    save_config(config, path)
