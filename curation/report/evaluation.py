"""What evaluation.json says, in words: verdicts, key figures, tables of arms and of comparisons."""

from collections.abc import Callable

from markupsafe import Markup

from configs.format import amount
from configs.schema.reward import Measure
from curation.console.tables import Table
from curation.evaluation.records import ArmResult, Comparison, Estimate, EvaluationResult, StudentResult
from curation.evaluation.statistics import LEVEL
from curation.report.parts import Kind, Tile, Verdict, cell, count, number, shares
from curation.report.plots import Interval, interval_text
from student.records import MEASURES, in_measure
from teacher.records import ONE_RUN

COMPARED = {
    "gain": "gain",
    "accuracy": "accuracy (share of answers right)",
    "benchmark": f"gain {in_measure('loglik')} on benchmarks, which were never rewarded",
    "retention": "retention (share of old questions still answered)",
}
SETTINGS = {"together": "documents share students as in training", "single": "one document, one student"}
"""What is compared, and in which setting."""
KINDS: dict[str, Kind] = {"better": "better", "worse": "worse", "no detectable difference": "same"}
TRAINED_GAINS: dict[Kind, str] = {
    "better": "gains more than with", "worse": "gains less than with", "same": "no detectable difference from",
}  # fmt: skip
"""What students gain with the trained teacher's arm, beside the others."""
OTHERS_GAIN: dict[Kind, str] = {
    "better": "gains more with",
    "worse": "gains less with",
    "same": "no detectable difference with",
}
"""How students learn with the other arms, where no trained teacher is among them."""


def bounds(estimate: Estimate | None) -> Interval | None:
    """(mean, low, high), or None."""
    return None if estimate is None else estimate.bounds


def told(student: StudentResult, rewarded: Measure) -> list[Measure]:
    """The measures that the student's exams tell, the rewarded one first."""
    found = {measure for arm in student.arms.values() for measure in arm.together.measures}
    return [rewarded, *(measure for measure in MEASURES if measure in found and measure != rewarded)]


def trained_arms(student: StudentResult) -> list[str]:
    """The arms of trained teachers, in the order of the config."""
    return [name for name in student.arms if name.partition(":")[0] == "trained"]


def verdicts(evaluation: EvaluationResult) -> list[Verdict]:
    """What stands after correction, a sentence a student and verdict: each trained teacher's arm beside the others;
    without one the other arms beside the reference."""
    sentences = []
    for label, student in evaluation.students.items():
        for arm in trained_arms(student) or [evaluation.reference]:
            sentences += _verdicts_of(evaluation, label, arm)
        sentences += _where_text_stops_helping(label, student)
    for arm, mixes in evaluation.strategy_mixes.items():
        between, within = (f"{number(min(of))} to {number(max(of))}" for of in (mixes.between, mixes.within))
        words = (
            f"{arm}: strategies of two training runs lie {between} apart where their students differ, {within} where"
            f" they do not (total variation; permutation of runs, p {number(mixes.p, 3)})."
        )
        sentences.append(Verdict(words, "note"))
    family = evaluation.correction.families.get("together/gain", 0)
    documents, students = amount(evaluation.documents, "held-out document"), amount(evaluation.seeds, "student")
    of_run = ""
    if _of_one_run(evaluation):
        of_run = f" The trained teacher is that of {ONE_RUN}: what another run's would be worth was not measured."
    note = (
        f"Gain {in_measure(evaluation.measure)} on {documents}, {students} each, at equal tokens and steps (but for"
        " †). The intervals are 95% each by itself; the verdicts are corrected by Holm's method over"
        f" {amount(family, 'comparison')}: were nothing different, at most {evaluation.correction.level:.0%} of such"
        f" evaluations would call anything so.{of_run}"
    )
    return [*sentences, Verdict(note, "note")]


def _verdicts_of(evaluation: EvaluationResult, label: str, arm: str) -> list[Verdict]:
    """Of one arm and student, beside all that it was compared with."""
    student, sentences = evaluation.students[label], []
    trained = arm in trained_arms(student)
    in_gain = [c for c in student.comparisons if (c.measure, c.setting) == ("gain", "together")]
    of_arm = [c if c.arm == arm else _turned(c) for c in in_gain if arm in (c.arm, c.against)]
    comparisons = sorted(of_arm, key=lambda c: -c.difference.mean)
    if not trained:
        comparisons = [_turned(comparison) for comparison in reversed(comparisons)]
    words = student.arms[arm].words
    subject = f"{'taught with' if trained else 'against'} {arm}{f' ({words})' if words not in ('', arm) else ''}"
    for kind, opening in (TRAINED_GAINS if trained else OTHERS_GAIN).items():
        of_kind = [c for c in comparisons if KINDS[c.verdict] == kind]
        if others := [_with_difference(c, student, c.against if trained else c.arm) for c in of_kind]:
            sentences.append(Verdict(f"{label}, {subject}: {opening} {'; '.join(others)}.", kind))
    return sentences


