"""Helpers train the same students as one process, and leave nothing behind, whichever process ends."""

import copy
import dataclasses
import fcntl
import gc
import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import student.engine.training
from configs.schema import Lora, Student
from student.engine.helpers import Helpers, can_fork
from student.engine.lora import AdapterStack
from student.engine.schedule import plan_schedule
from student.engine.training import StackedAdamW, TrainingPart, student_helpers, train_slots
from student.pools.inline import InlinePool
from student.records import Exam, Job, Lesson, Question
from tests.processes import gone
from tests.student.conftest import build

pytestmark = pytest.mark.skipif(not can_fork(), reason="helpers are forked, and cannot be here")

SETTINGS = Student(lora=Lora(rank=4, alpha=8), learning_rate=2e-2, steps=6)
LESSONS = [
    Lesson(texts=("the cat sat on the mat .", "where did it sit ? the mat"), seed=1),
    Lesson(texts=("the dog ran over the red rug . it was green .",), learning_rate=3e-2, steps=4, seed=2),
    Lesson(texts=("a bird flew over the sea .",), loss_on="all", seed=1),
    Lesson(texts=("the red rug",), steps=2, seed=3),
    Lesson(texts=("the cat sat .",), learning_rate=1e30, seed=1),
]


@pytest.fixture(autouse=True)
def helped(monkeypatch):
    """Lessons of a few tokens are work enough for three processes, however uneven."""
    monkeypatch.setattr(student.engine.training, "PART_TOKENS", 1)
    monkeypatch.setattr(student.engine.training, "UNEVEN", 10)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_helpers_train_the_same_students_as_one_process(any_model, tokenizer):
    schedules = [plan_schedule(tokenizer, lesson, SETTINGS) for lesson in LESSONS]
    results = []
    for with_helpers in (False, True):
        stack = AdapterStack(copy.deepcopy(any_model), SETTINGS.lora)
        helpers = student_helpers(stack.model, stack, SETTINGS, 0, examine=print) if with_helpers else None
        assert helpers is None or len(helpers) == 2
        stack.allocate([lesson.seed for lesson in LESSONS])
        started = stack.params_KP.clone()
        progress, usage = train_slots(
            stack.model, stack, schedules, SETTINGS, pad_id=0, max_tokens=4096, helpers=helpers
        )  # fmt: skip
        assert torch.get_num_threads() == 3
        results.append((progress, usage.labels, stack.params_KP.clone(), started))
    (alone, labels, expected_KP, started_KP), (progress, used, params_KP, _) = results
    assert used == labels
    assert progress[4].error and alone[4].error
    for slot in range(4):
        assert progress[slot].error is None
        assert progress[slot].losses == pytest.approx(alone[slot].losses, abs=1e-5)
        moved = (expected_KP[slot] - started_KP[slot]).norm()
        # Adam makes full steps of gradients that are all but zero, and their rounding depends on the other students.
        assert (params_KP[slot] - expected_KP[slot]).norm() < 1e-2 * moved


def test_one_seed_gives_the_same_bits(llama, tokenizer):
    jobs = [
        Job(lesson=lesson, exam=Exam(questions=(Question(prompt="what is red ?", answer="the rug"),)))
        for lesson in LESSONS[:4]
    ]
    pools = [InlinePool(SETTINGS, model=build("llama"), tokenizer=tokenizer) for _ in "ab"]
    assert all(len(pool.helpers) == 2 for pool in pools)
    assert pools[0].examine(jobs) == pools[1].examine(jobs)


def test_exact_and_checkpointed_pools_have_no_helpers(llama, tokenizer):
    for alone in ("exact", "gradient_checkpointing"):
        settings = SETTINGS.model_copy(update={alone: True})
        assert InlinePool(settings, model=build("llama"), tokenizer=tokenizer).helpers is None


EXAMS = [
    Exam(
        questions=(
            Question(prompt="where did the cat sat ?", answer="mat", distractors=("rug", "the sea")),
            Question(prompt="what is red ?", answer="the rug", distractors=("a sea",)),
            Question(prompt="what is blue ?", answer="the sea", split="heldout"),
        ),
        retention_texts=("the bird flew over the sea .",),
    ),
    Exam(questions=(Question(prompt="where did the cat sat ?", answer="mat"),)),
    Exam(),
    Exam(retention_texts=("a dog ran .", "a cat sat on the rug .")),
]


