"""One self-contained HTML page about a run: what was gained and how sure that is, before everything else.

    notewright report runs/lab

Reads the run directory (config.yaml, journal, evaluation.json), the dataset's manifest and, for the examples, the
documents that the config names; fetches nothing.
"""

from pathlib import Path

import jinja2

from configs.errors import UserError
from configs.files import write_whole
from configs.load import load_config
from curation.evaluation.records import RESULT_FILE, read_result
from curation.report import evaluation, evaluation_sections, training, training_sections
from curation.report.cost import cost_table, manifest, settings_table, versions
from curation.report.examples import examples
from curation.report.parts import prose
from curation.report.training import read_training


def write_report(run_dir: Path) -> Path:
    """Writes `run_dir/report.html`, whole or not at all, and returns its path. Raises UserError where the folder holds
    no run, or one that has nothing to show yet."""
    if not (run_dir / "config.yaml").is_file():
        raise UserError(f"{run_dir} holds no run: no config.yaml")
    config = load_config(run_dir / "config.yaml")
    result = read_result(run_dir)
    run = read_training(run_dir)
    if run is None and result is None:
        raise UserError(f"{run_dir} has nothing to report yet: its journal is empty, and there is no {RESULT_FILE}")
    # An evaluation may have trained a teacher for each student, in a run of its own.
    labels = result.students if result else ()
    own_teachers = [read_training(run_dir / "teachers" / label.replace("/", "-"), label) for label in labels]
    trainings = [one for one in (run, *own_teachers) if one is not None]
    parts, tiles = [], []
    if result is not None:
        parts.append(("Evaluation", evaluation.verdicts(result), evaluation_sections.sections(result)))
        tiles += evaluation.tiles(result)
    for one in trainings:
        title = f"Training for {one.label}" if one.label else "Training"
        parts.append((title, training.verdicts(one), training_sections.sections(one)))
        tiles += training.tiles(one)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["prose"] = prose
    page = environment.get_template("report.html.j2").render(
        run=run_dir.name,
        config=config,
        students=[student.model for student in result.students.values()] if result else config.student.names,
        parts=parts,
        tiles=tiles,
        examples=examples(run, result, run_dir),
        dataset=manifest(config.curation.output),
        cost=cost_table(trainings, result),
        settings=settings_table(config),
        config_text=(run_dir / "config.yaml").read_text(encoding="utf-8"),
        versions=versions(),
    )  # fmt: skip
    path = run_dir / "report.html"
    write_whole(path, page.encode())
    return path