def _where_text_stops_helping(label: str, student: StudentResult) -> list[Verdict]:
    """A sentence a scaling curve: the fewest rewrites from which on none gains detectably less than the most."""
    sentences = []
    for arm, points in student.scaling.items():
        helped = [p.more is not None and p.more.mean > 0 and p.more_p is not None and p.more_p < LEVEL for p in points]
        enough = len(points) - helped[::-1].index(True) if True in helped else 0
        if len(points) < 2 or all(point.more is None for point in points):
            continue
        most = points[-1].rewrites
        told = [f"{most} rewrites minus {p.rewrites} {interval_text(p.more.bounds, sign=True)}"
                for p in points[max(0, enough - 1) : enough + 1] if p.more is not None]  # fmt: skip
        if enough == len(points) - 1:
            what = f"more text still helps at the most that was tried, {amount(most, 'rewrite')} a document"
        else:
            tokens = number(points[enough].lesson_tokens, 0)
            what = (
                f"from {amount(points[enough].rewrites, 'rewrite')} a document ({tokens} different tokens) on, more "
                "text brings no detectable gain"
            )
        sentences.append(Verdict(f"{label}, taught with more of {arm}: {what} ({'; '.join(told)}).", "note"))
    return sentences


def _turned(comparison: Comparison) -> Comparison:
    """The same comparison from the other arm's side."""
    mean, low, high = comparison.difference.bounds
    mirrored = {"mean": -mean, "low": None if high is None else -high, "high": None if low is None else -low}
    return comparison.model_copy(
        update={
            "arm": comparison.against,
            "against": comparison.arm,
            "difference": comparison.difference.model_copy(update=mirrored),
            "verdict": {"better": "worse", "worse": "better"}.get(comparison.verdict, comparison.verdict),
        }
    )


def _with_difference(comparison: Comparison, student: StudentResult, other: str) -> str:
    _, low, high = comparison.difference.bounds
    remark = ""
    if comparison.verdict == "no detectable difference":
        if low is not None and high is not None and not low <= 0 <= high:
            remark = "; not after correction"
        elif comparison.detectable is not None:
            remark = f"; detectable: {number(comparison.detectable)}"
    flag = "" if student.arms[other].equal_tokens else " †"
    return f"{other}{flag} ({interval_text(comparison.difference.bounds, sign=True)}{remark})"


def tiles(evaluation: EvaluationResult) -> list[Tile]:
    """What to see first."""
    tiles, reference = [], evaluation.reference
    for label, student in evaluation.students.items():
        arm = next(iter(trained_arms(student)), reference)
        accuracy, beside = (student.arms[name].together.accuracy for name in (arm, reference))
        if accuracy is not None:
            detail = f"{reference} {interval_text(beside.bounds)}" if beside and reference != arm else ""
            tiles.append(Tile(f"answers right, {arm}, {label}", interval_text(accuracy.bounds), detail))
    runs = amount(evaluation.student_runs, "student run")
    return [*tiles, Tile("evaluated on", amount(evaluation.documents, "document"), runs)]


def intervals_of(evaluation: EvaluationResult, setting: str = "together") -> str:
    """Caption: the units of the intervals and their number."""
    gains = [
        estimates.gain
        for student in evaluation.students.values()
        for arm in student.arms.values()
        if (estimates := getattr(arm, setting)) and estimates.gain
    ]
    n = max((gain.n for gain in gains), default=0)
    clusters = max((gain.clusters for gain in gains), default=0)
    documents = amount(n, "document")
    if clusters < 2:
        return f"no interval, for {documents} in one batch make none possible"
    seeds = "" if setting == "single" else f", {amount(evaluation.seeds, 'student')} each"
    of_run = f"; of trained teachers they are of {ONE_RUN}" if _of_one_run(evaluation) else ""
    if clusters == n:
        return f"95% intervals over {documents}{seeds}{of_run}"
    drawn = "title" if setting == "single" or evaluation.documents_per_student == 1 else "batch"
    return f"95% intervals over {amount(clusters, drawn)} of documents ({documents}{seeds}){of_run}"


