"""Students in this process: jobs in, outcomes out, as many students at once as fit.

    pool = InlinePool(config.student)
    outcomes = pool.examine([Job(lesson=..., exam=...), ...])

Jobs of like length share a batch. A student's outcome depends on its own job alone (up to rounding in the last bits
where the batch has another shape). The same jobs in the same order give the same bits on a CPU; with `student.exact`
they do in any number of threads and processes.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from configs.errors import UserError
from configs.processes import keep_freed_memory, return_freed_memory
from configs.schema import Student
from student.engine.encoding import check_offsets
from student.engine.exam import Examiner, outcome_of
from student.engine.full import train_full
from student.engine.helpers import Helpers, torch_threads
from student.engine.influence import gradient_alignments
from student.engine.loss import logit_bytes
from student.engine.memory import STATE_BYTES, free_bytes, free_memory, is_out_of_memory, position_bytes
from student.engine.models import exam_problem, positions_of
from student.engine.packing import PASS_TOKENS_GPU
from student.engine.proof import proved_scorer
from student.engine.schedule import Schedule, plan_schedule
from student.engine.scores import TARGET_BYTES
from student.engine.training import Progress, Usage, student_helpers, train_slots
from student.pools.batching import TrainingSize, chunks, longest_first
from student.records import Job, OnDone, Outcome

log = logging.getLogger(__name__)

ENGINE_VERSION = 8
"""Part of the key of a cached outcome; raised whenever the same job would give another outcome."""

NOT_IN_FINGERPRINT = {
    "model", "max_slots", "memory_fraction", "device", "row_tokens", "compile", "gradient_checkpointing",
    "pool", "actors", "cpus_per_actor", "num_gpus_per_actor", "exact", "objective",
}  # fmt: skip
"""Settings that change an outcome in its last bits only, by how students are computed, or that a job tells itself."""

NOT_ARCHITECTURE = {"_name_or_path", "transformers_version", "use_cache"}
"""Entries of a model's config that do not describe the model."""

MAX_SLOTS = 256
"""Most students of a batch. Well below this, time is already proportional to the number of students, and a larger batch
only takes longer to plan."""

CPU_SLOTS = 32
"""Most students of a batch on a CPU. With half as many each takes a sixth longer on the lab's student; with twice as
many it takes no less."""

CPU_PASS_TOKENS, GPU_PASS_TOKENS = 4096, 16 * PASS_TOKENS_GPU
"""Most positions of a forward pass: enough to hide what a pass costs beside them."""

CPU_BYTES = 2 * 2**30
"""Most bytes on a CPU of all students' adapters, and of a pass's activations; models so large that this matters gain no
speed from more."""

STATE_SHARE = 0.75
"""Largest share of a GPU's free memory for adapters and their optimiser: passes have the rest."""

FULL_POSITION_BYTES = 2**21
"""Of a position in `mode: full` on a GPU, for a small model; not measured."""

PROBE_TOKENS = 64
"""Of the text by which memory is measured."""

MOST_PASSES = 16
"""Out of memory with forward passes smaller by this factor, a batch has too many students."""


class BatchPlan(NamedTuple):
    """How many students the next batch has, and the most positions of a forward pass of their training and exams."""

    students: int
    train_tokens: int
    exam_tokens: int


