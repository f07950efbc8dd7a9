"""Arms and studies of ready texts: no teacher is loaded, and bad names are refused before anything is."""

import json

import pytest

from configs.errors import UserError
from curation.evaluation.arms import parse_arms
from curation.evaluation.inputs import read_inputs
from curation.evaluation.run import run_evaluate
from curation.lab.items import REWRITES
from curation.study.groups import read_groups
from teacher.writers import local

READY = ["strategy:sentences", "strategy:brought:rewrite", "strategy:sentences+brought:rewrite"]


@pytest.fixture(autouse=True)
def no_teacher(monkeypatch):
    monkeypatch.setattr(local, "load_model", lambda *_, **__: pytest.fail("a teacher was loaded"))


@pytest.fixture
def ready_config(make_config):
    def make(*arms, **teacher):
        settings = {"model": "", "prompting": "strategy", "strategies": ["sentences"]} | teacher
        evaluation = {"arms": ["none", "repeated", *arms], "seeds": 1}
        return make_config(teacher=settings, evaluation=evaluation)

    return make


def test_ready_arms_are_measured_without_a_teacher(ready_config):
    config = ready_config(*READY)
    result = run_evaluate(config)
    (student,) = result.students.values()
    assert list(student.arms) == ["none", "repeated", *READY]
    assert all(student.arms[name].strategies == {name.removeprefix("strategy:"): 1.0} for name in READY)
    kept = (config.run.dir / "evaluation" / "texts").glob("strategy-brought-rewrite-*.json")
    groups = json.loads(next(kept).read_text())
    assert all(len({rewrite["text"] for rewrite in group}) == 2 for group in groups), "none comes twice"


def test_a_policys_ready_arms_need_it_not_and_its_own_do(ready_config):
    config = ready_config("strategy:cloze", prompting="policy", strategies=["sentences", "copy"])
    [*_, cloze] = parse_arms(config.evaluation, config.teacher, config.run.dir / REWRITES)
    assert not cloze.needs_model(config.evaluation, config.teacher)
    with pytest.raises(UserError, match=r"teacher\.model is not set"):
        read_inputs(ready_config("untrained", prompting="policy"))
    with pytest.raises(UserError, match=r"teacher\.model is not set"):
        read_inputs(ready_config("strategy:sentences+faq"))


def test_bad_names_are_refused_with_the_nearest(ready_config):
    with pytest.raises(UserError, match=r"evaluation\.arms: unknown strategy 'sentence': did you mean 'sentences'"):
        read_inputs(ready_config("strategy:sentence"))
    with pytest.raises(UserError, match=r"evaluation\.arms: no document brings a text 'brought:rewrites': did"):
        read_inputs(ready_config("strategy:brought:rewrites"))


def test_a_study_measures_ready_strategies_where_they_are_named(ready_config, shop_file):
    config = ready_config(strategies=["sentences", "brought:rewrite"])
    config = config.model_copy(update={"data": config.data.model_copy(update={"train": (str(shop_file),)})})
    groups = read_groups(config, None, 3, 4)
    for group in groups:
        names = [candidate.strategy for candidate in group.candidates]
        assert sorted(names) == ["brought:rewrite"] * 2 + ["raw"] + ["sentences"] * 2
    # Without one the documents' rewrites are what is studied.
    brought = read_groups(ready_config(strategies=["faq"], model="none"), str(shop_file), 3, None)
    assert [candidate.strategy for candidate in brought[0].candidates] == ["rewrite"] * 3 + ["raw"]
    with pytest.raises(UserError, match="unknown strategy 'fag'"):
        read_groups(ready_config(strategies=["sentences", "fag"]), str(shop_file), 3, None)


def test_documents_that_only_best_of_cannot_judge_are_left_out(make_config, shop_file, capsys):
    rows = [json.loads(line) for line in shop_file.read_text().splitlines()]
    rows[0]["questions"] = rows[0]["questions"][:1]
    shop_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    teacher = {"model": "", "prompting": "strategy", "strategies": ["sentences"]}
    arms = ["none", "repeated", "best-of:2"]
    inputs = read_inputs(make_config(teacher=teacher, evaluation={"arms": arms}))
    assert len(inputs.documents) == len(rows) - 1
    assert "1 of 8 documents have no reward question, by which best-of chooses" in capsys.readouterr().err
    assert len(read_inputs(make_config(teacher=teacher, evaluation={"arms": arms[:2]})).documents) == len(rows)
