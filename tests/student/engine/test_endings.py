"""An answer counts as right only if it ends where the gold answer does."""

import pytest

from configs.schema import Lora, Student
from student.engine.encoding import ends_answer
from student.pools.inline import InlinePool
from student.records import Exam, Job, Lesson, Question


@pytest.mark.parametrize("text", [".", "\n", ".\n", " .", " \n\n", ",", " (", ' "', "!", ")", ":", " —", "。", "…"])
def test_line_breaks_and_punctuation_end_an_answer(text):
    assert ends_answer(text)


@pytest.mark.parametrize(
    "text",
    ["ville", " Times", " and", "5", " 5", "", " ", "-", "-based", "'s", "’s", "–", "%", ".5", ".com", " &", "�", "$"],
)
def test_whatever_goes_on_does_not(text):
    assert not ends_answer(text)


def test_an_answer_is_right_only_if_the_student_ends_it(llama, tokenizer):
    """Three students learn the same answer by heart: one ends it with a full stop, one with the end of the text, and
    one goes on to another word."""
    settings = Student(lora=Lora(rank=8, alpha=16), learning_rate=2e-2, steps=40, decode=True)
    exam = Exam(questions=(Question(prompt="what is red ?", answer="the mat"),))
    texts = ["what is red ? the mat .", "what is red ? the mat", "what is red ? the mat flew"]
    jobs = [Job(lesson=Lesson(texts=(text,)), exam=exam) for text in texts]
    answers = [outcome.answers[0] for outcome in InlinePool(settings, model=llama, tokenizer=tokenizer).examine(jobs)]
    assert [answer.extra["greedy_after"] for answer in answers] == [1.0, 1.0, 1.0]
    assert [answer.correct_after for answer in answers] == [True, True, False]
    assert [answer.extra["exact_match_after"] for answer in answers] == [1.0, 1.0, 0.0]
