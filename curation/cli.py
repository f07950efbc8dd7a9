"""The command `notewright VERB ...`: arguments in, exit code out. What a verb does is in the module it imports.

Exit codes: 0 done; 1 the run failed, what was finished is kept; 2 the call or the config is wrong; 130 interrupted.
Those print one line on stderr. A traceback is a defect of ours.
"""

import errno
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.exceptions import Abort, Exit, TyperException

from configs.errors import RunError, UserError

if TYPE_CHECKING:
    from configs.schema import Config

INTERRUPTED = 130

# torch, transformers and datatrove take seconds to import: each verb imports its own, so that --help is instant.

app = typer.Typer(
    name="notewright",
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="""A teacher language model rewrites documents into lessons; what students gain from the lessons is its reward.

One YAML file is one experiment; `section.key=value` after it overrides a setting. Every setting is documented in
configs/schema.py. Runs resume by themselves: the same command goes on where it stopped.

**First:** `notewright quickstart`""",
)

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="The experiment.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="section.key=value", help="Settings that replace the file's.", show_default=False),
]


@app.command()
def quickstart(
    config: Annotated[Path | None, typer.Argument(metavar="CONFIG.yaml", help="Another lab experiment.")] = None,
    overrides: Overrides = None,
) -> None:
    """The whole job on the embedded lab: build it, train a teacher, curate, report.

    Minutes on two CPU cores, without network. The last line of the output is one JSON object with the run's figures.
    Each call makes a run directory of its own; the lab's models are kept.

    **Example:** `notewright quickstart`
    """
    from curation.quickstart import DEFAULT, run_quickstart

    given = overrides or []
    if config is not None and "=" in str(config):
        config, given = None, [str(config), *given]
    run_quickstart(config or DEFAULT, given)


@app.command()
def lab(config: ConfigFile, overrides: Overrides = None) -> None:
    """Builds the lab: fictional people as JSONL shards, two tiny students, a tiny teacher.

    What is there already is kept.

    **Example:** `notewright lab configs/lab.yaml lab.dir=models/lab`
    """
    from curation.lab.build import build_lab
    from curation.progress import say

    settings = _load(config, overrides)
    build_lab(settings.lab, progress=say)
    print(f"the lab is in {settings.lab.dir}")


@app.command()
def train(
    config: ConfigFile,
    overrides: Overrides = None,
    fork: Annotated[
        Path | None,
        typer.Option("--fork", metavar="NEW_RUN", help="Go on from the finished rounds of run.dir in this directory."),
    ] = None,
) -> None:
    """Trains the teacher: rounds of rewriting, teaching students, and learning from their gains.

    Reads `data.train` and `data.heldout`, writes `run.dir`. An interrupted run goes on from its last finished round; a
    run directory of another config is refused with the difference. With `--fork NEW_RUN` the run in `run.dir` goes on
    in another directory under the config given, and stays as it is.

    **Example:** `notewright train configs/smollm2-cpu.yaml rl.rounds=1`
    """
    from curation.experiment import train_from_config
    from curation.terminal import print_training

    settings = _load(config, overrides)
    if fork is not None:
        from teacher.fork import fork_run

        settings = fork_run(settings, fork)
    print_training(train_from_config(settings), settings)


