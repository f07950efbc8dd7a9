"""How well do cheap signals predict what a rewrite is worth? `notewright validity CONFIG`, before a reward is chosen.

Documents with several rewrites each have a target a rewrite: outcomes that a file brings, or the gain of other students
than those of the signals (longer trained, larger, or asked in another measure). Signals are the gains of students, by
measure, unit of credit and number of steps, and signs that need no student (`teacher.reward.signs`). Only differences
within documents count. What is compared, and how, is kept with the run before anything is measured
(`verdicts.STATISTICS`).

All questions of the documents are asked, held-out ones too: nothing is trained by what is found here.
"""

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from configs.errors import UserError, check_known
from configs.files import write_json, write_json_lines
from configs.format import without_nan
from configs.schema import Config
from curation.console.progress import say
from curation.study.groups import Group, check_alone, comparable, read_groups
from curation.study.students import RewriteStudy, session, with_distractors
from curation.validity.report import print_validity, write_plot
from curation.validity.screened import check_screen, judge_screen
from curation.validity.signals import Signal, sign_signals, student_signals
from curation.validity.targets import match_outcomes, target_student
from curation.validity.verdicts import STATISTICS, judge, judge_target
from student.benchmarks.sources import DocumentQuestions
from student.plans import plain
from student.pools import make_pool
from student.pools.inline import NOT_IN_FINGERPRINT
from student.records import StudentPool, group_of, mean_gain
from student.statistics.reliability import gains_table
from teacher.reward.signs import SIGNS, SignWork, Texts
from teacher.run.journal import JsonLines


def run_validity(
    config: Config,
    *,
    source: str | None = None,
    output: Path | None = None,
    pool: StudentPool | None = None,
    target_pool: StudentPool | None = None,
) -> dict[str, Any]:
    """Measures, prints the table, writes `validity.json`, `validity.png` and `validity-rewrites.jsonl` (each rewrite's
    values) into `run.dir`, and returns what the JSON holds. `source` as in `read_groups`. Students are kept in
    `<run.dir>/validity/`, so that a stopped call goes on. Raises UserError and RunError."""
    config = with_distractors(config)
    settings = config.validity
    names = settings.signs or tuple(SIGNS)
    check_known("sign in validity.signs", names, list(SIGNS))
    if config.reward.screen.wanted:
        check_screen(config, names)
    if config.student.models or config.student.model == "teacher":
        raise UserError("validity measures the students of one model: set student.model to a folder or a Hub id")
    target_settings = target_student(config) if settings.target == "student" else None
    groups, target_DGR = _documents(config, source)
    together = config.reward.documents_per_student if "shared" in settings.credits else 1
    check_alone(groups, [together], "set validity.credits to [document]")
    folder = config.run.dir / "validity"
    output = output or config.run.dir / "validity.json"
    pool = pool or make_pool(config.student)
    if target_settings is not None and target_pool is None:
        target_pool = pool if target_settings == config.student else make_pool(target_settings)
    clusters = [group_of(group.document) for group in groups]
    with session(config, groups, folder, _design(config, source, groups, names)) as students_of:
        runs, costs, progress = students_of.runs(), students_of.costs, students_of.progress
        target_study = None
        if target_settings is not None and target_pool is not None:
            # Their seeds are none of the signals', so that the noise of the two is independent.
            runs_of_target, size = students_of.runs(target_settings), 1 if "document" in settings.credits else together
            target_study = RewriteStudy(runs_of_target, target_pool, groups, size, purpose="target")
            progress.expect(target_study.students(settings.target_repeats))
        texts = [Texts(group.document, tuple(plain([c.text for c in group.candidates]))) for group in groups]
        alignments = JsonLines(students_of.journal.dir / "alignments.jsonl", ("key",))
        work = SignWork(runs, pool, texts, costs, alignments, progress.within)
        progress.expect(sum(work.units[kind] for kind in {SIGNS[name].work for name in names}))
        studies = []
        for credit, steps in itertools.product(settings.credits, settings.steps or (config.student.steps,)):
            size = 1 if credit == "document" else config.reward.documents_per_student
            study = RewriteStudy(runs, pool, groups, size, steps=steps, purpose="signal")
            progress.expect(study.students(config.reward.repeats, settings.repeated_documents))
            studies.append((study, credit, steps))
        signals, errors = sign_signals(names, work), list[str]()
        for study, credit, steps in studies:
            found, failed = student_signals(study, credit, steps, costs)
            signals, errors = signals + found, errors + failed
        if target_study is not None:
            recording = target_study.record(settings.target_repeats)
            gains = recording.table(lambda outcome: mean_gain(outcome.answers, settings.target_measure))
            target_DGR, errors = gains_table(gains), errors + recording.errors
    words = _target_words(config)
    results, recommendation = judge(signals, target_DGR, clusters)
    target = judge_target(words, target_DGR, clusters)
    screened = None
    if config.reward.screen.wanted:
        screened = judge_screen(config, groups, studies[0][0].batch_of, signals, target_DGR, clusters)
    result = {
        "source": source or list(config.data.train),
        "student": config.student.model,
        "students": pool.fingerprint,
        "documents": len(groups),
        "rewrites": sum(len(group.candidates) for group in groups),
        "clusters": len(set(clusters)),
        "target": target,
        "signals": results,
        "screen": screened,
        "recommendation": recommendation,
        "failed_students": errors,
    }
    if errors:
        say(f"{len(errors)} students failed: {errors[0]}")
    values = output.with_name(f"{output.stem}-rewrites.jsonl")
    write_json_lines(values, _rewrite_rows(groups, signals, target_DGR))
    write_json(output, result)
    plot = write_plot(results, target, output.with_suffix(".png"))
    print_validity(results, target, screened, recommendation, [path for path in (output, values, plot) if path])
    return json.loads(output.read_text(encoding="utf-8"))


