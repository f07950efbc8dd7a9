"""The verbs that measure what texts are worth: `evaluate`, `score`, `reliability` and `validity`."""

from pathlib import Path
from typing import Annotated, get_args

import typer

from configs.errors import UserError, check_known
from curation.cli.arguments import ConfigFile, Overrides, load

Source = Annotated[str | None, typer.Option(help="JSONL or Parquet with rewrites, or `lab`; else data.train.")]
Output = Annotated[Path | None, typer.Option(help="The JSON, else in run.dir.")]


def evaluate(config: ConfigFile, overrides: Overrides = None) -> None:
    """Does the text help, by how much, how sure: students taught with arms of texts at equal tokens and equal steps.

    Arms are lines of `evaluation.arms`: no training, raw documents, the untrained and the trained teacher, single
    strategies, fixed prompts, best-of-n, files that you bring. Writes evaluation.json, per-item Parquet, pictures and
    report.html into `run.dir`. What was measured before is not measured again.

    **Example:** `notewright evaluate configs/lab-evaluate.yaml`
    """
    settings = load(config, overrides)

    from curation.console.tables import stdout_console
    from curation.evaluation.run import run_evaluate
    from curation.report import write_report
    from curation.report.evaluation_sections import print_evaluation, write_pictures

    result = run_evaluate(settings)
    print_evaluation(result, settings.run.dir / "evaluation.json", stdout_console())
    for path in write_pictures(result, settings.run.dir / "evaluation"):
        print(f"picture: {path}")
    print(f"report: {write_report(settings.run.dir)}")


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
    settings = load(config, overrides)
    if not file.is_file():
        raise UserError(f"no such file: {file}")

    from curation.scoring.score import run_score

    raise typer.Exit(run_score(file, settings, output))


def reliability(
    config: ConfigFile,
    overrides: Overrides = None,
    source: Source = None,
    documents: Annotated[int, typer.Option(min=1, help="Documents, each with a group of rewrites.")] = 16,
    rewrites: Annotated[int | None, typer.Option(min=2, help="Rewrites a document; else rl.group_size.")] = None,
    repeats: Annotated[int, typer.Option(min=2, help="Students a rewrite.")] = 4,
    credit: Annotated[list[str] | None, typer.Option(help="document, shared or shard; may be given again.")] = None,
    adaptive: Annotated[bool, typer.Option("--adaptive", help="Also compare adaptive with uniform repeats.")] = False,
    output: Output = None,
) -> None:
    """How much of the reward is signal and how much retraining noise, before a GPU-day goes into RL.

    **Example:** `notewright reliability configs/lab.yaml --source lab --documents 8`
    """
    settings = load(config, overrides)

    from configs.schema.reward import Credit

    units = get_args(Credit)
    check_known("credit", credit or (), units)

    from curation.reliability.run import run_reliability

    run_reliability(
        settings, source=source, documents=documents, rewrites=rewrites, repeats=repeats, adaptive=adaptive,
        output=output, credits=credit or units,
    )  # fmt: skip


def validity(
    config: ConfigFile,
    overrides: Overrides = None,
    source: Source = None,
    output: Output = None,
) -> None:
    """Which cheap signal tells a document's better rewrites: gains of students by measure, credit and steps, and signs
    that need no student, held against outcomes in a file or other students (`validity.*`). With `reward.screen` also
    what a run would have saved by it, and what its choices would have lost.

    Writes validity.json, a picture, and the values of each rewrite into `run.dir`. Students are kept, so that a stopped
    call goes on.

    **Example:** `notewright validity configs/validity-seal.yaml`
    """
    settings = load(config, overrides)

    from curation.validity.run import run_validity

    run_validity(settings, source=source, output=output)
