"""What is known of the lab, held against an evaluation of it."""

from curation.evaluation.records import Claim, EvaluationResult, StudentResult

BEST = {"student-augmented": "strategy:permuted", "student-fixed": "strategy:question-answer"}
"""The single strategy that is worth most to each of the lab's students."""

JUNK = ("strategy:wrong", "strategy:filler")
ALLOWED = 0.05


def lab_claims(result: EvaluationResult) -> list[Claim]:
    """The ordering that the lab was built for. Claims about arms, sequences or checks that were not measured are left
    out."""
    return [
        Claim(words=f"{label}: {words}", holds=holds)
        for label, student in result.students.items()
        for words, holds in _claims(label, student)
    ]


def _claims(label: str, student: StudentResult) -> list[tuple[str, bool]]:
    gains = {
        name: arm.together.gain.mean
        for name, arm in student.arms.items()
        if arm.equal_tokens and arm.together.gain is not None
    }
    claims = []
    junk = [gains[name] for name in JUNK if name in gains]
    rest = [gain for name, gain in gains.items() if name not in JUNK]
    if junk and rest:
        claims.append(("filler and wrong facts are at the bottom of all arms", max(junk) < min(rest)))
    single = {name: gain for name, gain in gains.items() if name.startswith("strategy:")}
    best = BEST.get(label)
    if best in single:
        claims.append((f"{best} is the best single strategy", max(single, key=lambda name: single[name]) == best))
    for c in student.comparisons:
        if (c.arm, c.setting, c.measure) == ("trained", "together", "gain") and c.against in ("repeated", "untrained"):
            claims.append((f"the trained teacher beats {c.against}", c.verdict == "better"))
    for sequence in student.sequences:
        if sequence.studied:
            how = "with replay" if sequence.replay else "without replay"
            above = sequence.studied[-1] > sequence.studied_unedited[-1]
            claims.append((f"after {len(sequence.studied)} edits {how} it knows more than the never-edited", above))
    if (check := student.false_positives) is not None:
        words = f"at most 5% of {check.pairs} pairs of equal arms differ by the verdict"
        claims.append((words, check.differ_corrected <= ALLOWED * check.pairs))
    return claims
