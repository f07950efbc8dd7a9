"""The verbs of `notewright bench`: the project's claims about speed and learning, measured."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from configs.format import without_nan
from curation.cli.arguments import AsJson, ConfigFile, Overrides, load


def show(result: Any, as_json: bool, words: Callable[[Any], str | None]) -> None:
    """The result as JSON, or as `words` puts it: a text to print, or none where it prints itself."""
    shown = json.dumps(without_nan(result)) if as_json else words(result)
    if shown is not None:
        print(shown)


bench = typer.Typer(rich_markup_mode="markdown", help="The project's speed beside what you would use instead.")


@bench.command("student")
def bench_student(
    model: Annotated[
        str, typer.Option(help="A model folder, or a shape with random weights: lab, smollm2-135m.")
    ] = "lab",
    students: Annotated[int, typer.Option(min=1, help="Students trained at once.")] = 32,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps of each student.")] = 10,
    rank: Annotated[int | None, typer.Option(min=1, help="Rank; else 8 for the lab, 32 for others.")] = None,
    lessons: Annotated[Path | None, typer.Option(help="JSONL with `rewrites` or `text`; else generated.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Measurements, taken in turns.")] = 15,
    dtype: Annotated[Literal["auto", "float32", "bfloat16"], typer.Option(help="Of the base.")] = "auto",
    questions: Annotated[int, typer.Option(min=0, help="Of each student's exam; 0 leaves exams out.")] = 8,
    sweep: Annotated[bool, typer.Option("--sweep", help="Also 1, 2, 4, ... 256 students.")] = False,
    as_json: AsJson = False,
) -> None:
    """Many students at once, against separate PEFT runs and the padded batch-1 recipe; losses must agree.

    **Example:** `notewright bench student --students 32 --json`
    """
    from curation.console.progress import say
    from student.bench.report import check_losses, table
    from student.bench.run import SWEEP, run_bench

    result = run_bench(
        model=model, students=students, steps=steps, rank=rank, lessons=lessons, repeats=repeats, dtype=dtype,
        questions=questions, sweep=SWEEP if sweep else (), progress=say,
    )  # fmt: skip
    show(result, as_json, table)
    check_losses(result)


@bench.command("lab")
def bench_lab(
    folder: Annotated[Path, typer.Option("--dir", metavar="DIR", help="Where students and results are kept.")] = Path(
        "runs/bench-lab"
    ),
    quick: Annotated[bool, typer.Option("--quick", help="The two students as declared, one of each.")] = False,
    as_json: AsJson = False,
    overrides: Overrides = None,
) -> None:
    """Which lessons the lab's students learn more from, and what changes that: one thing at a time.

    Wordings read, questions practised, size, rank, budget. The table is Markdown: accuracy and (gain) on people whom
    no setting was chosen on, at the settings of lab-sets. Twenty minutes on two cores, two with --quick; goes on where
    it stopped.

    **Example:** `notewright bench lab --quick --json`
    """
    from curation.bench.lab.report import table
    from curation.bench.lab.run import run_bench

    summary = run_bench(folder, quick=quick, overrides=overrides or ())
    show(summary, as_json, table)


@bench.command("settings")
def bench_settings(config: ConfigFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """At which settings of a student does a lesson beat foreign text and the passage, how reliably, at what cost?

    Students of each of `search.settings` learn the texts of `search.arms`; all measures stand beside each other, with
    intervals over titles. Writes settings.json into `run.dir`. Students are kept, so that a stopped call goes on.

    **Example:** `notewright bench settings configs/settings-squad.yaml --json`
    """
    settings = load(config, overrides)

    from curation.study.settings import run_settings
    from curation.study.settings_report import print_settings

    show(run_settings(settings), as_json, lambda found: print_settings(found, settings.run.dir / "settings.json"))


@bench.command("curate")
def bench_curate(
    rows: Annotated[int, typer.Option(min=800, help="Rows of the largest corpus; a quarter and a 16th as well.")] = (
        16_000
    ),
    steps: Annotated[bool, typer.Option("--steps", help="Also what each step costs by itself.")] = False,
    vllm: Annotated[
        bool | None, typer.Option(help="A teacher through vLLM, beside bare vLLM; by itself where both are installed.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What the curation pipeline costs by itself, with an echo in the teacher's place; every row is counted.

    About two minutes, and five more for vLLM; `--rows 100000` takes ten. CPU time a document at one worker, linearity,
    memory.

    **Example:** `notewright bench curate --json`
    """
    from curation.bench.pipeline import run_bench, table
    from curation.console.progress import say

    result = run_bench(rows, steps=steps, vllm=vllm, progress=say)
    show(result, as_json, table)


