"""Teachers of several training runs, of documents that one file holds beside the held-out ones."""

import json

import pyarrow.parquet as pq
import pytest

from configs.errors import UserError
from configs.load import load_config
from curation.console.tables import stdout_console
from curation.evaluation.inputs import read_inputs
from curation.evaluation.mixes import compare_mixes
from curation.evaluation.records import ITEMS_FILE
from curation.evaluation.run import run_evaluate
from curation.report import write_report
from curation.report.evaluation_sections import print_evaluation
from teacher.reward.evaluation import crossed_estimate

DATA = {"limit": 4, "apart": True}


def test_training_runs_are_one_arm_whose_interval_draws_them(make_config, shop_file, capsys):
    config = make_config(
        data={"train": [str(shop_file)], "heldout": [str(shop_file)], **DATA},
        rl={"rounds": 1, "documents_per_round": 4, "group_size": 2, "rewrites_per_lesson": 1, "explore": 1.0},
        reward={"credit": "document"},
        evaluation={
            "arms": ["none", "repeated", "untrained", "trained", "trained:dealt"], "teacher_for": "each",
            "teachers": {"dealt": {"reward": {"shuffled": True}, "rl": {"validation_documents": 0, "group_size": 3}}},
            "training_runs": 2, "compared": ["untrained", "trained:dealt"], "seeds": 1,
        },
    )  # fmt: skip
    result = run_evaluate(config)
    ((_, student),) = result.students.items()
    assert list(student.arms) == ["none", "repeated", "untrained", "trained", "trained:dealt"]
    assert result.documents == 4
    trained = student.arms["trained"]
    assert trained.training_runs == 2 and trained.words == "trained teacher, 2 training runs"
    teachers = [load_config(folder / "config.yaml") for folder in sorted((config.run.dir / "teachers").iterdir())]
    assert [(of.run.seed, of.reward.shuffled, of.rl.group_size) for of in teachers] == [
        (0, False, 2), (1, False, 2), (0, True, 3), (1, True, 3),
    ]  # fmt: skip
    rows = [row for row in pq.read_table(config.run.dir / ITEMS_FILE).to_pylist() if row["setting"] == "together"]
    gains = [
        {row["document_id"]: row["loglik_after"] - row["loglik_before"] for row in rows if row["arm"] == arm}
        for arm in ("trained-1", "trained-2", "untrained", "trained:dealt-1", "trained:dealt-2")
    ]
    batches = {row["document_id"]: row["batch"] for row in rows}
    assert trained.together.gain.bounds == pytest.approx(tuple(crossed_estimate(gains[:2], batches)))
    differences = [{name: of_run[name] - gains[2][name] for name in of_run} for of_run in gains[:2]]
    [compared] = [c for c in student.comparisons if (c.arm, c.against, c.measure) == ("trained", "untrained", "gain")]
    assert compared.difference.bounds == pytest.approx(tuple(crossed_estimate(differences, batches)))
    # Two arms of several runs are compared run by run, and only with what the config names.
    of_gain = [c for c in student.comparisons if c.measure == "gain" and c.arm == "trained"]
    assert {c.against for c in of_gain} == {"repeated", "untrained", "trained:dealt"}
    [dealt] = [c for c in of_gain if c.against == "trained:dealt"]
    differences = [{name: gains[i][name] - gains[i + 3][name] for name in gains[i]} for i in (0, 1)]
    assert dealt.difference.bounds == pytest.approx(tuple(crossed_estimate(differences, batches)))
    print_evaluation(result, config.run.dir, stdout_console())
    assert "2 training" in capsys.readouterr().out
    page = write_report(config.run.dir).read_text()
    assert "trained teacher, 2 training runs" in page and "trained teacher (dealt), 2 training runs" in page
    assert "crossed with the titles" in page and "is that of one training run" not in page


def test_mixes_of_strategies_of_two_students_are_told_apart_by_permuting_runs():
    questions, copies = [{"question-answer": 0.9, "copy": 0.1}] * 5, [{"copy": 1.0}] * 5
    mixes = compare_mixes(questions, copies)
    assert mixes.p == pytest.approx(2 / 252) and set(mixes.within) == {0.0}
    assert mixes.between == pytest.approx([0.9] * 25)
    assert compare_mixes(copies, copies).p == 1.0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"teachers": {"x": {}}}, "name trained:x"),
        ({"teachers": {"x": {"rl": {"rounts": 1}}}, "arms": ["repeated", "trained:x"]}, "rounds"),
        ({"teachers": {"x": {"rl": {"patience": 1, "validation_documents": 0}}}, "arms": ["repeated", "trained:x"]},
         r"evaluation\.teachers\.x: rl\.patience is about the validation gain"),
        ({"compared": ["trained"], "arms": ["repeated", "untrained"]}, r"evaluation\.compared: 'trained'"),
    ],
)  # fmt: skip
def test_teachers_that_cannot_be_are_refused_before_anything_runs(make_config, shop_file, settings, words):
    data = {"train": [str(shop_file)], "heldout": [str(shop_file)], **DATA}
    with pytest.raises(UserError, match=words):
        read_inputs(make_config(data=data, evaluation={"arms": ["repeated"], **settings}))


def test_held_out_documents_share_no_title_and_no_text_with_those_to_train_on(make_config, shop_file, capsys):
    rows = [json.loads(line) for line in shop_file.read_text().splitlines()]
    for number, row in enumerate(rows):
        row["title"] = f"Street {number // 3}"  # 0 0 0 1 1 1 2 2
    other = shop_file.with_name("other.jsonl")
    other.write_text("".join(json.dumps(row | {"title": "elsewhere"}) + "\n" for row in (rows[0], rows[7])))
    shop_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {"train": [str(shop_file)], "heldout": [str(shop_file), str(other)]}
    documents = read_inputs(make_config(data=files | DATA)).documents
    # Four to train on take the titles 0 and 1; the other file has a text of theirs, and one that came before.
    assert [document.text for document in documents] == [rows[6]["text"], rows[7]["text"]]
    assert "2 held-out documents of 10 have titles and texts of their own" in capsys.readouterr().err
    few = read_inputs(make_config(data=files | DATA | {"limit": 1, "heldout_titles": 1, "heldout_limit": 2})).documents
    assert [document.text for document in few] == [rows[3]["text"], rows[4]["text"]]
    with pytest.raises(UserError, match=r"data\.apart: no document of data\.heldout"):
        read_inputs(make_config(data=files | {"limit": None, "apart": True}))
