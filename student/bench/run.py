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
from typing import Any

import torch

from configs.errors import RunError
from configs.schema import Lora, Student
from student.bench.baselines import SeparateRuns, twin
from student.bench.inputs import (
    SHAPES,
    bench_model,
    datasheet_flops,
    environment,
    lesson_texts,
    matmul_peak,
    schedule_flops,
)
from student.bench.report import check_losses, max_difference, median_interval, median_ratio, table
from student.engine.memory import is_out_of_memory
from student.engine.schedule import Schedule, plan_schedule
from student.engine.training import Usage, train_slots
from student.pools.batching import Size, by_length, consecutive
from student.pools.inline import MAX_SLOTS, InlinePool
from student.records import Lesson

SWEEP = (1, 2, 4, 8, 16, 32, 64, 128, 256)
WARM_UP_STEPS = 3

GPU_SHAPES = ("smollm2-135m", "qwen2.5-0.5b", "qwen2.5-7b")

Tell = Callable[[str], None]


class Bench:
    """One model with the engine and its rivals around it, and the schedules that all of them train."""

    def __init__(
        self, *, model: str, lessons: Path | None, texts_per_lesson: int, steps: int, rank: int, count: int, device: str
    ):
        texts = lesson_texts(lessons, count * texts_per_lesson)
        settings = Student(model=model, steps=steps, lora=Lora(rank=rank, alpha=2.0 * rank))
        base, tokenizer = bench_model(model, texts, device)
        self.base, self.pad_id = base, tokenizer.pad_token_id
        self.parameters = sum(p.numel() for p in base.parameters())
        self.rival = SeparateRuns(twin(base), settings)
        self.pool = InlinePool(settings, model=base, tokenizer=tokenizer)
        shares = [tuple(texts[k * texts_per_lesson : (k + 1) * texts_per_lesson]) for k in range(count)]
        self.schedules = [
            plan_schedule(tokenizer, Lesson(texts=share, seed=k), settings) for k, share in enumerate(shares)
        ]

    def engine(self, schedules: list[Schedule]) -> tuple[float, list[list[float]], Usage]:
        """Trains the schedules in the batches that the pool plans: seconds, losses (K, steps), use of positions."""
        stack, usage = self.pool.stack, Usage()
        losses: list[list[float]] = [[] for _ in schedules]
        assert stack is not None
        order = by_length([Size(schedule.steps, schedule.tokens_per_step()) for schedule in schedules])
        batches = consecutive(order, min(self.pool.at_once, self.pool._slots(schedules)))
        self._wait()
        start = time.perf_counter()
        for batch in batches:
            stack.allocate(batch)
            progress, used = train_slots(
                self.base, stack, [schedules[k] for k in batch], self.pool.settings, pad_id=self.pad_id,
                max_tokens=self.pool._batch_tokens(), helpers=self.pool.helpers,
            )  # fmt: skip
            stack.release()
            for k, slot in zip(batch, progress, strict=True):
                losses[k] = slot.losses
            usage.add(used)
        self._wait()
        return time.perf_counter() - start, losses, usage

    def separate(self, schedules: list[Schedule]) -> tuple[float, list[list[float]]]:
        """Trains the schedules one after another with PEFT, from the same adapters: seconds and losses (K, steps)."""
        seconds, losses = 0.0, []
        for seed, schedule in enumerate(schedules):
            self._start_rival(seed)
            start = time.perf_counter()
            losses.append(self.rival.careful(schedule, self.pad_id))
            seconds += time.perf_counter() - start
        return seconds, losses

    def padded(self, schedule: Schedule, length: int, steps: int) -> float:
        """Seconds a step of SEAL's padded recipe."""
        self._start_rival(0)
        start = time.perf_counter()
        done = self.rival.padded(schedule, self.pad_id, length, steps)
        self._wait()
        return (time.perf_counter() - start) / done

    def _start_rival(self, seed: int) -> None:
        assert self.pool.stack is not None
        self.pool.stack.allocate([seed])
        self.rival.start_from(self.pool.stack, 0)
        self.pool.stack.release()
        self._wait()

    def _wait(self) -> None:
        if self.base.device.type == "cuda":
            torch.cuda.synchronize(self.base.device)

    def warm_up(self, schedules: list[Schedule]) -> list[Schedule]:
        """A few steps of each, unmeasured: threads, kernels and memory pools start here, and helpers get pages of
        their own. Returns the schedules that fit: half as many where the plan was out by that, as the pool itself goes
        on."""
        while True:
            first_steps = [replace(schedule, order=schedule.order[:WARM_UP_STEPS]) for schedule in schedules]
            try:
                self.engine(first_steps)
                break
            except Exception as error:
                if not is_out_of_memory(error) or len(schedules) == 1:
                    raise
            self.pool._free_memory()
            schedules = schedules[: len(schedules) // 2]
        self.separate(first_steps[:1])
        return schedules

    def sweep(self, numbers: Iterable[int], tell: Tell) -> list[dict[str, float]]:
        """The engine alone with each number of students, best of two; ends where the device holds no more at once."""
        points: list[dict[str, float]] = []
        for k in sorted(numbers):
            tell(f"sweep: {k} students")
            if self.pool._slots(self.schedules[:k]) < k:
                break
            try:
                seconds = min(self.engine(self.schedules[:k])[0] for _ in range(2))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                break
            rate = sum(schedule.tokens() for schedule in self.schedules[:k]) / seconds
            points.append(
                {"students": k, "seconds": seconds, "students_per_second": k / seconds, "tokens_per_second": rate}
            )
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
    threads: int | None = None,
    tell: Tell = lambda line: None,
) -> dict[str, Any]:
    """Times the engine, K separate PEFT runs and SEAL's padded recipe on the same lessons, in turns, `repeats` times.

    Args:
        model: a name of `SHAPES` (random weights), a model folder or a Hub id.
        students: K; None takes as many as fit the device at once.
        steps: optimiser steps of each student, each over all texts of its lesson.
        texts_per_lesson: texts that one student learns.
        lessons: JSONL with `rewrites` or `text` in each line; None makes up biographies like the lab's.
        rank: of the adapters on all linear layers; alpha is twice it. None: 8 for the lab, as its preset has it, and
            32 for others.
        peft_students: PEFT runs really done in a repeat, scaled up to K; None does all K.
        padded_tokens: row length of the padded recipe (SEAL: 2,048).
        padded_steps: steps of it really done in a repeat, scaled up to all texts of all steps; 0 leaves it out.
        sweep: numbers of students to time the engine alone with.
        threads: CPU threads; None leaves torch's choice.
        tell: is given a line on what is being measured.

    Returns:
        Medians over the repeats. `seconds`: the engine's, for all K students. `speedup_vs_peft`, `speedup_vs_padded`:
        median of the ratios within a repeat; `interval_vs_peft`: 95% interval of that median, None below six repeats.
        `max_loss_difference`: largest |engine - PEFT| over students and steps, in nats. `label_fraction`: labelled
        positions a position computed. `tokens_per_second`: lesson tokens. `model_flops_utilisation`: useful arithmetic
        as a share of the measured matmul peak; `share_of_datasheet_peak` on known GPUs. `sweep`: {students, seconds,
        students_per_second, tokens_per_second} each. Settings and versions.

    Raises:
        UserError: unknown model or unusable lessons file.
    """
    if threads:
        torch.set_num_threads(threads)
    sweep = tuple(sweep)
    rank = rank or (8 if model == "lab" else 32)
    tell(f"building {model}")
    bench = Bench(
        model=model, lessons=lessons, texts_per_lesson=texts_per_lesson, steps=steps, rank=rank,
        count=max(students or MAX_SLOTS, *sweep, 1), device=device,
    )  # fmt: skip
    students = students or bench.pool._slots(bench.schedules)
    schedules = bench.warm_up(bench.schedules[:students])
    students = len(schedules)
    some = min(students, peft_students or students)
    in_turn = bench.base.dtype == torch.float32
    engine_s, peft_s, padded_s = [], [], []
    difference, usage = 0.0, Usage()
    padded_scale = sum(len(step) for schedule in schedules for step in schedule.order)
    for repeat in range(1, repeats + 1):
        tell(f"repeat {repeat} of {repeats}: engine, {students} students")
        seconds, losses, usage = bench.engine(schedules)
        engine_s.append(seconds)
        tell(f"repeat {repeat} of {repeats}: {some} PEFT runs")
        seconds, rival_losses = bench.separate(schedules[:some])
        peft_s.append(seconds * students / some)
        difference = max(difference, max_difference(losses[:some], rival_losses))
        if padded_steps and in_turn:
            tell(f"repeat {repeat} of {repeats}: {padded_steps} steps of the padded recipe")
            padded_s.append(bench.padded(schedules[0], padded_tokens, padded_steps) * padded_scale)
    points = bench.sweep(sweep, tell)
    rate = schedule_flops(bench.base, bench.pool, schedules) / statistics.median(engine_s)
    peak, where = matmul_peak(bench.base.device, bench.base.dtype), environment(bench.base.device, bench.base.dtype)
    if padded_steps and not in_turn:
        # SEAL trains in float32. The base is turned into it last and in place: a 7B model does not fit twice.
        tell(f"{padded_steps} steps of the padded recipe in float32")
        bench.base.float()
        bench.padded(schedules[0], padded_tokens, 1)
        padded_s = [bench.padded(schedules[0], padded_tokens, padded_steps) * padded_scale] * repeats
    ratios = [rival / ours for rival, ours in zip(peft_s, engine_s, strict=True)]
    seconds, tokens = statistics.median(engine_s), sum(schedule.tokens() for schedule in schedules)
    sheet = datasheet_flops(bench.base.device)
    return {
        "students": students,
        "seconds": seconds,
        "speedup_vs_peft": median_ratio(peft_s, engine_s),
        "speedup_vs_padded": median_ratio(padded_s, engine_s) if padded_s else None,
        "max_loss_difference": difference,
        "label_fraction": usage.labels / usage.positions,
        "tokens_per_second": tokens / seconds,
        "model_flops_utilisation": rate / peak,
        "share_of_datasheet_peak": rate / sheet if sheet else None,
        "students_per_second": students / seconds,
        "seconds_peft": statistics.median(peft_s),
        "seconds_padded": statistics.median(padded_s) if padded_s else None,
        "ratios_vs_peft": ratios,
        "interval_vs_peft": median_interval(ratios),
        "peft_note": f"{some} of {students} runs measured in each repeat" + (", scaled up" if some < students else ""),
        "padded_note": f"extrapolated: {padded_steps} steps of one student at {padded_tokens} tokens, float32, for "
        f"{padded_scale} text-steps",
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
    } | where


