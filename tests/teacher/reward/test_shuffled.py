"""The control of a reward: answers that are dealt to the wrong lessons."""

import statistics
from dataclasses import replace

import pytest

from configs.errors import UserError
from configs.load import load_config
from student.records import Answer, Exam, Job, Lesson, Outcome, Proof, Question, mean_gain
from teacher.reward.shuffled import ShuffledPool


class Counting:
    """Students that gain what their lesson's number says, of each document ten times its own number more."""

    fingerprint = "counting"
    proof = Proof("float32", packed=True, shares_prompts=True)
    at_once = 8

    def examine(self, jobs, on_done=None):
        return [self.taught(job) for job in jobs]

    @staticmethod
    def taught(job):
        number = int(job.lesson.texts[0].split()[1])
        if number == FAILS:
            return Outcome(gain=None, error="diverged")
        gains = [number + 10.0 * int(q.document_id) for q in job.exam.questions]
        answers = [Answer(loglik_before=0.0, loglik_after=g, correct_before=False, correct_after=True) for g in gains]
        return Outcome(gain=statistics.fmean(gains), answers=tuple(answers))


FAILS = 5


def test_shuffling_moves_answers_between_students_document_by_document():
    """Document by document: what is dealt wrongly about one says nothing of another, and nothing moves between exams,
    seeds, or to a student that failed."""
    students = Counting()
    pool = ShuffledPool(students)
    names = [str(n // 2) for n in range(8)]  # two questions about each of four documents
    exam = Exam(
        questions=tuple(Question(prompt=f"what {n}?", answer="gold", document_id=d) for n, d in enumerate(names))
    )
    jobs = [Job(lesson=Lesson(texts=(f"text {n}",), document_ids=("a",), seed=1), exam=exam) for n in range(8)]
    jobs += [replace(job, lesson=replace(job.lesson, seed=2)) for job in jobs]
    straight, dealt = students.examine(jobs), pool.examine(jobs)
    orders = []
    for part in (slice(0, 8), slice(8, 16)):
        ran = [(s, d) for s, d in zip(straight[part], dealt[part], strict=True) if s.gain is not None]
        assert len(ran) == 7 and dealt[part][FAILS].error == "diverged"
        for place in range(8):
            before, after = (
                [outcome.answers[place].gain_of("loglik") for outcome in side] for side in zip(*ran, strict=True)
            )
            assert sorted(before) == sorted(after)
            orders.append([gain - 10 * int(names[place]) for gain in after])
        assert all(d.gain == pytest.approx(mean_gain(d.answers, "loglik")) for _, d in ran)
    assert orders[::2] == orders[1::2], "a document's answers stay together"
    assert len({tuple(order) for order in orders}) == 8, "each document and seed has an order of its own"
    alone = pool.examine(jobs[:1])
    assert alone == straight[:1], "an arm that is measured is one student an exam and seed"
    assert pool.fingerprint != students.fingerprint


def test_no_round_is_chosen_by_gains_that_are_not_shuffled(tmp_path):
    (tmp_path / "e.yaml").write_text("reward: {shuffled: true}\nrl: {validation_documents: 4}\n")
    with pytest.raises(UserError, match=r"reward\.shuffled.*set rl\.validation_documents to 0"):
        load_config(tmp_path / "e.yaml")
