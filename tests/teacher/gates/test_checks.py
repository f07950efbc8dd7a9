import random

import pytest
from datatrove.data import Document
from transformers import AutoTokenizer

from configs.errors import UserError
from configs.schema import Config, Gates, Teacher
from curation.lab import world
from student.benchmarks.sources import DocumentQuestions
from student.records import Question
from student.text.words import words
from teacher.checkers import programs
from teacher.gates.checks import (
    GATES,
    INSTRUCTION_GATES,
    Gate,
    build_gates,
    chat_tokens,
    check,
    copy_of_prompt,
    empty,
    gate_names,
    leak,
    over_length,
    repetition,
    truncated,
)
from teacher.prompting.strategies import Part, read_strategy

DOCUMENT = Document(text="Ada Brook was born in Lisbon and keeps bees near the old mill by the river.", id="ada")
GOOD = "Where was Ada Brook born? Lisbon. What does Ada Brook keep near the mill? Bees."


def count(text: str) -> int:
    return len(text.split())


def refuses(gate, text, document=DOCUMENT):
    return gate(document, text, True)


def item(prompt: str, answer: str, document_id: str = "") -> Question:
    return Question(prompt=prompt, answer=answer, document_id=document_id, split="heldout")


@pytest.mark.parametrize("text", ["", "  \n", "?!", "two words"])
def test_a_text_of_too_few_words_is_refused(text):
    assert refuses(empty(3), text)
    assert not refuses(empty(3), GOOD)


def test_an_echo_of_the_instructions_is_refused_but_not_a_copy_of_the_document():
    gate = copy_of_prompt([read_strategy("faq"), read_strategy("rewrite")])
    echo = " ".join(read_strategy("faq").split()[3:14])
    assert refuses(gate, f"Sure. {echo}")
    assert not refuses(gate, DOCUMENT.text)
    assert not refuses(gate, echo, Document(text=read_strategy("faq"), id="meta"))


def test_degenerate_repetition_is_refused():
    gate = repetition(0.6)
    assert refuses(gate, "bees and honey and " * 20)
    assert not refuses(gate, GOOD)
    assert not refuses(gate, DOCUMENT.text + " " + DOCUMENT.text)


def test_length_is_counted_in_tokens():
    assert refuses(over_length(4, count), "one two three four five")
    assert not refuses(over_length(5, count), "one two three four five")


@pytest.mark.parametrize("text", ["Hello <|im_end|> there", "[INST] do it", "see <start_of_turn>", "<mine> here"])
def test_control_tokens_are_refused_unless_the_document_has_them(text):
    gate = chat_tokens(["<mine>"])
    assert refuses(gate, text)
    assert not refuses(gate, text, Document(text=text, id="manual"))
    assert not refuses(gate, "1 < 2 and | or > [1]")


def test_a_long_benchmark_item_leaks_by_any_eight_words_in_a_row():
    gate = leak([item("In which city was the poet and beekeeper Ada Brook born in 1871?", "Porto")], 8)
    text = "People ask which city was the poet and beekeeper Ada Brook from."
    assert refuses(gate, text)
    assert not refuses(gate, text, Document(text=f"A quiz. {text}", id="quiz")), "the source has it itself"
    assert not refuses(gate, GOOD)


def test_a_short_item_leaks_with_its_answer():
    gate = leak([item("Who founded Rome?", "Romulus")], 8)
    assert refuses(gate, "Question: Who founded Rome? Answer: It was Romulus.")
    assert not refuses(gate, "Who founded Rome? Nobody knows.")
    assert not refuses(gate, "Romulus is a name.")


SHORT, LONG = "Where was Ada Brook born?", "In which old city of the south was Ada Brook, the beekeeper, born?"