@bench.command("pool")
def bench_pool(
    students: Annotated[int, typer.Option(min=64, help="Students of each arm, in batches of 32.")] = 64,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps of each student.")] = 15,
    repeats: Annotated[int, typer.Option(min=1, help="Measurements, taken in turns.")] = 3,
    as_json: AsJson = False,
) -> None:
    """Students on Ray actors beside students in this process: speed, overhead, memory.

    Students of the lab's shape on one and two actors; 10,000 queued jobs. A few minutes on two cores.

    **Example:** `notewright bench pool --json`
    """
    from curation.bench.pool import run_bench, table
    from curation.console.progress import say

    result = run_bench(students=students, steps=steps, repeats=repeats, progress=say)
    show(result, as_json, table)


@bench.command("selection")
def bench_selection(
    rounds: Annotated[int, typer.Option(min=1, help="Simulated rounds of 48 documents in each design.")] = 60,
    lab: Annotated[bool, typer.Option("--lab", help="Real students: training runs with and without a screen.")] = False,
    folder: Annotated[Path, typer.Option("--dir", metavar="DIR", help="Where the lab's runs are kept.")] = Path(
        "runs/bench-selection"
    ),
    as_json: AsJson = False,
    overrides: Overrides = None,
) -> None:
    """How often ReST-EM and DPO keep a lesson where all are equal, and what `rl.false_keep` costs where they differ.

    Simulated gains, chosen by the code of a run; about a minute on one core. With `--lab` two training runs of
    configs/lab.yaml, one of which teaches only lessons that its screen finds promising: students' tokens, held-out
    gains, and what `curation.best_of` adds; some minutes on two cores, and it goes on where it stopped.

    **Example:** `notewright bench selection --json`
    """
    if lab:
        from curation.bench.lab.screened import run_screened
        from curation.bench.lab.screened import table as lab_table

        found = run_screened(folder, overrides or ())
        print(json.dumps(found, allow_nan=False) if as_json else lab_table(found))
        return
    from curation.bench.selection import run_bench, table

    result = run_bench(rounds)
    show(result, as_json, table)


@bench.command("round")
def bench_round(
    folder: Annotated[Path, typer.Option("--dir", metavar="DIR", help="A new folder for run and dataset.")] = Path(
        "runs/bench-round"
    ),
    as_json: AsJson = False,
    overrides: Overrides = None,
) -> None:
    """One ReST-EM round and `curate` of 600 passages on this machine: sampling, students, update, idle.

    configs/qwen-0.5b-1gpu.yaml with SmolLM2-135M in the place of both models (`make smollm2 vllm` first). Minutes on a
    GPU; for a CPU make it smaller.

    **Example:** `notewright bench round --dir runs/bench-round`
    """
    from curation.bench.round import run_bench, table

    result = run_bench(folder, overrides or ())
    show(result, as_json, table)


@bench.command("injections")
def bench_injections(
    config: ConfigFile,
    overrides: Overrides = None,
    samples: Annotated[int, typer.Option(min=1, help="Rewrites of each document and arm.")] = 1,
    save: Annotated[Path | None, typer.Option(help="JSONL of all outputs.")] = None,
    gates: Annotated[bool, typer.Option("--gates", help="Only what the gates refuse of texts by hand.")] = False,
    rewrites: Annotated[Path | None, typer.Option(help="With --gates: JSONL of `text` and `rewrites` too.")] = None,
    as_json: AsJson = False,
) -> None:
    """How often documents make the teacher do as they say: 90 with an injection, with and without the defences.

    The teacher is the best checkpoint of `run.dir`, or the untrained model. Success rates come with 95% intervals.
    `--gates` needs its tokenizer alone: faithful rewrites that gates refuse, and obedient ones that they miss.

    **Example:** `notewright bench injections configs/smollm2-cpu.yaml teacher.max_new_tokens=96 --json`
    """
    settings = load(config, overrides)

    from configs.files import write_json_lines
    from curation.bench.injections import (
        measure_gates,
        print_gates,
        print_summary,
        read_faithful,
        read_pack,
        run_bench,
    )
    from curation.console.progress import say
    from curation.console.tables import stdout_console

    if gates or rewrites is not None:
        faithful = read_faithful() + (read_faithful(rewrites) if rewrites is not None else [])
        measured = measure_gates(settings, read_pack(), faithful)
        show(measured, as_json, lambda found: print_gates(found, stdout_console()))
        return
    result, attempts = run_bench(settings, read_pack(), samples, say)
    if save is not None:
        write_json_lines(save, (attempt._asdict() for attempt in attempts))
    show(result, as_json, lambda found: print_summary(found, stdout_console()))


@bench.command("intervals")
def bench_intervals(
    draws: Annotated[int, typer.Option(min=100, help="Simulated evaluations of each design.")] = 2000,
    as_json: AsJson = False,
) -> None:
    """How often the 95% intervals hold the truth: simulated means, shares, differences, several runs, reliability.

    The methods in use beside others, among them what was used before. About three minutes. The table is Markdown;
    `out_of_reach` (there in bold) marks a design that a method covers less than 93 times in 100.

    **Example:** `notewright bench intervals --json`
    """
    from curation.bench.intervals import run_bench, table
    from curation.console.progress import say

    results = run_bench(draws, say)
    show([result._asdict() for result in results], as_json, lambda _: table(results))
