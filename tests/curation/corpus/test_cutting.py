"""Documents become passages: nothing is lost, structure is kept, and questions go where they are answered."""

import random
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from datatrove.data import Document
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from configs.schema import Config, Data
from curation.corpus import passages as corpus_passages
from curation.corpus.passages import Cutter, at_sentences, join_small
from curation.corpus.training_data import apart_from, read_documents
from student.grids.grid import Pair, pairs_text, read_grid
from student.records import group_of, passage_of
from student.text.headings import find_headings, heading_paths
from teacher.questions.cache import document_key
from tests.curation.datasets import write_jsonl


@lru_cache
def cutter(most: int | None, tokens: bool = False) -> Cutter:
    cutter = Cutter(Config.model_validate({"data": {"passage_tokens": most}}), writes=False)
    if tokens:  # one a byte, as a byte-level tokenizer without merges has them
        vocabulary = {character: i for i, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
        backend = Tokenizer(models.BPE(vocabulary, []))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.enable_truncation(5)
        cutter.__dict__["tokenizer"] = PreTrainedTokenizerFast(tokenizer_object=backend)
    return cutter


def cut(text: str, most: int | None, tokens: bool = False, **metadata: Any) -> list[Document]:
    return cutter(most, tokens).cut(Document(text, "a.jsonl#3", metadata=metadata))


MARKS = st.sampled_from(
    ["# ", "## ", "\n", "\n\n", "\r\n", "\r", "```\n", "    ", "- ", "| a | b |\n|---|---|\n", "===\n", "\t", " ",
     "word ", "A sentence. ", "今天天气很好。", "ภาษาไทย", "e\u0301", "\U0001f469\u200d\U0001f467", "\x0b", "\x0c",
     "\u2028", "$$x$$", "\0", "\ufeff"]
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(MARKS | st.text(max_size=30) | st.text("ab .\n", min_size=20), max_size=60), st.booleans())
def test_every_character_is_in_exactly_one_passage(parts: list[str], tokens: bool) -> None:
    text = "".join(parts)
    passages = cut(text, 16, tokens)
    assert "".join(passage.text for passage in passages) == text
    if len(passages) > 1:
        places = [passage_of(passage) for passage in passages]
        assert all(p and d.text == text[p.start_index : p.end_index] for p, d in zip(places, passages, strict=True))
        assert [d.id for d in passages] == [f"a.jsonl#3/{i}" for i in range(1, len(passages) + 1)]
        assert {p.of for p in places if p} == {len(passages)}


def test_a_document_that_fits_is_itself() -> None:
    document = Document("one two three", "a#1", metadata={"questions": [], "passage": "its own field"})
    assert cutter(16).cut(document) == [document] and passage_of(document) is None
    assert len(cut("word " * 16, 16)) == 1 and len(cut("word " * 17, 16)) > 1
    assert len(cut("word " * 5000, None)) == 1
    # What a document brings is about all of it, as the rule of a task of grids is.
    assert len(cut(pairs_text([Pair(read_grid("012/345"), read_grid("12"))] * 50), 16)) == 1
    assert len(cut("word " * 5000, 16, rewrites=["its gist"])) == 1


def manual(sections: int, words: int = 60) -> str:
    rng = random.Random(0)
    parts = ["# The manual\n\nWhat it is about.\n"]
    for i in range(sections):
        sentences = [" ".join(rng.choices("ab cd ef gh".split(), k=10)).capitalize() + "." for _ in range(words // 10)]
        parts.append(f"\n## Part {i}\n\n{' '.join(sentences)}\n\n```python\n# no heading\nx = {i}\n\ny = x\n```\n")
    return "".join(parts)


def test_passages_begin_at_headings_and_know_those_above() -> None:
    text = manual(20)
    passages = cut(text, 200)
    assert "".join(p.text for p in passages) == text
    places = [passage_of(p) for p in passages]
    assert all(p.text.lstrip().startswith(("# The manual", "## Part")) for p in passages)
    assert all(place and place.headings == ("The manual",) for place in places[1:]) and places[0].headings == ()
    # One long section is cut between its paragraphs, and each part is under its heading.
    paragraphs = "\n\n".join(f"Number {i} is said here. " + "It has some more words. " * 8 for i in range(12))
    passages = cut(f"Top\n===\n\nBelow\n---\n\n{paragraphs}", 100)
    assert all(p.text.lstrip().startswith(("Top", "Number")) for p in passages) and len(passages) > 3
    assert all(passage_of(p).headings == ("Top", "Below") for p in passages[1:])


@pytest.mark.parametrize("tokens", [False, True])
def test_lengths_are_within_the_bounds(tokens: bool) -> None:
    count = cutter(240, tokens).count
    for text in (
        manual(30),
        "word " * 3000,
        "今天天气很好。我们去公园散步吧!" * 200,
        "x" * 4000,
        "# A\n\n" + "word " * 3000,
    ):
        lengths = [count(p.text) for p in cut(text, 240, tokens)]
        # Without spaces there are no words to count: a run of signs is one.
        assert max(lengths) <= 240 * 1.05
        assert min(lengths) >= 60 or len(lengths) == 1


@pytest.mark.parametrize(
    ("sentence", "ends"),
    [
        ("Dr. A. Smith met Mr. Jones in the U.S. Army base of the town. ", ". "),
        ("A wrapped line of the text that goes on and\non until it comes to its own end here. ", ". "),
        ("今天天气很好我们去公园散步吧然后我们回家吃饭。", "。"),
        ("これは日本語の文章でありとても長いので切られる。", "。"),
    ],
)
def test_long_paragraphs_are_cut_at_sentences(sentence: str, ends: str) -> None:
    passages = cut(sentence * 100, 120)
    assert len(passages) > 5 and "".join(p.text for p in passages) == sentence * 100
    assert all(p.text.endswith(ends) for p in passages)


def test_code_and_tables_stay_whole_where_they_fit() -> None:
    code = "```\n" + "".join(f"line {i} of the code.\n\n" for i in range(8)) + "```\n"
    table = "| name | worth |\n|---|---|\n" + "".join(f"| row {i} | has a worth |\n" for i in range(8))
    text = "\n".join(f"A paragraph before block {i}. " + "Some words of it. " * 10 + f"\n\n{block}" for i in range(8)
                     for block in (code, table))  # fmt: skip
    passages = cut(text, 160)
    assert len(passages) > 8
    for p in passages:
        assert p.text.count("```") % 2 == 0
        assert p.text.count("row 0 ") == p.text.count("row 7 ") == p.text.count("| name")


def test_small_pieces_join_their_neighbours() -> None:
    assert join_small(["# A\n", "b " * 70, "c " * 70], [2, 70, 70], 100) == ["# A\n" + "b " * 70, "c " * 70]
    assert join_small(["x"], [500], 100) == ["x"]
    assert "".join(join_small([str(i) for i in range(50)], [0] * 50, 20)) == "".join(map(str, range(50)))


def test_no_passage_is_blank() -> None:
    for text, first in (("Intro" + "\n" * 4000 + "More words", "Intro"), ("\n" * 4000 + "Intro", "Intro")):
        passages = [passage.text for passage in cut(text, 64, tokens=True)]
        assert "".join(passages) == text and first in passages[0]
        assert len(passages) <= 2 and not any(passage.isspace() for passage in passages)


def test_a_sentence_moves_only_where_there_is_room() -> None:
    pieces = ["One sentence ends. " * 20 + "Another goes on ", "and on and on."]
    moved = at_sentences(pieces, len, 30)
    assert moved[1] == "Another goes on and on and on." and "".join(moved) == "".join(pieces)
    assert at_sentences(pieces, len, 29) == pieces


def test_a_long_text_is_counted_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_passages, "WINDOW", 10)
    ours, longest = cutter(64, tokens=True), 0
    real = ours.tokenizer

    def counted(text: str, **more: Any) -> Any:
        nonlocal longest
        longest = max(longest, len(text))
        assert real is not None
        return real(text, **more)

    monkeypatch.setitem(ours.__dict__, "tokenizer", counted)
    assert ours.count("words of it " * 9) == 108 and longest == 10


def test_headings_of_both_forms() -> None:
    text = "A\n=\n\ntwo rows\nTitle\n=====\ntext\n\n# One #\n~~~\n# code\n~~~\n### Three\n\nline\nno title\n---\n"
    text += "#hash\n## Two\r\n"
    assert [(h.level, h.title) for h in find_headings(text)] == [(1, "A"), (1, "One"), (3, "Three"), (2, "Two")]
    at = [text.index(part) for part in ("text", "# One", "### Th", "line", "## Two")]
    assert list(heading_paths(find_headings(text), text, at)) == [
        ("A",), (), ("One",), ("One", "Three"), ("One",)
    ]  # fmt: skip


def test_code_ends_at_its_own_fence_and_settings_of_a_page_are_no_heading() -> None:
    text = "---\ntitle: A page\n---\n# One\n````md\n```python\n# code\n```\n# code\n````python\n# code\n````\n# Two\n"
    text += "``` in line ```\n# Three\n"
    assert [h.title for h in find_headings(text)] == ["One", "Two", "Three"]
    assert [text[h.place :].partition("\n")[0] for h in find_headings(text)] == ["# One", "# Two", "# Three"]
    assert [h.title for h in find_headings("---\n\nA line\n---\n")] == ["A line"]
    # The sentence before stays where the code begins, and is moved where it has ended.
    code = "```sh\n" + "ls\n" * 40 + "```sh\n"
    pieces = [f"{code}It ends. The words go", " on here."]
    assert at_sentences(pieces, len, 300) == pieces
    assert at_sentences([f"{code}```\nIt ends. The words go", " on here."], len, 300)[1] == "The words go on here."


def test_each_question_goes_to_the_passage_that_answers_it() -> None:
    parts = [
        "Anna was born in Riga. She liked the sea and the ships of the harbour very much.",
        "Boris was born in Oslo. He liked the hills. The year was 1931 and the winter was long.",
        "Clara was born in Riga too. She liked bread. In 1931 she moved to a town on the coast.",
    ]
    questions = [
        {"question": "Where was Clara born?", "answer": "Riga"},
        {"question": "What did Anna like?", "answer": "the sea"},
        {"question": "What did Boris think of the hills?", "answer": "nothing is known"},
        {"question": "Who?", "answer": "xyz"},
        {"question": "When did she move?", "answer": "1931"},
    ]
    passages = cut("\n\n".join(parts), 20, questions=questions)
    assert len(passages) == 3
    asked = [[q["answer"] for q in p.metadata.get("questions", [])] for p in passages]
    assert asked == [["the sea", "xyz"], ["nothing is known"], ["Riga", "1931"]]


@pytest.mark.parametrize("size", [100, 400])
def test_cost_is_linear_in_the_text(size: int) -> None:
    calls = 0
    ours = Cutter(Config.model_validate({"data": {"passage_tokens": 200}}), writes=False)
    count = ours.count

    def counted(text: str) -> int:
        nonlocal calls
        calls += len(text)
        return count(text)

    ours.__dict__["count"] = counted
    text = manual(size)
    ours.cut(Document(text, "1"))
    assert calls < 40 * len(text)


def test_a_huge_word_is_cut_in_windows() -> None:
    lengths: list[int] = []
    ours = Cutter(Config.model_validate({"data": {"passage_tokens": 200}}), writes=False)
    count = ours.count
    ours.__dict__["count"] = lambda text: lengths.append(len(text)) or count(text)
    text = "x" * 300_000 + " and > " * 9
    assert "".join(passage.text for passage in ours.cut(Document(text, "1"))) == text
    assert max(lengths) <= 1 << 16


def long_row(seed: int, paragraphs: int = 12) -> dict[str, Any]:
    rng = random.Random(seed)
    texts = [f"Fact {seed}-{i} is {seed * 100 + i}. " + " ".join(rng.choices("ab cd ef".split(), k=15)) + "."
             for i in range(paragraphs)]  # fmt: skip
    questions = [{"question": f"What is fact {seed}-{i}?", "answer": str(seed * 100 + i)} for i in (2, 7)]
    return {"text": "\n\n".join(texts), "questions": questions}


def test_what_is_trained_on_are_the_passages_with_questions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [long_row(1), {"text": "A short text.", "questions": [{"question": "Q?", "answer": "A"}]}, long_row(3)]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    cut = cutter(40).cut
    documents = read_documents((str(path),), cut=cut)
    assert [d.metadata["questions"][0]["answer"] for d in documents] == ["102", "107", "A", "302", "307"]
    assert all(q["answer"] in d.text for d in documents[:2] for q in d.metadata["questions"])
    assert "2 long documents are 12 passages; 4 with questions are used" in capsys.readouterr().err
    whole = read_documents((str(path),))
    assert [d.id.partition("/")[0] for d in documents] == [whole[i].id for i in (0, 0, 1, 2, 2)]
    # Limits count documents, and passages of a document without a title are kept together.
    assert len(read_documents((str(path),), limit=1, cut=cut)) == 2
    assert len({group_of(d) for d in documents}) == 3
    every = read_documents((str(path),), cut=cut, questions_needed=False)
    assert len(every) == 13
    known = {document_key(every[0]): [{"question": "a", "answer": "b"}]}
    assert len(read_documents((str(path),), cut=cut, known=known)) == 6
    apart = apart_from(documents[:2], documents, Data(heldout_limit=1))
    assert [d.id for d in apart] == [documents[2].id]
    assert len(apart_from([], documents, Data(heldout_limit=1))) == 2
