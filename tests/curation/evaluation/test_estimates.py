import pytest

from configs.schema import Evaluation
from curation.evaluation.arms import Arm
from curation.evaluation.estimates import estimate_students
from curation.evaluation.records import ArmResult, Correction, EvaluationResult, StudentResult
from curation.evaluation.result import lab_expectations

ARMS = [Arm("none", "none"), Arm("repeated", "repeated"), Arm("trained", "trained")]


def estimated(rows, arms=ARMS, against="repeated"):
    return estimate_students(rows, arms, Evaluation(against=against, seeds=1))


def row(arm, document, gain, **more):
    """A student's answer to the one question about a document; two documents a batch."""
    return {
        "setting": "together", "student": "s", "arm": arm, "rewrites": 1, "seed": 0, "batch": document // 2, "edit": 0,
        "kind": "document", "source": "", "document_id": f"d{document}", "question": "q", "answer": "a",
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


def test_a_sequence_by_hand():
    """Two edits of one document each: the first is known after it, and forgotten after the second."""
    answers = {1: (True, False), 2: (False, True)}
    sequence = [
        row(
            "none", document, 0.0, setting="sequence", edit=edit, batch=document + 1,
            correct_before=edit == 2 and document == 0, correct_after=answers[edit][document],
            loglik_before=-3.0 + (edit == 2), loglik_after=-3.0 + edit,
            retention_loss_before=1.0 + (edit == 2) / 2, retention_loss_after=1.0 + edit / 2,
        )
        for edit in (1, 2)
        for document in (0, 1)
    ]  # fmt: skip
    estimates, _ = estimated([*rows(), *sequence])
    (matrix,) = estimates["s"].sequences
    assert matrix.accuracy == [[0, 0], [1, 0], [0, 1]]
    assert matrix.gain == [[0, 0], [1, 1], [2, 2]]
    assert (matrix.studied, matrix.studied_unedited) == ([1, 0.5], [0, 0])
    assert matrix.retention_loss == [1.0, 1.5, 2.0]
    assert (matrix.replay, matrix.arm, matrix.retention_accuracy) == (0.0, "trained", None)


def result(gains):
    names = list(gains)
    made = [row(name, d, gain + d / 100) for name, gain in gains.items() for d in range(12)]
    estimates, _ = estimated(made, [Arm(name, "file") for name in names], against=names[0])
    arms = {
        name: ArmResult(
            words=name, equal_tokens=True, lesson_tokens=1, texts=1, rejected=0, overlap=0, strategies={},
            together=estimates["s"].arms["together", name], single=None,
        )
        for name in names
    }  # fmt: skip
    student = StudentResult(
        model="m", teacher=None, arms=arms, comparisons=[], scaling={}, sequences=[], false_positives=None
    )
    return EvaluationResult(
        documents=12, documents_per_student=2, seeds=1, steps=1, tokens_per_step=8, rewrites=1, reference=names[0],
        students={"student-fixed": student}, correction=Correction(method="holm", level=0.05, families={}), claims=[],
        student_runs=1, seconds=0.0, notes=[],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("filler", "questions", "holds"), [(-1, 6, [True, True]), (3, 6, [False, True]), (-1, 1, [True, False])]
)
def test_claims_about_the_lab_can_fail(filler, questions, holds):
    gains = {"repeated": 1.5, "strategy:permuted": 2.5, "strategy:question-answer": questions}
    claims = lab_expectations(result(gains | {"strategy:filler": filler, "strategy:wrong": 0.5}))
    assert [claim.holds for claim in claims] == holds


def test_the_result_is_read_back_equal():
    made = result({"repeated": 1.5, "strategy:permuted": 2.5})
    assert EvaluationResult.model_validate_json(made.model_dump_json()) == made
