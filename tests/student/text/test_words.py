"""What words and n-grams are, in any language."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from student.text.words import (
    EarlierTexts,
    count_words,
    fold,
    graded_words,
    length_in_words,
    ngrams,
    overlap_shares,
    segments,
    words,
)

pytestmark = pytest.mark.wild


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't stop at 3.5 km_h!", ["don", "t", "stop", "at", "3", "5", "km_h"]),
        ("北京。２０２４年", ["北", "京", "2024", "年"]),
        ("ピリタ川、です", ["ピ", "リ", "タ", "川", "で", "す"]),
        ("GPT是什么", ["gpt", "是", "什", "么"]),
        ("मुंबई।", ["मुंबई"]),  # vowel signs belong to the word
        ("القاهِرة، مصر", ["القاهِرة", "مصر"]),
        ("서울은", ["서", "울", "은"]),
        ("ที่นี่", ["ที่", "นี่"]),  # a character with its marks
        ("cafe\u0301 CAFÉ", ["café", "café"]),
        ("co\u00adop\u200b ﬁne Straße", ["coop", "fine", "strasse"]),
        ("“¿Qué?” — «sí»…", ["qué", "sí"]),
        ("", []),
    ],
)
def test_words(text, expected):
    assert words(text) == expected


@given(st.text(), st.text())
def test_a_text_is_found_in_one_that_holds_it_between_signs(text, around):
    """No wording escapes by what stands around it, in any script."""
    inner, outer = words(text), words(f"{around}。{text}。{around}")
    assert any(outer[i : i + len(inner)] == inner for i in range(len(outer) - len(inner) + 1))


@given(st.text())
def test_folding_is_done_once(text):
    assert fold(fold(text)) == fold(text)
    assert words(fold(text)) == words(text)
    assert graded_words(fold(text)) == graded_words(fold(fold(text)))


@given(st.text(alphabet=st.characters(max_codepoint=127)))
def test_ascii_is_as_python_sees_it(text):
    import re

    assert words(text) == re.findall(r"\w+", text.lower())
    assert count_words(text) == len(text.split()) == len(graded_words(text))


@given(
    st.lists(st.sampled_from(["a", "bee", "北", "京", "の", "ที่", "서", "मुंबई"])), st.sampled_from([1, 1.5, 7 / 3, 4, 8])
)
def test_stretches_are_as_long_as_they_have_to_be(tokens, n):
    grams = list(ngrams(tokens, n))
    assert all(length_in_words(gram) >= n for gram in grams)
    assert all(length_in_words(gram[:-1]) < n for gram in grams)
    assert bool(grams) == (length_in_words(tokens) >= n)
    # What stands around makes no difference.
    assert set(grams) <= set(ngrams(["x", *tokens, "北", "y"], n))


def test_chinese_is_measured_in_words():
    assert length_in_words(words("中国的首都是哪座城市")) == 5
    assert count_words("中国的首都是哪座城市？") == 5
    assert count_words("Beijing is 中国的首都") == 2 + 3
    assert list(ngrams(words("中国的首都"), 2)) == [tuple("中国的首"), tuple("国的首都")]
    assert overlap_shares(["穿过老城的那条河曾经是边界", "他说穿过老城的那条河曾经是边界"])[0] == 1


def test_dictionaries_find_words():
    assert segments("กรุงเทพมหานครเป็นเมืองหลวง") == ["กรุงเทพมหานคร", "เป็น", "เมือง", "หลวง"]
    assert segments("東京です。 Yes!") == ["東京", "です", "。", "Yes", "!"]


def test_three_hundred_texts_are_held_against_all_that_came_before():
    # Every text is new but for a tail of some earlier one; a third comes again with a new word at its end.
    chance = random.Random(0)
    texts: list[str] = []
    for n in range(300):
        new = [f"w{chance.randrange(400)}" for _ in range(40)]
        old = texts[chance.randrange(n)].split()[-chance.randrange(1, 40) :] if n else []
        texts.append(" ".join([*old, *new][:50]) if n % 3 or not n else f"{texts[n - 1]} anew")
    earlier, came = EarlierTexts(), set()
    for text in texts:
        grams = list(ngrams(words(text), 4))
        share = sum(gram in came for gram in grams) / len(grams)
        assert [earlier.repeated(text, most) for most in (0.3, 0.9)] == [share > 0.3, share > 0.9]
        earlier.add(text)
        came.update(grams)
        assert earlier.repeated(text, 1.0), "the same text again, whatever may be shared"
    assert not earlier.repeated(" ".join(texts[5].split()[1:]), 1.0) and not earlier.repeated("two words", 0.1)
    held = [set(ngrams(words(text), 4)) for text in texts[:40]]
    for n, share in enumerate(overlap_shares(texts[:40])):
        others = set().union(*(held[:n] + held[n + 1 :]))
        assert share == sum(gram in others for gram in ngrams(words(texts[n]), 4)) / len(texts[n].split()[3:])
