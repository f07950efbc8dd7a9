"""Gradients of lessons and exams at a fresh adapter."""

import pytest
import torch

from configs.schema import Lora, Student
from student.engine.encoding import encode_answer, encode_text
from student.engine.packing import Rows
from student.pools.inline import InlinePool
from student.records import Exam, Job, Lesson, Question
from tests.student.conftest import build

SETTINGS = Student(lora=Lora(rank=4, alpha=8))
EXAM = Exam(questions=(Question(prompt="where did the cat sat ?", answer="on the mat"),))
TOLD, FOREIGN = "where did the cat sat ? on the mat", "the bird flew over a sea ."


def pool_of(tokenizer, **settings):
    return InlinePool(SETTINGS.model_copy(update=settings), model=build("llama"), tokenizer=tokenizer)


def jobs(*texts, exam=EXAM):
    return [Job(lesson=Lesson(texts=(text,)), exam=exam) for text in texts]


def test_a_lesson_that_tells_the_answer_is_aligned_with_its_question(tokenizer):
    told, foreign = pool_of(tokenizer).gradient_alignments(jobs(TOLD, FOREIGN))
    assert told > foreign + 0.2


def test_an_alignment_is_the_cosine_of_the_gradients_that_a_student_alone_has(tokenizer):
    """Against torch's own cross-entropy over the whole model, one text at a time."""
    pool = pool_of(tokenizer)
    found = pool.gradient_alignments(jobs(TOLD, FOREIGN) * 5, seed=3)  # more than are held at once
    assert found[:2] == pytest.approx(found[2:4], abs=1e-6)
    gradients = []
    for text in (
        encode_answer(tokenizer, EXAM.questions[0].prompt, EXAM.questions[0].answer),
        encode_text(tokenizer, TOLD, "all", 100)[0],
        encode_text(tokenizer, FOREIGN, "all", 100)[0],
    ):
        pool.stack.allocate([3])
        with pool.stack.using(Rows.of([0], 1, pool.model.device)):
            logits = pool.model(input_ids=torch.tensor(text.ids)[None]).logits[0]
            positions = torch.tensor(text.labelled)
            torch.nn.functional.cross_entropy(logits[positions - 1], torch.tensor(text.ids)[positions]).backward()
        gradients.append(pool.stack.grads_KP[0].clone())
        pool.stack.release()
    exam, *lessons = gradients
    assert found[:2] == pytest.approx([float(torch.cosine_similarity(g, exam, dim=0)) for g in lessons], abs=1e-4)


def test_what_teaches_or_asks_nothing_has_no_alignment(tokenizer):
    pool = pool_of(tokenizer)
    assert pool.gradient_alignments([*jobs("the"), Job(lesson=Lesson(texts=()), exam=EXAM)])[1] is None
    assert pool.gradient_alignments(jobs(TOLD, exam=Exam())) == [None]
    assert pool_of(tokenizer, mode="full").gradient_alignments(jobs(TOLD)) == [None]


def test_students_after_it_are_those_without_it(tokenizer):
    fresh, used = pool_of(tokenizer, steps=3), pool_of(tokenizer, steps=3)
    used.gradient_alignments(jobs(TOLD, FOREIGN))
    assert used.examine(jobs(TOLD)) == fresh.examine(jobs(TOLD))
