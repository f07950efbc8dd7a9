"""The report says what the run's journal and evaluation say, and fetches nothing."""

import html
import re

import pytest

from configs.errors import UserError
from configs.schema import Config
from curation.evaluation.records import RESULT_FILE, EvaluationResult
from curation.report import evaluation, write_report
from curation.report.examples import Lesson, _side_by_side, pictured
from curation.report.parts import marked
from curation.report.training import Training, verdicts
from teacher.run.journal import Journal
from tests.curation.report.report_runs import add_evaluation, add_training, interval, new_run


@pytest.fixture
def run(tmp_path):
    """A trained run."""
    found = new_run(tmp_path)
    add_training(found)
    return found


@pytest.fixture(scope="module")
def page(report):
    """The page of a run that was trained and evaluated."""
    return report.read_text(encoding="utf-8")


def words_of(page):
    """What a reader sees, with single spaces."""
    body = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def journalled(*metrics):
    return Training(Config(), metrics, [])


def test_the_page_says_what_the_journal_says(page):
    words = words_of(page)
    assert "Students gain more from this trained teacher's lessons than from the raw documents: +0.90" in words
    assert "No detectable difference: what students gain from this trained teacher's lessons and from the untr" in words
    assert "95% interval of one training run [" in words
    assert "1.40 [1.20, 1.60]" in words
    assert "<b> & what" in words, "texts are shown, not obeyed"
    assert "round 0 is the untrained teacher. The round with the highest reward is kept. Best: round 4." in words
    assert "student runs of training 40 32 for rewards, 10 for validation" in words
    assert "by reason: 4 of 12 sampled" in words, "refused by a gate"


def test_all_measures_stand_side_by_side_and_the_rewarded_one_is_named(page):
    words = words_of(page)
    assert "what is rewarded is the gain in contrast (nats a token)" in words
    assert "Gain in contrast (nats a token) on 48 held-out documents" in words, "what the verdicts are about"
    assert "Differences in gain in choice, not rewarded: student-fixed" in words
    assert words.count("not corrected. No verdict.") == 4, "of two students in two measures"
    assert "All measures side by side: verdicts are in contrast, the others describe" in words
    assert "Held-out gain in loglik, not rewarded" in words and "Validation gain in choice, not rewarded" in words
    assert "Gain in share of questions" in words, "by step, apart from those in nats"
    assert "+0.90 in contrast (nats a token), 95% interval of one training run" in words


def test_a_teacher_that_the_evaluation_trained_has_its_curves_too(page):
    words = words_of(page)
    assert "Training for student-fixed" in words and "student runs of training, student-fixed 20" in words
    assert "Nothing was compared on held-out documents" not in words, "that is what the evaluation did"


def test_what_changed_is_marked(run):
    page = write_report(run).read_text(encoding="utf-8")
    assert "<ins>Where</ins> was Ada Byron born" in page
    assert "<ins>untrained</ins> one" in page and "<ins>trained</ins> one" in page, "lessons of a document that is gone"


@pytest.mark.parametrize(
    ("text", "other", "shown"),
    [
        ("Ada likes tea", "tea likes ada.", "Ada likes tea"),
        ("Ada likes  green tea", "Ada likes", "Ada likes  <ins>green tea</ins>"),
        ("new a new", "a", "<ins>new</ins> a <ins>new</ins>"),
        ("<b> x & y", "y", "<ins>&lt;b&gt; x</ins> &amp; y"),
        ("", "y", ""),
    ],
)
def test_only_words_that_the_other_text_lacks_are_marked(text, other, shown):
    assert marked(text, other, "ins") == shown


def test_the_page_is_self_contained_and_its_plots_have_descriptions(page):
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", page)
    assert "@import" not in page and "<script" not in page
    plots = re.findall(r"<svg .*?</svg>", page, flags=re.DOTALL)
    assert len(plots) > 25
    assert all(plot.count("<path") > 5 for plot in plots)
    assert all("currentColor" in plot for plot in plots) and page.count("var(--s") > 100, "colours are the page's"
    assert all(re.search(r"<title id=.+?</title><desc id=.+?</desc>", plot) for plot in plots)
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"""(?:href="|url\()#([^")]+)""", page)) <= set(ids), "links lead somewhere"


