"""How well do cheap signals predict what a rewrite is worth? `notewright validity CONFIG`, before a reward is chosen.

Documents with several rewrites each have a target a rewrite: outcomes that a file brings, or the gain of other students
than those of the signals (longer trained, larger, or asked in another measure). Signals are the gains of students, by
measure, unit of credit and number of steps, and signs that need no student (`teacher.reward.signs`). Only differences
within documents count. What is compared, and how, is kept with the run before anything is measured
(`verdicts.STATISTICS`).

All questions of the documents are asked, held-out ones too: nothing is trained by what is found here.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from configs.errors import UserError, check_known
from configs.files import write_json_lines, write_whole
from configs.format import without_nan
from configs.schema import Config
from curation.console.progress import StudentProgress, say
from curation.corpus.training_data import group_of
from curation.study.design import fix_design
from curation.study.groups import Group, read_groups
from curation.study.students import RewriteStudy
from curation.validity.report import print_validity, write_plot
from curation.validity.signals import MeasuredStudents, Signal, sign_signals
from curation.validity.targets import match_outcomes, target_student
from curation.validity.verdicts import STATISTICS, judge, judge_target
from student.benchmarks.sources import DocumentQuestions
from student.pools import make_pool
from student.pools.inline import NOT_IN_FINGERPRINT
from student.records import StudentPool, mean_gain
from student.statistics.reliability import gains_table
from teacher.reward.costs import Costs
from teacher.reward.signs import SIGNS, SignWork, Texts
from teacher.reward.student_runs import StudentRuns
from teacher.run.journal import Journal, JsonLines

DISTRACTORS = 4
"""Of each question, unless the config says another number: `contrast` and `choice` need some, whatever is rewarded."""


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
    if config.reward.distractors is None:
        reward = config.reward.model_copy(update={"distractors": DISTRACTORS})
        config = config.model_copy(update={"reward": reward})
    settings = config.validity
    names = settings.signs or tuple(SIGNS)
    check_known("sign in validity.signs", names, list(SIGNS))
    if config.student.models or config.student.model == "teacher":
        raise UserError("validity measures the students of one model: set student.model to a folder or a Hub id")
    target_settings = target_student(config.student, settings) if settings.target == "student" else None
    groups, target_DGR = _documents(config, source)
    folder = config.run.dir / "validity"
    output = output or config.run.dir / "validity.json"
    pool = pool or make_pool(config.student)
    if target_settings is not None and target_pool is None:
        target_pool = pool if target_settings == config.student else make_pool(target_settings)
    clusters = [group_of(group.document) for group in groups]
    with Journal(folder) as journal, StudentProgress("measuring", 0) as progress:
        fix_design(folder, _design(config, source, groups, names), begun=len(journal.outcomes) > 0)
        costs = Costs(JsonLines(journal.dir / "costs.jsonl", ("work", "time")))
        runs = _runs(config, groups, journal, progress)
        measured = [
            MeasuredStudents(runs, pool, groups, credit, steps)
            for credit in settings.credits
            for steps in settings.steps or (config.student.steps,)
        ]
        work = SignWork(
            runs,
            pool,
            [Texts(group.document, tuple(c.text for c in group.candidates)) for group in groups],
            costs,
            JsonLines(journal.dir / "alignments.jsonl", ("key",)),
            progress.within,
        )
        target_study = None
        if target_settings is not None and target_pool is not None:
            of_target = _runs(config.model_copy(update={"student": target_settings}), groups, journal, progress)
            # Their seeds are none of the signals', so that the noise of the two is independent.
            target_study = RewriteStudy(of_target, target_pool, groups, 1, purpose="target")
            progress.expect(target_study.students(settings.target_repeats))
        progress.expect(sum(students.students for students in measured))
        progress.expect(sum(work.units[kind] for kind in {SIGNS[name].work for name in names}))
        errors: list[str] = []
        signals = sign_signals(names, work)
        for students in measured:
            found, failed = students.signals(settings.measures, costs)
            signals, errors = signals + found, errors + failed
        if target_study is not None:
            recording = target_study.record(settings.target_repeats)
            gains = recording.table(lambda outcome: mean_gain(outcome.answers, settings.target_measure))
            target_DGR, errors = gains_table(gains), errors + recording.errors
    words = _target_words(config)
    results, recommendation = judge(signals, target_DGR, clusters)
    target = judge_target(words, target_DGR, clusters)
    result = {
        "source": source or list(config.data.train),
        "student": config.student.model,
        "students": pool.fingerprint,
        "documents": len(groups),
        "rewrites": sum(len(group.candidates) for group in groups),
        "clusters": len(set(clusters)),
        "target": asdict(target),
        "signals": [asdict(result) for result in results],
        "recommendation": recommendation,
        "failed_students": errors,
    }
    if errors:
        say(f"{len(errors)} students failed: {errors[0]}")
    values = output.with_name(f"{output.stem}-rewrites.jsonl")
    write_json_lines(values, _rewrite_rows(groups, signals, target_DGR))
    write_whole(output, json.dumps(without_nan(result), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    plot = write_plot(results, target, output.with_suffix(".png"))
    print_validity(results, target, recommendation, [path for path in (output, values, plot) if path])
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
    asked = [group for group in groups if benchmark.exam(group.document).questions]
    comparable = [group for group in asked if len(group.candidates) >= 2]
    for count, missing in (
        (len(groups) - len(asked), "questions"),
        (len(asked) - len(comparable), "two rewrites"),
    ):
        if count:
            say(f"{count} documents without {missing} are left out")
    target_DGR = np.empty((len(comparable), 0, 0))
    if settings.target == "file":
        comparable, target_DGR = match_outcomes(comparable, settings)
    if len(comparable) < 2:
        raise UserError("validity needs two documents with questions and at least two rewrites each")
    if len(comparable) < settings.documents:
        say(f"{len(comparable)} of validity.documents={settings.documents} documents can be compared")
    return comparable, target_DGR


def _runs(config: Config, groups: Sequence[Group], journal: Journal, progress: StudentProgress) -> StudentRuns:
    return StudentRuns(
        config, [group.document for group in groups], journal,
        benchmark=DocumentQuestions(config.student.prompt_template, all_as="reward"), on_progress=progress.within,
    )  # fmt: skip


def _design(config: Config, source: str | None, groups: Sequence[Group], names: Sequence[str]) -> dict[str, Any]:
    """What is compared: the settings, and the documents with their rewrites."""
    return {
        "source": source or list(config.data.train),
        "student": config.student.model_dump(mode="json", exclude=NOT_IN_FINGERPRINT - {"model"}),
        "reward": config.reward.model_dump(
            mode="json", include={"repeats", "documents_per_student", "distractors", "retention_texts"}
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
