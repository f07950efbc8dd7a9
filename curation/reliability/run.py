"""How much of the reward is signal: `notewright reliability CONFIG`, before a GPU-day goes into RL.

Every rewrite of some documents trains several students, under each unit of credit with the same number of students:
`document` measures some documents, `shared` and `shard` as many more as share a student (or, where there are not so
many, the same ones more often). `shared` and `shard` are two readings of the same students. It reports and decides
nothing.

Measured: the variance of the gain between rewrites of a document and between runs of the same rewrite
(`student.statistics.reliability`), the contrast between ways of rewriting, and what a rewarded rewrite costs. All
rewrites of a document share a repeat's seed; the bootstrap draws whole documents, or the batches that share students.
"""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

from configs.errors import UserError, nearest
from configs.files import write_whole
from configs.format import without_nan
from configs.schema import Config
from curation.console.progress import StudentProgress, say
from curation.reliability.adaptive_comparison import run_live, simulate
from curation.reliability.report import TARGET, Credit, CreditReport, Way, print_reports
from curation.reliability.study import LAB, Group, Recording, ReliabilityStudy, read_groups
from student.benchmarks.sources import DocumentQuestions
from student.pools import make_pool
from student.records import StudentPool
from student.statistics.intervals import bootstrap_interval
from student.statistics.reliability import reliability
from teacher.reward.student_runs import StudentRuns
from teacher.run.journal import Journal

ADAPTIVE_BUDGETS = (2, 3, 4)
"""Runs a rewrite at which adaptive and uniform repeats are compared."""
LIVE_BUDGET = 3
STUDENTS_A_ROUND = {"document": 32, "shared": 2}
"""Students of one adaptive round: in all, and of each batch of documents that share them."""
SIMULATED_DOCUMENTS = 1000
"""A simulation takes about ten milliseconds a document."""


