"""ReST-EM (arXiv 2312.06585; the outer loop of SEAL, arXiv 2506.10943): keep what beat its group, fine-tune on it."""

import math
import statistics
import tempfile
import time
from collections.abc import Sequence

from datasets import Dataset, disable_progress_bars
from transformers import PrinterCallback
from trl import SFTConfig, SFTTrainer

from configs.schema import Config
from teacher.records import Reward, Rewrite
from teacher.reward import stable_seed
from teacher.writer import TransformersWriter


def select(rewrites: Sequence[Rewrite], rewards: Sequence[Reward], keep: int) -> list[Rewrite]:
    """The best `keep` of a group that beat its mean by more than the standard error of a mean over repeats.

    With one repeat the noise is unknown and any rewrite above the mean will do. A group without such a contrast gives
    nothing, and so does a rejected rewrite.
    """
    mean = statistics.fmean(reward.value for reward in rewards)
    error = standard_error(rewards)
    order = sorted(range(len(rewards)), key=lambda g: -rewards[g].value)
    return [rewrites[g] for g in order[:keep] if rewards[g].outcome is not None and rewards[g].value - mean > error]


def standard_error(rewards: Sequence[Reward]) -> float:
    """Of a rewrite's mean gain, from the variance over repeats pooled over the group; 0 with one repeat."""
    repeated = [reward.gains for reward in rewards if len(reward.gains) > 1]
    if not repeated:
        return 0.0
    pooled = statistics.fmean(statistics.variance(gains) for gains in repeated)
    return math.sqrt(pooled / statistics.fmean(len(gains) for gains in repeated))


def update(
    config: Config,
    round: int,
    writer: TransformersWriter,
    groups: Sequence[Sequence[Rewrite]],
    rewards: Sequence[Sequence[Reward]],
) -> dict[str, float | int]:
    """Fine-tunes the writer's model in place on the kept completions; the loss is on the completion alone.

    Returns the metrics of the update. Nothing kept leaves the model as it was.
    """
    kept = [rewrite for ws, rs in zip(groups, rewards, strict=True) for rewrite in select(ws, rs, config.rl.keep)]
    if not kept:
        return {"kept": 0, "seconds": 0.0, "learning_rate": config.rl.learning_rate}
    started = time.perf_counter()
    disable_progress_bars()
    rows = Dataset.from_list([{"prompt": rewrite.prompt, "completion": rewrite.completion} for rewrite in kept])
    with tempfile.TemporaryDirectory() as scratch:
        trainer = SFTTrainer(
            model=writer.model,
            args=SFTConfig(output_dir=scratch, **_settings(config, round, writer, len(kept))),
            train_dataset=rows,
            processing_class=writer.tokenizer,
        )
        trainer.remove_callback(PrinterCallback)
        loss = trainer.train().training_loss
    seconds = time.perf_counter() - started
    return {"loss": loss, "kept": len(kept), "seconds": seconds, "learning_rate": config.rl.learning_rate}


def _settings(config: Config, round: int, writer: TransformersWriter, rows: int) -> dict:
    step = min(config.rl.batch_size, rows)
    rows_at_once = max(size for size in range(1, step + 1) if step % size == 0 and size <= config.teacher.batch_size)
    return {
        "per_device_train_batch_size": rows_at_once,
        "gradient_accumulation_steps": step // rows_at_once,
        "num_train_epochs": config.rl.epochs,
        "learning_rate": config.rl.learning_rate,
        "completion_only_loss": True,
        "max_length": None,
        "seed": stable_seed(config.run.seed, "rest_em", round),
        **trainer_settings(writer),
    }


def trainer_settings(writer: TransformersWriter) -> dict:
    """What both algorithms ask of a transformers Trainer: constant learning rate, no files, no chatter, no mixed
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
