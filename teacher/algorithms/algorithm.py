"""What an RL algorithm is to the rest of the project: one record, defined in the algorithm's own module."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from configs import schema
from configs.schema import Config
from student.records import Document
from teacher.algorithms.distributed import Ranks
from teacher.gates.checks import Gate
from teacher.records import Reward, Rewrite
from teacher.run.clock import Clock
from teacher.writers.local import TransformersWriter

Groups = Sequence[Sequence[Rewrite]]
"""The rewrites of each document."""
Rewards = Sequence[Sequence[Reward]]
"""Aligned with the groups."""
Metrics = dict[str, float | int]

ScoreStep = Callable[[int, list[list[Rewrite]]], list[list[Reward]]]
"""`(step within the round, groups) -> rewards`; journals what it scores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingRound:
    """A round of an algorithm that samples by itself and asks for the rewards of each step."""

    config: Config
    number: int
    writer: TransformersWriter
    """Its model is trained in place."""
    documents: Sequence[Document]
    gates: Sequence[Gate]
    score: ScoreStep
    start: Path | None
    """The checkpoint that the round begins from; None for the untrained teacher."""
    clock: Clock
    ranks: Ranks
    """The processes that train together: all of them get the round, and rank 0 scores."""


def one_step(_reward: schema.Reward, documents: int) -> list[int]:
    """All documents of a round in one step."""
    return [documents]


@dataclass(frozen=True, slots=True, kw_only=True)
class Algorithm:
    """How one value of `rl.algorithm` trains the teacher. It has either `update` or `train_round`."""

    update: Callable[[Config, int, TransformersWriter, Groups, Rewards, float | None], Metrics] | None = None
    """`(config, round, writer, groups, rewards, floor) -> metrics`: trains the writer's model in place on a round's
    rewrites, which the training loop has sampled and scored. Unless `rl.false_keep` is null, only
    lessons are kept that gained more than `floor`."""
    train_round: Callable[[SamplingRound], tuple[Metrics, torch.optim.Optimizer]] | None = None
    """Samples, asks for rewards and trains step by step; returns metrics and the optimiser to keep."""
    step_sizes: Callable[[schema.Reward, int], list[int]] = one_step
    """`(reward settings, documents of a round) -> documents of each scored step`."""
    several_processes: bool = False
    """Whether the processes that `accelerate launch` started train one teacher together."""
    keeps_optimizer: bool = False
    """Whether a checkpoint holds the optimiser, whose moments the next round goes on with."""

    def __post_init__(self) -> None:
        assert (self.update is None) != (self.train_round is None), "either update or train_round"

    @property
    def samples_itself(self) -> bool:
        """Whether the trainer samples, so that a vLLM writer runs inside it and not as a server."""
        return self.train_round is not None
