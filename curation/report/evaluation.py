"""What evaluation.json says, in words: verdicts, key figures, tables of arms and of comparisons."""

from collections.abc import Sequence

from markupsafe import Markup

from configs.format import amount
from curation.evaluation.records import ArmResult, Comparison, Estimate, EvaluationResult, StudentResult
from curation.report.parts import Kind, Table, Tile, Verdict, cell, count, number, shares
from curation.report.plots import Interval, spoken

UNIT = {
    "gain": "nats a token",
    "accuracy": "share of answers right",
    "benchmark": "gain in nats a token on what was never rewarded",
    "retention": "share of old questions still answered",
}
"""Of the measures of a comparison."""
KINDS: dict[str, Kind] = {"better": "better", "worse": "worse", "no detectable difference": "same"}
BESIDE: dict[Kind, str] = {"better": "better than", "worse": "worse than", "same": "no detectable difference from"}
"""What the trained teacher's arm is."""
AMONG: dict[Kind, str] = {"better": "better with", "worse": "worse with", "same": "no detectable difference with"}
"""How it goes with the other arms, where no trained teacher is among them."""


def triple(figure: Estimate | None) -> Interval | None:
    """As the plots take it."""
    return None if figure is None else (figure.mean, figure.low, figure.high)


def verdicts(found: EvaluationResult) -> list[Verdict]:
    """What stands after correction, a sentence a student and verdict.

    The trained teacher's arm is told against every other; without one the other arms are told against the reference.
    """
    said = []
    for label, student in found.students.items():
        trained = "trained" in student.arms
        about = "trained" if trained else found.reference
        ours = about_arm(student.comparisons, about)
        if not trained:
            ours = [_turned(comparison) for comparison in reversed(ours)]
        subject = f"{'taught with' if trained else 'against'} {_words(student, about)}"
        for kind, opening in (BESIDE if trained else AMONG).items():
            others = [
                _beside(one, student, one.against if trained else one.arm) for one in ours if KINDS[one.verdict] == kind
            ]
            if others:
                said.append(Verdict(f"{label}, {subject}: {opening} {'; '.join(others)}.", kind))
    comparisons = found.correction.families.get("together/gain", 0)
    said.append(
        Verdict(
            f"Gain in nats a token on {amount(found.documents, 'held-out document')}, {amount(found.seeds, 'student')}"
            " each, at equal tokens and steps (but for †). The intervals are 95% each by itself; the verdicts are"
            f" corrected by Holm's method over {amount(comparisons, 'comparison')}: were nothing different, at most"
            f" {found.correction.level:.0%} of such evaluations would call anything so.",
            "note",
        )
    )
    return said


def about_arm(comparisons: Sequence[Comparison], arm: str) -> list[Comparison]:
    """Those of gain, many documents together, that the arm is part of; turned so that it comes first."""
    found = []
    for comparison in comparisons:
        if comparison.measure != "gain" or comparison.setting != "together":
            continue
        if comparison.arm == arm:
            found.append(comparison)
        elif comparison.against == arm:
            found.append(_turned(comparison))
    return sorted(found, key=lambda comparison: -comparison.difference.mean)


def _turned(comparison: Comparison) -> Comparison:
    difference = comparison.difference
    turned = difference.model_copy(
        update={
            "mean": -difference.mean,
            "low": None if difference.high is None else -difference.high,
            "high": None if difference.low is None else -difference.low,
        }
    )
    verdict = {"better": "worse", "worse": "better"}.get(comparison.verdict, comparison.verdict)
    names = {"arm": comparison.against, "against": comparison.arm}
    return comparison.model_copy(update={**names, "difference": turned, "verdict": verdict})


def _beside(comparison: Comparison, student: StudentResult, other: str) -> str:
    difference = triple(comparison.difference)
    assert difference is not None
    flag = "" if student.arms[other].equal_tokens else " †"
    found = f"{other}{flag} ({spoken(difference, 2, '+')}"
    if comparison.verdict == "no detectable difference":
        low, high = difference[1:]
        if low is not None and high is not None and not low <= 0 <= high:
            found += "; not after correction"
        elif comparison.detectable is not None:
            found += f"; detectable: {number(comparison.detectable)}"
    return f"{found})"


