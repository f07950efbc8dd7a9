"""The verb `notewright bench injections`."""

from pathlib import Path
from typing import Annotated

import typer


def bench_injections(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="The experiment.", show_default=False)],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="section.key=value", help="Settings that replace the file's.", show_default=False),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Rewrites of each document and arm.")] = 1,
    save: Annotated[Path | None, typer.Option(help="JSONL of all outputs.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout instead of the table.")] = False,
) -> None:
    """How often documents make the teacher do as they say: 90 with an injection, with and without the defences.

    The teacher is the best checkpoint of `run.dir`, or the untrained model. Success rates come with 95% intervals.

    **Example:** `notewright bench injections configs/smollm2-cpu.yaml teacher.max_new_tokens=96 --json`
    """
    import json

    from rich.console import Console

    from configs.load import load_config
    from curation.bench.injections import print_summary, run_bench, save_attempts
    from curation.console.progress import say

    found, attempts = run_bench(load_config(config, overrides or []), samples, tell=say)
    if save is not None:
        save_attempts(save, attempts)
    if as_json:
        print(json.dumps(found, allow_nan=False))
    else:
        print_summary(found, Console())
