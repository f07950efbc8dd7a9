"""What the algorithms share when they hand rewrites to a TRL trainer."""

import logging
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch

from configs.errors import RunError
from configs.schema import Config
from configs.schema.rl import Epochs
from configs.seeds import stable_seed
from student.engine.encoding import prompt_ids
from student.engine.memory import free_memory, is_out_of_memory
from teacher.records import Rewrite
from teacher.writers.local import TransformersWriter

logger = logging.getLogger(__name__)
T = TypeVar("T")


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


class Pass(NamedTuple):
    """How much of a gradient step is computed at once."""

    rows: int
    """At most."""
    checkpointing: bool
    """Whether activations are computed again in the backward pass instead of kept."""


def in_memory(writer: TransformersWriter, update: Callable[[Pass], T]) -> T:
    """What `update` returns, which trains the writer's model in place in passes of that size.

    Where memory runs out, the weights go back to where they were and it starts again: with checkpointing, then with
    half of the rows, and so on. A step is the sum of its passes, so that its result is the same up to rounding. Raises
    RunError where a single row does not fit.
    """
    model, settings = writer.model, writer.settings
    start = {name: p.detach().to("cpu", copy=True) for name, p in model.named_parameters() if p.requires_grad}
    choices = [True] if settings.gradient_checkpointing else [False, True]
    if not model.supports_gradient_checkpointing:
        choices = [False]
    sizes = [Pass(settings.batch_size, checkpointing) for checkpointing in choices]
    while sizes[-1].rows > 1:
        sizes.append(sizes[-1]._replace(rows=sizes[-1].rows // 2))
    for size in sizes:
        try:
            return update(size)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        finally:
            model.zero_grad(set_to_none=True)
            model.gradient_checkpointing_disable()
            if "ref" in getattr(model, "peft_config", {}):
                model.delete_adapter("ref")  # TRL's copy of the adapter at the round's start
        logger.warning("the teacher's update ran out of memory in passes of %s", size)
        with torch.no_grad():
            for name, weight in start.items():
                model.get_parameter(name).copy_(weight)
        free_memory()
    raise RunError(
        "the teacher's update ran out of memory with one row in a pass: free memory (serving.arguments), or take"
        " a smaller teacher, teacher.lora instead of all weights, or a lower teacher.max_new_tokens"
    )


def epoch_settings(
    config: Config, passes: Epochs, round: int, writer: TransformersWriter, rows: int, at_once: Pass
) -> dict[str, Any]:
    """Trainer settings for `passes.epochs` passes over `rows`, `passes.batch_size` of them in a gradient step."""
    step = min(passes.batch_size, rows)
    # The largest part of a step that divides it evenly.
    rows_at_once = max(size for size in range(1, step + 1) if step % size == 0 and size <= at_once.rows)
    return trainer_settings(writer, at_once) | {
        "per_device_train_batch_size": rows_at_once,
        "gradient_accumulation_steps": step // rows_at_once,
        "num_train_epochs": passes.epochs,
        "learning_rate": config.rl.learning_rate,
        "seed": stable_seed(config.run.seed, config.rl.algorithm, round),
    }


def trainer_settings(writer: TransformersWriter, at_once: Pass) -> dict[str, Any]:
    """Settings of every trainer: constant learning rate, no files, no output; the model already has its dtype."""
    return {
        "lr_scheduler_type": "constant",
        "gradient_checkpointing": at_once.checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "use_cpu": writer.model.device.type == "cpu",
        "bf16": False,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
