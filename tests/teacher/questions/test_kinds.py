"""Kinds of questions, cloze by rule, what is refused, and on which side of the split each fact is."""

import json
import random
from collections import Counter

import pytest
from datatrove.data import Document

from configs.errors import UserError
from configs.schema import Config, Questions
from student.text.words import words
from teacher.questions.cache import ensure_questions, questions_file
from teacher.questions.cloze import cloze_questions
from teacher.questions.kinds import kinds_of
from teacher.questions.parsing import QuestionAnswer
from teacher.questions.quality import table_file
from teacher.questions.refusals import AskedQuestions, refuse
from teacher.questions.sides import facts_of, with_sides
from teacher.questions.writer import choose

ADA = Document(
    id="ada",
    text="Ada Berg was born in Oslo in 1932. She studied optics at the university of Lund. Her bridge over the Glomma"
    " was opened by King Olav. It carries nine trains a day, as the old ferry had sunk.",
)
PARAPHRASES = {
    0: [("Where was Ada Berg born?", "Oslo"), ("Which is Ada Berg's city?", "Oslo"), ("Who was born in Oslo?", "Ada"),
        ("In what year was Ada Berg born?", "1932"), ("When did Ada Berg come into the world?", "in 1932")],
    1: [("What did Ada Berg study?", "optics"), ("Which subject did Ada Berg take at Lund?", "optics"),
        ("Where did Ada Berg study optics?", "Lund")],
    2: [("Who opened the bridge over the Glomma?", "King Olav"), ("Whom was the bridge opened by?", "Olav")],
    3: [("Why does the bridge carry trains?", "the old ferry had sunk"), ("How many trains cross a day?", "nine")],
}  # fmt: skip


def items_of(*facts: int) -> list[dict]:
    return [{"question": q, "answer": a, "kind": "fact"} for fact in facts for q, a in PARAPHRASES[fact]]


def cloze_config(tmp_path, **questions) -> Config:
    settings = {"kinds": ("cloze",), "per_document": 3} | questions
    return Config.model_validate({"run": {"dir": tmp_path / "run"}, "questions": settings})


def people(count: int) -> list[Document]:
    rng = random.Random(3)
    cities, names = "Lisbon Oslo Rome Cairo Lima Perth".split(), "Berg Dahl Holm Lund Moe Vik Foss Haug".split()
    return [
        Document(
            id=f"p{i}",
            text=f"{names[i % 8]} {names[i // 8 % 8]} {names[i // 64]} was born in {rng.choice(cities)}."
            f" The first job was at Acme{i}. The office moved to {rng.choice(cities)} in {1900 + i}."
            " There was much to do.",
        )
        for i in range(count)
    ]


def test_questions_of_one_fact_are_on_one_side_in_any_words():
    items = items_of(0, 1, 2, 3)
    facts = facts_of(ADA, items)
    assert facts == [fact for fact, pairs in PARAPHRASES.items() for _ in pairs]
    sided = with_sides(ADA, items)
    sides = {fact: {item["split"] for f, item in zip(facts, sided, strict=True) if f == fact} for fact in PARAPHRASES}
    assert all(len(of_fact) == 1 for of_fact in sides.values())
    assert {side for of_fact in sides.values() for side in of_fact} == {"reward", "heldout"}
    assert with_sides(ADA, items[::-1])[::-1] == sided, "the order makes no difference"
    assert {item["split"] for item in with_sides(ADA, items, heldout_share=0)} == {"reward"}


@pytest.mark.parametrize("facts", [(0, 1), (0, 3), (1, 2), (2, 3), (1, 2, 3)])
def test_two_facts_are_on_both_sides(facts):
    assert {item["split"] for item in with_sides(ADA, items_of(*facts))} == {"reward", "heldout"}


def test_edits_of_the_file_change_no_other_questions_side():
    sided = with_sides(ADA, items_of(0, 1, 2, 3))
    for number, item in enumerate(sided):
        rest = sided[:number] + sided[number + 1 :]
        assert with_sides(ADA, rest) == rest, "one is deleted"
        bare = {key: value for key, value in item.items() if key != "split"}
        assert with_sides(ADA, [*rest, bare])[-1] == item, "one is added without a side: it goes where its fact is"
        reworded = [*rest, item | {"question": "What is it, in your own words?"}]
        assert with_sides(ADA, reworded) == reworded, "one is edited"


