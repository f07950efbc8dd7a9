"""Texts that documents bring: how they are read, in which order they come, and what becomes of absent ones."""

import json
from collections import Counter
from pathlib import Path

import pytest

from configs.errors import UserError
from configs.schema import Gates, Teacher
from student.records import Question
from teacher.gates.checks import build_gates
from teacher.prompting.strategies import (
    check_answered_once,
    check_strategy,
    check_trainable,
    content_of,
    is_ready,
    is_same,
    menu,
    needs_model,
    parts_of,
    prompts_of,
    strategy_label,
    tag_of,
)
from teacher.ready.brought import BroughtText, brought_texts, check_brought, read_brought, texts_named
from teacher.ready.texts import ReadyTexts
from teacher.sampling import Sampling, sample_rewrites
from teacher.writers.no_model import NoModel, load_writer
from tests.teacher.ready.documents import document


def sample(strategies, documents, n, gates=(), **settings):
    teacher = Teacher(strategies=strategies, **settings)
    return sample_rewrites(NoModel(teacher), documents, Sampling(rewrites=n, seed=3), gates)


def test_texts_have_the_name_of_their_strategy_or_prompt():
    entries = ["plain", {"text": "a", "strategy": "faq"}, {"text": "b", "prompt": "faq", "accuracies": [0.5]}]
    parquet = [{"text": "c", "strategy": None, "prompt": None}]
    assert read_brought(entries + parquet) == [
        BroughtText("rewrite", "plain"), BroughtText("faq", "a"), BroughtText("faq", "b"), BroughtText("rewrite", "c"),
    ]  # fmt: skip
    assert read_brought(None) == []
    for wrong in ("text", [1], [""], [{"strategy": "faq"}], [{"text": " "}]):
        with pytest.raises(ValueError, match="`rewrites` must be a list of non-empty strings, or of objects with"):
            read_brought(wrong)
    with pytest.raises(UserError, match="document 'd': `rewrites` must be a list"):
        brought_texts(document("t", 7))


def test_a_list_of_texts_in_a_field_of_its_own_is_brought_too():
    bringing = document("t", {"text": "a", "strategy": "faq"})
    bringing.metadata |= {"paraphrases": ["b", "c", "b"], "faq": ["d"], "numbers": [1]}
    assert [texts_named(bringing, name) for name in ("paraphrases", "faq", "numbers", "id")] == [
        ["b", "c"],
        ["a"],
        [],
        [],
    ]
    check_brought(["paraphrases"], [bringing])
    [group] = sample(["brought:paraphrases"], [bringing], 2)
    assert {rewrite.text for rewrite in group} == {"b", "c"}


def test_all_texts_of_a_name_come_before_one_comes_again():
    bringing = document("t", *({"text": f"text {i}", "strategy": "faq"} for i in range(4)), "other")
    [group] = sample(["brought:faq"], [bringing], 10)
    texts = [rewrite.text for rewrite in group]
    assert sorted(texts[:4]) == sorted(texts[4:8]) == [f"text {i}" for i in range(4)] and texts[8:] == texts[:2]
    assert {rewrite.strategy for rewrite in group} == {"brought:faq"}
    orders = set()
    for seed in range(30):
        ready = ReadyTexts(bringing, seed)
        orders.add(tuple(ready.brought("faq") for _ in range(4)))
    assert len(orders) > 8, "the order is the seed's"


def test_a_document_that_brings_none_is_refused_as_absent():
    documents = [document("t", "text one here"), document("u", {"text": "x", "strategy": "faq"}), document("v")]
    groups = sample(["brought:rewrite", "sentences"], documents, 2, build_gates(Gates(min_words=1), Teacher(), None))
    verdicts = [[(r.strategy, r.rejected, r.text) for r in group] for group in groups]
    assert verdicts == [
        [("brought:rewrite", None, "text one here"), ("sentences", None, "t")],
        [("sentences", None, "u"), ("brought:rewrite", "absent", "")],
        [("brought:rewrite", "absent", ""), ("sentences", None, "v")],
    ]
    assert all(not r.completion and not r.prompt and not r.ended for group in groups for r in group)
    # In a corpus one document whose field cannot be read stops nothing.
    assert ReadyTexts(document("t", 7), 0).brought("rewrite") is None


