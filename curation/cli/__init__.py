"""The command `notewright VERB ...`: arguments in, exit code out. What a verb does is in the module it imports.

Exit codes: 0 done; 1 the run failed, what was finished is kept; 2 the call or the config is wrong; 130 interrupted, by
Ctrl-C or SIGTERM.
Those print one line on stderr. A traceback is a defect of ours.
"""

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer
from typer.exceptions import Abort, TyperException

import configs
from configs.errors import RunError, UserError
from configs.files import is_full
from curation.cli.arc import arc
from curation.cli.arguments import ConfigFile, Overrides, finite, load
from curation.cli.bench import bench
from curation.cli.init import init
from curation.cli.look import doctor, plan, preview
from curation.cli.measure import evaluate, reliability, score, validity

INTERRUPTED = 130
LAB = Path(configs.__file__).parent / "lab.yaml"

# torch, transformers and datatrove take 4 s to import: each verb imports its own, after the config is loaded, so that
# --help and a mistake in the call or the config are answered at once.

app = typer.Typer(
    name="notewright",
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="""A teacher language model rewrites documents into lessons; what students gain from the lessons is its reward.

One YAML file is one experiment; `section.key=value` after it overrides a setting. Every setting is documented in
configs/schema. Runs resume by themselves: the same command goes on where it stopped.

**First:** `notewright quickstart`, then `notewright init` for your own documents""",
)


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
    changes = overrides or []
    if config is not None and "=" in str(config):
        config, changes = None, [str(config), *changes]
    settings = load(config or LAB, changes)

    from curation.quickstart import run_quickstart

    run_quickstart(settings)


@app.command()
def schema() -> None:
    """Prints the JSON schema of a config, with which editors complete and check it.

    A file whose first line is `# yaml-language-server: $schema=PATH` names its schema; configs/schema.json is this one.

    **Example:** `notewright schema > schema.json`
    """
    from configs.load import json_schema

    print(json.dumps(json_schema(), indent=1, ensure_ascii=False))


