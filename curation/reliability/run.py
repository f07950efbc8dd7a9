"""How much of the reward is signal: `notewright reliability CONFIG`, before a GPU-day goes into RL.

Every rewrite of some documents is taught to several students. Each unit of credit gets the same number of students:
`document` measures some documents; `shared` and `shard` measure as many more as share a student or, where there are not
so many, the same ones more often. `shared` and `shard` are two readings of the same students. The verb only reports.

Measured: the variance of the gain between rewrites of a document and between runs of the same rewrite
(`student.statistics.reliability`) in every measure of gain that the exam tells, the contrast between strategies, and
what a rewarded rewrite costs. Budgets and adaptive repeats are of `reward.measure`. All
rewrites of a document share a repeat's seed; the intervals' clusters are documents, or the batches that share students.
"""

import statistics
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, get_args

from configs.errors import UserError, check_known
from configs.files import write_json
from configs.format import without_nan
from configs.schema import Config
from configs.schema.reward import Credit, Measure
from curation.console.progress import say
from curation.reliability.adaptive_comparison import compare
from curation.reliability.report import TARGET, print_reports
from curation.study.groups import Group, check_alone, comparable, read_groups
from curation.study.students import Gains, Recording, RewriteStudy, session
from student.benchmarks.sources import DocumentQuestions
from student.pools import make_pool
from student.records import MEASURES, Outcome, StudentPool, mean_gain
from student.statistics.reliability import Reliability, reliability, repeats_for
from teacher.reward.distractors import telling_documents
from teacher.reward.evaluation import estimate_gains

ADAPTIVE_BUDGETS = (2, 3, 4)
"""Runs a rewrite at which adaptive and uniform repeats are compared."""
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
    `source` as in `read_groups`. Students are kept in `<run.dir>/reliability/`, so that a stopped call goes on. Raises
    UserError and RunError."""
    if repeats < 2:
        raise UserError(f"repeats={repeats}: retraining noise shows only from 2 repeats on")
    check_known("credit", credits, get_args(Credit))
    units: list[Credit] = [unit for unit in get_args(Credit) if unit in credits]
    sizes = {unit: 1 if unit == "document" else config.reward.documents_per_student for unit in units}
    groups = _comparable(config, read_groups(config, source, documents * max(sizes.values(), default=1), rewrites))
    check_alone(groups, sizes.values(), "measure --credit document")
    pool = pool or make_pool(config.student)
    output = output or config.run.dir / "reliability.json"
    reports: list[dict[str, Any]] = []
    with session(config, groups, config.run.dir / "reliability") as students_of:
        runs = students_of.runs(all_asked=False)
        measured: dict[int, tuple[RewriteStudy, Recording]] = {}
        for size in dict.fromkeys(sizes.values()):
            study = RewriteStudy(runs, pool, groups[: documents * size], size)
            own_repeats = repeats
            if size > 1:
                # As many students as documents cost that share none.
                students = repeats * sum(len(group.candidates) for group in groups[:documents])
                own_repeats = max(2, round(students / study.students(1)))
            students_of.progress.expect(study.students(own_repeats))
            measured[size] = study, study.record(own_repeats)
        for credit, size in sizes.items():
            reports.append(_report(credit, *measured[size]))
            # Under `shard` credit a document's rewrite cannot be repeated apart from those of the whole shard.
            if adaptive and credit != "shard":
                reports[-1]["adaptive"] = _compare_adaptive(config.run.seed, credit, *measured[size])
    result = {
        "source": source or list(config.data.train),
        "student": config.student.model,
        "measure": config.reward.measure,
        "students": pool.fingerprint,
        "target": TARGET,
        "credits": without_nan(reports),
    }
    write_json(output, result)
    print_reports(result["credits"], output)
    return result


def _comparable(config: Config, groups: list[Group]) -> list[Group]:
    """Groups that can be rewarded and compared: with `reward` questions and two rewrites. Raises UserError."""
    questions = DocumentQuestions(config.student.prompt_template)
    kept = comparable(
        groups, lambda one: any(q.split == "reward" for q in questions.exam(one).questions), "reward questions"
    )
    if not kept:
        raise UserError("no document has both reward questions and two rewrites to compare")
    documents = [group.document for group in kept]
    telling = {d.id for d in telling_documents(documents, questions, "reward", config.reward, "reliability", say)}
    return [group for group in kept if group.document.id in telling]


def _report(credit: Credit, study: RewriteStudy, recording: Recording) -> dict[str, Any]:
    """What one unit of credit gives: `components`, their reliability, costs and `contrast_...` in the rewarded
    `measure`, and `by_measure` in every one that the exam tells, from the same students.

    * `students`: runs in all; those of `shared` and `shard` are the same.
    * `mean_of_repeats`: reliability of the mean of `repeats` runs; `reliability_by_repeats`: what the components imply
      for other numbers; `repeats_for_target`: the fewest whose mean reaches 0.8 (None: no contrast was found).
    * `students_for_target`: what these cost in student runs a rewrite, and `students_per_rewrite` the repeats that were
      measured: a run of `shared` or `shard` serves several documents at once.
    * `ways`: each strategy's mean gain over all documents that have it, with its 95% interval, and the share of the
      reward questions right after the lesson. `contrast_sd`: the standard deviation of the strategies' mean gains,
      `contrast_range` the best minus the worst, controls left out.
    """
    rewarded = study.runs.config.reward.measure
    tables = {
        measure: recording.table(partial(_gain, measure=measure), whole=credit == "shard") for measure in MEASURES
    }
    by_measure = {
        measure: _signal(study, gains, recording.accuracy, measure)
        for measure, gains in tables.items()
        if any(gain is not None for group in gains for runs in group for gain in runs)
    }
    components: Reliability = by_measure[rewarded]["components"]
    repeats = repeats_for(components.reliability, TARGET)
    students_per_run = recording.students / sum(len(g.candidates) for g in study.groups) / recording.repeats
    return {
        "credit": credit,
        "measure": rewarded,
        "documents_per_student": study.documents_per_student,
        "repeats": recording.repeats,
        "students": recording.students,
        "mean_of_repeats": components.at(recording.repeats),
        "mean_of_repeats_interval": components.interval_at(recording.repeats),
        "repeats_for_target": repeats,
        "students_for_target": None if repeats is None else repeats * students_per_run,
        "students_per_rewrite": recording.repeats * students_per_run,
        "seconds_per_student": recording.seconds_per_student,
        "ways": _by_strategy(study, tables[rewarded], recording.accuracy, rewarded),
        **by_measure[rewarded] | {"components": asdict(components)},
        "by_measure": {m: of | {"components": asdict(of["components"])} for m, of in by_measure.items()},
        "errors": recording.errors,
        "adaptive": [],
        "reliability_by_repeats": [{"repeats": r, "reliability": components.at(r)} for r in (1, 2, 3, 4, 8, 16)],
    }


def _gain(outcome: Outcome, measure: Measure) -> float | None:
    return mean_gain(outcome.answers, measure)


def _signal(study: RewriteStudy, gains: Gains, accuracy: Gains, measure: Measure) -> dict[str, Any]:
    """How much of the gain in one measure is signal, in the measure's unit."""
    means = [way["gain"] for way in _by_strategy(study, gains, accuracy, measure) if not way["control"]]
    return {
        "components": reliability(study.rewrites_only(gains), clusters=study.clusters, common_seeds=True),
        "contrast_sd": statistics.stdev(means) if len(means) > 1 else None,
        "contrast_range": max(means) - min(means) if len(means) > 1 else None,
    }