def _of_one_run(evaluation: EvaluationResult) -> bool:
    """Whether a trained teacher's texts are among the arms, and those of a single training run."""
    return any(
        student.arms[name].training_runs == 1
        for student in evaluation.students.values()
        for name in trained_arms(student)
    )


def arm_tables(student: StudentResult, rewarded: Measure) -> list[Table]:
    """What each arm taught and what came of it; and what was measured beside that, as far as it was."""
    head = [f"gain {in_measure(rewarded)}", "answered right", "tokens in texts", "trained on", "overlap", "strategies"]
    rows: list[list[str]] = []
    for name, arm in student.arms.items():
        flag = "" if arm.equal_tokens else " †"
        refused = f"{arm.rejected} refused" if arm.rejected else ""
        failed = f"{arm.together.failed} students failed" if arm.together.failed else ""
        strategies = "; ".join(filter(None, (shares(list(arm.strategies.items())), refused, failed)))
        rows.append(
            [
                Markup("<b>{}</b>{}<br><small>{}</small>").format(name, flag, arm.words),
                cell(bounds(arm.together.gain)),
                cell(bounds(arm.together.accuracy)),
                Markup("{} <small>in {}</small>").format(number(arm.lesson_tokens, 0), number(arm.texts, 1)),
                count(arm.together.tokens),
                number(arm.overlap),
                Markup("<small>{}</small>").format(strategies),
            ]
        )
    benchmarks = dict.fromkeys(name for arm in student.arms.values() for name in arm.together.benchmarks)
    beside: dict[str, Callable[[ArmResult], Estimate | None]] = {
        **{f"{name}, gain": lambda arm, name=name: arm.together.benchmarks.get(name) for name in benchmarks},  # type: ignore[misc]
        **{
            f"{name}, answered right": lambda arm, name=name: arm.together.benchmark_accuracies.get(name)  # type: ignore[misc]
            for name in benchmarks
        },
        "old questions answered": lambda arm: arm.together.retention_accuracy,
        "loss gained on old texts": lambda arm: arm.together.retention_loss,
        "one document a student, gain": lambda arm: arm.single.gain if arm.single else None,
    }
    found = {title: [cell(bounds(read(arm))) for arm in student.arms.values()] for title, read in beside.items()}
    found = {title: cells for title, cells in found.items() if set(cells) != {cell(None)}}
    tables = [Table(["arm", *head], rows, "w" + "r" * 5 + "w")]
    if found:
        others = [list(row) for row in zip(student.arms, *found.values(), strict=True)]
        tables.append(Table(["arm", *found], others, title="Beside it"))
    return tables


def comparison_tables(student: StudentResult, rewarded: Measure) -> list[Table]:
    """One a setting and what is compared; that of the verdicts is open. Last arms and differences in all measures."""
    head = ["pair", "difference", "p", "p, corrected", "detectable", "verdict"]
    tables = []
    for setting, words in SETTINGS.items():
        for measure, compared in COMPARED.items():
            rows = [_row(c) for c in student.comparisons if (c.setting, c.measure) == (setting, measure)]
            if rows:
                unit = f" {in_measure(rewarded)}" if measure == "gain" else ""
                title = f"{compared.capitalize()}{unit}, {words}"
                tables.append(Table(head, rows, "wrrrrl", title, folded=(setting, measure) != ("together", "gain")))
    measures = told(student, rewarded)
    if len(measures) > 1:
        pairs = [c for c in student.comparisons if (c.measure, c.setting) == ("gain", "together")]
        rows = [
            [name, *(cell(bounds(arm.together.measures.get(m))) for m in measures)]
            for name, arm in student.arms.items()
        ]
        rows += [[_pair(c), *(cell(bounds(c.measures.get(m)), sign=True) for m in measures)] for c in pairs]
        title = f"All measures side by side: verdicts are in {rewarded}, the others describe"
        tables.append(Table(["arm or pair", *map(in_measure, measures)], rows, title=title))
    return tables


def _pair(comparison: Comparison) -> Markup:
    """`trained − raw`."""
    return Markup("<b>{}</b> − {}").format(comparison.arm, comparison.against)


def _row(comparison: Comparison) -> list[str]:
    p_values = comparison.p, comparison.p_corrected
    return [
        _pair(comparison),
        cell(comparison.difference.bounds, sign=True),
        *("< 0.001" if p is not None and p < 0.001 else number(p, 3) for p in p_values),
        number(comparison.detectable),
        Markup('<span class="{}">{}</span>').format(KINDS[comparison.verdict], comparison.verdict),
    ]