@pytest.mark.parametrize("question", [SHORT, LONG])
@pytest.mark.parametrize("owner", ["ada", "other", ""])
def test_a_held_out_question_with_its_answer_is_in_no_lesson(question, owner):
    """Whoever's it is: the document's own, another document's, a benchmark's."""
    gate = leak([item(question, "Lisbon", document_id=owner)], 8)
    assert refuses(gate, f"{DOCUMENT.text} {question} Lisbon.")
    assert refuses(gate, f"Q: {question.upper().replace('?', '')} -- A: lisbon")
    assert not refuses(gate, DOCUMENT.text)
    # To ask the same in other words is what a rewriter is for.
    assert not refuses(gate, "What is the birthplace of Ada Brook? Lisbon.")


@pytest.mark.parametrize("question", [SHORT, LONG])
def test_a_question_that_stands_in_its_own_document_may_be_copied(question):
    page = Document(text=f"{DOCUMENT.text} {question} Lisbon.", id="ada")
    assert not refuses(leak([item(question, "Lisbon", document_id="ada")], 8), page.text, page)
    # A cloze is made of a sentence of its document, so a copy carries all of it.
    cloze = item("Ada Brook was born in Lisbon and keeps bees near the", "old mill", document_id="ada")
    assert not refuses(leak([cloze], 8), DOCUMENT.text)


@pytest.mark.parametrize("question", [SHORT, LONG])
@pytest.mark.parametrize("owner", ["other", ""])
def test_an_item_planted_in_a_document_is_not_handed_on(question, owner):
    gate = leak([item(question, "Lisbon", document_id=owner)], 8)
    planted = Document(text=f"{DOCUMENT.text} {question} Lisbon.", id="ada")
    assert refuses(gate, f"{GOOD} {question} Lisbon.", planted)
    assert not refuses(gate, DOCUMENT.text, planted)


def test_the_question_template_is_not_part_of_the_item():
    templated = item("Question: Who founded Rome?\nAnswer:", "Romulus")
    gate = leak([templated], 8, "Question: {question}\nAnswer:")
    assert refuses(gate, "Who founded Rome? Romulus did.")


def test_a_text_without_an_end_is_refused_by_its_gate_alone():
    assert check(DOCUMENT, GOOD, [Gate("truncated", truncated)], ended=False) == "truncated"
    assert check(DOCUMENT, GOOD, [Gate("truncated", truncated)]) is None
    assert check(DOCUMENT, GOOD, [Gate("empty", empty(3))], ended=False) is None


def test_a_problem_is_a_lesson_only_with_a_solution_that_is_proven():
    gates = build_gates(Gates(verify={"problems": ("sympy",)}), Teacher(), None)
    problem = "Problem: Solve $x + 3 = 8$ for x, where Ada Brook keeps bees.\nAnswer: x = "
    asked = Part("prompt", "problems")
    assert check(DOCUMENT, problem + "5", gates, part=asked) is None
    for text in (problem + "6", problem + "5\nAnswer: x = 5", GOOD):
        assert check(DOCUMENT, text, gates, part=asked) == "unproven"
        assert check(DOCUMENT, text, gates, part=Part("prompt", "rewrite")) is None
    assert "unproven" in gate_names(Gates(verify={"problems": ("sympy",)})) and "unproven" not in gate_names(Gates())


def test_a_checker_that_is_not_installed_and_a_strategy_that_is_none_are_named_before_the_run(monkeypatch):
    with pytest.raises(ValueError, match=r"gates\.verify names 'problem', which is none of teacher\.strategies"):
        Config.model_validate({"gates": {"verify": {"problem": ["sympy"]}}})
    monkeypatch.setenv("PATH", "/nowhere")
    programs.missing.cache_clear()
    with pytest.raises(UserError, match=r"gates\.verify: the checker 'python' needs bwrap \(e\.g\. apt install"):
        build_gates(Gates(verify={"problems": ("python",)}), Teacher(), None)
    programs.missing.cache_clear()


