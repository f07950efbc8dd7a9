"""The whole job in one command, on the embedded lab: `notewright quickstart` (or `make quickstart`).

Builds the lab once, trains a teacher, curates a shard that it never saw, writes the report, and ends with a summary and
one JSON line of the run's figures.
"""

import itertools
import json
import math
import resource
import time
from pathlib import Path
from typing import Any

from configs.files import write_whole
from configs.format import interval
from configs.load import config_difference, load_config
from configs.schema import Config
from curation.console.progress import say
from curation.console.tables import print_example, print_training
from curation.lab.build import build_lab
from curation.pipeline.curate import CurateSummary, curate, print_curation
from curation.report import write_report
from curation.train import train_from_config
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
    _print_summary(config, training, curation, page, figures)
    line = json.dumps(figures, allow_nan=False)
    write_whole(config.run.dir / SUMMARY, line.encode() + b"\n")
    print(line, flush=True)
    return figures


def fresh_run(config: Config) -> Config:
    """The config with the first of `run.dir`, `run.dir-2`, ... that is unused or holds this config's unfinished run.

    `curation.output` moves along where it lies inside `run.dir`.
    """
    for number in itertools.count(1):
        name = config.run.dir.name if number == 1 else f"{config.run.dir.name}-{number}"
        candidate = _moved(config, config.run.dir.with_name(name))
        if not candidate.run.dir.exists() or _is_unfinished(candidate):
            return candidate
    raise AssertionError("unreachable: count() does not end")


def _is_unfinished(config: Config) -> bool:
    begun = config.run.dir / "config.yaml"
    if (config.run.dir / SUMMARY).exists() or not begun.is_file():
        return False
    return not config_difference(load_config(begun), config)


def _moved(config: Config, folder: Path) -> Config:
    output = config.curation.output
    if output.is_relative_to(config.run.dir):
        output = folder / output.relative_to(config.run.dir)
    return config.model_copy(
        update={
            "run": config.run.model_copy(update={"dir": folder}),
            "curation": config.curation.model_copy(update={"output": output}),
        }
    )


def _figures(training: TrainSummary, curation: CurateSummary, seconds: float) -> dict[str, Any]:
    gains = {f"heldout_gain_{arm}": _number(found.gain.mean) for arm, found in training.heldout.items()}
    accuracies = {f"heldout_accuracy_{arm}": _number(found.accuracy.mean) for arm, found in training.heldout.items()}
    return {
        "reward_first": _number(training.reward_first.mean),
        "reward_first_interval": [_number(training.reward_first.low), _number(training.reward_first.high)],
        "reward_last": _number(training.reward_last.mean),
        "reward_last_interval": [_number(training.reward_last.low), _number(training.reward_last.high)],
        **gains,
        **accuracies,
        "documents_in": curation.documents_in,
        "rows_out": curation.rows_out,
        "best_round": training.best_round,
        "trained": training.checkpoint is not None,
        "students": training.students,
        "student_runs": training.student_runs,
        "seconds": round(seconds, 1),
        "peak_memory_gib": round(_peak_memory_gib(), 2),
    }


def _peak_memory_gib() -> float:
    """Of this process, or of a child (the lab's models are trained in some) that took more. Linux counts in KiB."""
    return max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 2**20


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)


def _print_summary(
    config: Config, training: TrainSummary, curation: CurateSummary, page: Path, figures: dict[str, Any]
) -> None:
    print()
    print_training(training, config)
    print()
    print_example(training)
    print()
    print_curation(curation)
    print()
    print(f"reward    {interval(*training.reward_first, 3)} at first, {interval(*training.reward_last, 3)} at the end")
    print(f"report    {page}")
    print(f"dataset   {config.curation.output}")
    print(f"time      {figures['seconds'] / 60:.1f} minutes, {figures['peak_memory_gib']} GiB of memory")
    print("next      make smollm2 && .venv/bin/notewright train configs/smollm2-cpu.yaml   (real text, a real model)")
    print(flush=True)
