"""What the algorithms share when they hand rewrites to a TRL trainer."""

from typing import Any

from configs.schema import Config
from configs.schema.rl import Epochs
from configs.seeds import stable_seed
from student.engine.encoding import prompt_ids
from teacher.records import Rewrite
from teacher.writers.local import TransformersWriter


def token_ids(writer: TransformersWriter, rewrite: Rewrite) -> tuple[list[int], list[int]]:
    """Prompt and completion as the teacher read and wrote them, with the token that ended the completion. TRL's own
    tokenizing would also end a text that was cut, and so teach the teacher to break off."""
    tokenizer = writer.tokenizer
    prompt, whole = prompt_ids(tokenizer, [rewrite.prompt, rewrite.prompt + rewrite.completion])
    if whole[: len(prompt)] == prompt:
        completion_ids = whole[len(prompt) :]
    else:  # a token crosses the border, but the teacher read the prompt without the completion
        completion_ids = tokenizer(rewrite.completion, add_special_tokens=False)["input_ids"]
    return prompt, completion_ids + [tokenizer.eos_token_id] * rewrite.ended


def epoch_settings(config: Config, passes: Epochs, round: int, writer: TransformersWriter, rows: int) -> dict[str, Any]:
    """Trainer settings for `passes.epochs` passes over `rows`, `passes.batch_size` of them in a gradient step."""
    step = min(passes.batch_size, rows)
    # The largest part of a step that divides it evenly and is no larger than what the teacher samples at once.
    rows_at_once = max(size for size in range(1, step + 1) if step % size == 0 and size <= config.teacher.batch_size)
    return trainer_settings(writer) | {
        "per_device_train_batch_size": rows_at_once,
        "gradient_accumulation_steps": step // rows_at_once,
        "num_train_epochs": passes.epochs,
        "learning_rate": config.rl.learning_rate,
        "seed": stable_seed(config.run.seed, config.rl.algorithm, round),
    }


def trainer_settings(writer: TransformersWriter) -> dict[str, Any]:
    """Settings of every trainer: constant learning rate, no files, no output; the model already has its dtype."""
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