@app.command()
def curate(config: ConfigFile, overrides: Overrides = None) -> None:
    """Rewrites a corpus with the trained teacher: shards in, a dataset folder for the Hub out.

    Reads `curation.input` (JSONL, also .gz and .zst, or Parquet), takes the newest checkpoint in `run.dir` (or says
    that the teacher is untrained), and writes `curation.output`: Parquet, manifest, card, and what was refused with its
    reason.

    **Example:** `notewright curate configs/smollm2-cpu.yaml curation.input=[my/*.jsonl.gz] curation.output=my/dataset`
    """
    from curation.pipeline import curate as run
    from curation.terminal import print_curation

    print_curation(run(_load(config, overrides)))


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A dataset folder that `curate` wrote.")],
    repo_id: Annotated[str, typer.Option("--repo-id", metavar="ORG/NAME", help="The dataset's name on the Hub.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check, show what would be pushed, push nothing.")] = False,
    public: Annotated[bool, typer.Option("--public", help="Visible to all; else private.")] = False,
    tag: Annotated[str, typer.Option(help="Names this version.")] = "v1",
    teacher: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Also push that run's teacher, to ORG/NAME-teacher.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Take the place of an earlier version there.")] = False,
    allow_unchecked: Annotated[
        bool, typer.Option("--allow-unchecked", help="Push texts that were held against no benchmark.")
    ] = False,
    allow_secrets: Annotated[
        bool, typer.Option("--allow-secrets", help="Push texts that look as if they held credentials.")
    ] = False,
    allow_licence: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="`unknown`, or a licence without derived works.")
    ] = None,
) -> None:
    """Publishes a curated dataset on the Hugging Face Hub: checks, card, push, verification, tag.

    The token comes from HF_TOKEN or `hf auth login`. An interrupted push goes on with the same command.

    **Example:** `notewright export runs/lab/dataset --repo-id me/lessons --dry-run`
    """
    from curation.export import describe, plan_export, publish

    plan = plan_export(
        folder,
        repo_id,
        tag=tag,
        public=public,
        replace=replace,
        teacher=teacher,
        allow_unchecked=allow_unchecked,
        allow_secrets=allow_secrets,
        allow_licences=allow_licence or (),
    )
    if dry_run:
        print(describe(plan))
        return
    for done in publish(plan):
        print(
            f"{done.url} at {done.commit[:8]}, tag {tag}: {done.sent} files sent, {done.present} were there, verified"
        )


@app.command()
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory, or the CONFIG.yaml of one.")],
) -> None:
    """Writes one self-contained HTML page about a run, with plots and examples.

    **Example:** `notewright report runs/lab`
    """
    from curation.report import write_report

    print(write_report(run if run.is_dir() else _load(run, None).run.dir))


@app.command()
def score(
    file: Annotated[Path, typer.Argument(metavar="FILE.jsonl", help="Lines of id, text, questions, rewrites.")],
    config: Annotated[Path, typer.Option("--config", metavar="CONFIG.yaml", help="The experiment.")],
    output: Annotated[Path, typer.Option("--output", metavar="OUT.jsonl", help="One line a rewrite.")],
    overrides: Overrides = None,
) -> None:
    """Gains of rewrites that you bring, each beside the document's raw text as the lesson.

    A line of the input is {"id", "text", "questions": [{"question", "answer"}], "rewrites": [...]}. Lines that are none
    go to OUT.rejects.jsonl, and the exit code is then 1.

    **Example:** `notewright score rewrites.jsonl --config configs/smollm2-cpu.yaml --output gains.jsonl`
    """
    from curation.score import run_score

    raise Exit(run_score(file, _load(config, overrides), output))


@app.command()
def reliability(
    config: ConfigFile,
    overrides: Overrides = None,
    source: Annotated[
        str | None, typer.Option(help="JSONL or Parquet with rewrites, or `lab`; else data.train.", show_default=False)
    ] = None,
    documents: Annotated[int, typer.Option(min=1, help="Documents, each with a group of rewrites.")] = 16,
    rewrites: Annotated[
        int | None, typer.Option(min=2, help="Rewrites a document; else rl.group_size.", show_default=False)
    ] = None,
    repeats: Annotated[int, typer.Option(min=2, help="Students a rewrite.")] = 4,
    credit: Annotated[
        list[str] | None, typer.Option(help="document, shared or shard; may be given again.", show_default=False)
    ] = None,
    adaptive: Annotated[bool, typer.Option("--adaptive", help="Also compare adaptive with uniform repeats.")] = False,
    output: Annotated[Path | None, typer.Option(help="The JSON, else in run.dir.", show_default=False)] = None,
) -> None:
    """How much of the reward is signal and how much retraining noise, before a GPU-day goes into RL.

    **Example:** `notewright reliability configs/lab.yaml --source lab --documents 8`
    """
    from curation.reliability import run_reliability

    chosen = {"credits": credit} if credit else {}
    run_reliability(
        _load(config, overrides),
        source=source,
        documents=documents,
        rewrites=rewrites,
        repeats=repeats,
        adaptive=adaptive,
        output=output,
        **chosen,  # type: ignore[arg-type]
    )


