"""ReST-EM (arXiv 2312.06585; the outer loop of SEAL, arXiv 2506.10943): keep what beat its group, fine-tune on it.

What is kept or left is a lesson, the set of a document's rewrites that were taught together: a set may be best that
holds no single best rewrite. Where each rewrite has a reward of its own (`reward.set_credit: marginal`), it is the
single rewrite.
"""

import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass

from datasets import Dataset, disable_progress_bars
from transformers import PrinterCallback
from trl import SFTConfig, SFTTrainer

from configs.schema import Config
from configs.seeds import stable_seed
from student.statistics.reliability import noise_variance
from teacher.records import Reward, Rewrite
from teacher.reward.assignment import lessons_of
from teacher.writers.local import TransformersWriter


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """What is credited as one: the rewrites of a lesson, or a single rewrite."""

    rewrites: Sequence[Rewrite]
    value: float
    """Mean reward of the rewrites that were scored; where none was, of all."""
    scored: Sequence[bool]
    """Of each rewrite: neither refused by a gate nor taught to students that all failed."""
    gains: Sequence[float]
    """Of each repeat. Rewrites of a lesson share its students' gain, so it is counted once. Empty where the value is a
    prediction that knows the noise."""


def unit_size(config: Config) -> int:
    """Rewrites that have one credit together."""
    return config.reward.credit_size(config.rl.rewrites_per_lesson)


def kept_units(config: Config) -> int:
    """`rl.keep` lessons in units."""
    return config.rl.keep * config.rl.rewrites_per_lesson // unit_size(config)


def units_of(config: Config, group: Sequence[Rewrite], rewards: Sequence[Reward]) -> list[Unit]:
    """A document's group of rewrites and their rewards as units."""
    size = unit_size(config)
    predicted = config.reward.adaptive or config.reward.pool_strategies
    units = []
    for start, rewrites in zip(range(0, len(group), size), lessons_of(group, size), strict=True):
        own = rewards[start : start + size]
        scored = [reward for reward in own if reward.outcome is not None]
        units.append(
            Unit(
                rewrites=rewrites,
                value=statistics.fmean(reward.value for reward in scored or own),
                scored=[reward.outcome is not None for reward in own],
                # Predictions are drawn towards the mean as far as they are noisy: no noise is held against them again.
                gains=() if predicted else max((reward.gains for reward in scored), key=len, default=()),
            )
        )
    return units


def select(units: Sequence[Unit], keep: int) -> list[Unit]:
    """The best `keep` of a group that beat its mean by more than the standard error of their own.

    With one repeat the noise is unknown and any unit above the mean will do. A group without such a contrast gives
    nothing, and so does a unit that was not scored.
    """
    mean = statistics.fmean(unit.value for unit in units)
    best = sorted(units, key=lambda unit: -unit.value)[:keep]
    return [unit for unit in best if any(unit.scored) and unit.value - mean > standard_error(unit, units)]


def standard_error(unit: Unit, group: Sequence[Unit]) -> float:
    """Of a unit's mean gain over its repeats beside others of its group, which share a seed in each; 0 where nothing of
    the group was repeated, and for what has no gains."""
    pooled = noise_variance([[other.gains for other in group]])
    return math.sqrt(pooled / len(unit.gains)) if pooled is not None and unit.gains else 0.0


def accepted(config: Config, groups: Sequence[Sequence[Rewrite]], rewards: Sequence[Sequence[Reward]]) -> list[Rewrite]:
    """What ReST-EM learns from: the scored rewrites of each document's best units."""
    return [
        rewrite
        for group, own in zip(groups, rewards, strict=True)
        for unit in select(units_of(config, group, own), kept_units(config))
        for rewrite, scored in zip(unit.rewrites, unit.scored, strict=True)
        if scored
    ]


def update(
    config: Config,
    round: int,
    writer: TransformersWriter,
    groups: Sequence[Sequence[Rewrite]],
    rewards: Sequence[Sequence[Reward]],
) -> dict[str, float | int]:
    """Fine-tunes the writer's model in place on the accepted completions; the loss is on the completion alone.

    Returns the metrics of the update. Nothing accepted leaves the model as it was.
    """
    kept = accepted(config, groups, rewards)
    if not kept:
        return {"kept": 0, "seconds": 0.0, "learning_rate": config.rl.learning_rate}
    started = time.perf_counter()
    disable_progress_bars()
    rows = []
    for prompt_ids, completion_ids in (token_ids(writer, rewrite) for rewrite in kept):
        labels = [-100] * len(prompt_ids) + completion_ids
        rows.append({"input_ids": prompt_ids + completion_ids, "labels": labels})
    with tempfile.TemporaryDirectory() as scratch:
        trainer = SFTTrainer(
            model=writer.model,
            args=SFTConfig(output_dir=scratch, max_length=None, **epoch_settings(config, round, writer, len(kept))),
            train_dataset=Dataset.from_list(rows),
            processing_class=writer.tokenizer,
        )
        trainer.remove_callback(PrinterCallback)
        loss = trainer.train().training_loss
    seconds = time.perf_counter() - started
    return {"loss": loss, "kept": len(kept), "seconds": seconds, "learning_rate": config.rl.learning_rate}


def token_ids(writer: TransformersWriter, rewrite: Rewrite) -> tuple[list[int], list[int]]:
    """Prompt and completion as the teacher read and wrote them, with the token that ended it: TRL would give an end
    also to a text that was cut, and teach the teacher to break off."""
    tokenizer = writer.tokenizer
    prompt_ids = tokenizer(rewrite.prompt)["input_ids"]
    whole = tokenizer(rewrite.prompt + rewrite.completion)["input_ids"]
    if whole[: len(prompt_ids)] == prompt_ids:
        completion_ids = whole[len(prompt_ids) :]
    else:  # a token across the border: the prompt is read without the completion
        completion_ids = tokenizer(rewrite.completion, add_special_tokens=False)["input_ids"]
    return prompt_ids, completion_ids + [tokenizer.eos_token_id] * rewrite.ended


def epoch_settings(config: Config, round: int, writer: TransformersWriter, rows: int) -> dict:
    """What ReST-EM and DPO ask of a trainer: `rl.epochs` passes over `rows`, `rl.batch_size` of them a step."""
    step = min(config.rl.batch_size, rows)
    rows_at_once = max(size for size in range(1, step + 1) if step % size == 0 and size <= config.teacher.batch_size)
    return trainer_settings(writer) | {
        "per_device_train_batch_size": rows_at_once,
        "gradient_accumulation_steps": step // rows_at_once,
        "num_train_epochs": config.rl.epochs,
        "learning_rate": config.rl.learning_rate,
        "seed": stable_seed(config.run.seed, config.rl.algorithm, round),
    }


def trainer_settings(writer: TransformersWriter) -> dict:
    """What all algorithms ask of a transformers Trainer: constant learning rate, no files, no chatter, no mixed
    precision (the model already has the dtype it should have)."""
    return {
        "lr_scheduler_type": "constant",
        "gradient_checkpointing": False,
        "use_cpu": writer.model.device.type == "cpu",
        "bf16": False,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