def _by_strategy(study: RewriteStudy, gains: Gains, accuracy: Gains, measure: Measure) -> list[dict[str, Any]]:
    """Strategies by falling mean gain; each document counts once in a strategy."""
    runs: dict[tuple[str, bool], dict[int, list[tuple[float, float]]]] = {}
    for d, group in enumerate(study.groups):
        for g, candidate in enumerate(group.candidates):
            for gain, right in zip(gains[d][g], accuracy[d][g], strict=True):
                if gain is not None and right is not None:
                    by_document = runs.setdefault((candidate.strategy, candidate.control), {})
                    by_document.setdefault(d, []).append((gain, right))
    results = []
    for (strategy, control), by_document in runs.items():
        means = [statistics.fmean(gain for gain, _ in of_document) for of_document in by_document.values()]
        share = statistics.fmean(statistics.fmean(right for _, right in pairs) for pairs in by_document.values())
        found = estimate_gains(means, [study.clusters[d] for d in by_document], measure)
        of = {"strategy": strategy, "documents": len(by_document), "gain": found.mean, "gain_interval": found.interval}
        results.append(of | {"accuracy": share, "control": control})
    return sorted(results, key=lambda way: -way["gain"])


def _compare_adaptive(seed: int, credit: Credit, study: RewriteStudy, recording: Recording) -> list[dict[str, Any]]:
    recorded = study.rewrites_only(recording.own)
    simulations = max(2, min(20, SIMULATED_DOCUMENTS // len(recorded)))
    comparisons = [
        compare(
            recorded, budget, clusters=study.clusters, shared=credit == "shared",
            students=STUDENTS_A_ROUND[credit], simulations=simulations, seed=seed,
        )
        for budget in ADAPTIVE_BUDGETS
    ]  # fmt: skip
    return [comparison for comparison in comparisons if comparison is not None]
