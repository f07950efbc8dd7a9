"""Where sentences end: abbreviations, other scripts, lists and lines."""

import json
from pathlib import Path

import pytest

from student.text.sentences import split_sentences


@pytest.mark.parametrize(
    "sentences",
    [
        ["Dr. J. R. R. Tolkien met Mr. Smith at 5 p.m. in St. Louis.", 'He said "No."', "Then he left."],
        ["The U.S. Army paid $1.5 million, i.e. a lot.", "It was c. 1850 (see Fig. 3).", "No. 5 won!", "Really?!"],
        ["Er kam am 3. Mai 1900 nach Berlin.", "Z.B. aß er dort.", "Am 5. ging er."],
        ["«Oui.»", "Il part.", "J'ai dit M. Dupont."],
        ['He cried "Stop!" and ran.', "(It rained.)", "She came..."],
        ["Version 2.0 was out.", "He was 23.", "Visit www.a.com.", "One without an end"],
    ],
)
def test_a_full_stop_is_an_end_unless_what_stands_around_it_says_otherwise(sentences):
    assert split_sentences(" ".join(sentences)) == sentences


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("他来了。我走了！「你呢？」他问。", ["他来了。", "我走了！", "「你呢？」", "他问。"]),
        ("यह पहला वाक्य है। यह दूसरा है।", ["यह पहला वाक्य है।", "यह दूसरा है।"]),
        ("هل جاء؟ نعم جاء. ثم ذهب۔", ["هل جاء؟", "نعم جاء.", "ثم ذهب۔"]),
        ("Он пришёл. Она ушла.", ["Он пришёл.", "Она ушла."]),
        # Thai marks no ends.
        ("เขามา เธอไป\nจบ", ["เขามา เธอไป", "จบ"]),
    ],
)
def test_other_scripts_have_ends_of_their_own(text, sentences):
    assert split_sentences(text) == sentences


def test_a_line_is_a_sentence_unless_it_was_wrapped():
    assert split_sentences("1. First item.\n2. Second item\n- third\n\n* Fourth. Fifth.") == [
        "1. First item.", "2. Second item", "- third", "* Fourth.", "Fifth.",
    ]  # fmt: skip
    wrapped = "A line that was wrapped by hand at forty letters\ngoes on here. And it\nEnds\nso."
    assert split_sentences(wrapped) == [
        "A line that was wrapped by hand at forty letters goes on here.", "And it", "Ends", "so.",
    ]  # fmt: skip


@pytest.mark.wild
@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("The court decided in the year 1973 on Roe vs.\nWade. It was news.", 2),
        ("It was the birthplace of the late Prof. J. R. R.\nTolkien. He left.", 2),
        ("They sell herring and many other things, e.g.\nfish. It is cold.", 2),
        ("He gave to the church of the town of St.\nLouis all that he had.", 1),
        ("It stands in the third volume of the work, p.\n17, and not only there.", 1),
        ("The king of the country was born on the 3.\nMai 1900 in Berlin. Er ging.", 2),
        # A line that ends a sentence, or a list or heading that a capital follows.
        ("They sell herring and many other things, etc.\nFish is cold.", 2),
        ("It was sold in the spring of the year of 1900.\nand never came back", 2),
        ("The harbour of the town of Tallinn froze over\nFishermen walked", 2),
        ("No. He shouted that he would never come back!\nmore was not said", 3),
        ("The harbour of the town of Tallinn froze, no. 5\n\nof them walked", 2),
        ("Short vs.\nWade", 2),
    ],
)
def test_a_line_that_was_wrapped_behind_an_abbreviation_goes_on(text, sentences):
    assert len(split_sentences(text)) == sentences, split_sentences(text)


def test_nothing_has_no_sentence_and_one_is_one():
    assert split_sentences("") == split_sentences(" \n\n\t ") == []
    assert split_sentences("One.") == ["One."]


def test_real_passages_lose_nothing_and_are_split_as_readers_would():
    path = Path("../shared/data/squad_passages.jsonl")
    if not path.is_file():
        pytest.skip(f"no {path}")
    texts = [json.loads(line)["text"] for line in path.read_text().splitlines()[:200]]
    split = [split_sentences(text) for text in texts]
    assert all(" ".join(own).split() == text.split() for own, text in zip(split, texts, strict=True))
    lengths = [len(sentence.split()) for own in split for sentence in own]
    assert sum(length < 4 for length in lengths) < 0.01 * len(lengths), "pieces of sentences"
    assert 18 < sum(lengths) / len(lengths) < 28