def run_gpu_bench(
    *,
    lessons: Path | None = None,
    device: str = "cuda",
    shapes: tuple[str, ...] = GPU_SHAPES,
    output: Path | None = None,
    tell: Tell = lambda line: None,
) -> dict[str, Any]:
    """The shapes of `GPU_SHAPES`, each with as many students as fit: `run_bench`'s result by shape.

    `output` is written after each shape, so that a lease that ends early leaves what was measured.
    """
    results: dict[str, Any] = {}
    for shape in shapes:
        results[shape] = run_bench(
            model=shape, students=None, lessons=lessons, device=device, repeats=3, peft_students=2, sweep=SWEEP,
            tell=tell,
        )  # fmt: skip
        if output:
            output.write_text(json.dumps(results, indent=2) + "\n")
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return results


def main() -> None:
    """`python -m student.bench`: the bench on a machine that holds nothing but this package."""
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
    parser.add_argument("--threads", type=int)
    parser.add_argument(
        "--gpu", action="store_true", help="all GPU shapes, as many students as fit; of the rest only --lessons"
    )
    parser.add_argument("--json", action="store_true", help="JSON on stdout")
    parser.add_argument("--output", type=Path, help="also write the JSON here")
    options = vars(parser.parse_args())
    as_json, output = options.pop("json"), options.pop("output")
    tell = lambda line: print(line, file=sys.stderr)  # noqa: E731
    if options.pop("gpu"):
        result = run_gpu_bench(lessons=options["lessons"], output=output, tell=tell)
        shown = "\n\n".join(map(table, result.values()))
    else:
        result = run_bench(**options | {"sweep": SWEEP if options["sweep"] else ()}, tell=tell)
        shown = table(result)
    if output:
        output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2) if as_json else shown)
    try:
        for one in result.values() if "dtype" not in result else [result]:
            check_losses(one)
    except RunError as error:
        sys.exit(f"error: {error}")
