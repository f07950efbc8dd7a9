"""Distractors are answers of other questions of the same split, drawn once, whatever the order."""

import pytest

from configs.errors import UserError
from configs.load import load_config
from student.records import Question
from teacher.reward.distractors import draw_distractors, kind_of


def asked(**answers):
    return {
        name: [Question(prompt=f"{name} {n}?", answer=answer, document_id=name) for n, answer in enumerate(of_document)]
        for name, of_document in answers.items()
    }


ALL = asked(
    a=["1914", "Ada Lovelace", "3 May 1920", "1939", "in the old town"],
    b=["Paris", "Lisbon", "1815", "slowly"],
    c=["Ada"],
)


def distractors(drawn):
    return {q.prompt: q.distractors for questions in drawn.questions.values() for q in questions}


def test_answers_of_the_document_and_of_the_kind_come_first():
    drawn = draw_distractors(ALL, 2)
    assert set(distractors(drawn)["a 0?"]) == {"3 May 1920", "1939"}
    assert set(distractors(draw_distractors(ALL, 3))["b 0?"]) == {"Lisbon", "1815", "slowly"}
    assert drawn.from_others == 1 and drawn.without == 0, "document c has one question"
    assert "Ada Lovelace" not in distractors(drawn)["c 0?"], "it holds the gold answer"
    assert [kind_of(a) for a in ("May 1920", "the Seine", "slowly")] == ["number", "name", "phrase"]


def test_the_draw_does_not_depend_on_order_nor_the_own_part_on_other_documents():
    turned = {name: questions[::-1] for name, questions in reversed(ALL.items())}
    assert distractors(draw_distractors(turned, 4)) == distractors(draw_distractors(ALL, 4))
    alone = distractors(draw_distractors({"a": ALL["a"]}, 4))
    assert alone.items() <= distractors(draw_distractors(ALL, 4)).items()


def test_own_distractors_win_and_what_has_none_is_counted():
    own = Question(prompt="who?", answer="Ada", distractors=("Bob",), document_id="d")
    drawn = draw_distractors({"d": [own]}, 4)
    assert drawn.questions["d"] == [own]
    lonely = draw_distractors(asked(e=["Ada", "Ada"]), 4)
    assert lonely.without == 2 and "2 none" in str(lonely)


def test_recall_needs_decoded_answers(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("reward: {measure: recall}\n")
    with pytest.raises(UserError, match=r"student\.decode"):
        load_config(path)


def test_a_part_of_the_gold_answer_is_none_in_any_script():
    drawn = distractors(draw_distractors(asked(a=["北京", "北京市", "上海"]), 4))
    assert drawn["a 0?"] == ("上海",)