def test_parts_of_a_joined_strategy_are_judged_and_joined_one_by_one():
    bringing = document("Anna was born in 1932. She built it.", {"text": "Q: when? A: 1932", "strategy": "qa"})
    gates = build_gates(Gates(), Teacher(), None, [Question(prompt="Q: when?", answer="1932", split="heldout")])
    [[joined]] = sample(["sentences+brought:qa"], [bringing], 1)
    assert joined.text == "Anna was born in 1932.\nShe built it.\nQ: when? A: 1932"
    assert joined.strategy == "sentences+brought:qa" and joined.rejected is None
    [[refused]] = sample(["sentences+brought:qa"], [bringing], 1, gates)
    assert refused.rejected == "leak"
    [[absent]] = sample(["sentences+brought:faq"], [bringing], 1, gates)
    assert absent.rejected == "absent" and absent.text == joined.text.rpartition("\n")[0]


def test_what_a_strategy_is_shows_in_its_name(tmp_path):
    own = tmp_path / "a+b.txt"
    own.write_text("Sing of {document}")
    assert [part.kind for part in parts_of("cloze+faq+brought:x")] == ["rule", "prompt", "brought"]
    assert prompts_of("faq+sentences+rewrite") == ("faq", "rewrite") and prompts_of(str(own)) == (str(own),)
    assert is_ready("cloze+brought:x") and not is_ready("cloze+faq") and not is_ready("permuted")
    assert (
        strategy_label(f"sentences+{tmp_path / 'song.txt'}") == "sentences+song" and strategy_label(str(own)) == "a+b"
    )
    assert tag_of("brought:x+cloze") == "<brought:x+cloze>"
    assert is_same("sentences+densest") and not is_same("cloze") and not is_same("brought:x") and not is_same("faq")
    assert not needs_model(Teacher(strategies=("cloze", "brought:x")))
    assert needs_model(Teacher(strategies=("cloze", "faq")))
    assert needs_model(Teacher(strategies=("cloze",), prompting="policy"))
    assert isinstance(load_writer(Teacher(strategies=("cloze",))), NoModel)
    assert content_of("sentences") != content_of("cloze") and content_of(str(own)) == "Sing of {document}"
    assert "Sing of {document}" in content_of("faq+x".replace("faq+x", str(own)))


def test_the_menu_says_what_ready_texts_are():
    lines = menu(["sentences", "brought:implications", "faq", "cloze+faq"]).split("\n")
    assert lines[0] == "<sentences> The passage's own sentences, one in a line. (write the tag alone)"
    assert lines[1].startswith("<brought:implications> A text about the passage") and "implications" in lines[1]
    assert "tag alone" not in lines[2] and "tag alone" not in lines[3]
    assert lines[3].startswith("<cloze+faq> ") and "left out" in lines[3]


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ("sentence", "unknown strategy 'sentence'.*did you mean 'sentences'"),
        ("sentences+implicatons", "unknown strategy 'implicatons'.*'implications'"),
        ("brought:", "names nothing where a part should stand"),
        ("sentences+", "names nothing where a part should stand"),
    ],
)
def test_bad_names_are_refused_with_the_nearest(strategy, message):
    with pytest.raises(UserError, match=message):
        check_strategy(strategy, "evaluation.arms")


def test_a_name_that_no_document_brings_is_refused_before_anything_runs():
    documents = [document("t", {"text": "x", "strategy": "implications"}), document("u")]
    check_brought(["implications"], documents)
    check_brought([], [])
    with pytest.raises(UserError, match="no document brings a text 'brought:implication': did you mean 'implications'"):
        check_brought(["implication"], documents)
    with pytest.raises(UserError, match="none has any `rewrites`"):
        check_brought(["faq"], documents[1:])


def test_what_cannot_be_trained_is_said_in_a_line():
    with pytest.raises(UserError, match="all ready, so there is nothing to train"):
        check_trainable(Teacher(strategies=("sentences", "brought:x")))
    with pytest.raises(UserError, match=r"'faq\+rewrite' asks the teacher twice"):
        check_trainable(Teacher(strategies=("faq+rewrite",)))
    with pytest.raises(UserError, match=r"'faq\+rewrite' asks the teacher twice"):
        check_answered_once(("sentences", "faq+rewrite"))
    check_trainable(Teacher(strategies=("sentences",), prompting="policy"))
    check_trainable(Teacher(strategies=("sentences", "sentences+faq")))


def test_published_rewrites_are_read_by_their_prompts():
    path = Path("../shared/data/seal_outcomes.jsonl")
    if not path.is_file():
        pytest.skip(f"no {path}")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    names = Counter(brought.strategy for row in rows for brought in read_brought(row["rewrites"]))
    assert set(names) == {"implications", "implications-long", "rewrite", "self-qa"} and names.total() == 1000