def _documents(config: Config, source: str | None) -> tuple[list[Group], np.ndarray]:
    """The documents with the rewrites that are compared, and the outcomes that a file brings (empty for a target that
    is still to be measured). Raises UserError."""
    settings = config.validity
    groups = [
        replace(group, candidates=tuple(c for c in group.candidates if not c.control))
        for group in read_groups(config, source, settings.documents, settings.rewrites, evenly=True)
    ]
    benchmark = DocumentQuestions(config.student.prompt_template)
    found = comparable(groups, lambda document: bool(benchmark.exam(document).questions), "questions")
    target_DGR = np.empty((len(found), 0, 0))
    if settings.target == "file":
        found, target_DGR = match_outcomes(found, settings)
    if len(found) < 2:
        raise UserError("validity needs two documents with questions and at least two rewrites each")
    if len(found) < settings.documents:
        say(f"{len(found)} of validity.documents={settings.documents} documents can be compared")
    return found, target_DGR


def _design(config: Config, source: str | None, groups: Sequence[Group], names: Sequence[str]) -> dict[str, Any]:
    """What is compared: the settings, and the documents with their rewrites."""
    return {
        "source": source or list(config.data.train),
        "student": config.student.model_dump(mode="json", exclude=NOT_IN_FINGERPRINT - {"model"}),
        "reward": config.reward.model_dump(
            mode="json", include={"repeats", "documents_per_student", "distractors", "retention_texts", "screen"}
        ),
        "seed": config.run.seed,
        "validity": config.validity.model_dump(mode="json") | {"signs": list(names)},
        "target": _target_words(config),
        "documents": {group.document.id: [c.place for c in group.candidates] for group in groups},
        "statistics": STATISTICS,
    }


def _target_words(config: Config) -> str:
    settings = config.validity
    if settings.target == "file":
        return f"{settings.target_field} in {settings.target_file or 'the documents'}"
    changed = ", ".join(f"{key} {value}" for key, value in settings.target_student.items())
    return f"{settings.target_measure} of other students ({changed or 'the same settings, other seeds'})"


def _rewrite_rows(groups: Sequence[Group], signals: Sequence[Signal], target_DGR: np.ndarray) -> list[dict[str, Any]]:
    """A line a rewrite: all that was told of it."""
    return [
        without_nan(
            {
                "document": group.document.id,
                "place": candidate.place,
                "strategy": candidate.strategy,
                "target": target_DGR[d, g].tolist(),
                "signals": {signal.name: float(signal.values_DG[d, g]) for signal in signals},
            }
        )
        for d, group in enumerate(groups)
        for g, candidate in enumerate(group.candidates)
    ]
