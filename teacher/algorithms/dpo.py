"""DPO (arXiv 2305.18290) on the best and the worst of each document, as Montessori-Instruct (arXiv 2410.14208) does.

The reference is the teacher at the round's start, which wrote both sides.
"""

import itertools
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from configs import schema
from configs.schema import Config, Rl
from teacher.algorithms.algorithm import Algorithm, Groups, Metrics, Rewards
from teacher.algorithms.selection import Unit, best_units, units_of
from teacher.algorithms.trainers import Pass, epoch_settings, in_memory, token_ids
from teacher.records import Reward, Rewrite
from teacher.writers.local import TransformersWriter

Pair = tuple[Rewrite, Rewrite]
"""The winner and the loser of one prompt."""


def pairs_of(
    reward: schema.Reward,
    rl: Rl,
    group: Sequence[Rewrite],
    rewards: Sequence[Reward],
    floor: float | None = None,
    *,
    policy: bool = True,
) -> list[Pair]:
    """Pairs the best units of a document with its worst, the i-th best with the i-th worst, rewrite by rewrite.

    Only units with the same prompts are paired. A winner is selected as for ReST-EM, but stands out of the scored units
    alone, and a loser is below their mean. A refused rewrite may lose and never wins; equal texts are no pair, nor are
    ready ones that the teacher did not choose.
    """
    by_prompts: dict[tuple[tuple[str, str], ...], list[Unit]] = defaultdict(list)
    for unit in units_of(reward, rl, group, rewards):
        # Of two strategies with one prompt (`x` and `sentences+x`) the ready part may have won. Under `policy`
        # prompting the strategy is what the teacher chose.
        # The other side of a pair is a taught lesson too: what was left out says nothing about their difference.
        prompts = tuple((r.prompt, "" if policy else r.strategy) for r in unit.rewrites)
        by_prompts[prompts].append(replace(unit, ahead=None))
    pairs: list[Pair] = []
    for units in by_prompts.values():
        winners = best_units(reward, rl, units, floor)
        if not winners:
            continue
        mean = statistics.fmean(unit.value for unit in units if any(unit.scored))
        losers = sorted((unit for unit in units if unit.value < mean), key=lambda unit: unit.value)
        for best, worst in zip(winners, itertools.cycle(losers), strict=False):
            sides = zip(best.rewrites, best.scored, worst.rewrites, worst.scored, strict=True)
            pairs += [
                (won, lost)
                for won, won_scored, lost, lost_scored in sides
                # A rewrite whose students failed, and that no gate refused, is neither good nor bad.
                if won_scored and (lost_scored or lost.rejected) and won.completion != lost.completion
            ]
    return pairs


def update(
    config: Config,
    round: int,
    writer: TransformersWriter,
    groups: Groups,
    rewards: Rewards,
    floor: float | None = None,
) -> Metrics:
    """Trains the writer's model in place on the pairs of all documents.

    Returns its metrics: the number of `pairs`, of `documents` that have some, and the share of pairs whose winner the
    teacher `preferred`, in the last epoch, more than at the start. Without pairs the model stays as it was.
    """
    from datasets import Dataset, disable_progress_bars
    from transformers import PrinterCallback
    from trl import DPOConfig, DPOTrainer

    class PairTrainer(DPOTrainer):
        """TRL's trainer on pairs that are tokenized already: its own tokenizing would also end a text that was cut."""

        def _prepare_dataset(self, dataset: Dataset, *_: object) -> Dataset:
            return dataset

    policy = config.teacher.prompting == "policy"
    by_document = [
        pairs_of(config.reward, config.rl, *both, floor, policy=policy) for both in zip(groups, rewards, strict=True)
    ]
    pairs = list(itertools.chain.from_iterable(by_document))
    metrics: Metrics = {"kept": len(pairs), "pairs": len(pairs), "documents": sum(map(bool, by_document))}
    metrics |= {"learning_rate": config.rl.learning_rate}
    if not pairs:
        return metrics | {"seconds": 0.0}
    started = time.perf_counter()
    disable_progress_bars()
    rows = []
    for won, lost in pairs:
        prompt_ids, won_ids = token_ids(writer, won)
        rows.append({"prompt_ids": prompt_ids, "chosen_ids": won_ids, "rejected_ids": token_ids(writer, lost)[1]})

    def train(at_once: Pass) -> Metrics:
        """The mean loss, and the share of pairs whose winner is preferred."""
        settings = epoch_settings(config, config.rl.dpo, round, writer, len(pairs), at_once)
        settings |= {"beta": config.rl.dpo.beta, "logging_strategy": "epoch"}
        with tempfile.TemporaryDirectory() as scratch, _no_progress_bar():
            trainer = PairTrainer(
                model=writer.model,
                args=DPOConfig(output_dir=scratch, max_length=None, precompute_ref_log_probs=True, **settings),
                train_dataset=Dataset.from_list(rows),
                processing_class=writer.tokenizer,
            )
            trainer.remove_callback(PrinterCallback)
            loss = trainer.train().training_loss
        last_epoch = [line for line in trainer.state.log_history if "rewards/accuracies" in line][-1]
        return {"loss": loss, "preferred": last_epoch["rewards/accuracies"]}

    metrics |= in_memory(writer, train)
    return metrics | {"seconds": time.perf_counter() - started}


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Hides TRL's bar over the reference's log-probabilities, which has no setting of its own."""
    before = os.environ.get("TQDM_DISABLE")
    os.environ["TQDM_DISABLE"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TQDM_DISABLE"]
        else:
            os.environ["TQDM_DISABLE"] = before


DPO = Algorithm(update=update)
