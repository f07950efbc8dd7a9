"""The speed and cost of the student pool on Ray: `notewright bench pool --json`.

Students of the lab's shape learn in this process and on one and two actors, in turns. Then 10,000 queued jobs pass
through actors whose students are simulated (they answer at once), to measure what passing alone costs, and whether
memory grows with the queue.
"""

import gc
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers.utils.logging import disable_progress_bar

from configs.schema import Lora, Student
from student.bench.inputs import bench_model, environment, lesson_texts
from student.engine.helpers import torch_threads
from student.pools.inline import InlinePool
from student.pools.ray import RayPool
from student.records import Answer, Exam, Job, Lesson, OnDone, Outcome, Question

TEXTS, QUESTIONS = 8, 40
"""Texts and questions of a student, as in the lab: eight people, five questions about each."""
BATCH = 32
QUEUE = 10_000
TARGET = 0.05
SIMULATED = "simulated"

Progress = Callable[[str], object]


class BenchStudents(InlinePool):
    """Real students, and simulated ones (lessons with `loss_on: simulated`), which answer at once with outcomes as
    large as real ones: an answer for each question."""

    def examine(self, jobs: list[Job], on_done: OnDone | None = None) -> list[Outcome]:
        if jobs[0].lesson.loss_on != SIMULATED:
            return super().examine(jobs, on_done)
        names = ("loglik_sum_before", "loglik_sum_after", "bits_per_byte_before", "bits_per_byte_after")
        outcomes = []
        for job in jobs:
            answer = Answer(loglik_before=-2.0, loglik_after=-1.0, correct_before=False, correct_after=True)
            # Each answer has a dict of its own, since pickle sends a shared one only once.
            answers = tuple(replace(answer, extra=dict.fromkeys(names, 0.5)) for _ in job.exam.questions)
            metrics = {f"metric_{n}": float(n) for n in range(12)} if answers else {}
            outcomes.append(Outcome(gain=1.0, metrics=metrics, answers=answers))
        return outcomes


def run_bench(*, students: int = 64, steps: int = 15, repeats: int = 3, progress: Progress = print) -> dict[str, Any]:
    """Measures; `students` train in each arm, `repeats` times in turns. Raises UserError where Ray is missing. Keys of
    the result that need words:

    * `students_per_second`: medians by arm. `inline` (this process and its helpers, on all cores), `inline_1` (one
      thread), `actors_1` and `actors_2` (one thread each); `ratio_to_...` are medians of ratios within a turn, which
      other work on the machine hardly changes.
    * `seconds_per_student`: of `inline_1`, in batches of 32.
    * `overhead_ms_per_job`: wall clock of a job through two actors that do nothing, in batches of 32, with outcomes of
      real size; `overhead_share` is its share of `seconds_per_student`.
    * `driver_ms_per_job`: CPU time of the dispatching process alone. `queue.rss_growth_mb`: its highest memory while
      the queued jobs run, above that when all of them were made.
    """
    disable_progress_bar()
    jobs = make_jobs(max(students, QUEUE), steps)
    with tempfile.TemporaryDirectory(prefix="notewright-bench-") as folder:
        settings = _settings(Path(folder), jobs)
        # Both pools are open at the same time, so each actor asks for half a core.
        one, two = (RayPool(settings.model_copy(update={"actors": n}), sharing=2, build=BenchStudents) for n in (1, 2))
        seconds = _measure_arms(settings, one, two, jobs[:students], repeats, progress)
        one.close()
        passing = _measure_passing(two, jobs[:QUEUE], progress)
        two.close()
    alone = statistics.median(seconds["inline_1"])
    overhead_share = passing["overhead_ms_per_job"] / 1000 / alone
    return {
        "students_per_second": {arm: 1 / statistics.median(s) for arm, s in seconds.items()},
        **{
            f"ratio_to_{base}": {
                arm: statistics.median(b / a for a, b in zip(seconds[arm], seconds[base], strict=True))
                for arm in ("actors_1", "actors_2")
            }
            for base in ("inline", "inline_1")
        },
        "seconds_per_student": alone,
        "overhead_share": overhead_share,
        "within_target": overhead_share < TARGET,
        **passing,
        "students": students,
        "steps": steps,
        "repeats": repeats,
        "cores": os.cpu_count(),
        **environment(torch.device("cpu"), torch.float32),
    }


