"""A student's own answers tell how sure it is of them, the same whoever is asked with it."""

import math

import pytest
import torch

from configs.schema import Lora, Student
from student.engine.models import SampledAnswers
from student.pools.inline import InlinePool
from student.records import Exam, Job, Lesson, Question
from student.text.grading import agreement


def test_answers_agree_by_their_first_lines():
    assert agreement(["The mat.", "mat\nand more", "rug", " MAT"]) == 0.75
    assert agreement(["", "  ", "a", "b"]) == 1.0 * 3 / 4  # an article alone is no answer either
    assert agreement(["one", "two"]) == 0.5


def test_noise_makes_the_likeliest_token_a_sample():
    """Of 4,000 draws each token is the largest as often as the distribution says, and uncertain ones count as such."""
    probabilities_V = torch.tensor([0.7, 0.2, 0.1])
    logits_BV = (probabilities_V.log() + 5.0).expand(4000, 3)
    noisy = SampledAnswers(range(4000))
    drawn = noisy(None, logits_BV).argmax(-1)
    shares = torch.bincount(drawn, minlength=3) / 4000
    assert torch.allclose(shares, probabilities_V, atol=4 * math.sqrt(0.25 / 4000))
    expected = sum(math.log(1 / 3 / p) for p in (0.7, 0.2, 0.1)) / 3
    noisy(None, torch.zeros(4000, 3))
    once, twice = noisy.certainties([1, 2, *[1] * 3998])[:2]
    assert once == pytest.approx(expected, abs=1e-5) and twice == pytest.approx(expected / 2, abs=1e-5)


def test_equal_seeds_draw_alike_whatever_stands_beside():
    logits_BV = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    together, alone = SampledAnswers([5, 9, 5]), SampledAnswers([5])
    for _ in range(2):
        assert torch.equal(together(None, logits_BV)[2], alone(None, logits_BV[2:])[0])


def test_a_student_that_learnt_an_answer_is_sure_of_it(llama, tokenizer):
    settings = Student(
        lora=Lora(rank=8, alpha=16), learning_rate=2e-2, steps=40, sampled_answers=4, max_answer_tokens=3
    )
    questions = (Question(prompt="what is red ?", answer="the mat"), Question(prompt="what is blue ?", answer="a sea"))
    lessons = [Lesson(texts=("what is red ? the mat .",)), Lesson(texts=("what is red ? the mat .",)), Lesson(texts=())]
    pool = InlinePool(settings, model=llama, tokenizer=tokenizer)
    jobs = [Job(lesson=lesson, exam=Exam(questions=questions)) for lesson in lessons]
    learnt, again, untaught = [outcome.answers for outcome in pool.examine(jobs)]
    assert learnt == again
    assert learnt[0].extra["majority_after"] == 1.0 and untaught[0].extra["majority_after"] < 1.0
    assert learnt[0].gain_of("self_certainty") > 1.0
    assert untaught[0].gain_of("self_certainty") == pytest.approx(0.0, abs=1e-4)
    [alone] = [outcome.answers for outcome in pool.examine(jobs[:1])]
    for answer, expected in zip(alone, learnt, strict=True):
        assert answer.extra == pytest.approx(expected.extra, abs=1e-4)
