import pytest
from datatrove.data import Document
from transformers import AutoTokenizer

from configs.schema import Config
from student.records import Question
from teacher.gates.checks import (
    GATES,
    build_gates,
    chat_tokens,
    check,
    copy_of_prompt,
    empty,
    leak,
    over_length,
    repetition,
    truncated,
)
from teacher.prompting.strategies import read_strategy

DOCUMENT = Document(text="Ada Brook was born in Lisbon and keeps bees near the old mill by the river.", id="ada")
GOOD = "Where was Ada Brook born? Lisbon. What does Ada Brook keep near the mill? Bees."


def count(text: str) -> int:
    return len(text.split())


def item(prompt: str, answer: str, document_id: str = "") -> Question:
    return Question(prompt=prompt, answer=answer, document_id=document_id, split="heldout")


@pytest.mark.parametrize("text", ["", "  \n", "?!", "two words"])
def test_next_to_nothing_is_refused(text):
    assert empty(3)(DOCUMENT, text) == "empty"
    assert empty(3)(DOCUMENT, GOOD) is None


def test_an_echo_of_the_instructions_is_refused_but_not_a_copy_of_the_document():
    gate = copy_of_prompt([read_strategy("faq"), read_strategy("rewrite")])
    echo = " ".join(read_strategy("faq").split()[3:14])
    assert gate(DOCUMENT, f"Sure. {echo}") == "copy_of_prompt"
    assert gate(DOCUMENT, DOCUMENT.text) is None
    assert gate(Document(text=read_strategy("faq"), id="meta"), echo) is None


def test_degenerate_repetition_is_refused():
    gate = repetition(0.6)
    assert gate(DOCUMENT, "bees and honey and " * 20) == "repetition"
    assert gate(DOCUMENT, GOOD) is None
    assert gate(DOCUMENT, DOCUMENT.text + " " + DOCUMENT.text) is None


def test_length_is_counted_in_tokens():
    assert over_length(4, count)(DOCUMENT, "one two three four five") == "over_length"
    assert over_length(5, count)(DOCUMENT, "one two three four five") is None


@pytest.mark.parametrize("text", ["Hello <|im_end|> there", "[INST] do it", "see <start_of_turn>", "<mine> here"])
def test_control_tokens_are_refused_unless_the_document_has_them(text):
    gate = chat_tokens(["<mine>"])
    assert gate(DOCUMENT, text) == "chat_tokens"
    assert gate(Document(text=text, id="manual"), text) is None
    assert gate(DOCUMENT, "1 < 2 and | or > [1]") is None


def test_a_long_benchmark_item_leaks_by_any_eight_words_in_a_row():
    gate = leak([item("In which city was the poet and beekeeper Ada Brook born in 1871?", "Porto")], 8)
    text = "People ask which city was the poet and beekeeper Ada Brook from."
    assert gate(DOCUMENT, text) == "leak"
    assert gate(Document(text=f"A quiz. {text}", id="quiz"), text) is None, "the source has it itself"
    assert gate(DOCUMENT, GOOD) is None


def test_a_short_item_leaks_with_its_answer():
    gate = leak([item("Who founded Rome?", "Romulus")], 8)
    assert gate(DOCUMENT, "Question: Who founded Rome? Answer: It was Romulus.") == "leak"
    assert gate(DOCUMENT, "Who founded Rome? Nobody knows.") is None
    assert gate(DOCUMENT, "Romulus is a name.") is None


def test_a_question_that_the_document_answers_is_no_leak():
    own = item("Where was Ada Brook born?", "Lisbon", document_id="ada")
    assert leak([own], 8)(DOCUMENT, GOOD) is None
    foreign = item("Where was Ada Brook born?", "Lisbon", document_id="other")
    elsewhere = Document(text="Nothing about people.", id="bees")
    assert leak([foreign], 8)(elsewhere, GOOD) == "leak"
    unanswered = item("Where was Ada Brook born?", "Porto", document_id="ada")
    assert leak([unanswered], 8)(DOCUMENT, "Where was Ada Brook born? Porto.") == "leak"


@pytest.mark.parametrize(
    "question", ["Who founded Rome?", "In which city was the poet and beekeeper Ada Brook born in 1871?"]
)
@pytest.mark.parametrize("owner", ["ada", "other"])
def test_an_item_planted_in_a_document_is_not_handed_on(question, owner):
    gate = leak([item(question, "Lisbon", document_id=owner)], 8)
    planted = Document(text=f"{DOCUMENT.text} {question} Lisbon.", id="ada")
    assert gate(planted, f"{GOOD} {question} Lisbon.") == "leak"
    assert gate(planted, DOCUMENT.text) is None


def test_the_question_template_is_not_part_of_the_item():
    templated = item("Question: Who founded Rome?\nAnswer:", "Romulus")
    gate = leak([templated], 8, "Question: {question}\nAnswer:")
    assert gate(DOCUMENT, "Who founded Rome? Romulus did.") == "leak"


def test_a_text_without_an_end_is_refused_where_the_gate_stands():
    assert check(DOCUMENT, GOOD, [truncated], ended=False) == "truncated"
    assert check(DOCUMENT, GOOD, [truncated]) is None
    assert check(DOCUMENT, GOOD, [empty(3)], ended=False) is None


@pytest.mark.parametrize("refuse", [True, False])
def test_the_gates_of_a_config_come_under_their_names(teacher_folder, refuse):
    tokenizer = AutoTokenizer.from_pretrained(teacher_folder)
    config = Config.model_validate({"gates": {"truncated": refuse}, "teacher": {"prompting": "policy"}})
    gates = build_gates(config, tokenizer)
    assert len(gates) == len(GATES) - (not refuse)
    assert check(DOCUMENT, GOOD, gates, ended=False) == ("truncated" if refuse else None)


def test_a_policy_that_was_shown_the_menu_must_not_echo_it(teacher_folder):
    tokenizer = AutoTokenizer.from_pretrained(teacher_folder)
    config = Config.model_validate({"teacher": {"prompting": "policy", "strategies": ["faq"]}})
    echo = " ".join(read_strategy("faq").split()[3:14])
    assert check(DOCUMENT, echo, build_gates(config, tokenizer)) is None, "a base model never saw it"
    tokenizer.chat_template = "{{ messages[0].content }}"
    assert check(DOCUMENT, echo, build_gates(config, tokenizer)) == "copy_of_prompt"


def test_the_first_reason_counts():
    gates = [empty(3), over_length(4, count), repetition(0.6)]
    assert check(DOCUMENT, "bees and honey and " * 20, gates) == "over_length"
    assert check(DOCUMENT, "bees make honey", gates) is None