def run_reliability(
    config: Config,
    *,
    source: str | None = None,
    repeats: int = 4,
    documents: int = 16,
    rewrites: int | None = None,
    output: Path | None = None,
    credits: Sequence[str] = get_args(Credit),
    adaptive: bool = False,
    pool: StudentPool | None = None,
) -> dict[str, Any]:
    """Measures, prints the tables, writes the JSON (default `<run.dir>/reliability.json`) and returns what it holds.

    `source` is a JSONL or Parquet file, `lab`, or null for `data.train`; see
    `curation.reliability.study.read_groups`. Students are
    cached in `<run.dir>/reliability/`, so that a stopped call goes on. Raises UserError and RunError.
    """
    if repeats < 2:
        raise UserError(f"repeats={repeats}: retraining noise shows only from 2 repeats on")
    for name in credits:
        if name not in get_args(Credit):
            raise UserError(f"unknown credit {name!r}: {nearest(name, list(get_args(Credit)))}")
    units: list[Credit] = [unit for unit in get_args(Credit) if unit in credits]
    m = config.reward.documents_per_student
    sharing = units != ["document"]
    groups = _with_questions(config, read_groups(config, source, documents * (m if sharing else 1), rewrites))
    pool = pool or make_pool(config.student)
    output = output or config.run.dir / "reliability.json"
    reports: list[CreditReport] = []
    with Journal(config.run.dir / "reliability") as journal, StudentProgress("measuring", 0) as progress:
        benchmark = DocumentQuestions(config.student.prompt_template)
        student_runs = StudentRuns(
            config, benchmark, [group.document for group in groups], journal, on_progress=progress.within
        )
        recordings: dict[int, tuple[ReliabilityStudy, Recording]] = {}
        for credit in units:
            size = 1 if credit == "document" else m
            if size not in recordings:
                study = ReliabilityStudy(student_runs, pool, groups[: documents * size], size)
                own_repeats = repeats if size == 1 else _equal_repeats(study, groups[:documents], repeats)
                progress.expect(study.students(own_repeats))
                recordings[size] = study, study.record(own_repeats)
            reports.append(_report(credit, *recordings[size]))
        if adaptive:
            reports = [_with_adaptive(config, source, r, *recordings[r.documents_per_student]) for r in reports]
    result = {
        "source": source or list(config.data.train),
        "student": config.student.model,
        "students": pool.fingerprint,
        "target": TARGET,
        "credits": [_as_json(report) for report in reports],
    }
    write_whole(output, json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    print_reports(reports, output)
    return result


def _with_questions(config: Config, groups: list[Group]) -> list[Group]:
    """Groups that can be rewarded: with `reward` questions, and two rewrites to compare. Raises UserError."""
    benchmark = DocumentQuestions(config.student.prompt_template)
    asked = [g for g in groups if any(q.split == "reward" for q in benchmark.exam(g.document).questions)]
    kept = [group for group in asked if len(group.rewrites) >= 2]
    for count, what in ((len(groups) - len(asked), "reward questions"), (len(asked) - len(kept), "two rewrites")):
        if count:
            say(f"{count} documents without {what} are left out")
    if not kept:
        raise UserError("no document has both reward questions and two rewrites to compare")
    return kept


def _equal_repeats(study: ReliabilityStudy, alone: Sequence[Group], repeats: int) -> int:
    """Repeats that cost `study` as many students as `repeats` cost documents that share none."""
    return max(2, round(repeats * sum(len(group.candidates) for group in alone) / study.students(1)))


def _report(credit: Credit, study: ReliabilityStudy, recording: Recording) -> CreditReport:
    gains = recording.whole if credit == "shard" else recording.own
    found = reliability(_rewrites_only(study, gains), clusters=study.clusters, common_seeds=True)
    ways = _ways(study, gains, recording.accuracy)
    means = [way.gain for way in ways if not way.control]
    wanted = found.repeats_for(TARGET)
    students_per_run = recording.students / sum(len(g.candidates) for g in study.groups) / recording.repeats
    return CreditReport(
        credit=credit,
        documents_per_student=study.documents_per_student,
        repeats=recording.repeats,
        students=recording.students,
        components=found,
        mean_of_repeats=found.at(recording.repeats),
        mean_of_repeats_interval=found.interval_at(recording.repeats),
        repeats_for_target=wanted,
        students_for_target=None if wanted is None else wanted * students_per_run,
        students_per_rewrite=recording.repeats * students_per_run,
        seconds_per_student=recording.seconds_per_student,
        ways=ways,
        contrast_sd=statistics.stdev(means) if len(means) > 1 else None,
        contrast_range=max(means) - min(means) if len(means) > 1 else None,
        errors=recording.errors,
    )


def _rewrites_only(study: ReliabilityStudy, table: list[list[list[float | None]]]) -> list[list[list[float | None]]]:
    return [[runs[g] for g in group.rewrites] for group, runs in zip(study.groups, table, strict=True)]


def _ways(
    study: ReliabilityStudy, gains: list[list[list[float | None]]], accuracy: list[list[list[float | None]]]
) -> list[Way]:
    """Ways of rewriting by falling mean gain; each document counts once in a way."""
    cells: dict[tuple[str, bool], dict[int, list[tuple[float, float]]]] = {}
    for d, group in enumerate(study.groups):
        for g, candidate in enumerate(group.candidates):
            for gain, right in zip(gains[d][g], accuracy[d][g], strict=True):
                if gain is not None and right is not None:
                    by_document = cells.setdefault((candidate.strategy, candidate.control), {})
                    by_document.setdefault(d, []).append((gain, right))
    ways = []
    for (strategy, control), by_document in cells.items():
        means = [statistics.fmean(gain for gain, _ in runs) for runs in by_document.values()]
        way = Way(
            strategy=strategy,
            documents=len(by_document),
            gain=statistics.fmean(means),
            gain_interval=bootstrap_interval(means, [study.clusters[d] for d in by_document]),
            accuracy=statistics.fmean(statistics.fmean(right for _, right in runs) for runs in by_document.values()),
            control=control,
        )
        ways.append(way)
    return sorted(ways, key=lambda way: -way.gain)


def _with_adaptive(
    config: Config, source: str | None, report: CreditReport, study: ReliabilityStudy, recording: Recording
) -> CreditReport:
    """The report with adaptive repeats beside uniform ones; live as well on the lab, where students are cheap."""
    if report.credit == "shard":
        return report  # a document's rewrite cannot be repeated apart from the shard's
    recorded = _rewrites_only(study, recording.own)
    students = STUDENTS_A_ROUND[report.credit]
    simulations = max(2, min(20, SIMULATED_DOCUMENTS // len(recorded)))
    how: dict[str, Any] = {"clusters": study.clusters, "shared": report.credit == "shared", "seed": config.run.seed}
    found = [
        simulate(recorded, budget, students=students, simulations=simulations, **how) for budget in ADAPTIVE_BUDGETS
    ]
    if source == LAB:
        found.append(run_live(study, recorded, LIVE_BUDGET, students=students))
    return replace(report, adaptive=[comparison for comparison in found if comparison is not None])


def _as_json(report: CreditReport) -> dict[str, Any]:
    """With what the components imply for other numbers of repeats; nan becomes null."""
    curve = [{"repeats": r, "reliability": report.components.at(r)} for r in (1, 2, 3, 4, 8, 16)]
    return without_nan(asdict(report) | {"reliability_by_repeats": curve})
