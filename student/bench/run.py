"""How fast the engine is beside what a user would pick instead, and whether it computes the same.

    python -m student.bench                                            the lab's student, 32 at once
    python -m student.bench --model smollm2-135m --lessons rewrites.jsonl --students 8 --steps 2 --repeats 2
    python -m student.bench --gpu --lessons rewrites.jsonl --output gpu.json          one short GPU lease

All are measured in one process, on the same lessons and in turns, so that a busy machine slows them alike.
"""

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from configs.errors import RunError
from configs.schema import Student
from student.bench.baselines import SeparateRuns
from student.bench.inputs import (
    SHAPES,
    bench_model,
    datasheet_flops,
    environment,
    exam_on,
    lesson_texts,
    matmul_peak,
    schedule_flops,
)
from student.bench.report import check_losses, max_difference, median_interval, median_ratio, table
from student.engine.memory import is_out_of_memory
from student.engine.schedule import Schedule, plan_schedule
from student.engine.training import Usage
from student.pools.batching import TrainingSize, chunks, longest_first
from student.pools.inline import MAX_SLOTS, InlinePool
from student.records import Lesson

SWEEP = (1, 2, 4, 8, 16, 32, 64, 128, 256)
WARM_UP_STEPS = 3
GPU_SHAPES = ("smollm2-135m", "qwen2.5-0.5b", "qwen2.5-7b")

Progress = Callable[[str], None]


class EngineRun(NamedTuple):
    """Students that the engine trained."""

    seconds: float
    """Of their training."""
    exam_seconds: float
    losses: list[list[float]]
    """Of each student and step, in nats."""
    usage: Usage


