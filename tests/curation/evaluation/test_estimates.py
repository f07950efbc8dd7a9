import random
import statistics

import pytest

from configs.schema import Evaluation
from curation.evaluation.arms import Arm
from curation.evaluation.estimates import estimate_students
from curation.evaluation.records import ArmResult, EvaluationResult, ScalingPoint, StudentResult
from curation.report.evaluation import verdicts
from student.records import MEASURES

ARMS = [Arm("none", "none"), Arm("repeated", "repeated"), Arm("trained", "trained")]


def estimated(rows, arms=ARMS, against="repeated"):
    return estimate_students(rows, arms, Evaluation(against=against, seeds=1))


def row(arm, document, gain, **more):
    """A student's answer to the one question about a document; two documents a batch."""
    return {
        "setting": "together", "student": "s", "arm": arm, "rewrites": 1, "seed": 0, "batch": document // 2, "edit": 0,
        "cluster": more.get("batch", document // 2), "steps_cut": 0,
        "kind": "document", "source": "", "document_id": f"d{document}", "question": "q", "answer": "a",
        **{f"{measure}_{when}": None for measure in MEASURES for when in ("before", "after")},
        "loglik_before": -3.0, "loglik_after": -3.0 + gain, "correct_before": False, "correct_after": gain > 1,
        "steps": 4, "tokens": 100, "longest_text": 9, "planned_tokens": 96,
        "retention_loss_before": None, "retention_loss_after": None,
    } | more  # fmt: skip


def rows(student="s", trained=2.0, documents=12):
    noise = [0.1, -0.1, 0.05, -0.02, 0.03, -0.07]
    return [
        row(arm, d, gain + noise[d // 2] * (arm != "none"), student=student)
        for arm, gain in (("none", 0.0), ("repeated", 0.5), ("trained", trained))
        for d in range(documents)
    ]


def gain_of_trained(estimates):
    """The comparison of the trained teacher with the reference."""
    key = "gain", "trained", "repeated"
    return next(c for c in estimates.comparisons if (c.measure, c.arm, c.against) == key)


def test_every_pair_is_compared_once_and_corrected_over_all_students():
    estimates, correction = estimated([*rows("s"), *rows("t", trained=0.5)])
    assert correction.families == {"together/gain": 6, "together/accuracy": 6}
    gains = {(c.arm, c.against): c for c in estimates["s"].comparisons if c.measure == "gain"}
    assert set(gains) == {("none", "repeated"), ("trained", "repeated"), ("trained", "none")}
    assert gains["trained", "repeated"].verdict == "better"
    assert gains["none", "repeated"].verdict == "worse"
    same = next(
        c for c in estimates["t"].comparisons if (c.measure, c.arm, c.against) == ("gain", "trained", "repeated")
    )
    assert same.difference.mean == 0 and same.verdict == "no detectable difference"


def test_what_the_correction_takes_back_is_no_difference():
    """One comparison at p = 0.03 stands alone, and not among three."""
    shifts = [0.5, 0.2, -0.02, 0.3, 0.4, 0.02]
    weak = [
        row(arm, d, 1.0 + (shifts[d // 2] if arm == "trained" else 0.0))
        for arm in ("repeated", "trained")
        for d in range(12)
    ]
    estimates, _ = estimated(weak)
    (alone,) = (c for c in estimates["s"].comparisons if c.measure == "gain")
    assert alone.p == alone.p_corrected < 0.05 and alone.verdict == "better"
    more = [row("none", d, 1.0 + 0.3 * (-1) ** (d // 2)) for d in range(12)]
    estimates, _ = estimated([*weak, *more])
    among = next(
        c for c in estimates["s"].comparisons if (c.measure, c.arm, c.against) == ("gain", "trained", "repeated")
    )
    assert among.p == alone.p and among.p_corrected > 0.05
    assert among.difference.low > 0 and among.verdict == "no detectable difference"


def test_running_text_counts_in_accuracies_only_where_nothing_else_is_asked():
    text = {"loglik_before": None, "loglik_after": None, "bits_before": -2.0, "bits_after": -1.0}
    asked = [row("repeated", d, 2.0) for d in range(4)]
    ends = [row("repeated", d, 0.0, question="end", **text) for d in range(4)]
    for given, accuracy in (([*asked, *ends], 1.0), (ends, 0.0)):
        estimates, _ = estimated(given, [Arm("repeated", "repeated")])
        assert estimates["s"].arms["together", "repeated"].accuracy.mean == accuracy


def sequence_rows(arm, seed, first_kept=False):
    """Two edits of one document each: the first is known after it, and forgotten after the second or not."""
    answers = {1: (True, False), 2: (first_kept, True)}
    return [
        row(
            arm, document, 0.0, setting="sequence", edit=edit, batch=document + 1, seed=seed,
            correct_before=edit == 2 and document == 0, correct_after=answers[edit][document],
            loglik_before=-3.0 + (edit == 2), loglik_after=-3.0 + edit,
            retention_loss_before=1.0 + (edit == 2) / 2, retention_loss_after=1.0 + edit / 2,
        )
        for edit in (1, 2)
        for document in (0, 1)
    ]  # fmt: skip


def means(estimates):
    return [means(e) if isinstance(e, list) else e.mean for e in estimates]


def test_a_sequence_by_hand():
    estimates, _ = estimated([*rows(), *sequence_rows("none", 0)])
    (found,) = estimates["s"].sequences
    assert means(found.accuracy) == [[0, 0], [1, 0], [0, 1]]
    assert (means(found.studied), means(found.studied_unedited)) == ([1, 0.5], [0, 0])
    assert (found.replay, found.arm, found.retention_accuracy) == (0.0, "trained", None)
    assert found.studied[0].low is None, "one sequence has no interval"
    # Running text counts where nothing else is asked.
    text = {"bits_before": -2.0, "bits_after": -1.0, "correct_before": False, "correct_after": False}
    ends = [r | text for r in sequence_rows("none", 0)]
    for given, accuracy in (([*sequence_rows("none", 0), *ends], [[0, 0], [1, 0], [0, 1]]), (ends, [[0, 0]] * 3)):
        estimates, _ = estimated([*rows(), *given])
        assert means(estimates["s"].sequences[0].accuracy) == accuracy


def test_intervals_of_edits_are_over_sequences_and_replay_is_paired():
    """Of eight sequences three keep the first edit without replay, and all with it; one ends after its first edit."""
    plain = [r for seed in range(8) for r in sequence_rows("none", seed, first_kept=seed < 3)]
    replayed = [r for seed in range(8) for r in sequence_rows("replay", seed, first_kept=True)]
    plain = [r for r in plain if (r["seed"], r["edit"]) != (7, 2)]
    estimates, _ = estimated([*rows(), *plain, *replayed])
    without, with_replay = estimates["s"].sequences
    assert (without.sequences, without.replay, with_replay.replay) == (8, 0.0, 0.5)
    assert [cell.clusters for cell in without.accuracy[1]] == [8, 8]
    kept = without.accuracy[2][0]
    assert kept.mean == pytest.approx(3 / 7) and kept.clusters == 7 and 0 < kept.low < 3 / 7 < kept.high < 1
    effect = estimates["s"].replay_effect
    (after_two,) = effect.studied
    assert (after_two.mean, after_two.n) == (pytest.approx(4 / 7 / 2), 7) and effect.retention_accuracy is None
    # At least Student's t over the seven pairs.
    t_width = 2 * 2.447 * statistics.stdev([0.0] * 3 + [0.5] * 4) / 7**0.5
    assert t_width <= after_two.high - after_two.low < 1.3 * t_width


def result(gains, lab=True):
    names = list(gains)
    made = [
        row(name, d, gain + random.Random(f"{name} {d // 2}").uniform(-0.2, 0.2), student="student-fixed")
        for name, gain in gains.items()
        for d in range(12)
    ]
    arms = [Arm(name, "strategy" if name.startswith("strategy:") else "file") for name in names]
    settings = Evaluation(arms=names, against=names[0], seeds=1, lab=lab)
    estimates, correction = estimate_students(made, arms, settings)
    found = estimates["student-fixed"]
    arm_results = {
        name: ArmResult(
            words=name, equal_tokens=True, lesson_tokens=1, texts=1, rejected=0, overlap=0, strategies={},
            together=found.arms["together", name], single=None,
        )
        for name in names
    }  # fmt: skip
    student = StudentResult(
        model="m", teacher=None, arms=arm_results, comparisons=found.comparisons, scaling={}, sequences=[],
        replay_effect=None,
    )  # fmt: skip
    return EvaluationResult(
        measure="loglik", documents=12, documents_per_student=2, seeds=1, steps=1, tokens_per_step=8, rewrites=1,
        reference=names[0], students={"student-fixed": student}, correction=correction,
        student_runs=1, seconds=0.0, notes=[],
    )  # fmt: skip


def test_the_result_is_read_back_equal():
    made = result({"repeated": 1.5, "strategy:permuted": 2.5})
    assert EvaluationResult.model_validate_json(made.model_dump_json()) == made


def scaling_rows(arm, gains):
    """Twelve documents' answers after 1, 2, 4 ... rewrites; most of the noise is a batch's, at all numbers."""
    luck = random.Random(arm)
    shared = [luck.gauss(0, 1) for _ in range(6)]
    return [
        row(arm, d, gain + shared[d // 2] + luck.gauss(0, 0.1), setting="scaling", rewrites=2**k)
        for k, gain in enumerate(gains)
        for d in range(12)
    ]


@pytest.mark.parametrize(
    ("gains", "says"),
    [
        ([1, 2, 3, 3, 3], "from 4 rewrites a document (40 different tokens) on, more text brings no detectable gain ("
         "16 rewrites minus 2 +1.0"),
        ([1, 1, 1, 1, 1], "from 1 rewrite a document (10 different tokens) on, more text brings no detectable gain"),
        ([1, 2, 3, 4, 5], "more text still helps at the most that was tried, 16 rewrites a document (16"),
        ([1, 3, 3, 3, 1], "from 1 rewrite a document (10 different tokens) on, more text brings no detectable gain"),
    ],
)  # fmt: skip
def test_a_curve_says_from_where_more_text_brings_no_detectable_gain(gains, says):
    made = result({"repeated": 1.5, "trained": 2.5}, lab=False)
    estimates, _ = estimated([*rows(), *scaling_rows("trained", gains)])
    points = [
        ScalingPoint(rewrites=n, lesson_tokens=10 * n, overlap=0, gain=e.measures["loglik"], **e._asdict())
        for (_, n), e in sorted(estimates["s"].scaling.items())
    ]
    assert [point.more is None for point in points] == [False] * 4 + [True]
    assert all(e.more.high - e.more.low < 0.5 for e in points[:-1]), "paired: what batches have in common drops out"
    student = made.students["student-fixed"].model_copy(update={"scaling": {"trained": points}})
    told = [v.words for v in verdicts(made.model_copy(update={"students": {"lab": student}}))]
    assert any(says in words and words.startswith("lab, taught with more of trained: ") for words in told), told


def test_curves_that_are_flat_are_seldom_said_to_rise():
    """Holm over all points: of evaluations where no text helps, at most 5% say of any number that more helps."""
    wrong = 0
    for trial in range(200):
        luck = random.Random(trial)
        made = [
            row("trained", d, luck.gauss(0, 1), setting="scaling", rewrites=n)
            for n in (1, 2, 4, 8)
            for d in range(12)
        ]  # fmt: skip
        estimates, _ = estimated([*rows(), *made])
        wrong += any(e.more and e.more.mean > 0 and e.more_p < 0.05 for e in estimates["s"].scaling.values())
    assert wrong <= 10