bench = typer.Typer(rich_markup_mode="markdown", help="The project's speed beside what you would use instead.")
app.add_typer(bench, name="bench")


@bench.command("student")
def bench_student(
    model: Annotated[
        str, typer.Option(help="A model folder, or a shape with random weights: lab, smollm2-135m.")
    ] = "lab",
    students: Annotated[int, typer.Option(min=1, help="Students trained at once.")] = 32,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps of each student.")] = 10,
    rank: Annotated[int | None, typer.Option(min=1, help="Rank; else 8 for the lab, 32 for others.")] = None,
    lessons: Annotated[
        Path | None, typer.Option(help="JSONL with `rewrites` or `text`; else generated.", show_default=False)
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Measurements, taken in turns.")] = 5,
    sweep: Annotated[bool, typer.Option("--sweep", help="Also 1, 2, 4, ... 256 students.")] = False,
    plot: Annotated[Path | None, typer.Option(help="A PNG of the sweep.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout instead of the table.")] = False,
) -> None:
    """Many students at once, against separate PEFT runs and the padded batch-1 recipe; losses must agree.

    **Example:** `notewright bench student --students 32 --json`
    """
    import json

    from curation.bench_plot import plot_sweep
    from curation.progress import say
    from student.bench import SWEEP, run_bench, table

    result = run_bench(
        model=model,
        students=students,
        steps=steps,
        rank=rank,
        lessons=lessons,
        repeats=repeats,
        sweep=SWEEP if sweep or plot else (),
        tell=say,
    )
    print(json.dumps(result, indent=2) if as_json else table(result))
    if plot:
        say(f"plot: {plot_sweep(result, plot)}")


@bench.command("teacher")
def bench_teacher(
    folder: Annotated[Path, typer.Option("--dir", metavar="DIR", help="Where the runs are kept.")] = Path(
        "runs/bench-teacher"
    ),
    quick: Annotated[bool, typer.Option("--quick", help="One seed, one algorithm, both students, no extras.")] = False,
    seeds: Annotated[int, typer.Option(min=1, help="Training runs of each algorithm and student.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout instead of the tables.")] = False,
    overrides: Overrides = None,
) -> None:
    """Does the teacher learn what its students need? Held-out people of the lab, both students, with controls.

    Trains a teacher with each algorithm, student and seed, and compares its lessons with raw text and the untrained
    teacher at equal tokens and steps. About an hour on two cores, ten minutes with --quick; goes on where it stopped.

    **Example:** `notewright bench teacher --quick --json`
    """
    import json

    from rich.console import Console

    from curation.teacher_bench import run_bench
    from curation.teacher_verdict import print_summary, summarise

    found = summarise(run_bench(folder, quick=quick, seeds=seeds, overrides=overrides or ()))
    if as_json:
        print(json.dumps(found, allow_nan=False))
    else:
        print_summary(found, Console())


def _load(path: Path, overrides: Sequence[str] | None) -> "Config":
    from configs.load import load_config

    return load_config(path, overrides or ())


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        code = app(arguments, prog_name="notewright", standalone_mode=False) or 0
        return _interrupted() if code == INTERRUPTED else code
    except UserError as error:
        return _fail(str(error), 2)
    except RunError as error:
        return _fail(str(error), 1)
    except TyperException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "notewright"
        return _fail(f"{error.format_message().rstrip('.')} (see {command} --help)", error.exit_code)
    except (KeyboardInterrupt, Abort):
        return _interrupted()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f" at {error.filename}" if error.filename else ""
        return _fail(f"the disk is full{where}; what was finished is kept: free some space and run the same command", 1)


def _interrupted() -> int:
    return _fail("interrupted; what was finished is kept, and the same command goes on from there", INTERRUPTED)


def _fail(message: str, code: int) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
