"""The verb `notewright bench injections`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from curation.cli.arguments import AsJson, ConfigFile, Overrides, load


def bench_injections(
    config: ConfigFile,
    overrides: Overrides = None,
    samples: Annotated[int, typer.Option(min=1, help="Rewrites of each document and arm.")] = 1,
    save: Annotated[Path | None, typer.Option(help="JSONL of all outputs.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """How often documents make the teacher do as they say: 90 with an injection, with and without the defences.

    The teacher is the best checkpoint of `run.dir`, or the untrained model. Success rates come with 95% intervals.

    **Example:** `notewright bench injections configs/smollm2-cpu.yaml teacher.max_new_tokens=96 --json`
    """
    settings = load(config, overrides)

    from rich.console import Console

    from curation.bench.injections import print_summary, run_bench, save_attempts
    from curation.console.progress import say

    result, attempts = run_bench(settings, samples, progress=say)
    if save is not None:
        save_attempts(save, attempts)
    if as_json:
        print(json.dumps(result, allow_nan=False))
    else:
        print_summary(result, Console())