@app.command()
def lab(config: ConfigFile, overrides: Overrides = None) -> None:
    """Builds the lab: fictional people as JSONL shards, two tiny students, a tiny teacher.

    What is there already is kept.

    **Example:** `notewright lab configs/lab.yaml lab.dir=models/lab`
    """
    settings = load(config, overrides)

    from curation.console.progress import say
    from curation.lab.build import build_lab

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
    in another directory under this config, and itself stays as it is.

    **Example:** `notewright train configs/smollm2-cpu.yaml rl.rounds=1`
    """
    settings = load(config, overrides)

    from curation.corpus.inputs import check_inputs

    check_inputs(settings)

    from curation.report.training_sections import print_training
    from curation.train import train_from_config

    if fork is not None:
        from curation.corpus.training_data import read_splits
        from teacher.run.ownership import fork_run

        read_splits(settings)  # a mistake in the documents is found before anything is copied
        settings = fork_run(settings, fork)
    print_training(train_from_config(settings), settings)


@app.command("warm-up")
def warm_up(
    config: ConfigFile,
    model: Annotated[str, typer.Option(help="The pretrained model to start from.")],
    data: Annotated[list[str], typer.Option(metavar="FILE", help="Documents with questions; may be given again.")],
    output: Annotated[Path, typer.Option(metavar="DIR", help="Where the student is saved.")],
    form: Annotated[
        Literal["mixed", "questions"],
        typer.Option("--format", help="mixed: passages, then questions without them; or questions alone."),
    ] = "mixed",
    tokens: Annotated[int, typer.Option(min=1, help="Train on so many at most.")] = 100_000,
    every: Annotated[int, typer.Option(min=1, help="Tokens between two points of the held-out curve.")] = 10_000,
    limit: Annotated[int | None, typer.Option(min=1, help="Use at most so many documents.")] = None,
    learning_rate: Annotated[float, typer.Option(min=1e-12, callback=finite)] = 2e-4,
    overrides: Overrides = None,
) -> None:
    """Makes a student that can answer: trains a model on passages, and on questions without them.

    Titles and texts of the config's documents are left out. Questions about further titles are held out: where they
    are answered no better any more, the training ends. What was killed goes on with the same command. The last line of
    the output is one JSON object with the curve.

    **Example:** `notewright warm-up configs/squad-smollm2-cpu.yaml --model models/smollm2-135m-instruct
    --data squad.jsonl --output models/smollm2-closed-book`
    """
    settings = load(config, overrides)

    from curation.models.warm_up import describe
    from curation.models.warm_up import warm_up as run

    figures = run(
        settings, model=model, data=data, output=output, form=form, tokens=tokens, every=every, limit=limit,
        learning_rate=learning_rate,
    )  # fmt: skip
    print(f"{output}: {describe(figures)}")
    print(json.dumps(figures))


app.command()(init)
app.command()(arc)
app.command()(evaluate)
app.command()(preview)
app.command()(plan)
app.command()(doctor)


@app.command()
def collect(
    sources: Annotated[list[Path], typer.Argument(metavar="SOURCE...", help="Folders, archives, packages, files.")],
    output: Annotated[Path, typer.Option("--output", metavar="DIR", help="A folder of JSONL shards.")],
    limit: Annotated[int | None, typer.Option(min=1, help="Documents of a source at most, drawn by a hash.")] = None,
    licence: Annotated[str | None, typer.Option(help="Of documents whose package names none, as an SPDX id.")] = None,
) -> None:
    """Makes a corpus of what lies on a machine: documents of many formats in, JSONL shards with Markdown texts out.

    Reads HTML, Markdown, reStructuredText, manual pages, plain text, EPUB, DOCX, ODT, Org and notebooks in folders and
    in archives, without unpacking these: tar, zip, Debian packages, Python packages. Needs pandoc. What cannot be read
    is counted and named in DIR/collected.json.

    **Example:** `notewright collect /usr/share/doc packages/*.deb sources/*.tar.gz --output runs/corpus --limit 100`
    """
    from curation.collect.collect import collect as run
    from curation.collect.collect import print_collected

    print_collected(run(sources, output, limit, licence))


@app.command()
def curate(config: ConfigFile, overrides: Overrides = None) -> None:
    """Rewrites a corpus with the trained teacher: shards in, a dataset folder for the Hub out.

    Reads `curation.input` (JSONL or WARC, also .gz and .zst, or Parquet), takes the best checkpoint in `run.dir` (or
    says why the teacher is untrained), and writes `curation.output`: Parquet, manifest, card, and what was refused with
    its reason: filtered.jsonl before the teacher, quarantine.jsonl after it or because it could not be read.

    **Example:** `notewright curate configs/smollm2-cpu.yaml curation.input=[my/*.jsonl.gz] curation.output=my/dataset`
    """
    settings = load(config, overrides)

    from curation.corpus.inputs import find_curation_input

    find_curation_input(settings)

    from curation.pipeline.curate import curate as run
    from curation.pipeline.curate import print_curation
    from curation.pipeline.executors.slurm import Queued

    try:
        print_curation(run(settings))
    except Queued as queued:
        print(queued)


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

    The token comes from HF_TOKEN or `hf auth login`. An interrupted push leaves what was published as it was, and goes
    on with the same command; once all is there the command does nothing.

    **Example:** `notewright export runs/lab/dataset --repo-id me/lessons --dry-run`
    """
    if not folder.is_dir():
        raise UserError(f"no such folder: {folder}")

    from curation.export.publish import describe, plan_export, publish

    plan = plan_export(
        folder, repo_id, tag=tag, public=public, replace=replace, teacher=teacher, allow_unchecked=allow_unchecked,
        allow_secrets=allow_secrets, allow_licences=allow_licence or (),
    )  # fmt: skip
    if dry_run:
        print(describe(plan))
        return
    for done in publish(plan):
        did = f"{done.sent} files sent, {done.present} were there, verified"
        did = did if done.changed else "all is there, nothing was done"
        print(f"{done.url} at {done.commit[:8]}, tag {tag}: {did}")


@app.command()
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory, or the CONFIG.yaml of one.")],
) -> None:
    """Writes one self-contained HTML page about a run, with plots and examples.

    **Example:** `notewright report runs/lab`
    """
    folder = run if run.is_dir() else load(run, None).run.dir

    from curation.report import write_report

    print(write_report(folder))


app.command()(score)
app.command()(reliability)
app.command()(validity)
app.add_typer(bench, name="bench")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        with _interrupted_by_sigterm():
            code = app(arguments, prog_name="notewright", standalone_mode=False) or 0
        if code == INTERRUPTED:
            raise Abort
        return code
    except (UserError, RunError) as error:
        return _fail(str(error), 2 if isinstance(error, UserError) else 1)
    except TyperException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "notewright"
        return _fail(f"{error.format_message().rstrip('.')} (see {command} --help)", error.exit_code)
    except (KeyboardInterrupt, Abort):
        return _fail("interrupted; what was finished is kept, and the same command goes on from there", INTERRUPTED)
    except OSError as error:
        if not is_full(error):
            # What was done with the file, and what is kept, says the place that did it, where it can.
            return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), 1)
        where = f" at {error.filename}" if error.filename else ""
        return _fail(f"the disk is full{where}; what was finished is kept: free some space and run the same command", 1)


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """SIGTERM, by which clusters announce that they will kill, ends a run as Ctrl-C does: it ends its workers and says
    that the same command goes on. Without this, whoever reads its log finds nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    process = os.getpid()

    def interrupt(*_: object) -> None:
        if os.getpid() != process:
            # A process forked from this one has the handler, and no line to print.
            os._exit(128 + signal.SIGTERM)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _fail(message: str, code: int) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return code