def make_jobs(count: int, steps: int) -> list[Job]:
    """Lessons of eight biographies, each its own; students of one group of 32 sit the same exam."""
    texts = lesson_texts(None, 2000)
    ids = tuple(map(str, range(TEXTS)))
    jobs = []
    for n in range(count):
        if n % BATCH == 0:
            prompts = [f"{texts[(7 * (n // BATCH) + number) % 2000][:30]} was born in" for number in range(QUESTIONS)]
            questions = (Question(prompt=p, answer="Lisbon", document_id=ids[i % TEXTS]) for i, p in enumerate(prompts))
            exam = Exam(questions=tuple(questions))
        lesson_of_eight = tuple(texts[(n * TEXTS + i * (1 + n % 13)) % 2000] for i in range(TEXTS))
        lesson = Lesson(texts=lesson_of_eight, document_ids=ids, steps=steps, seed=n)
        jobs.append(Job(lesson=lesson, exam=exam))
    return jobs


def _settings(folder: Path, jobs: list[Job]) -> Student:
    model, tokenizer = bench_model(
        Student(model="lab", device="cpu"),
        [text for job in jobs[:200] for text in job.lesson.texts],  # type: ignore[misc]
    )
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    return Student(
        model=str(folder / "base"), lora=Lora(rank=8, alpha=16), learning_rate=5e-3, device="cpu", max_slots=BATCH,
        texts_per_step=TEXTS,
    )  # fmt: skip


def _measure_arms(
    settings: Student, one: RayPool, two: RayPool, jobs: list[Job], repeats: int, progress: Progress
) -> dict[str, list[float]]:
    """Seconds a student by arm and turn."""
    inline = InlinePool(settings)
    arms: dict[str, tuple[InlinePool | RayPool, int]] = {
        "inline": (inline, os.cpu_count() or 1), "inline_1": (inline, 1), "actors_1": (one, 1), "actors_2": (two, 1),
    }  # fmt: skip
    for pool, _ in arms.values():
        pool.examine(jobs[:4])
    seconds: dict[str, list[float]] = {arm: [] for arm in arms}
    for turn in range(repeats):
        for arm, (pool, threads) in arms.items():
            start = time.perf_counter()
            with torch_threads(threads):
                pool.examine(jobs)
            seconds[arm].append((time.perf_counter() - start) / len(jobs))
        rates = ", ".join(f"{arm} {1 / values[-1]:.2f}" for arm, values in seconds.items())
        progress(f"turn {turn + 1}/{repeats}, students/s: {rates}")
    return seconds


def _measure_passing(pool: RayPool, jobs: list[Job], progress: Progress) -> dict[str, Any]:
    """The cost of passing jobs through two actors that do nothing with them."""
    full = [replace(job, lesson=replace(job.lesson, loss_on=SIMULATED)) for job in jobs[: 64 * BATCH]]
    queued = [Job(lesson=replace(job.lesson, loss_on=SIMULATED), exam=Exam()) for job in jobs]
    pool.examine(full[: 4 * BATCH])
    start, start_cpu = time.perf_counter(), time.process_time()
    pool.examine(full)
    seconds, cpu = (time.perf_counter() - start) / len(full), (time.process_time() - start_cpu) / len(full)
    progress(f"through actors that do nothing: {1000 * seconds:.2f} ms a job, {1000 * cpu:.2f} ms of CPU here")
    gc.collect()
    process = psutil.Process()
    memory = [process.memory_info().rss]
    start = time.perf_counter()
    pool.examine(queued, lambda _: memory.append(process.memory_info().rss))
    queue = {
        "jobs": len(queued),
        "seconds": time.perf_counter() - start,
        "rss_start_mb": memory[0] / 1e6,
        "rss_growth_mb": (max(memory) - memory[0]) / 1e6,
    }
    progress(f"{len(queued)} queued: {queue['seconds']:.1f} s, memory +{queue['rss_growth_mb']:.1f} MB")
    return {
        "overhead_ms_per_job": 1000 * seconds,
        "driver_ms_per_job": 1000 * cpu,
        "queue": queue,
    }


def table(result: dict[str, Any]) -> str:
    """The measurements as lines to read."""
    queue, inline = result["queue"], result["ratio_to_inline_1"]
    lines = [
        "students/s: " + ", ".join(f"{arm} {rate:.2f}" for arm, rate in result["students_per_second"].items()),
        f"beside one thread in this process: 1 actor {inline['actors_1']:.2f} times, 2 actors"
        f" {inline['actors_2']:.2f} times as fast",
        f"passing a job through an actor: {result['overhead_ms_per_job']:.2f} ms,"
        f" {result['overhead_share']:.2%} of a student's {1000 * result['seconds_per_student']:.0f} ms",
        f"{queue['jobs']} jobs queued: {queue['seconds']:.1f} s, memory +{queue['rss_growth_mb']:.1f} MB",
    ]
    return "\n".join(lines)
