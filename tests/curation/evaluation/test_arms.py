import json

import pytest
from datatrove.data import Document

from configs.errors import UserError
from configs.schema import Evaluation
from curation.corpus.training_data import read_asked
from curation.evaluation.arms import parse_arms
from curation.evaluation.estimates import _pairs
from curation.evaluation.result import parted_titles
from curation.evaluation.texts import LessonTexts, choose_best, taught_texts
from curation.lab.items import REWRITES
from student.records import Passage, Question
from teacher.prompting.strategies import read_strategy
from teacher.records import Rewrite
from teacher.sampling import kept_rewrites
from tests.curation.datasets import write_jsonl
from tests.curation.evaluation.conftest import TAGS


def arms_of(config):
    return parse_arms(config.evaluation, config.teacher, config.run.dir / REWRITES)


def test_lines_become_arms(make_config, shop_file):
    config = make_config(
        evaluation={"arms": ["repeated", "strategies", "trained:runs/a", "best-of:3", f"file:{shop_file}"]}
    )
    arms = arms_of(config)
    assert [arm.name for arm in arms] == [
        "repeated", "strategy:copy", "strategy:question-answer", "strategy:permuted", "trained:runs/a", "best-of:3",
        "shops",
    ]  # fmt: skip
    assert [arm.name for arm in arms if arm.written] == [
        "strategy:copy", "strategy:question-answer", "strategy:permuted", "trained:runs/a",
    ]  # fmt: skip


def test_a_distilled_arm_has_the_texts_of_another_and_is_compared_with_it(make_config, shop_file):
    line = f"file:{shop_file}"
    config = make_config(evaluation={"arms": ["none", "repeated", line, f"distilled:{line}", "distilled:strategies"]})
    arms = arms_of(config)
    names = ["none", "repeated", "shops", "distilled:shops", *(f"distilled:strategy:{name}" for name in TAGS)]
    assert [arm.name for arm in arms] == names
    assert [arm.distilled for arm in arms] == [False] * 3 + [True] * 4
    assert "distilled" in arms[3].words and "distilled" not in arms[2].words
    texts = LessonTexts(config, documents(config), ())
    assert texts.of(arms[2]) == texts.of(arms[3])
    pairs = _pairs(arms, Evaluation(against="repeated"))
    assert ("distilled:shops", "shops") in pairs and len(pairs) == len(set(pairs)) == 7


@pytest.mark.parametrize("line", ["distilled:none", "distilled:best-of:3", "distilled:oracle"])
def test_an_arm_without_texts_of_its_own_is_not_distilled(make_config, line):
    with pytest.raises(UserError, match="has no texts of its own to be distilled"):
        arms_of(make_config(evaluation={"arms": ["repeated", line]}))


def documents(config):
    return read_asked(config, config.data.heldout, None)


def test_each_arm_writes_in_its_own_ways(make_config):
    config = make_config(
        evaluation={
            "arms": ["repeated", "strategy:permuted", "ensemble"],
            "ensemble": ["copy", "permuted"],
            "scaling": [6],
        }
    )
    arms = {arm.name: arm for arm in arms_of(config)}
    texts = LessonTexts(config, documents(config), ())
    alone = texts.of(arms["strategy:permuted"])
    assert {rewrite.strategy for group in alone for rewrite in group} == {"permuted"}
    ensemble = texts.of(arms["ensemble"])
    assert all(len(group) == 6 for group in ensemble)
    for group in ensemble:
        assert sorted(rewrite.strategy for rewrite in group) == ["copy"] * 3 + ["permuted"] * 3
        assert group[0].strategy != group[1].strategy, "a lesson of two holds both"


