"""The verb `notewright evaluate`."""

from curation.cli.arguments import ConfigFile, Overrides, load


def evaluate(config: ConfigFile, overrides: Overrides = None) -> None:
    """Does the text help, by how much, how sure: students taught with arms of texts at equal tokens and equal steps.

    Arms are lines of `evaluation.arms`: no training, raw documents, the untrained and the trained teacher, single
    strategies, fixed prompts, best-of-n, files that you bring. Writes evaluation.json, per-item Parquet, a picture and
    report.html into `run.dir`. What was measured before is not measured again.

    **Example:** `notewright evaluate configs/lab-evaluate.yaml`
    """
    settings = load(config, overrides)

    from curation.console.tables import stdout_console
    from curation.evaluation.display import print_evaluation, write_picture
    from curation.evaluation.run import run_evaluate
    from curation.report import write_report

    result = run_evaluate(settings)
    print_evaluation(result, settings.run.dir, stdout_console())
    print(f"picture: {write_picture(result, settings.run.dir)}")
    print(f"report: {write_report(settings.run.dir)}")