def test_students_without_lessons_leave_the_others_evenly_divided(llama, tokenizer, monkeypatch):
    """With slots for them four students were one part, and two threads, which shared each operation, stood still for
    minutes where other programs took the cores."""
    monkeypatch.setattr(student.engine.training, "UNEVEN", 1.15)
    torch.set_num_threads(2)
    pool, parts, share = InlinePool(SETTINGS, model=llama, tokenizer=tokenizer), [], Helpers.share
    monkeypatch.setattr(Helpers, "share", lambda self, tasks, here: parts.extend(tasks) or share(self, tasks, here))
    exam = Exam(questions=(Question(prompt="what is red ?", answer="the rug"),))
    taught = [Job(lesson=dataclasses.replace(LESSONS[0], seed=seed), exam=exam) for seed in range(4)]
    outcomes = pool.examine([*taught, *[Job(lesson=Lesson(texts=()), exam=exam)] * 28])
    assert [len(part.schedules) for part in parts if isinstance(part, TrainingPart)] == [2]
    assert all(o.gain != 0 for o in outcomes[:4]) and all(o.gain == 0 and not o.error for o in outcomes[4:])


@pytest.mark.parametrize("exams", [EXAMS, EXAMS[:1]], ids=["several students", "questions of one student"])
def test_helpers_examine_as_one_process_does(any_model, tokenizer, monkeypatch, exams):
    settings, shared = SETTINGS.model_copy(update={"decode": True, "sampled_answers": 3, "max_answer_tokens": 4}), []
    share = Helpers.share
    monkeypatch.setattr(
        Helpers, "share", lambda self, tasks, here: shared.append(len(tasks)) or share(self, tasks, here)
    )
    results = []
    for count in (0, 1, 2):
        torch.set_num_threads(1 + count)
        pool = InlinePool(settings, model=copy.deepcopy(any_model), tokenizer=tokenizer)
        assert len(pool.helpers or ()) == count
        pool.stack.allocate([7 + k for k in range(len(exams))])
        generator = torch.Generator().manual_seed(0)
        pool.stack.params_KP.add_(torch.randn(pool.stack.params_KP.shape, generator=generator), alpha=0.05)
        before = [pool.examiner.before(exam, 4096) for exam in exams]
        results.append((before, pool.examiner.after(exams, 4096)))
        assert pool.examiner.after(exams, 4096) == results[-1][1], "the same bits on every call"
    assert {1, 2} <= set(shared)
    for with_helpers in results[1:]:
        for expected, got in zip(itertools.chain(*results[0]), itertools.chain(*with_helpers), strict=True):
            assert got.retention_loss == pytest.approx(expected.retention_loss, abs=1e-5)
            for a, b in zip(expected.grades, got.grades, strict=True):
                assert (a.loglik, a.correct) == (pytest.approx(b.loglik, abs=1e-5), b.correct)
                assert a.extra == pytest.approx(b.extra, abs=1e-4)
    if len(exams) > 1:
        first, second, *_ = (result.grades[0].loglik for result in results[0][1][:2])
        assert first != second, "each student answers for itself"


def test_an_exact_exam_does_not_depend_on_threads(llama, tokenizer):
    settings = SETTINGS.model_copy(update={"exact": True})
    jobs = [Job(lesson=lesson, exam=EXAMS[0]) for lesson in LESSONS[:4]]
    outcomes = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        outcomes.append(InlinePool(settings, model=build("llama"), tokenizer=tokenizer).examine(jobs))
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("place", ["here", "there"])
def test_a_process_that_fails_stops_the_others(llama, tokenizer, monkeypatch, place):
    real, here, steps = StackedAdamW.step, os.getpid(), []

    def step(self, number, *args):
        steps.append(number)
        if number == 3 and (os.getpid() == here) == (place == "here"):
            raise torch.OutOfMemoryError("injected")
        return real(self, number, *args)

    monkeypatch.setattr(StackedAdamW, "step", step)
    lessons = [dataclasses.replace(LESSONS[0], steps=3000, seed=seed) for seed in range(3)]
    stack = AdapterStack(llama, SETTINGS.lora)
    helpers = student_helpers(llama, stack, SETTINGS, 0, examine=print)

    def train(some):
        stack.allocate([lesson.seed for lesson in some])
        schedules = [plan_schedule(tokenizer, lesson, SETTINGS) for lesson in some]
        return train_slots(llama, stack, schedules, SETTINGS, pad_id=0, max_tokens=4096, helpers=helpers)[0]

    with pytest.raises(torch.OutOfMemoryError, match="injected") as caught:
        train(lessons)
    assert len(steps) < 3000
    if place == "there":
        assert "in step" in caught.value.__notes__[0]  # its traceback
    assert torch.get_num_threads() == 3 and len(helpers) == 2
    short = train([dataclasses.replace(lesson, steps=2) for lesson in lessons])
    assert [len(progress.losses) for progress in short] == [2, 2, 2]  # no result of the call that failed