def test_texts_are_kept_and_other_settings_are_other_texts(make_config):
    config = make_config(evaluation={"arms": ["repeated", "untrained"]})
    arms = arms_of(config)
    first = LessonTexts(config, documents(config), ()).of(arms[1])
    folder = config.run.dir / "evaluation" / "texts"
    (path,) = folder.glob("*.json")
    kept = json.loads(path.read_text())
    kept[0][0]["text"] = "as it stands on disk"
    path.write_text(json.dumps(kept))
    assert LessonTexts(config, documents(config), ()).of(arms[1])[0][0].text == "as it stands on disk"
    hotter = config.model_copy(update={"teacher": config.teacher.model_copy(update={"temperature": 2.0})})
    assert LessonTexts(hotter, documents(config), ()).of(arms[1]) != first
    assert len(list(folder.glob("*.json"))) == 2


def test_an_edited_prompt_is_another_teacher(make_config, tmp_path):
    prompt = tmp_path / "mine.txt"
    prompt.write_text("Sing of {document}")
    config = make_config(teacher={"strategies": [str(prompt)]})
    written = []

    def write():
        written.append(prompt.read_text())
        return [[rewrite(written[-1])]]

    def kept():
        place = tmp_path / "texts" / "untrained"
        return kept_rewrites(place, config, documents(config), config.teacher.strategies, (), {}, write)[0][0].text

    assert kept() == kept() == "Sing of {document}" and len(written) == 1
    prompt.write_text("Tell of {document}")
    read_strategy.cache_clear()  # the next call is another process
    assert kept() == "Tell of {document}"


def rewrite(text, rejected=None):
    return Rewrite(document_id="d", strategy="s", text=text, completion=text, prompt="", rejected=rejected)


def test_a_file_that_the_user_brings_holds_no_exam_either(make_config, tmp_path):
    config = make_config()
    [document, *rest] = documents(config)
    item = Question(prompt="who keeps the shop", answer="ann bell", document_id=document.id, split="heldout")
    told = ["Who keeps the shop? Ann Bell.", "Ann Bell keeps the shop."]
    lines = [
        {
            "id": d.id,
            "text": d.text,
            "questions": d.metadata["questions"],
            "rewrites": told if d == document else told[1:],
        }
        for d in [document, *rest]
    ]
    path = write_jsonl(tmp_path / "brought.jsonl", lines)
    *_, arm = arms_of(make_config(evaluation={"arms": ["repeated", f"file:{path}"]}))
    groups = LessonTexts(config, [document, *rest], [item]).of(arm)
    assert [rewrite.rejected for rewrite in groups[0]] == ["leak", None]
    assert all(rewrite.rejected is None for group in groups[1:] for rewrite in group)


def test_the_best_lesson_is_chosen_whole():
    group = [rewrite(text) for text in "abcdef"]
    chosen = choose_best([group], 2, [[0.1, 0.1, 0.7, 0.7, 0.7, 0.7]])
    assert [r.text for r in chosen[0]] == ["c", "d"]


def test_refused_texts_teach_nothing():
    groups = [[rewrite("a"), rewrite("b", "leak"), rewrite("c")]]
    assert taught_texts(groups, 2) == {"d": ["a"]}


@pytest.mark.parametrize("line", ["strategies:copy", "none:1", "", "file:", "best-of:0"])
def test_odd_lines_are_refused(make_config, line):
    with pytest.raises(ValueError, match=r"evaluation\.arms"):
        arms_of(make_config(evaluation={"arms": ["repeated", line]}))


def test_titles_whose_texts_lie_in_several_batches_are_counted():
    def passage(number, name):
        place = Passage(
            number=number, of=2, start_index=0, end_index=1, headings=(), document_id=name, document_hash=name
        )
        return Document("text", f"{name}/{number}", metadata={"passage": place})

    documents = [Document("text", "a"), passage(1, "b"), passage(2, "b"), passage(1, "c"), passage(2, "c")]
    assert parted_titles(documents, 2) == 2 and parted_titles(documents, 3) == 0
    assert parted_titles(documents, 1) == 0, "there whole titles are drawn"
    titled = [Document(f"text {i}", str(i), metadata={"title": title}) for i, title in enumerate(["A", "B", " a"])]
    assert parted_titles(titled, 2) == 1 and parted_titles(titled, 3) == 0
