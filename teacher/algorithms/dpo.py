"""DPO (arXiv 2305.18290) on the best and the worst of each document, as Montessori-Instruct (arXiv 2410.14208) does.

The reference is the teacher at the round's start, which wrote both sides.
"""

import itertools
import math
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from datasets import Dataset, disable_progress_bars
from transformers import PrinterCallback
from trl import DPOConfig, DPOTrainer

from configs.schema import Config
from teacher.algorithms.rest_em import Unit, epoch_settings, kept_units, select, standard_error, token_ids, units_of
from teacher.records import Reward, Rewrite
from teacher.writers.local import TransformersWriter

LEAST_BETA = 0.01
"""At 0 the loss has no gradient."""

Pair = tuple[Rewrite, Rewrite]
"""What won, and what lost, of one prompt."""


def pairs_of(config: Config, group: Sequence[Rewrite], rewards: Sequence[Reward]) -> list[Pair]:
    """The best units of a document against its worst, i-th best with i-th worst and so their rewrites.

    Only units with the same prompts meet. A winner passes ReST-EM's rule, and leads its loser by more than the noise of
    their difference. A gate's refusal may lose and never wins; equal texts are no pair.
    """
    by_prompts: dict[tuple[str, ...], list[Unit]] = defaultdict(list)
    for unit in units_of(config, group, rewards):
        by_prompts[tuple(rewrite.prompt for rewrite in unit.rewrites)].append(unit)
    pairs: list[Pair] = []
    for units in by_prompts.values():
        mean = statistics.fmean(unit.value for unit in units)
        losers = sorted((unit for unit in units if unit.value < mean), key=lambda unit: unit.value)
        for best, worst in zip(select(units, kept_units(config)), itertools.cycle(losers), strict=False):
            if best.value - worst.value > math.hypot(standard_error(best, units), standard_error(worst, units)):
                pairs += _members(best, worst)
    return pairs


def _members(best: Unit, worst: Unit) -> Iterator[Pair]:
    sides = zip(best.rewrites, best.scored, worst.rewrites, worst.scored, strict=True)
    for won, won_scored, lost, lost_scored in sides:
        # What was taught to students that failed is neither good nor bad.
        if won_scored and (lost_scored or lost.rejected) and won.completion != lost.completion:
            yield won, lost


class _PairTrainer(DPOTrainer):
    """TRL's trainer on pairs that are tokenized already: its own way gives an end also to a text that was cut."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset


def update(
    config: Config,
    round: int,
    writer: TransformersWriter,
    groups: Sequence[Sequence[Rewrite]],
    rewards: Sequence[Sequence[Reward]],
) -> dict[str, float | int]:
    """Trains the writer's model in place on the pairs of all documents.

    Returns the metrics of the update: how many `pairs`, of how many `documents`, and the share whose winner the teacher
    `preferred`, in the last epoch, more than it did at the start. No pairs leave the model as it was.
    """
    by_document = [pairs_of(config, group, own) for group, own in zip(groups, rewards, strict=True)]
    pairs = [pair for pairs in by_document for pair in pairs]
    found = {"kept": len(pairs), "pairs": len(pairs), "documents": sum(map(bool, by_document))}
    if not pairs:
        return found | {"seconds": 0.0, "learning_rate": config.rl.learning_rate}
    started = time.perf_counter()
    disable_progress_bars()
    rows = []
    for won, lost in pairs:
        prompt_ids, won_ids = token_ids(writer, won)
        rows.append({"prompt_ids": prompt_ids, "chosen_ids": won_ids, "rejected_ids": token_ids(writer, lost)[1]})
    settings = epoch_settings(config, round, writer, len(pairs)) | {"logging_strategy": "epoch"}
    with tempfile.TemporaryDirectory() as scratch, _quiet():
        trainer = _PairTrainer(
            model=writer.model,
            args=DPOConfig(
                output_dir=scratch,
                max_length=None,
                beta=max(config.rl.kl, LEAST_BETA),
                precompute_ref_log_probs=True,
                **settings,
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=writer.tokenizer,
        )
        trainer.remove_callback(PrinterCallback)
        loss = trainer.train().training_loss
    if "ref" in getattr(writer.model, "peft_config", {}):
        writer.model.delete_adapter("ref")  # TRL's copy of the adapter at the round's start
    last = [line for line in trainer.state.log_history if "rewards/accuracies" in line][-1]
    return found | {
        "loss": loss,
        "preferred": last["rewards/accuracies"],
        "seconds": time.perf_counter() - started,
        "learning_rate": config.rl.learning_rate,
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """TRL's bar over the reference's log-probabilities knows no other switch."""
    before = os.environ.get("TQDM_DISABLE")
    os.environ["TQDM_DISABLE"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TQDM_DISABLE"]
        else:
            os.environ["TQDM_DISABLE"] = before
