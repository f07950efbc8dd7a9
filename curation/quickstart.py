"""The whole job in one command, on the embedded lab: `notewright quickstart` (or `make quickstart`).

Builds the lab once, trains a teacher, curates a shard that it never saw, writes the report, and ends with a summary and
one JSON line of the run's figures.
"""

import itertools
import json
import resource
import time
from typing import Any

from configs.errors import UserError
from configs.files import write_whole
from configs.format import interval, without_nan
from configs.load import config_difference, load_config
from configs.schema import Config
from curation.console.progress import say
from curation.console.tables import print_example
from curation.lab.build import build_lab
from curation.pipeline.curate import CurateSummary, curate, print_curation
from curation.report import write_report
from curation.report.training_sections import print_training
from curation.train import train_from_config
from teacher.records import ONE_RUN
from teacher.training.summary import TrainSummary

SUMMARY = "summary.json"
"""Written last: its presence marks a finished quickstart."""


def run_quickstart(config: Config) -> dict[str, Any]:
    """Does the job and returns the figures that the last line of stdout shows.

    A finished run is never overwritten: the next one goes to `<run.dir>-2` and so on. An unfinished one of the same
    config is resumed. Raises UserError and RunError.
    """
    started = time.monotonic()
    config = fresh_run(config)
    say(f"the lab: {config.lab.dir}")
    build_lab(config.lab, progress=say)
    say(f"the run: {config.run.dir}")
    training = train_from_config(config)
    say(f"curating {', '.join(config.curation.input)}")
    curation = curate(config)
    page = write_report(config.run.dir)
    figures = _figures(training, curation, time.monotonic() - started)
    print()
    print_training(training, config)
    print()
    print_example(training)
    print()
    print_curation(curation)
    print(
        f"\nreward    {interval(*training.reward_first, 3)} at first, {interval(*training.reward_last, 3)} at the end,"
        f" of {ONE_RUN}",
        f"report    {page}",
        f"dataset   {config.curation.output}",
        f"time      {figures['seconds'] / 60:.1f} minutes, {figures['peak_memory_gib']} GiB of memory",
        "next      make smollm2 && .venv/bin/notewright train configs/smollm2-cpu.yaml   (real text, a real model)\n",
        sep="\n", flush=True,
    )  # fmt: skip
    line = json.dumps(figures, allow_nan=False)
    write_whole(config.run.dir / SUMMARY, line.encode() + b"\n")
    print(line, flush=True)
    return figures


def fresh_run(config: Config) -> Config:
    """The config with the first of `run.dir`, `run.dir-2`, ... that is unused or holds this config's unfinished run.
    `curation.output` moves along where it lies inside `run.dir`."""
    for number in itertools.count(1):
        name = config.run.dir.name if number == 1 else f"{config.run.dir.name}-{number}"
        folder, output = config.run.dir.with_name(name), config.curation.output
        if output.is_relative_to(config.run.dir):
            output = folder / output.relative_to(config.run.dir)
        candidate = config.model_copy(
            update={
                "run": config.run.model_copy(update={"dir": folder}),
                "curation": config.curation.model_copy(update={"output": output}),
            }
        )
        if not folder.exists() or _is_unfinished(candidate):
            return candidate
    raise AssertionError("unreachable: count() does not end")


def _is_unfinished(config: Config) -> bool:
    if (config.run.dir / SUMMARY).exists() or not (config.run.dir / "config.yaml").is_file():
        return False
    try:
        return not config_difference(load_config(config.run.dir / "config.yaml"), config)
    except UserError:  # of an earlier version, with keys that this one does not know
        return False


def _figures(training: TrainSummary, curation: CurateSummary, seconds: float) -> dict[str, Any]:
    # In a child, too: some of the lab's models are trained in one. Linux counts in KiB.
    peaks = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    figures = {
        "reward_first": round(training.reward_first.mean, 4),
        "reward_first_interval": [round(bound, 4) for bound in training.reward_first[1:]],
        "reward_last": round(training.reward_last.mean, 4),
        "reward_last_interval": [round(bound, 4) for bound in training.reward_last[1:]],
        **{f"heldout_gain_{arm}": round(measured.gain.mean, 4) for arm, measured in training.heldout.items()},
        **{f"heldout_accuracy_{arm}": round(measured.accuracy.mean, 4) for arm, measured in training.heldout.items()},
        "documents_in": curation.documents_in,
        "rows_out": curation.rows_out,
        "best_round": training.best_round,
        "trained": training.checkpoint is not None,
        "students": training.students,
        "student_runs": training.student_runs,
        "seconds": round(seconds, 1),
        "peak_memory_gib": round(max(peaks) / 2**20, 2),
    }
    return without_nan(figures)