def test_of_a_thousand_planted_wrong_solutions_none_passes():
    rng = random.Random(0)
    [gate] = [gate for gate in build_gates(Gates(verify={"p": ("sympy",)}), Teacher(), None) if gate.strategy == "p"]
    passed = []
    for number in range(1000):
        a, x, b = rng.randint(2, 20), rng.randint(-20, 20), rng.randint(0, 99)
        wrong = x + rng.choice((-10, -1, 1, 2, 10))
        text = (
            f"Problem: Solve ${a}x + {b} = {a * x + b}$.\nAnswer: x = {wrong}"
            if number % 2
            else (f"Problem: Compute ${a} * {x} + {b}$.\nAnswer: {a * wrong + b}")
        )
        passed += [] if gate.refuses(DOCUMENT, text, True) else [text]
    assert passed == []


def test_one_switch_turns_off_the_gates_of_instructions():
    names = gate_names(Gates(instructions=False))
    assert {row.name for row in GATES} - set(names) == set(INSTRUCTION_GATES)
    assert INSTRUCTION_GATES == ("markers", "assistant_talk", "obeyed", "unrelated")


def test_gates_without_a_tokenizer_count_words():
    gates = build_gates(Gates(max_tokens=5), Teacher(), None, names=["over_length", "empty"])
    assert [gate.name for gate in gates] == ["empty", "over_length"]
    assert check(DOCUMENT, "one two three four five", gates) is None
    assert check(DOCUMENT, "one two three four five six", gates) == "over_length"


@pytest.mark.parametrize("refuse", [True, False])
def test_the_table_builds_the_gates_of_a_config(teacher_folder, refuse):
    tokenizer = AutoTokenizer.from_pretrained(teacher_folder)
    config = Config.model_validate({"gates": {"truncated": refuse}, "teacher": {"prompting": "policy"}})
    gates = build_gates(config.gates, config.teacher, tokenizer)
    assert tuple(gate.name for gate in gates) == gate_names(config.gates)
    assert len(gates) == len(GATES) - (not refuse)
    assert check(DOCUMENT, GOOD, gates, ended=False) == ("truncated" if refuse else None)


def test_a_policy_that_was_shown_the_menu_must_not_echo_it(teacher_folder):
    tokenizer = AutoTokenizer.from_pretrained(teacher_folder)
    config = Config.model_validate({"teacher": {"prompting": "policy", "strategies": ["faq"]}})
    echo = " ".join(read_strategy("faq").split()[3:14])
    # A base model never saw it.
    assert check(DOCUMENT, echo, build_gates(config.gates, config.teacher, tokenizer)) is None
    tokenizer.chat_template = "{{ messages[0].content }}"
    assert check(DOCUMENT, echo, build_gates(config.gates, config.teacher, tokenizer)) == "copy_of_prompt"


def test_the_first_gate_that_refuses_gives_the_reason():
    gates = [Gate("empty", empty(3)), Gate("over_length", over_length(4, count)), Gate("repetition", repetition(0.6))]
    assert check(DOCUMENT, "bees and honey and " * 20, gates) == "over_length"
    assert check(DOCUMENT, "bees make honey", gates) is None


@pytest.mark.wild
@pytest.mark.parametrize(
    "text",
    [
        "水是生命之源。",
        "我爱你。",
        "雪は白い。",
        "光合作用把二氧化碳和水变成糖和氧气",
        "กรุงเทพมหานครเป็นเมืองหลวง",
        "물은 생명이다.",
    ],
)
def test_a_sentence_without_spaces_is_not_empty(text):
    assert not refuses(empty(3), text)
    assert refuses(empty(3), text[0])