def test_the_share_of_held_out_facts():
    sides = Counter()
    for document in people(200):
        items = [{"question": q, "answer": a} for q, a in cloze_questions(document)]
        sides.update(item["split"] for item in with_sides(document, items))
    assert 0.2 < sides["heldout"] / sides.total() < 0.45, "about 0.3, and one at least of each few"


def test_cloze_questions_ask_for_what_their_sentence_says():
    for document in [ADA, *people(20)]:
        text = " ".join(words(document.text))
        pairs = cloze_questions(document)
        assert len(pairs) >= 3
        assert cloze_questions(document) == pairs
        for question, answer in pairs:
            assert " ".join(words(answer)) in text and not set(words(answer)) & set(words(question))
            said = question.removeprefix("Ada Berg. ").removesuffix(" _____ =").replace("_____", answer)
            assert said in document.text or said.split(". ", 1)[1] in document.text


def test_an_answer_ends_the_question_or_stands_behind_a_gap():
    text = "Ada Berg built the bridge. It was opened by 'King Olav'. It was Bob who crossed it first. She liked optics!"
    assert {answer: question for question, answer in cloze_questions(Document(id="a", text=text))} == {
        "bridge": "Ada Berg built the",
        "King Olav": "Ada Berg. It was opened by",
        "Bob": "Ada Berg. It was _____ who crossed it first. _____ =",
        "optics": "Ada Berg. She liked",
    }


def test_a_cloze_question_names_what_it_is_about():
    kind = kinds_of(Questions(kinds=("cloze",)))[0]
    plain = Document(id="a", text="There is much to say about it. It was rather pleasant there. Much was done later.")
    assert {refuse(plain, pair, kind) for pair in cloze_questions(plain)} == {"question names nothing"}
    titled = Document(id="a", text=plain.text, metadata={"title": "The Glomma"})
    assert {refuse(titled, pair, kind) for pair in cloze_questions(titled)} == {None}
    chinese = Document(id="a", text="这座桥于1932年建成。它长约300米。")
    assert [refuse(chinese, pair, kind) for pair in cloze_questions(chinese)] == [None, None]


@pytest.mark.parametrize(
    ("kind", "question", "answer", "reason"),
    [
        ("fact", "She studied optics at the university of Lund, who?", "Ada", "question is a sentence of the text"),
        ("fact", "Who has sunk, in your own words?", "a ship", "answer not in the text"),
        ("implication", "What carried people over the Glomma before 1932?", "a ship", None),
        ("number", "Where was Ada Berg born?", "Oslo", "answer without a number"),
        ("number", "When was Ada Berg born?", "1932", None),
        ("term", "What is a boat that carries people called?", "as the old ferry had sunk", "answer too long: 6 words"),
        ("why", "Why does the bridge carry trains?", "as the old ferry had sunk", None),
    ],
)  # fmt: skip
def test_each_kind_has_its_rules(kind, question, answer, reason):
    [rules] = kinds_of(Questions(model="teacher", kinds=(kind,)))
    assert refuse(ADA, QuestionAnswer(question, answer), rules) == reason


def test_a_kind_of_ones_own_is_a_file(tmp_path):
    path = tmp_path / "colour.yaml"
    path.write_text("ask: Each question asks for a colour.\nwords: 2\n")
    [kind] = kinds_of(Questions(model="teacher", kinds=(str(path),)))
    assert (kind.name, kind.ask, kind.words, kind.copied) == ("colour", "Each question asks for a colour.", 2, True)


def test_a_file_called_cloze_is_no_rule(tmp_path):
    path = tmp_path / "cloze.yaml"
    path.write_text("ask: Each question leaves a gap.\n")
    [kind] = kinds_of(Questions(model="teacher", kinds=(str(path),)))
    assert kind.ask == "Each question leaves a gap." and not kind.by_rule
    assert kinds_of(Questions(kinds=("cloze",)))[0].by_rule


