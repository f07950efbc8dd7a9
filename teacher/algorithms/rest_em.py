"""ReST-EM (arXiv 2312.06585; the outer loop of SEAL, arXiv 2506.10943): keep what beat its group, fine-tune on it."""

import tempfile
import time

from configs.schema import Config
from teacher.algorithms.algorithm import Algorithm, Groups, Metrics, Rewards
from teacher.algorithms.selection import accepted
from teacher.algorithms.trainers import Pass, epoch_settings, in_memory, token_ids
from teacher.writers.local import TransformersWriter


def update(
    config: Config,
    round: int,
    writer: TransformersWriter,
    groups: Groups,
    rewards: Rewards,
    floor: float | None = None,
) -> Metrics:
    """Fine-tunes the writer's model in place on the accepted completions; the loss is on the completion alone. Returns
    the metrics of the update. Where nothing is accepted the model stays as it was."""
    from datasets import Dataset, disable_progress_bars
    from transformers import PrinterCallback
    from trl import SFTConfig, SFTTrainer

    best = accepted(config.reward, config.rl, groups, rewards, floor)
    kept = [rewrite for rewrite in best if rewrite.completion]  # of a ready text the teacher wrote nothing
    if not kept:
        return {"kept": 0, "seconds": 0.0, "learning_rate": config.rl.learning_rate}
    started = time.perf_counter()
    disable_progress_bars()
    rows = []
    for prompt_ids, completion_ids in (token_ids(writer, rewrite) for rewrite in kept):
        labels = [-100] * len(prompt_ids) + completion_ids
        rows.append({"input_ids": prompt_ids + completion_ids, "labels": labels})

    def train(at_once: Pass) -> float:
        """The mean loss."""
        settings = epoch_settings(config, config.rl.rest_em, round, writer, len(rows), at_once)
        with tempfile.TemporaryDirectory() as scratch:
            trainer = SFTTrainer(
                model=writer.model,
                args=SFTConfig(output_dir=scratch, max_length=None, **settings),
                train_dataset=Dataset.from_list(rows),
                processing_class=writer.tokenizer,
            )
            trainer.remove_callback(PrinterCallback)
            return float(trainer.train().training_loss)

    loss = in_memory(writer, train)
    seconds = time.perf_counter() - started
    return {"loss": loss, "kept": len(kept), "seconds": seconds, "learning_rate": config.rl.learning_rate}


REST_EM = Algorithm(update=update)