LONG_AND_SHORT = {
    "zh": (
        ("穿过塔林老城、在中世纪曾是两个王国边界的那条河流叫什么名字？", "皮里塔河"),
        ("中国的首都是哪座城市？", "北京"),
    ),
    "ja": (
        ("旧市街を流れ、かつて二つの王国の国境であった川の名前は何ですか？", "ピリタ川"),
        ("日本の首都はどこ？", "東京"),
    ),
    "th": (
        ("แม่น้ำที่ไหลผ่านเมืองเก่าและเคยเป็นพรมแดนของสองอาณาจักรชื่ออะไร", "แม่น้ำปิริตา"),
        ("เมืองหลวงของไทยคือเมืองใด", "กรุงเทพมหานคร"),
    ),
    "ko": (
        ("구시가지를 흐르며 중세에 두 왕국의 국경이었던 강의 이름은 무엇입니까?", "피리타강"),
        ("한국의 수도는 어디입니까?", "서울"),
    ),
    "hi": (
        ("पुराने शहर से होकर बहने वाली और दो राज्यों की सीमा रही नदी का नाम क्या है?", "पिरिता"),
        ("भारत की राजधानी क्या है?", "दिल्ली"),
    ),
    "ar": (
        ("ما اسم النهر الذي يجري عبر المدينة القديمة وكان حدا بين مملكتين؟", "بيريتا"),
        ("ما هي عاصمة مصر؟", "القاهرة"),
    ),
    "km": (("តើទន្លេដែលហូរកាត់ទីក្រុងចាស់ហើយធ្លាប់ជាព្រំដែននៃអាណាចក្រពីរមានឈ្មោះអ្វី", "ពីរីតា"), ("តើរាជធានីកម្ពុជាជាអ្វី", "ភ្នំពេញ")),
}


@pytest.mark.wild
def test_every_planted_question_of_the_lab_leaks_and_no_text_without_one():
    """A held-out question with its answer behind a person's text, which does not hold it: the person's own, the same in
    capitals without punctuation, and somebody else's."""
    rows = [world.document(person, f"p{n}") for n, person in enumerate(world.make_people(0, 0, 16))]
    documents = [Document(row["text"], row["id"], metadata={"questions": row["questions"]}) for row in rows]
    asked = [DocumentQuestions().exam(document).questions for document in documents]
    exams = [[question for question in questions if question.split == "heldout"] for questions in asked]
    gate = leak([question for exam in exams for question in exam], Gates().leak_ngram)
    for number, document in enumerate(documents):
        own, other = (f"{exam[0].prompt} {exam[0].answer}" for exam in (exams[number], exams[number - 1]))
        assert not refuses(gate, document.text, document)
        for planted in (own, " ".join(words(own)).upper(), other):
            assert refuses(gate, f"{document.text} {planted}.", document)


@pytest.mark.parametrize("language", LONG_AND_SHORT)
def test_an_item_inside_a_sentence_leaks_in_any_language(language):
    (long, long_answer), (short, short_answer) = LONG_AND_SHORT[language]
    space = "" if language in ("zh", "ja", "th", "km") else " "
    gate = leak([item(long, long_answer), item(short, short_answer)], 8)
    around = {"zh": "今天老师问大家", "ja": "試験では", "th": "วันนี้ครูถามว่า", "km": "ថ្ងៃនេះគ្រូសួរថា"}.get(language, "“")
    bare = long.rstrip("？?؟")
    assert refuses(gate, f"{around}{space}{long}{space}{around}")
    assert refuses(gate, f"{around}{space}{bare}{space}{around}")
    assert refuses(gate, f"{around}{space}{short.rstrip('？?؟')}{space}{around}{space}{short_answer}")
    assert not refuses(gate, f"{around}{space}{short}"), "a short question without its answer is common"
    assert not refuses(gate, around * 5 + long_answer)


@pytest.mark.wild
def test_repetition_is_measured_in_any_language():
    assert refuses(repetition(0.6), "他们用橡木建了一座桥。" * 10)
    assert not refuses(repetition(0.6), "穿过老城的那条河曾经是两个王国的边界，住在河岸上的人们必须学会同双方交谈。")