def test_an_interval_below_zero_is_told_as_a_loss():
    [verdict, _] = verdicts(journalled({"kind": "difference", "round": 1, **interval("trained_minus_raw", -0.5, 0.2)}))
    assert verdict.words.startswith("Students gain less from this trained teacher's lessons")
    assert verdict.kind == "worse"


def test_a_fork_that_counts_its_steps_otherwise_ends_with_its_last_round(run):
    with Journal(run) as journal:
        journal.metric({"kind": "step", "round": 4, "step": 2, **interval("reward", 9.0, 0.1), "students_total": 99})
        place = {"arm": "train", "round": 4, "step": 2, "document_id": "forked", "sample": 0}
        journal.rewrites.append(place | {"strategy": "copy", "text": "forked", "gain": 7.0, "rejected": None})
    words = words_of(write_report(run).read_text(encoding="utf-8"))
    assert "lesson lacks) the lesson (copy), +7.00 in contrast (nats a token) forked" in words
    assert "student runs of training 99" in words


def test_a_validation_without_an_interval_is_drawn_too(run):
    with Journal(run) as journal:
        journal.metric({"kind": "validation", "round": 9, "gain/mean": 0.7, "gain/low": float("nan")})
    words = words_of(write_report(run).read_text(encoding="utf-8"))
    assert "Best: round 9." in words and "gain, round 9: 0.70" in words


@pytest.mark.parametrize("gains", [(0.5, 0.4), (0.5, 0.5)])
def test_a_training_that_no_round_won_is_told(gains):
    metrics = [{"kind": "validation", "round": r, "gain/mean": gain} for r, gain in enumerate(gains)]
    assert not any("No round gained" in verdict.words for verdict in verdicts(journalled(metrics[0]))), (
        "it has just begun"
    )
    found = verdicts(journalled(*metrics, {"kind": "step", "round": 1}))
    assert found[0].words.startswith("No round gained more than the untrained teacher")
    better = {"kind": "validation", "round": 2, "gain/mean": 0.6}
    assert "No round gained" not in verdicts(journalled(*metrics, better, {"kind": "step", "round": 2}))[0].words


def test_without_an_interval_nothing_is_claimed():
    line = {"kind": "difference", "round": 1, **interval("trained_minus_raw", 0.5, float("nan"))}
    verdict = verdicts(journalled(line))[0]
    assert "too few batches" in verdict.words
    assert verdict.kind == "note"


def test_a_run_without_heldout_documents_claims_nothing():
    [verdict] = verdicts(journalled({"kind": "step", "round": 1}))
    assert "Nothing was compared" in verdict.words


def test_an_evaluation_is_told_with_its_correction(page):
    words = words_of(page)
    assert (
        "student-fixed, taught with trained (the trained teacher): gains more than with raw-repeated (+1.10 [+0.85"
        in words
    )
    assert "corrected by Holm's method over 12 comparisons" in words
    assert "wrong − raw-repeated −0.85 [−1.10, −0.60] < 0.001 < 0.001 0.31 worse" in words
    assert "untrained − raw-repeated +0.20 [−0.05, +0.45] 0.200 0.600 0.31 no detectable difference" in words
    assert "Highest gain of student-fixed, held-out, p3" in words
    assert "Lowest gain of student-augmented, held-out, p0" in words


