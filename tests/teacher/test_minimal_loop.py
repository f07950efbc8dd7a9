"""The minimal loop: at toy size that it runs and repeats itself, on the real lab that the teacher learns."""

import json
import math

import pytest

from configs.schema import Lab, Lora, Student
from student.records import Answer, Outcome
from teacher.minimal_loop import GROUP, REFUSED, Rewrite, select, teach, train


@pytest.fixture
def toy_lab(tmp_path, teacher_folder, student_folder, make_documents):
    """A folder as `notewright lab` leaves it, with random models of two layers."""
    (tmp_path / "shards").mkdir()
    lines = [{"id": d.id, "text": d.text, "questions": d.metadata["questions"]} for d in make_documents(12)]
    (tmp_path / "shards" / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "teacher").symlink_to(teacher_folder)
    (tmp_path / "student-fixed").symlink_to(student_folder)
    return tmp_path


def test_it_prints_a_line_a_round_and_the_same_again(toy_lab, capsys):
    settings = Student(steps=3, learning_rate=0.01, lora=Lora(rank=4, alpha=8), device="cpu")
    runs = []
    for _ in range(2):
        gains = train(toy_lab, rounds=2, documents_per_round=6, student_settings=settings, max_new_tokens=20)
        assert len(gains) == 2 and all(math.isfinite(gain) for gain in gains)
        runs.append((gains, capsys.readouterr().out))
    assert runs[0] == runs[1]
    assert [line.partition(":")[0] for line in runs[0][1].splitlines()] == ["round 1", "round 2"]


class Pool:
    """Students that gain as many nats about a document as its rewrite has words; every third student fails."""

    def examine(self, jobs):
        outcomes = []
        for number, job in enumerate(jobs):
            words = {id: len(text.split()) for id, text in zip(job.lesson.document_ids, job.lesson.texts, strict=True)}
            gains = [words.get(question.document_id, 0) for question in job.exam.questions]
            answers = [Answer(loglik_before=0, loglik_after=g, correct_before=False, correct_after=True) for g in gains]
            failed = number % 3 == 2
            outcomes.append(Outcome(gain=None, error="x") if failed else Outcome(gain=0.0, answers=tuple(answers)))
        return outcomes


def test_a_rewrite_is_credited_with_its_own_documents_questions_and_the_best_is_kept():
    question = {"question": "where?", "answer": "here", "split": "reward"}
    documents = [
        {"id": str(d), "text": "t", "questions": [question, question | {"split": "heldout"}]} for d in range(9)
    ]
    rewrites_DG = [
        [Rewrite([1], [2], "copy", "word " * (d + j), refused=d == 4 or j == 0) for j in range(GROUP)] for d in range(9)
    ]
    gains_DG = teach(Pool(), documents, rewrites_DG, seed=0)
    # Students 2 and 5 of the first eight documents fail, and of the ninth document those of 10 and 13.
    assert gains_DG[3] == [REFUSED, 4, REFUSED, 6, 7, REFUSED, 9, 10]
    assert gains_DG[8] == [REFUSED, 9, 10, REFUSED, 12, 13, REFUSED, 15]
    assert gains_DG[4] == [REFUSED] * GROUP
    kept = select(rewrites_DG, gains_DG)
    assert kept == [rewrites_DG[d][7] for d in range(9) if d != 4], "of a group that was refused nothing is kept"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_teacher_learns_on_the_lab_what_its_student_gains_from():
    from curation.lab.build import build_lab

    lab = Lab()
    build_lab(lab)
    gains = train(lab.dir, rounds=3, documents_per_round=24)
    assert gains[2] > gains[0] + 1, "nats a token"
