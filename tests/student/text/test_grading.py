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
