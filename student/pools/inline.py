"""The student engine: jobs in, outcomes out, as many students at once as fit.

    pool = InlinePool(config.student)
    outcomes = pool.examine([Job(lesson=..., exam=...), ...])

Jobs of like length share a batch. What a student becomes depends on its own job alone (up to rounding in the last bits
where the batch's shape differs); the same jobs in the same order give the same bits on CPU, and with `student.exact`
they do in any number of threads and processes.
"""

import gc
import hashlib
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from configs.errors import UserError
from configs.schema import Student
from student.engine.encoding import Encoded
from student.engine.exam import Examiner, ExamResult
from student.engine.full import train_full
from student.engine.lora import AdapterStack
from student.engine.loss import check_head
from student.engine.memory import (
    activation_bytes_per_token,
    free_bytes,
    is_out_of_memory,
    keep_freed_memory,
    plan_slots,
)
from student.engine.models import load_model
from student.engine.outcomes import outcome_of, with_label_fraction
from student.engine.packing import Piece
from student.engine.schedule import Schedule, plan_schedule
from student.engine.training import Usage, student_helpers, train_slots
from student.pools.batching import Size, by_length, consecutive
from student.records import Exam, Job, OnDone, Outcome

log = logging.getLogger(__name__)

ENGINE_VERSION = 2
"""Part of the key of a cached outcome; raised whenever the same job would give another outcome."""

IRRELEVANT = {
    "model", "max_slots", "memory_fraction", "device", "row_tokens", "compile", "gradient_checkpointing",
    "pool", "actors", "cpus_per_actor", "num_gpus_per_actor", "exact",
}  # fmt: skip
"""Settings of how students are computed, which change an outcome in its last bits only."""

NO_ARCHITECTURE = {"_name_or_path", "transformers_version", "use_cache"}
"""What a model's config says of other things than the model."""

MAX_SLOTS = 256
"""Beyond this a batch only gets slower to plan: cost is linear in students long before."""

CPU_SLOTS = 32
"""Most students of a batch on a CPU: with half as many each takes a sixth longer on the lab's student, with twice as
many no less."""

CPU_BATCH_TOKENS = 4096
"""Positions in flight on a CPU: enough to hide the cost of a pass, and bounded whatever the number of students."""

CPU_BYTES = 2 * 2**30
"""Of the adapters of all students at once on a CPU, and of the activations in flight: with a model so large that these
count, more at once gains no speed. SmolLM2-135M at rank 16: 16 students, 512 positions (without the bound 32 and 4,096
take 14 GB)."""

PROBE = Encoded.of([0] * 64, [True] * 64)
"""The text that memory is measured on where every process must come to the same plan."""

MOST_PASSES = 16
"""How much smaller the forward passes of a single student are made before it counts as out of memory."""


