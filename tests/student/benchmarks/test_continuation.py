"""The end of a document as its exam."""

import pytest
from datatrove.data import Document

from student.benchmarks.continuation import MOST, set_apart
from student.benchmarks.sources import DocumentQuestions
from student.records import Question

SENTENCES = [f"The mill of town {i} stands on the river, and it grinds corn number {i}." for i in range(20)]


def asked(document: Document) -> tuple[Question, ...]:
    return DocumentQuestions().exam(document).questions


def test_the_teacher_reads_the_beginning_and_students_are_asked_for_the_end():
    whole = " ".join(SENTENCES)
    document = set_apart(Document(whole, "d"), 0.25)
    assert document.text == " ".join(SENTENCES[:15])
    questions = asked(document)
    assert {question.answer for question in questions} == set(SENTENCES[15:])
    assert {question.split for question in questions} == {"reward", "heldout"}
    for question in questions:
        assert question.text and question.document_id == "d"
        assert f"{question.prompt} {question.answer}" in whole, "a sentence is asked after what stands before it"
    long = set_apart(Document(whole, "d"), 0.9)
    assert len(asked(long)) == MOST and long.text == " ".join(SENTENCES[:2])


@pytest.mark.parametrize(
    ("text", "head", "answers"),
    [
        ("水车在河边。它磨玉米。它很老。", "水车在河边。它磨玉米。", 2),
        ("One sentence.\n\nAnother one", "One sentence.", 2),
        ("A heading\nAnd what stands below it goes on and on without any end", "A heading", 2),
    ],
)
def test_any_script_and_a_single_sentence_is_halved(text, head, answers):
    document = set_apart(Document(text, "d"), 0.3)
    if "水" in text:
        assert document.text == head and asked(document)
        return
    assert document.text == head and len(asked(document)) == answers
    assert {question.split for question in asked(document)} == {"reward", "heldout"}


def test_a_text_without_an_end_to_set_apart_stays_and_a_rows_own_field_is_no_exam():
    document = set_apart(Document("one two three four five", "d", metadata={"continuation": "yes"}), 0.3)
    assert document.text == "one two three four five" and asked(document) == ()


def test_it_is_asked_beside_the_documents_own_questions():
    own = {"question": "who?", "answer": "the mill"}
    document = set_apart(Document(" ".join(SENTENCES), "d", metadata={"questions": [own]}), 0.2)
    assert [question.text for question in asked(document)] == [False, True, True, True, True]
