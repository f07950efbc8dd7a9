"""Which students are trained together, and what happens to a batch whose worker dies."""

import pytest

from configs.schema import Student
from student.pools.batching import JobBatch, TrainingSize, batch_sizes, chunks, longest_first
from student.records import Lesson, Segment


def run(batch, poisoned):
    """Plays a batch through: a worker dies of any batch that holds a poisoned job. Returns (done, lost, deaths)."""
    waiting, done, lost, deaths = [batch], [], [], 0
    while waiting:
        batch = waiting.pop(0)
        if not poisoned & set(batch.jobs):
            done += batch.jobs
            continue
        deaths += 1
        again = batch.after_death()
        lost += [] if again else batch.jobs
        waiting += again
    return sorted(done), sorted(lost), deaths


def test_a_job_that_kills_workers_is_identified_and_no_other_is_lost():
    done, lost, deaths = run(JobBatch(list(range(32))), {11})
    assert lost == [11]
    assert done == [i for i in range(32) if i != 11]
    assert deaths == 7, "twice all of them, then log2(32) halves"
    assert run(JobBatch([0, 1, 2, 3, 4]), {0, 4})[:2] == ([1, 2, 3], [0, 4])


def test_a_job_is_run_again_once():
    batch = JobBatch([7])
    [again] = batch.after_death()
    assert again.jobs == [7]
    assert again.after_death() == []


def test_the_length_of_a_lesson_follows_the_schedule_that_it_will_have():
    ten = "x" * 10
    assert TrainingSize.of(Lesson(texts=()), Student()) == (0, 0.0)
    assert TrainingSize.of(Lesson(texts=(ten, ten)), Student(epochs=3)) == (3, 20.0)
    assert TrainingSize.of(Lesson(texts=(ten, ten)), Student(epochs=3, texts_per_step=1)) == (6, 10.0)
    assert TrainingSize.of(Lesson(texts=(ten,), steps=5), Student(steps=9)).steps == 5
    assert TrainingSize.of(Lesson(texts=(ten,), epochs=2), Student(steps=9)).steps == 2
    assert TrainingSize.of(Lesson(texts=((Segment("prompt", ten), Segment("answer", ten)),)), Student(steps=1)) == (
        1,
        20.0,
    )
    same = [TrainingSize.of(Lesson(texts=(ten * n,)), Student(steps=9, tokens_per_step=8)) for n in (1, 20)]
    assert same[0] == same[1] == (9, 40.0)


def test_jobs_go_longest_first_and_equals_in_their_order():
    sizes = [TrainingSize(1, 5.0), TrainingSize(9, 1.0), TrainingSize(1, 9.0), TrainingSize(1, 5.0)]
    assert longest_first(sizes) == [1, 2, 0, 3]
    assert chunks([1, 2, 0, 3], 3) == [[1, 2, 0], [3]]


@pytest.mark.parametrize(
    ("jobs", "most", "workers", "sizes"),
    [(8, 32, 2, [4, 4]), (3, 32, 4, [1, 1, 1]), (64, 32, 2, [32, 32]), (70, 32, 2, [17, 18, 17, 18]), (0, 32, 2, [])],
)
def test_equal_jobs_are_cut_so_that_all_workers_end_together(jobs, most, workers, sizes):
    result = batch_sizes([1.0] * jobs, most, workers)
    assert sorted(result) == sorted(sizes)
    assert sum(result) == jobs


def test_batches_of_long_jobs_hold_fewer():
    costs = [8.0, 4.0, 4.0, *[1.0] * 16]
    sizes = batch_sizes(costs, 32, 4)
    assert len(sizes) == 4 and sum(sizes) == len(costs) and sizes[0] == 1
    starts = [sum(sizes[:n]) for n in range(4)]
    shares = [sum(costs[start : start + size]) for start, size in zip(starts, sizes, strict=True)]
    assert max(shares) <= 1.2 * sum(costs) / 4
    # No batch is above `most`, whatever its cost.
    assert max(batch_sizes([100.0, *[0.1] * 99], 10, 3)) <= 10