class Bench:
    """One model in the engine and in PEFT, and the schedules that both train."""

    def __init__(
        self,
        *,
        model: str,
        lessons: Path | None,
        texts_per_lesson: int,
        steps: int,
        rank: int,
        count: int,
        device: str,
        dtype: str = "auto",
        questions: int = 0,
    ):
        texts = lesson_texts(lessons, count * texts_per_lesson)
        settings = Student.model_validate(
            {
                "model": model,
                "steps": steps,
                "device": device,
                "dtype": dtype,
                "lora": {"rank": rank, "alpha": 2.0 * rank},
            }
        )
        self.base, tokenizer = bench_model(settings, texts)
        self.pad_id: int = tokenizer.pad_token_id  # type: ignore[assignment]  # bench_model sees to it
        self.parameters = sum(p.numel() for p in self.base.parameters())
        self.peft = SeparateRuns(self.base, settings)
        self.pool = InlinePool(settings, model=self.base, tokenizer=tokenizer)
        self.schedules, self.distilled = (
            [
                plan_schedule(tokenizer, Lesson(texts=tuple(lesson), contexts=contexts * len(lesson), seed=k), settings)
                for k, lesson in enumerate(chunks(texts, texts_per_lesson))
                for contexts in [(" ".join(lesson),) if distilled else ()]
            ]
            for distilled in (False, True)
        )
        self.exams = [exam_on(lesson, questions) for lesson in chunks(texts, texts_per_lesson)]

    def engine(self, schedules: list[Schedule]) -> EngineRun:
        """Trains, and then examines, in the batches that the pool plans."""
        order = longest_first([TrainingSize(schedule.steps, schedule.largest_step()) for schedule in schedules])
        plan = self.pool.plan(schedules)
        batches = chunks(order, min(self.pool.at_once, plan.students))
        losses: dict[int, list[float]] = {}
        self.pool.examiner.scorer.targets.clear()  # documents are read anew
        total, exam_seconds = Usage(), 0.0
        self._wait()
        start = time.perf_counter()
        for batch in batches:
            with self.pool.trained([schedules[k] for k in batch], batch, plan) as (progress, usage):
                losses |= zip(batch, (student.losses for student in progress), strict=True)
                total.add(usage)
                self._wait()
                exam_start = time.perf_counter()
                self.pool.examiner.after([self.exams[k] for k in batch], plan.exam_tokens)
                self._wait()
                exam_seconds += time.perf_counter() - exam_start
        seconds = time.perf_counter() - start - exam_seconds
        return EngineRun(seconds, exam_seconds, [losses[k] for k in range(len(schedules))], total)

    def separate(self, schedules: list[Schedule]) -> tuple[float, list[list[float]]]:
        """Trains one after another with PEFT, from the engine's adapters: seconds and losses (K, steps)."""
        seconds, losses = 0.0, []
        for seed, schedule in enumerate(schedules):
            self._start_peft(seed)
            start = time.perf_counter()
            losses.append(self.peft.careful(schedule, self.pad_id))
            seconds += time.perf_counter() - start
        return seconds, losses

    def padded(self, schedule: Schedule, length: int, steps: int) -> float:
        """Seconds a step of SEAL's padded recipe."""
        self._start_peft(0)
        start = time.perf_counter()
        done = self.peft.padded(schedule, self.pad_id, length, steps)
        self._wait()
        return (time.perf_counter() - start) / done

    def _start_peft(self, seed: int) -> None:
        assert self.pool.stack is not None
        self.peft.start_from(self.pool.stack, seed)
        self._wait()

    def _wait(self) -> None:
        if self.base.device.type == "cuda":
            torch.cuda.synchronize(self.base.device)

    def warm_up(self, schedules: list[Schedule]) -> list[Schedule]:
        """Trains a few steps unmeasured: threads, kernels and memory pools start, and helpers get pages of their own.
        Returns the schedules that fit: half as many each time that memory runs out, as the pool would go on."""
        while True:
            first_steps = [replace(schedule, order=schedule.order[:WARM_UP_STEPS]) for schedule in schedules]
            try:
                self.engine(first_steps)
                break
            except Exception as error:
                if not is_out_of_memory(error) or len(schedules) == 1:
                    raise
            self.pool.free_memory()
            schedules = schedules[: len(schedules) // 2]
        self.separate(first_steps[:1])
        return schedules

    def sweep(self, numbers: Iterable[int], progress: Progress) -> list[dict[str, float]]:
        """Times the engine alone with each number of students, the faster of two runs; stops at the first number that
        does not fit the device's memory at once."""
        points: list[dict[str, float]] = []
        for k in sorted(numbers):
            progress(f"sweep: {k} students")
            schedules = self.schedules[:k]
            if self.pool.plan(schedules).students < k:
                break
            try:
                seconds = min(self.engine(schedules).seconds for _ in range(2))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                break
            rates = {"students_per_second": k, "tokens_per_second": sum(schedule.tokens() for schedule in schedules)}
            points.append({"students": k, "seconds": seconds} | {name: n / seconds for name, n in rates.items()})
        return points


def run_bench(
    *,
    model: str = "lab",
    students: int | None = 32,
    steps: int = 10,
    texts_per_lesson: int = 1,
    lessons: Path | None = None,
    rank: int | None = None,
    repeats: int = 15,
    peft_students: int | None = None,
    padded_tokens: int = 2048,
    padded_steps: int = 2,
    sweep: Iterable[int] = (),
    device: str = "auto",
    dtype: str = "auto",
    questions: int = 8,
    progress: Progress = lambda line: None,
) -> dict[str, Any]:
    """Times the engine, K separate PEFT runs and SEAL's padded recipe on the same lessons, in turns, `repeats` times.

    Args:
        model: a name of `SHAPES` (random weights), a model folder or a Hub id.
        students: K; None takes as many as fit the device at once.
        steps: optimiser steps of each student, each over all texts of its lesson.
        lessons: JSONL with `rewrites` or `text` in each line; None makes up biographies like the lab's.
        rank: of the adapters on all linear layers; alpha is twice it. None: 8 for the lab, as its preset has it, and
            32 for others.
        peft_students: PEFT runs that are done in a repeat, scaled up to K; None does all K.
        padded_tokens: row length of the padded recipe (SEAL: 2,048).
        padded_steps: its steps that are done in a repeat, scaled up to all texts of all steps; 0 leaves it out.
        sweep: numbers of students to time the engine alone with.
        dtype: of the base, as `student.dtype`.
        questions: cloze questions on its texts that each student is asked after its lesson; 0 asks none.
        progress: is called with a line on what is being measured.

    Returns:
        Medians over the repeats. `seconds`: the engine's, for all K students; `seconds_exam`: for their exams.
        `seconds_distilled`: the engine's for the same texts under `objective: distill`, with the lesson's texts as the
        document before each; `distilled_vs_text`: median of its ratios to `seconds` within a repeat.
        `students_per_second` are trained, `students_per_second_with_exam` examined too. `speedup_vs_peft`,
        `speedup_vs_padded`: median of the ratios within a repeat; `interval_vs_peft`: 95% interval of that median, None
        below six repeats.
        `max_loss_difference`: largest |engine - PEFT| over students and steps, in nats. `label_fraction`: labelled
        positions a position computed. `tokens_per_second`: lesson tokens. `model_flops_utilisation`: useful arithmetic
        as a share of the measured matmul peak; `share_of_datasheet_peak` on known GPUs. `sweep`: {students, seconds,
        students_per_second, tokens_per_second} each. Settings and versions.

    Raises:
        UserError: unknown model or unusable lessons file.
    """
    sweep = tuple(sweep)
    rank = rank or (8 if model == "lab" else 32)
    progress(f"building {model}")
    bench = Bench(
        model=model, lessons=lessons, texts_per_lesson=texts_per_lesson, steps=steps, rank=rank,
        count=max(students or MAX_SLOTS, *sweep, 1), device=device, dtype=dtype, questions=questions,
    )  # fmt: skip
    schedules = bench.warm_up(bench.schedules[: students or bench.pool.plan(bench.schedules).students])
    students = len(schedules)
    measured = min(students, peft_students or students)
    text_steps = sum(len(step) for schedule in schedules for step in schedule.order)
    in_turns = bench.base.dtype == torch.float32
    engine_seconds, exam_seconds, peft_seconds, padded_seconds, distilled_seconds = [], [], [], [], []
    difference, usage = 0.0, Usage()
    for repeat in range(1, repeats + 1):
        progress(f"repeat {repeat} of {repeats}: engine, {students} students")
        run = bench.engine(schedules)
        engine_seconds.append(run.seconds)
        exam_seconds.append(run.exam_seconds)
        progress(f"repeat {repeat} of {repeats}: the same students, distilled")
        distilled_seconds.append(bench.engine(bench.distilled[:students]).seconds)
        progress(f"repeat {repeat} of {repeats}: {measured} PEFT runs")
        seconds, peft_losses = bench.separate(schedules[:measured])
        peft_seconds.append(seconds * students / measured)
        difference = max(difference, max_difference(run.losses[:measured], peft_losses))
        usage = run.usage
        if padded_steps and in_turns:
            progress(f"repeat {repeat} of {repeats}: {padded_steps} steps of the padded recipe")
            padded_seconds.append(bench.padded(schedules[0], padded_tokens, padded_steps) * text_steps)
    points = bench.sweep(sweep, progress)
    seconds, tokens = statistics.median(engine_seconds), sum(schedule.tokens() for schedule in schedules)
    flops_per_second = schedule_flops(bench.base, bench.pool, schedules) / seconds
    peak, machine = matmul_peak(bench.base.device, bench.base.dtype), environment(bench.base.device, bench.base.dtype)
    datasheet_peak = datasheet_flops(bench.base.device)
    if padded_steps and not in_turns:
        # SEAL trains in float32. The base is converted in place and after all else: a 7B model does not fit twice.
        progress(f"{padded_steps} steps of the padded recipe in float32")
        bench.base.float()
        bench.padded(schedules[0], padded_tokens, 1)
        padded_seconds = [bench.padded(schedules[0], padded_tokens, padded_steps) * text_steps] * repeats
    whole_seconds = [sum(parts) for parts in zip(engine_seconds, exam_seconds, strict=True)]
    ratios = [peft / engine for peft, engine in zip(peft_seconds, engine_seconds, strict=True)]
    return {
        "students": students,
        "seconds": seconds,
        "seconds_exam": statistics.median(exam_seconds),
        "questions": questions,
        "seconds_distilled": statistics.median(distilled_seconds),
        "distilled_vs_text": median_ratio(distilled_seconds, engine_seconds),
        "speedup_vs_peft": statistics.median(ratios),
        "speedup_vs_padded": median_ratio(padded_seconds, engine_seconds) if padded_seconds else None,
        "max_loss_difference": difference,
        "label_fraction": usage.labels / usage.positions,
        "tokens_per_second": tokens / seconds,
        "model_flops_utilisation": flops_per_second / peak,
        "share_of_datasheet_peak": flops_per_second / datasheet_peak if datasheet_peak else None,
        "students_per_second": students / seconds,
        "students_per_second_with_exam": students / statistics.median(whole_seconds),
        "seconds_peft": statistics.median(peft_seconds),
        "seconds_padded": statistics.median(padded_seconds) if padded_seconds else None,
        "ratios_vs_peft": ratios,
        "interval_vs_peft": median_interval(ratios),
        "peft_note": f"{measured} of {students} runs measured in each repeat"
        + (", scaled up" if measured < students else ""),
        "padded_note": f"extrapolated: {padded_steps} steps of one student at {padded_tokens} tokens, float32, for "
        f"{text_steps} text-steps",
        "peak_flops": peak,
        "peak_note": "best square matmul on this device, in this dtype and run",
        "model": model,
        "parameters": bench.parameters,
        "lessons": str(lessons) if lessons else "made-up biographies",
        "tokens_per_student_step": tokens / sum(schedule.steps for schedule in schedules),
        "texts_per_lesson": texts_per_lesson,
        "steps": steps,
        "rank": rank,
        "repeats": repeats,
        "sweep": points,
    } | machine


def main() -> None:
    """The command `python -m student.bench`."""
    parser = argparse.ArgumentParser(prog="python -m student.bench")
    parser.add_argument("--model", default="lab", help=f"{', '.join(SHAPES)} (random), or a model folder")
    parser.add_argument("--students", type=int, default=32)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--texts-per-lesson", type=int, default=1)
    parser.add_argument("--lessons", type=Path, help="JSONL with `rewrites` or `text`")
    parser.add_argument("--rank", type=int)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--peft-students", type=int, help="PEFT runs really done, scaled up")
    parser.add_argument("--padded-tokens", type=int, default=2048)
    parser.add_argument("--padded-steps", type=int, default=2, help="0 leaves the padded recipe out")
    parser.add_argument("--sweep", action="store_true", help="also 1, 2, 4, ... 256 students")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", choices=["auto", "float32", "bfloat16"], default="auto", help="of the base")
    parser.add_argument("--questions", type=int, default=8, help="of each student's exam; 0 leaves exams out")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--gpu", action="store_true", help="all GPU shapes, as many as fit; of the rest only --lessons")
    parser.add_argument("--json", action="store_true", help="JSON on stdout")
    parser.add_argument("--output", type=Path, help="also write the JSON here")
    options = vars(parser.parse_args())
    as_json, output, gpu, threads = (options.pop(name) for name in ("json", "output", "gpu", "threads"))
    if threads:
        torch.set_num_threads(threads)
    options["sweep"] = SWEEP if gpu or options["sweep"] else ()
    if gpu:
        options = {name: options[name] for name in ("lessons", "sweep")}
        options |= {"students": None, "device": "cuda", "repeats": 3, "peft_students": 2}
    results: dict[str, Any] = {}
    for shape in GPU_SHAPES if gpu else [options.pop("model")]:
        results[shape] = run_bench(model=shape, progress=lambda line: print(line, file=sys.stderr), **options)
        text = json.dumps(results if gpu else results[shape], indent=2)
        if output:  # after each shape, so that a lease that ends early leaves what was measured
            output.write_text(text + "\n")
        gc.collect()
        torch.cuda.empty_cache()
    print(text if as_json else "\n\n".join(map(table, results.values())))
    try:
        for result in results.values():
            check_losses(result)
    except RunError as error:
        sys.exit(f"error: {error}")