@pytest.mark.parametrize(
    ("kinds", "file", "said"),
    [
        (("facts",), None, "unknown kind 'facts'; did you mean 'fact'?"),
        (("fact", "fact"), None, "names 'fact' twice"),
        (("own.yaml",), None, "own.yaml"),
        (("own.yaml",), "ask: [", "is no YAML"),
        (("own.yaml",), "- a", "expected `ask: ...`"),
        (("own.yaml",), "words: 3", "ask: Field required"),
        (("own.yaml",), "ask: a\nword: 3", "word: did you mean 'words'?"),
        (("own.yaml",), "ask: a\nwords: many", "words: Input should be a valid integer"),
        (("own.yaml",), "ask: a\n3: b", "not a text"),
    ],
)
def test_a_mistake_in_a_kind_is_one_line(tmp_path, monkeypatch, kinds, file, said):
    monkeypatch.chdir(tmp_path)
    if file is not None:
        (tmp_path / "own.yaml").write_text(file)
    with pytest.raises(UserError) as error:
        kinds_of(Questions(model="teacher", kinds=kinds))
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_kind_that_needs_a_model_says_so():
    with pytest.raises(UserError, match=r"set questions.model, or questions.kinds=\[cloze\]"):
        kinds_of(Questions(kinds=("cloze", "why")))


def test_what_the_corpus_asks_already_is_refused():
    asked = AskedQuestions()
    asked.add({"question": "In which year was Ada Berg of the old town born?", "answer": "1932"})
    reasons = {
        "In which year was Ada Berg of the old town born": "asked already",
        "In what year was Ada Berg of the old town born?": "asked already in nearly the same words",
        "In which year was Cleo Berg of the old town born?": None,
        "When did Ada Berg come into the world?": None,
    }
    for question, reason in reasons.items():
        assert asked.refuse({"question": question, "answer": "1932"}) == reason
    other = {"question": "In which year was Ada Berg of the old town born?", "answer": "1933"}
    assert asked.refuse(other) == "asked already with another answer"


def test_kinds_take_turns_and_two_facts_are_asked_for():
    items = [*items_of(0), *({**item, "kind": "why"} for item in items_of(3))]
    assert [item["kind"] for item in choose(ADA, items, 4)] == ["fact", "why", "fact", "why"]
    assert choose(ADA, items_of(0, 1), 3) == [*items_of(0)[:2], items_of(1)[0]], (
        "the last one gives way to another fact"
    )
    assert choose(ADA, items_of(0), 3) == items_of(0)[:3]


def test_questions_by_rule_need_no_model_and_the_table_counts_all(tmp_path):
    config = cloze_config(tmp_path)
    said: list[str] = []
    given = people(12)
    copies = [Document(id="copy", text=given[0].text)]
    asked = ensure_questions(config, [*given, *copies], said.append)
    assert [document.id for document in asked] == [document.id for document in given], "a copy asks nothing new"
    for document in asked:
        items = document.metadata["questions"]
        assert 2 <= len(items) <= 3 and {item["kind"] for item in items} == {"cloze"}
        assert {item["split"] for item in items} == {"reward", "heldout"}
    path = questions_file(config)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    kept = sum(len(line["questions"]) for line in lines)
    refused = Counter(item["reason"] for line in lines for item in line["dropped"])
    table = table_file(path).read_text()
    assert table.rstrip() in said
    assert table.splitlines()[-1].split()[:3] == ["all", str(kept + refused.total()), str(kept)]
    assert f"{refused['asked already']} asked already" in table and refused["asked already"] >= 3


def test_what_a_document_has_too_much_of_is_no_obstacle_to_later_ones(tmp_path):
    """A stopped call no longer knows it, and has to end with the same file."""
    config = cloze_config(tmp_path, per_document=1)
    config = config.model_copy(update={"teacher": config.teacher.model_copy(update={"batch_size": 1})})
    [one] = people(1)
    given = [one, Document(id="copy", text=one.text)]
    ensure_questions(config, given, print)
    path = questions_file(config)
    whole = path.read_bytes()
    lines = [json.loads(line) for line in whole.splitlines()]
    assert [len(line["questions"]) for line in lines] == [1, 1], "the copy asks what was left over"
    path.write_bytes(whole.splitlines(keepends=True)[0])
    ensure_questions(config, given, print)
    assert path.read_bytes() == whole


def test_hopeless_documents_end_in_one_line_that_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr("teacher.questions.cache.HOPELESS", 4)
    plain = [Document(id=f"d{i}", text="There is much to say about it.") for i in range(40)]
    config = cloze_config(tmp_path)
    config = config.model_copy(update={"teacher": config.teacher.model_copy(update={"batch_size": 4})})
    with pytest.raises(UserError, match=r"none of 4 documents has a question.*remove it and set") as error:
        ensure_questions(config, plain, print)
    assert "\n" not in str(error.value)
    assert len(questions_file(config).read_text().splitlines()) == 4
