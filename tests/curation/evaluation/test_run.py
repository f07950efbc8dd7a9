import io
import json

import pyarrow.parquet as pq
import pytest
from matplotlib.image import imread
from rich.console import Console

from configs.errors import UserError
from configs.load import save_config
from curation.cli import main
from curation.evaluation.records import ITEM_COLUMNS, ITEMS_FILE, LESSONS_FILE, read_result
from curation.evaluation.run import run_evaluate
from curation.report.evaluation_sections import print_evaluation, write_pictures


def test_every_arm_and_setting(evaluated):
    config, result = evaluated
    assert result == read_result(config.run.dir)
    (student,) = result.students.values()
    expected = "none raw repeated untrained strategy:copy strategy:question-answer strategy:permuted ensemble best-of:2"
    assert list(student.arms) == [*expected.split(), "shops"]
    assert student.arms["none"].together.gain.mean == 0 == student.arms["none"].together.retention_loss.mean
    assert student.arms["none"].together.tokens == 0
    assert student.arms["shops"].together.gain.mean > 0.1, "students learn what the rewrites say"
    assert student.arms["shops"].together.gain.n == 8 and student.arms["shops"].together.gain.clusters == 4
    assert student.arms["shops"].single.gain.n == 3 == student.arms["shops"].single.gain.clusters
    assert student.arms["shops"].together.steps == student.arms["repeated"].together.steps == 10
    for name in ("repeated", "shops"):
        arm = student.arms[name]
        assert arm.equal_tokens and 225 < arm.together.tokens_least <= arm.together.tokens_most < 255
        assert arm.together.planned_tokens == 10 * 24 and arm.single.planned_tokens == 10 * 12
    # The gates refuse all texts of some students: these are trained on nothing, and that is said.
    silent = [name for name, arm in student.arms.items() if arm.together.tokens_least == 0 and name != "none"]
    assert silent and not any(student.arms[name].equal_tokens for name in ["none", "raw", *silent])
    assert sum("UNEQUAL" in note for note in result.notes) == len(silent)
    assert [point.rewrites for point in student.scaling["ensemble"]] == [1, 2, 4]
    assert [found.replay for found in student.sequences] == [0.0, 0.5]
    for found in student.sequences:
        assert found.sequences == 3 and [len(row) for row in found.accuracy] == [3] * 4
        unedited = sum(cell.mean for cell in found.accuracy[0]) / 3
        assert found.studied_unedited[-1].mean == pytest.approx(unedited)
    assert len(student.replay_effect.studied) == 2, "both have the first edit in common"
    assert result.correction.families["together/gain"] == 9 == result.correction.families["together/benchmark"]
    assert {c.difference.n for c in student.comparisons if c.measure == "benchmark"} == {4}, "one figure a batch"
    console = Console(file=io.StringIO(), width=200)
    print_evaluation(result, config.run.dir, console)
    assert "fixed-prompt ensemble" in console.file.getvalue()


def test_an_arm_of_other_tokens_than_planned_is_marked(make_config, shop_file):
    """Documents of more tokens than a step make each step longer."""
    shop_file.write_text(shop_file.read_text().replace('"text": "', '"text": "the gold in the shop in the wood '))
    result = run_evaluate(
        make_config(student={"tokens_per_step": 8}, evaluation={"arms": ["none", "repeated"], "seeds": 1})
    )
    (student,) = result.students.values()
    arm = student.arms["repeated"]
    assert not arm.equal_tokens and arm.together.tokens_most > arm.together.planned_tokens == 80
    assert sum("UNEQUAL" in note and "`repeated`" in note for note in result.notes) == 1


def test_distilled_students_train_on_the_same_tokens_and_are_others(make_config, shop_file):
    arms = ["none", "repeated", "distilled:repeated"]
    result = run_evaluate(make_config(evaluation={"arms": arms, "seeds": 1}))
    (student,) = result.students.values()
    text, distilled = (student.arms[name].together for name in arms[1:])
    assert distilled.tokens == text.tokens > 0 and distilled.steps == text.steps
    assert abs(distilled.gain.mean - text.gain.mean) > 1e-3
    [compared] = [c for c in student.comparisons if c.measure == "gain" and c.arm == "distilled:repeated"]
    assert compared.against == "repeated"