def test_the_pool_goes_on_without_a_helper_that_dies(llama, tokenizer, caplog):
    jobs = [
        Job(lesson=lesson, exam=Exam(questions=(Question(prompt="what is red ?", answer="the rug"),)))
        for lesson in LESSONS[:4]
    ]
    expected = InlinePool(SETTINGS, model=build("llama"), tokenizer=tokenizer).examine(jobs)
    pool = InlinePool(SETTINGS, model=llama, tokenizer=tokenizer)
    os.kill(pool.helpers.processes[0].pid, signal.SIGKILL)
    outcomes = pool.examine(jobs)
    assert [outcome.gain for outcome in outcomes] == pytest.approx([outcome.gain for outcome in expected], abs=1e-4)
    assert len(pool.helpers) == 1 and "forward passes 2 times as small" in caplog.text
    assert pool.examine(jobs)[0].error is None


class Odd(Exception):
    def __init__(self, one, other):
        super().__init__(f"{one} and {other}")


def test_an_error_that_cannot_be_sent_arrives_as_its_message():
    def work(task, stopped):
        if task == 0:
            raise Odd("a", "b")  # pickle makes it again of one argument
        return task

    helpers = Helpers(work, 2)
    with pytest.raises(RuntimeError, match="Odd: a and b"):
        helpers.share([0, 1], lambda stopped: None)
    assert helpers.share([1, 2], lambda stopped: 0) == [0, 1, 2]


class Unreadable:
    def __reduce__(self):
        return refuse, ()


def refuse():
    raise TypeError("unreadable")


def test_an_unreadable_result_fails_its_own_call_only():
    helpers = Helpers(lambda task, stopped: Unreadable() if task == 0 else task, 2)
    with pytest.raises(TypeError, match="unreadable"):
        helpers.share([0, 1], lambda stopped: None)
    assert helpers.share([1, 2], lambda stopped: 0) == [0, 1, 2]


def test_an_interrupt_leaves_no_result_for_the_next_call():
    helpers = Helpers(lambda task, stopped: task + 1, 2)

    def interrupted(stopped):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        helpers.share([10, 20], interrupted)
    assert helpers.share([1, 2], lambda stopped: 0) == [0, 2, 3]


def test_helpers_end_with_their_owner():
    helpers = Helpers(lambda task, stopped: task, 2)
    processes = [process.pid for process in helpers.processes]
    del helpers
    gc.collect()
    assert gone(processes)


def test_a_helper_holds_no_lock_and_no_unwritten_line(tmp_path):
    """Those of a run's journal would bar the next process from the run."""
    with (tmp_path / "journal").open("a") as journal:
        fcntl.flock(journal, fcntl.LOCK_EX)
        journal.write("a line")
        helpers = Helpers(lambda task, stopped: gc.collect(), 1)
    helpers.share([None], lambda stopped: None)
    with (tmp_path / "journal").open() as again:
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
        helpers.close()
        assert gone([helpers.processes[0].pid]) and again.read() == "a line"


def test_helpers_end_with_a_process_that_is_killed(tmp_path):
    script = """
from student.engine.helpers import Helpers
import time
first, second = Helpers(print, 2), Helpers(print, 1)
print(*[process.pid for helpers in (first, second) for process in helpers.processes], flush=True)
time.sleep(3600)
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3]
    ) as parent:
        processes = list(map(int, parent.stdout.readline().split()))
        assert len(processes) == 3
        parent.kill()
    assert gone(processes)
