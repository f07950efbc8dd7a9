"""The verbs that look before a run: `preview`, `plan` and `doctor`. None writes anything."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from curation.cli.arguments import AsJson, ConfigFile, Overrides, finite, load


def preview(
    config: ConfigFile,
    overrides: Overrides = None,
    documents: Annotated[int, typer.Option(min=1, help="Documents, spread over the input files.")] = 5,
    questions: Annotated[
        bool, typer.Option("--questions", help="The written questions of data.train instead.")
    ] = False,
) -> None:
    """Shows what `curate` makes of a few documents: before and after, and every verdict; nothing is written.

    The same filters, teacher, gates and leak check as in a run, one document at a time. Duplicates are found by
    `curate` alone. Colours on a terminal, unless NO_COLOR is set. With --questions: how many questions were
    written, kept and refused for the documents to train on, with examples; where no run has written any, they are
    written now for a few documents, and not kept.

    **Example:** `notewright preview configs/smollm2-cpu.yaml --documents 5`
    """
    settings = load(config, overrides)

    if questions:
        from curation.corpus.question_preview import print_questions as show
    else:
        from curation.pipeline.preview import print_preview as show

    show(settings, documents)


def plan(
    config: ConfigFile,
    overrides: Overrides = None,
    device: Annotated[str, typer.Option(metavar="NAME", help="The GPU to assume, e.g. h100, a100-80gb, l4.")] = "h100",
    price: Annotated[
        float | None, typer.Option(min=0, callback=finite, metavar="USD", help="Of a GPU-hour; else no cost.")
    ] = None,
    parameters: Annotated[
        float | None,
        typer.Option(min=1, callback=finite, help="The teacher's size, e.g. 7e9, where its files are not here."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What `curate` and `train` will take: documents, tokens, student runs, hours, disk, cost; nothing is trained.

    Measures for about a minute what this machine can: a sample of the input, a few rewrites, a few student steps. The
    rest is assumed from published figures, and each figure says which it is.

    **Example:** `notewright plan configs/smollm2-cpu.yaml --device h100 --price 2.5`
    """
    settings = load(config, overrides)

    from curation.console.tables import stdout_console
    from curation.plan.plan import as_json as plain
    from curation.plan.plan import make_plan, print_plan

    made = make_plan(settings, device=device, price=price, parameters=parameters)
    if as_json:
        print(json.dumps(plain(made), allow_nan=False))
    else:
        print_plan(made, stdout_console())


def doctor(config: ConfigFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Whether this machine can run a config: devices, memory, versions, models, data, disk, Hub, vLLM, Ray, Slurm,
    compiler; and what to change.

    Exit code 0: nothing stands in the way (warnings may); 1: something has to be changed; 2: the config is wrong.

    **Example:** `notewright doctor configs/qwen-0.5b-1gpu.yaml`
    """
    settings = load(config, overrides)

    from curation.console.tables import stdout_console
    from curation.doctor.checks import exit_code, print_checks
    from curation.doctor.examine import examine

    checks = examine(settings)
    if as_json:
        print(json.dumps({"checks": [asdict(check) for check in checks], "exit_code": exit_code(checks)}))
    else:
        print_checks(checks, stdout_console())
    raise typer.Exit(exit_code(checks))