def test_nothing_is_measured_twice(evaluated, monkeypatch):
    config, first = evaluated
    rows = pq.read_table(config.run.dir / ITEMS_FILE)
    monkeypatch.setattr(
        "student.pools.inline.InlinePool.examine", lambda *_: pytest.fail("a student was trained again")
    )
    monkeypatch.setattr("student.pools.inline.InlinePool.keep", lambda *_: pytest.fail("an edit was made again"))
    monkeypatch.setattr(
        "teacher.writers.local.TransformersWriter.write", lambda *_: pytest.fail("a text was written again")
    )
    again = run_evaluate(config)
    assert again.model_copy(update={"seconds": first.seconds}) == first
    assert pq.read_table(config.run.dir / ITEMS_FILE) == rows


def test_the_picture_has_a_row_for_every_arm(evaluated, tmp_path):
    _, result = evaluated
    [picture] = write_pictures(result, tmp_path)
    whole = imread(picture)
    (label, student), = result.students.items()  # fmt: skip
    fewer = {name: arm for name, arm in student.arms.items() if name != "shops"}
    without = result.model_copy(update={"students": {label: student.model_copy(update={"arms": fewer})}})
    assert write_pictures(without, tmp_path) == [picture] and len(imread(picture)) < len(whole)
    assert (whole[..., :3].min(axis=(1, 2)) < 0.7).mean() > 0.3, "something is drawn over much of its height"


def test_the_parquet_makes_the_json(evaluated):
    """By hand from the rows, not by our own code."""
    config, result = evaluated
    (student,) = result.students.values()
    table = pq.read_table(config.run.dir / ITEMS_FILE)
    assert table.schema.equals(ITEM_COLUMNS)
    items = table.to_pandas()
    own = items[(items.setting == "together") & (items.kind == "document")]
    gains = (own.loglik_after - own.loglik_before).groupby([own.arm, own.document_id]).mean()
    for name, arm in student.arms.items():
        assert arm.together.gain.mean == pytest.approx(gains[name].mean(), abs=1e-12)
    for comparison in student.comparisons:
        if (comparison.setting, comparison.measure) == ("together", "gain"):
            paired = gains[comparison.arm] - gains[comparison.against]
            assert comparison.difference.mean == pytest.approx(paired.mean(), abs=1e-12)
    lessons = pq.read_table(config.run.dir / LESSONS_FILE).to_pandas()
    assert len(lessons) == 8 * len(student.arms)
    for row in lessons.itertuples():
        assert row.gain == pytest.approx(gains[row.arm][row.document_id], abs=1e-12)


@pytest.mark.parametrize(
    ("evaluation", "words"),
    [
        ({"arms": ["none", "repaeted"]}, "did you mean 'repeated'?"),
        ({"arms": ["repeated", "best-of"]}, "best-of:N"),
        ({"arms": ["repeated", "best-of:one"]}, "best of how many"),
        ({"arms": ["repeated", "file:missing.jsonl"]}, "no file 'missing.jsonl'"),
        ({"arms": ["repeated", "strategy:copi"]}, "did you mean 'copy'?"),
        ({"arms": ["repeated", "trained"]}, "no trained teacher in"),
        ({"arms": ["repeated", "trained:runs/nowhere"]}, "no trained teacher in runs/nowhere"),
        ({"arms": ["none", "raw"]}, "evaluation.against: 'repeated' is none of the arms"),
        ({"arms": ["repeated", "repeated"]}, "two arms are named 'repeated'"),
        ({"arms": ["repeated"], "scaling": [1], "scaling_arms": ["repeated"]}, "cannot be written more of"),
        ({"arms": ["repeated", "best-of:2"], "questions": "all"}, "was chosen by"),
        ({"arms": ["repeated"], "edits": 9}, "are 4 batches"),
        ({"arms": ["repeated"], "students": ["no/model"]}, "evaluation.students 'no/model' cannot be loaded"),
        ({"arms": ["repeated"], "benchmarks": ["file:none.jsonl"]}, "no file none.jsonl"),
    ],
)
def test_mistakes_are_one_line_and_start_nothing(make_config, evaluation, words, monkeypatch):
    monkeypatch.setattr("student.pools.inline.InlinePool.examine", lambda *_: pytest.fail("a student was trained"))
    config = make_config(evaluation=evaluation)
    with pytest.raises(UserError) as error:
        run_evaluate(config)
    assert words in str(error.value) and "\n" not in str(error.value)
    assert not config.run.dir.exists()