class InlinePool:
    """Students in this process, on one device.

    Raises (on construction):
        UserError: the model cannot be loaded, or a target layer does not exist.
    """

    def __init__(
        self,
        settings: Student,
        *,
        model: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ):
        if model is None or tokenizer is None:
            # Small updates of all weights vanish in bfloat16; adapters are float32 of their own.
            dtype = "float32" if settings.mode == "full" and settings.dtype == "auto" else settings.dtype
            model, tokenizer = load_model(settings.model, device=settings.device, dtype=dtype)
        check_head(model)
        self.settings, self.model, self.tokenizer = settings, model, tokenizer
        self.stack = AdapterStack(model, settings.lora) if settings.mode == "lora" else None
        self.examiner = Examiner(model, tokenizer, self.stack, settings)
        self.pad_id: int = tokenizer.pad_token_id  # type: ignore[assignment]  # load_model sees to it
        self.usage = Usage()
        self.students = 0
        """Students trained so far."""
        self.seconds = 0.0
        """Time spent in `examine`."""
        self._token_bytes: float | None = None
        self._fingerprint: str | None = None
        self._whole_exams: dict[Exam, ExamResult] = {}
        if settings.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            model.enable_input_require_grads()
        if settings.compile:
            _check_compiler(model.device)
            for layer in model.get_decoder().layers:
                layer.compile(dynamic=True)
        if model.device.type == "cpu":
            keep_freed_memory()
        self.helpers = student_helpers(model, self.stack, settings, self.pad_id) if self.stack else None

    @property
    def fingerprint(self) -> str:
        """Names base weights, architecture, tokenizer, engine version and every student setting that an outcome depends
        on."""
        if self._fingerprint is None:
            settings = self.settings.model_dump(mode="json", exclude=IRRELEVANT)
            described = [ENGINE_VERSION, settings, _architecture(self.model), _tokenization(self.tokenizer)]
            digest = hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode())
            for name, tensor in self.model.state_dict().items():
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
            self._fingerprint = digest.hexdigest()[:16]
        return self._fingerprint

    @property
    def at_once(self) -> int:
        """Most students of one batch."""
        return most_slots(self.settings, self.model.device.type)

    def examine(self, jobs: list[Job], on_done: OnDone | None = None) -> list[Outcome]:
        """Trains and examines one student a job.

        Args:
            jobs: any number; they are batched by length.
            on_done: called with the outcomes of each batch, by their places in `jobs`.

        Returns:
            Outcomes in the order of `jobs`. A student that fails is an outcome with `error`.
        """
        start = time.perf_counter()
        order = by_length([Size.of(job.lesson, self.settings) for job in jobs])
        outcomes: dict[int, Outcome] = {}
        with _one_thread(self.settings.exact):
            for members in consecutive(order, self.at_once):
                self._examine(members, jobs, outcomes, on_done)
        self.students += len(jobs)
        self.seconds += time.perf_counter() - start
        return [outcomes[i] for i in range(len(jobs))]

    def _examine(
        self,
        waiting: list[int],
        jobs: list[Job],
        outcomes: dict[int, Outcome],
        on_done: OnDone | None,
    ) -> None:
        """Fills in the outcomes of those `waiting`, as many at once as fit."""
        schedules = {i: plan_schedule(self.tokenizer, jobs[i].lesson, self.settings) for i in waiting}
        limit = len(waiting)
        passes = 1
        while waiting:
            members = waiting[:limit]
            done: list[Outcome] | None = None
            try:
                members = waiting[: self._slots([schedules[i] for i in members])]
                done = self._run([jobs[i] for i in members], [schedules[i] for i in members], passes)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            if done is None:  # outside the except block: its traceback would keep alive what is to be freed
                self._free_memory()
                if len(members) > 1:
                    limit = len(members) // 2
                    log.warning("out of memory with %d students at once; going on with %d", len(members), limit)
                    continue
                if passes < MOST_PASSES:
                    passes *= 2
                    continue
                done = [Outcome(gain=None, error="out of memory with a single student")]
            passes = 1
            found = dict(zip(members, done, strict=True))
            outcomes |= found
            waiting = waiting[len(members) :]
            if on_done:
                on_done(found)

    def _slots(self, schedules: list[Schedule]) -> int:
        """How many of these students the next batch takes."""
        if self.stack is None:
            return 1
        texts = [text for schedule in schedules for text in schedule.texts]
        if not texts:
            return len(schedules)
        if self._token_bytes is None:
            # Bytes a token differ a little with the text; the same batches need the same plan.
            text = PROBE if self.settings.exact else max(texts, key=len)
            probe = [Piece(0, text)]
            self._token_bytes = activation_bytes_per_token(self.model, self.stack, probe, self.pad_id)
        free = int(free_bytes(self.model.device) * self.settings.memory_fraction)
        if self.model.device.type == "cuda":
            tokens = max(schedule.tokens_per_step() for schedule in schedules)
        else:
            # A step is accumulated over micro-batches, so activations do not grow with the number of students.
            free, tokens = min(free, CPU_BYTES), 0
        return min(len(schedules), plan_slots(free, self.stack.size, tokens, self._token_bytes))

    def _free_memory(self) -> None:
        if self.stack is not None:
            self.stack.release()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _batch_tokens(self) -> int:
        """Positions in one forward pass."""
        if self.model.device.type != "cuda":
            fit = CPU_BYTES / (2 * (self._token_bytes or 1.0))
            # A power of two: the measured bytes differ a little with the text that a resumed run meets first.
            return min(CPU_BATCH_TOKENS, 2 ** max(0, int(math.log2(max(1.0, fit)))))
        free = free_bytes(self.model.device) * self.settings.memory_fraction
        return max(2048, int(free / (2 * (self._token_bytes or 2**20))))

    def _run(self, jobs: list[Job], schedules: list[Schedule], passes: int) -> list[Outcome]:
        """One batch of students, from fresh adapters to outcomes; `passes` cuts forward passes that much smaller."""
        exams = [job.exam for job in jobs]
        max_tokens = max(1, self._batch_tokens() // passes)
        if self.stack is None:
            return self._run_full(jobs[0], schedules[0], max_tokens)
        before = [self._before(exam, max_tokens) for exam in exams]
        self.stack.allocate([job.lesson.seed for job in jobs])
        with self._training():
            progress, usage = train_slots(
                self.model,
                self.stack,
                schedules,
                self.settings,
                pad_id=self.pad_id,
                max_tokens=max_tokens,
                helpers=self.helpers,
            )
        self.usage.add(usage)
        after = self.examiner.after(exams, max_tokens)
        self.stack.release()
        outcomes = [outcome_of(*parts) for parts in zip(jobs, schedules, progress, before, after, strict=True)]
        return [with_label_fraction(outcome, usage) for outcome in outcomes]

    def _before(self, exam: Exam, max_tokens: int) -> ExamResult:
        """The base's answers. Questions in other company differ in the last bits, so that `exact` asks a whole exam."""
        return self._before_alone(exam, max_tokens) if self.settings.exact else self.examiner.before(exam, max_tokens)

    def _before_alone(self, exam: Exam, max_tokens: int) -> ExamResult:
        """The base's answers in an exam of its own, whatever else this process was asked."""
        if exam not in self._whole_exams:
            fresh = Examiner(self.model, self.tokenizer, self.stack, self.settings)
            self._whole_exams[exam] = fresh.before(exam, max_tokens)
        return self._whole_exams[exam]

    @contextmanager
    def _training(self) -> Iterator[None]:
        """Train mode within, where checkpointing asks for it; these models have no dropout to switch on.

        Exams need eval mode: in train mode a checkpointing layer drops the cache that decoding goes by.
        """
        self.model.train(self.settings.gradient_checkpointing)
        try:
            yield
        finally:
            self.model.eval()

    def _run_full(self, job: Job, schedule: Schedule, max_tokens: int) -> list[Outcome]:
        before = self._before(job.exam, max_tokens)
        with train_full(self.model, schedule, self.settings, self.pad_id, max_tokens) as (progress, usage):
            self.usage.add(usage)
            after = self.examiner.after([job.exam], max_tokens)
        return [with_label_fraction(outcome_of(job, schedule, progress, before, after[0]), usage)]

    def keep(self, job: Job, folder: Path) -> Outcome:
        """Trains one student and saves it: a PEFT adapter folder, or (`mode: full`) a model folder."""
        schedule = plan_schedule(self.tokenizer, job.lesson, self.settings)
        max_tokens = self._batch_tokens()
        before = self._before_alone(job.exam, max_tokens)  # a resumed process has met other questions before
        if self.stack is None:
            with train_full(self.model, schedule, self.settings, self.pad_id, max_tokens) as (progress, _):
                after = self.examiner.after([job.exam], max_tokens)
                self.model.save_pretrained(folder)
        else:
            self.stack.allocate([job.lesson.seed])
            with self._training():
                [progress], _ = train_slots(
                    self.model, self.stack, [schedule], self.settings, pad_id=self.pad_id, max_tokens=max_tokens
                )
            after = self.examiner.after([job.exam], max_tokens)
            self.stack.export(0, folder, base_model=self.settings.model)
            self.stack.release()
        self.tokenizer.save_pretrained(folder)
        return outcome_of(job, schedule, progress, before, after[0])


def most_slots(settings: Student, device_type: str) -> int:
    """Students of one batch, where memory allows."""
    return settings.max_slots or (MAX_SLOTS if device_type == "cuda" else CPU_SLOTS)


@contextmanager
def _one_thread(alone: bool) -> Iterator[None]:
    """Within it torch uses one thread, if `alone`."""
    threads = torch.get_num_threads()
    if alone:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if alone:
            torch.set_num_threads(threads)


def _architecture(model: PreTrainedModel) -> dict[str, Any]:
    """The model's config without what no outcome depends on."""
    return {name: value for name, value in model.config.to_dict().items() if name not in NO_ARCHITECTURE}


def _tokenization(tokenizer: PreTrainedTokenizerBase) -> list[Any]:
    """What the tokenizer makes of a text; padding and truncation are whatever its last call asked for."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = json.loads(backend.to_str()) if backend is not None else tokenizer.get_vocab()
    return [{k: v for k, v in rules.items() if k not in ("padding", "truncation")}, tokenizer.special_tokens_map]


def _check_compiler(device: torch.device) -> None:
    """Raises UserError where torch.compile would fail in the first forward pass."""
    if device.type == "cpu" and not (os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")):
        raise UserError("student.compile needs a C++ compiler on a CPU: install g++, or set it to false")
