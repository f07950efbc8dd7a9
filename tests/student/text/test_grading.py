"""Grading without a judge: what counts as the right answer."""

import pytest

from student.text.grading import exact_match, first_line, normalise, recalled, token_recall


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Eiffel Tower!", "eiffel tower"),
        ("a cat, an owl and the dog", "cat owl and dog"),
        ("U.S.A.", "usa"),
        ("theatre", "theatre"),  # an article inside a word stays
        ("  Zürich\n", "zürich"),
        ("the", ""),
    ],
)
def test_normalisation_is_that_of_squad(text, normal):
    assert normalise(text) == normal


def test_the_answer_is_the_first_line_that_is_not_blank():
    assert first_line("\n  \n Lisbon \nQuestion: and then?") == "Lisbon"
    assert first_line(" \n") == ""


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("The Lisbon.", "lisbon", True),
        ("Lisbon\nQuestion: Where is Porto?", "Lisbon", True),
        ("Lisbon, Portugal", "Lisbon", False),
        ("Porto\nLisbon", "Lisbon", False),
        ("", "Lisbon", False),
    ],
)
def test_exact_match(answer, gold, right):
    assert exact_match(answer, gold) is right


@pytest.mark.parametrize(
    ("answer", "gold", "share"),
    [
        ("in the city of Lisbon", "Lisbon", 1.0),
        ("blue whale", "great blue whale", 2 / 3),
        ("red red", "red blue red", 2 / 3),
        ("red", "red red", 1 / 2),  # each gold word has to be said as often
        ("Porto\nLisbon", "Lisbon", 0.0),
        ("", "Lisbon", 0.0),
        ("the", "an", 1.0),  # nothing is asked for, nothing is said
        ("Lisbon", "the", 0.0),
    ],
)
def test_token_recall(answer, gold, share):
    assert token_recall(answer, gold) == pytest.approx(share)


@pytest.mark.parametrize(("words_kept", "right"), [(5, False), (6, True), (10, True)])
def test_sixty_percent_of_the_gold_words_are_enough(words_kept, right):
    words = [f"word{i}" for i in range(10)]
    assert recalled(" ".join(words[:words_kept]), " ".join(words)) is right


@pytest.mark.wild
@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("北京。", "北京"), ("「北京」", "北京"), ("东京！", "东京"), ("«Paris»", "Paris"), ("“Paris.”", "Paris"),
        ("Paris…", "Paris"), ("¿Madrid?", "Madrid"), ("‚Wien‘", "Wien"), ("القاهرة،", "القاهرة"), ("मुंबई।", "मुंबई"),
        ("Straße", "STRASSE"), ("café", "cafe\u0301"), ("５０", "50"), ("l’eau", "l'eau"), ("Wien\u200b", "Wien"),
        ("ソウル", "ｿｳﾙ"), ("서울.", "\u1109\u1165\u110b\u116e\u11af"), ("አዲስ አበባ።", "አዲስ አበባ"), ("Երևան։", "Երևան"),
    ],
)  # fmt: skip
def test_signs_and_spellings_make_no_difference_in_any_language(answer, gold):
    assert exact_match(answer, gold) and exact_match(gold, answer)
    assert token_recall(answer, gold) == 1


@pytest.mark.wild
@pytest.mark.parametrize(
    ("answer", "gold", "share"),
    [
        ("答案是北京", "北京", 1.0),
        ("北京市", "北京", 1.0),
        ("上海", "北京", 0.0),
        ("東京です。", "東京", 1.0),
        ("京都", "東京", 0.5),
        ("서울입니다", "서울", 1.0),
        ("กรุงเทพมหานครครับ", "กรุงเทพมหานคร", 1.0),
        # Its letters are all in the answer.
        ("เขาเป็นคนที่รักการอ่านหนังสือมากและชอบเดินทางไปกรุงนครพนม", "กรุงเทพมหานคร", 0.0),
        ("Es ist Wien – die Stadt", "Wien", 1.0),
        ("GPT-4是OpenAI的模型", "OpenAI", 1.0),
    ],
)
def test_where_no_spaces_are_characters_or_words_of_a_dictionary_count(answer, gold, share):
    assert not exact_match(answer, gold)
    assert token_recall(answer, gold) == share