def test_a_misspelt_key_is_told_from_the_command_line(make_config, tmp_path, capsys):
    file = tmp_path / "evaluate.yaml"
    save_config(make_config(), file)
    assert main(["evaluate", str(file), "evaluation.armz=[none]"]) == 2
    said = capsys.readouterr().err.strip()
    assert "did you mean 'arms'?" in said and "\n" not in said


def test_unequal_tokens_are_refused(make_config):
    with pytest.raises(UserError, match="equal tokens and equal steps"):
        run_evaluate(make_config(student={"tokens_per_step": None}))


def test_rewrites_of_other_documents_are_refused(make_config, shop_file, tmp_path):
    other = tmp_path / "others.jsonl"
    other.write_text(shop_file.read_text().replace("in the shop 3", "in the wood 3"))
    with pytest.raises(UserError, match="1 of 8 documents"):
        run_evaluate(make_config(evaluation={"arms": ["repeated", f"file:{other}"]}))


def test_verdicts_are_in_the_rewarded_measure_and_the_others_stand_beside_it(make_config, shop_file, capsys):
    """One document brings distractors that are its own answer: it tells no contrast, and is left out with a word."""
    lines = [json.loads(line) for line in shop_file.read_text().splitlines()]
    for question in lines[0]["questions"]:
        question["answer"] = "shop"
    for question in (question for line in lines[1:] for question in line["questions"]):
        question["distractors"] = ["gold"]
    shop_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = {"arms": ["none", "repeated", "best-of:2", f"file:{shop_file}"], "seeds": 1, "single_documents": 1}
    reward = {"measure": "contrast", "distractors": 0, "documents_per_student": 2}
    config = make_config(reward=reward, evaluation=settings | {"edits": 2, "sequences": 2})
    result = run_evaluate(config)
    assert "data.heldout: distractors: of 8 questions 0 have some of other documents, 1 none; 1 of 8 documents" in (
        " ".join(capsys.readouterr().err.split())
    )
    (student,) = result.students.values()
    taught = student.arms["shops"].together
    assert (result.documents, result.measure, set(taught.measures)) == (7, "contrast", {"loglik", "contrast", "choice"})
    assert taught.gain == taught.measures["contrast"] != taught.measures["loglik"]
    assert student.arms["shops"].single.gain.n == 1
    items = pq.read_table(config.run.dir / ITEMS_FILE).to_pandas()
    own = items[(items.setting == "together") & (items.kind == "document") & (items.arm == "shops")]
    assert taught.gain.mean == pytest.approx((own.contrast_after - own.contrast_before).mean(), abs=1e-12)
    [pair] = [c for c in student.comparisons if (c.measure, c.arm, c.setting) == ("gain", "shops", "together")]
    assert pair.difference == pair.measures["contrast"] != pair.measures["loglik"]
    assert result.correction.families["together/gain"] == 3, "one family of gains, not one a measure"
    console = Console(file=io.StringIO(), width=200)
    print_evaluation(result, config.run.dir, console)
    assert "gain in contrast (nats a token)" in console.file.getvalue()
    assert "in choice (share of questions)" in console.file.getvalue()