def _words(student: StudentResult, arm: str) -> str:
    return f"{arm} ({words})" if (words := student.arms[arm].words) and words != arm else arm


def tiles(found: EvaluationResult) -> list[Tile]:
    """What to see first."""
    said = []
    for label, student in found.students.items():
        arm = "trained" if "trained" in student.arms else found.reference
        right = triple(student.arms[arm].together.accuracy)
        if right is not None:
            beside = triple(student.arms[found.reference].together.accuracy) if found.reference != arm else None
            detail = f"{found.reference} {spoken(beside)}" if beside else ""
            said.append(Tile(f"answers right, {arm}, {label}", spoken(right), detail))
    said.append(Tile("evaluated on", amount(found.documents, "document"), amount(found.student_runs, "student run")))
    return said


def intervals_of(found: EvaluationResult, setting: str = "together") -> str:
    """What intervals are over, and n."""
    measured = [
        gain
        for student in found.students.values()
        for arm in student.arms.values()
        if (own := arm.together if setting == "together" else arm.single) and (gain := own.gain)
    ]
    n = max((gain.n for gain in measured), default=0)
    clusters = max((gain.clusters for gain in measured), default=0)
    if clusters < 2:
        return f"no interval, for {amount(n, 'document')} in one batch make none possible"
    documents, seeds = amount(n, "document"), "" if setting == "single" else f", {amount(found.seeds, 'student')} each"
    if clusters == n:
        return f"95% intervals over {documents}{seeds}"
    return f"95% intervals over {amount(clusters, 'batch')} of documents ({documents}{seeds})"


def arm_table(student: StudentResult) -> Table:
    """What each arm taught and what came of it."""
    benchmarks = list(dict.fromkeys(name for arm in student.arms.values() for name in arm.together.benchmarks))
    rows: list[list[str | Markup]] = []
    for name, arm in student.arms.items():
        flag = "" if arm.equal_tokens else " †"
        words = Markup("<b>{}</b>{}<br><small>{}</small>").format(name, flag, arm.words)
        results = [
            arm.together.gain,
            arm.together.accuracy,
            *(arm.together.benchmarks.get(name) for name in benchmarks),
        ]
        lesson = Markup("{} <small>in {}</small>").format(number(arm.lesson_tokens, 0), number(arm.texts, 1))
        texts = [lesson, count(arm.together.tokens), number(arm.overlap)]
        rows.append([words, *(cell(triple(result)) for result in results), *texts, _written(arm)])
    outside = [f"{benchmark}, gain" for benchmark in benchmarks]
    head = ["arm", "gain", "answered right", *outside, "tokens in texts", "trained on", "overlap", "strategies"]
    return Table(head, rows, "w" + "r" * (len(head) - 2) + "w")


def _written(arm: ArmResult) -> Markup:
    refused = f"{arm.rejected} refused" if arm.rejected else ""
    failed = f"{arm.together.failed} students failed" if arm.together.failed else ""
    parts = [shares(list(arm.strategies.items())), refused, failed]
    return Markup("<small>{}</small>").format("; ".join(part for part in parts if part))


def comparison_tables(student: StudentResult) -> list[Table]:
    """One a setting and measure; that of the verdicts is open."""
    tables = []
    for setting, company in (("together", "many documents share a student"), ("single", "one document, one student")):
        for measure, unit in UNIT.items():
            ours = [one for one in student.comparisons if (one.setting, one.measure) == (setting, measure)]
            if ours:
                title = f"{measure.capitalize()} ({unit}), {company}"
                head = ["pair", "difference", "p", "p, corrected", "detectable", "verdict"]
                folded = (setting, measure) != ("together", "gain")
                tables.append(Table(head, [_compared(one) for one in ours], "lrrrrl", title, folded))
    return tables


def _compared(one: Comparison) -> list[str | Markup]:
    pair = Markup("<b>{}</b> − {}").format(one.arm, one.against)
    verdict = Markup('<span class="{}">{}</span>').format(KINDS[one.verdict], one.verdict)
    difference = cell(triple(one.difference), 2, "+")
    return [pair, difference, _p(one.p), _p(one.p_corrected), number(one.detectable), verdict]


def _p(value: float | None) -> str:
    if value is None:
        return "\N{EN DASH}"
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"