def test_the_arm_that_was_compared_with_is_turned_round(tmp_path):
    """Where the trained teacher is the reference, the others are told from its side."""
    found = add_evaluation(new_run(tmp_path)).model_dump()
    found["reference"] = "trained"
    below = {"mean": -1.0, "low": -1.5, "high": -0.5}
    for student in found["students"].values():
        turned = {"against": "trained", "verdict": "worse"}
        wrong = [one for one in student["comparisons"] if one["arm"] == "wrong"]
        student["comparisons"] = [one | turned | {"difference": one["difference"] | below} for one in wrong]
    told = evaluation.verdicts(EvaluationResult.model_validate(found))
    assert told[0].words.endswith(
        "taught with trained (the trained teacher): gains more than with wrong (+1.00 [+0.50, +1.50])."
    )
    assert told[0].kind == "better"


def test_without_a_trained_teacher_the_arms_are_told_against_the_reference(tmp_path):
    found = add_evaluation(new_run(tmp_path))
    student = found.students["student-fixed"]
    arms = {name: arm for name, arm in student.arms.items() if name != "trained"}
    ours = [one for one in student.comparisons if one.arm != "trained"]
    student = student.model_copy(update={"arms": arms, "comparisons": ours})
    told = evaluation.verdicts(found.model_copy(update={"students": {"s": student}}))
    start = "s, against raw-repeated (the documents, repeated to equal tokens): "
    assert told[0].words.startswith(f"{start}gains more with question-answer (+1.00 [+0.75, +1.25])")
    assert told[1].words == f"{start}gains less with wrong (−0.85 [−1.10, −0.60])."
    assert told[2].words.endswith("difference with untrained (+0.20 [−0.05, +0.45]; detectable: 0.31).")


def test_what_the_correction_does_not_leave_standing_is_said_so(tmp_path):
    found = add_evaluation(new_run(tmp_path))
    student = found.students["student-fixed"]
    [one] = [one for one in student.comparisons if (one.arm, one.measure) == ("trained", "gain")]
    one = one.model_copy(update={"verdict": "no detectable difference"})
    student = student.model_copy(update={"comparisons": [one]})
    told = evaluation.verdicts(found.model_copy(update={"students": {"s": student}}))
    assert told[0].words.endswith(
        "no detectable difference from raw-repeated (+1.10 [+0.85, +1.35]; not after correction)."
    )
    assert told[0].kind == "same"


def test_an_evaluation_alone_makes_a_page(tmp_path):
    run = new_run(tmp_path)
    found = add_evaluation(run)
    small = {
        label: student.model_copy(update={"scaling": {}, "sequences": [], "replay_effect": None})
        for label, student in found.students.items()
    }
    (run / RESULT_FILE).write_text(found.model_copy(update={"students": small}).model_dump_json())
    words = words_of(write_report(run).read_text(encoding="utf-8"))
    assert "Arms: what students gain" in words
    for absent in ("Reward, step by step", "Scaling: gain", "Edits in a row:"):
        assert absent not in words


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        write_report(tmp_path)
    with pytest.raises(UserError, match="nothing to report yet"):
        write_report(new_run(tmp_path))


def test_an_evaluation_of_another_format_is_refused_in_a_line(tmp_path):
    run = new_run(tmp_path)
    (run / RESULT_FILE).write_text('{"format": 1}')
    with pytest.raises(UserError, match=r"evaluation\.json is not as this version writes it") as refused:
        write_report(run)
    assert "\n" not in str(refused.value)


def test_tasks_of_grids_are_pictures_and_other_documents_text():
    picture = pictured("01/23=\n3\n45/67=\n8")
    assert picture is not None and picture.count("<rect") == 10 and 'viewBox="0 0 4 5"' in picture
    # The second pair's output stands right of its input, below the first pair.
    assert '<rect x="3" y="3" width=".94" height=".94" fill="#87d8f1"/>' in picture
    assert pictured("Ada was born in Oslo.") is None


def test_a_plan_beside_a_picture_is_not_marked_as_words_that_the_task_lacks():
    def shown(document):
        _, columns = _side_by_side("a task", document, [("trained", Lesson("d", "steps 40", "turns", 1.0))], "loglik")
        return columns[-1][1]

    assert shown("01=\n10") == "steps 40"
    assert "<ins>" in shown("Ada was born in Oslo.")