class InlinePool:
    """Students in this process, on one device. Raises UserError if the model cannot be loaded, a target layer does not
    exist, or students would not be what they are alone (see `engine.proof`)."""

    def __init__(
        self,
        settings: Student,
        *,
        model: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ):
        scorer, self.proof = proved_scorer(settings, model, tokenizer)
        self.settings, self.stack = settings, _ = scorer.settings, scorer.stack
        self.model, self.tokenizer = model, tokenizer = scorer.model, scorer.tokenizer
        check_offsets(tokenizer)
        self.pad_id: int = tokenizer.pad_token_id  # type: ignore[assignment]  # load_model sees to it
        self.autocast = scorer.autocast
        self.examiner = Examiner(scorer)
        if settings.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            model.enable_input_require_grads()
        if settings.compile:
            # Without it torch.compile would fail in the first forward pass.
            has_compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
            if model.device.type == "cpu" and not has_compiler:
                raise UserError("student.compile needs a C++ compiler on a CPU: install g++, or set it to false")
            for layer in model.get_decoder().layers:
                layer.compile(dynamic=True)
        if model.device.type == "cpu":
            keep_freed_memory()
        self.helpers: Helpers | None = None
        if self.stack is not None:
            self.helpers = student_helpers(model, self.stack, settings, self.pad_id, self.examiner.ask_part)
            self.examiner.helpers = self.helpers

    @cached_property
    def fingerprint(self) -> str:
        """Hash of base weights, architecture, tokenizer, engine version and the settings that outcomes depend on."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        rules = json.loads(backend.to_str()) if backend is not None else self.tokenizer.get_vocab()
        parts = [
            ENGINE_VERSION,
            self.settings.model_dump(mode="json", exclude=NOT_IN_FINGERPRINT) | {"dtype": self.proof.dtype},
            {name: value for name, value in self.model.config.to_dict().items() if name not in NOT_ARCHITECTURE},
            # Padding and truncation are left out: they are whatever the tokenizer's last call asked for.
            [{k: v for k, v in rules.items() if k not in ("padding", "truncation")}, self.tokenizer.special_tokens_map],
            self.autocast,
        ]
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode())
        for name, tensor in self.model.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()[:16]

    @property
    def at_once(self) -> int:
        """Most students of one batch."""
        return most_slots(self.settings, self.model.device.type)

    def examine(self, jobs: list[Job], on_done: OnDone | None = None) -> list[Outcome]:
        """Trains and examines one student for each job, in batches of like length; see `StudentPool.examine`."""
        order = longest_first([TrainingSize.of(job.lesson, self.settings) for job in jobs])
        outcomes: dict[int, Outcome] = {}
        positions = positions_of(self.model.config)
        problems = {exam: exam_problem(self.tokenizer, exam, positions) for exam in {job.exam for job in jobs}}
        outcomes |= {
            i: Outcome(gain=None, error=problem) for i, job in enumerate(jobs) if (problem := problems[job.exam])
        }
        if outcomes and on_done:
            on_done(dict(outcomes))
        order = [i for i in order if i not in outcomes]
        with torch_threads(1) if self.settings.exact else nullcontext():
            for waiting in chunks(order, self.at_once):
                schedules = {i: plan_schedule(self.tokenizer, jobs[i].lesson, self.settings) for i in waiting}
                for batch in self._run_in_memory(waiting, jobs, schedules):
                    outcomes |= batch
                    if on_done:
                        on_done(batch)
        return [outcomes[i] for i in range(len(jobs))]

    def keep(self, job: Job, folder: Path) -> Outcome:
        """Trains one student and saves it: a PEFT adapter folder, or (`mode: full`) a model folder."""
        schedule = plan_schedule(self.tokenizer, job.lesson, self.settings)
        plan = self.plan([schedule])
        # Alone, because a process that resumed a run has answered other questions before.
        before = self.examiner.before(job.exam, plan.exam_tokens, alone=True)
        with self.trained([schedule], [job.lesson.seed], plan) as ([progress], _):
            [after] = self.examiner.after([job.exam], plan.exam_tokens)
            if self.stack is None:
                self.model.save_pretrained(folder)
            else:
                self.stack.export(0, folder, base_model=self.settings.model)
        self.tokenizer.save_pretrained(folder)
        return outcome_of(job, schedule, progress, before, after)

    def gradient_alignments(self, jobs: list[Job], seed: int = 0) -> list[float | None]:
        """How each job's lesson and exam agree, without training: see `engine.influence.gradient_alignments`. None in
        `mode: full`, which has no adapters."""
        if self.stack is None:
            return [None] * len(jobs)
        # Half, because the jobs' gradients are held beside the pass.
        max_tokens = max(1, self.plan([]).exam_tokens // 2)
        return gradient_alignments(self.examiner.scorer, jobs, seed=seed, max_tokens=max_tokens)

    def close(self) -> None:
        """Does nothing: this process's memory is all that it holds."""

    @contextmanager
    def trained(
        self, schedules: list[Schedule], seeds: list[int], plan: BatchPlan
    ) -> Iterator[tuple[list[Progress], Usage]]:
        """Trains one batch: within it slot k is the student of `schedules[k]`, whose adapter started from `seeds[k]`.
        In full mode the batch is a single student, and within it the model is this student."""
        max_tokens = plan.train_tokens
        schedules = [self.examiner.scorer.with_targets(schedule, plan.exam_tokens) for schedule in schedules]
        if self.stack is None:
            [schedule] = schedules
            with train_full(
                self.model, schedule, self.settings, self.pad_id, max_tokens, autocast=self.autocast
            ) as training:
                yield [training.progress], training.usage
            return
        try:
            self.stack.allocate(seeds)
            # Checkpointing works in train mode only (these models have no dropout that it would switch on). Exams need
            # eval mode: in train mode a checkpointing layer drops the cache that decoding needs.
            self.model.train(self.settings.gradient_checkpointing)
            try:
                progress, usage = train_slots(
                    self.model, self.stack, schedules, self.settings, pad_id=self.pad_id, max_tokens=max_tokens,
                    helpers=self.helpers,
                )  # fmt: skip
            finally:
                self.model.eval()
            yield progress, usage
        finally:
            self.stack.release()
            return_freed_memory()

    def plan(self, schedules: list[Schedule]) -> BatchPlan:
        """What the next batch takes of these students, by the memory that is free now. A step is accumulated over
        passes, so that activations do not grow with the number of students: a GPU's passes have what students leave."""
        device, on_gpu = self.model.device, self.model.device.type == "cuda"
        free = int(free_bytes(device) * self.settings.memory_fraction)
        if self.stack is None:
            tokens = max(2048, free // FULL_POSITION_BYTES) if on_gpu else CPU_PASS_TOKENS
            return BatchPlan(1, tokens, tokens)
        slot_bytes = self.stack.size * STATE_BYTES
        targets = (sum(len(text.labelled) for text in schedule.in_context) for schedule in schedules)
        slot_bytes += TARGET_BYTES * max(targets, default=0)
        for_slots = STATE_SHARE * free if on_gpu else min(free, CPU_BYTES)
        students = min(len(schedules), max(1, int(for_slots // slot_bytes)))
        for_pass = free - students * slot_bytes - logit_bytes(self.examiner.scorer.head) if on_gpu else CPU_BYTES
        most = GPU_PASS_TOKENS if on_gpu else CPU_PASS_TOKENS
        return BatchPlan(students, *(min(most, max(1, int(for_pass / size))) for size in self.position_bytes))

    @cached_property
    def position_bytes(self) -> tuple[float, float]:
        """Bytes of a position in a pass that trains, and without checkpointing, which bounds those of exams."""
        assert self.stack is not None
        length, sizes = min(PROBE_TOKENS, self.settings.max_text_tokens), []
        with self.examiner.scorer.eager():
            for checkpoints in dict.fromkeys((self.settings.gradient_checkpointing, False)):
                self.model.train(checkpoints)
                sizes.append(position_bytes(self.model, self.stack, self.pad_id, length))
        self.model.eval()
        return sizes[0], sizes[-1]

    def free_memory(self) -> None:
        """Gives back what a batch that ran out of memory left behind."""
        if self.stack is not None:
            self.stack.release()
        free_memory()

    def _run_in_memory(
        self, waiting: list[int], jobs: list[Job], schedules: dict[int, Schedule]
    ) -> Iterator[dict[int, Outcome]]:
        """Outcomes of the jobs `waiting`, batch by batch, as many students at once as fit. Where memory runs out
        nevertheless, the batch starts again with smaller forward passes, and at last with half of its students."""
        limit, smaller = len(waiting), 1
        while waiting:
            members = waiting[:limit]
            outcomes: list[Outcome] | None = None
            try:
                plan = self.plan([schedules[i] for i in members])
                members = waiting[: plan.students]
                plan = BatchPlan(plan.students, *(max(1, tokens // smaller) for tokens in plan[1:]))
                outcomes = self._run([jobs[i] for i in members], [schedules[i] for i in members], plan)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            if outcomes is None:  # outside the except block, whose traceback would keep alive what is to be freed
                self.free_memory()
                if smaller < MOST_PASSES:
                    smaller *= 2
                    log.warning("out of memory: again in forward passes %d times as small", smaller)
                    continue
                smaller = 1
                if len(members) > 1:
                    limit = len(members) // 2
                    log.warning("out of memory with %d students at once; going on with %d", len(members), limit)
                    continue
                outcomes = [Outcome(gain=None, error="out of memory with a single student")]
            waiting = waiting[len(members) :]
            yield dict(zip(members, outcomes, strict=True))

    def _run(self, jobs: list[Job], schedules: list[Schedule], plan: BatchPlan) -> list[Outcome]:
        """Trains and examines one batch of students."""
        after = before = [self.examiner.before(job.exam, plan.exam_tokens, alone=self.settings.exact) for job in jobs]
        progress, usages = [Progress(error=schedule.problem) for schedule in schedules], [Usage() for _ in jobs]
        # A student without steps is the base, which has answered already. It has no slot: one that computes nothing
        # would keep the others from being divided evenly over processes.
        if taught := [k for k, schedule in enumerate(schedules) if schedule.steps]:
            seeds = [jobs[k].lesson.seed for k in taught]
            with self.trained([schedules[k] for k in taught], seeds, plan) as (trained, usage):
                results = self.examiner.after([jobs[k].exam for k in taught], plan.exam_tokens)
            after = before.copy()
            for k, of_training, result in zip(taught, trained, results, strict=True):
                progress[k], usages[k], after[k] = of_training, usage, result
        parts = (jobs, schedules, progress, before, after, usages)
        return [outcome_of(*of_student) for of_student in zip(*parts, strict=True)]


def most_slots(settings: Student, device_type: str) -> int:
    """Most students of one batch, where memory allows."""
    return settings.max_slots or (MAX_SLOTS if device_type == "cuda" else CPU_SLOTS)
