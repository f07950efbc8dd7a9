"""Several processes train one teacher: `accelerate launch` starts them, and DDP adds up their gradients.

    accelerate launch --config_file configs/accelerate/ddp.yaml -m curation.cli train CONFIG.yaml

Rank 0 is the run: it reads and writes the run directory, examines students, validates and prints. The other ranks take
part in the steps of training alone: each samples its share of a step's completions and does its share of the backward
pass. Rank 0 scores all completions of a step at once, since its student pool has all devices.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

LONGEST_WAIT = timedelta(days=7)
"""Timeout of a collective: the other ranks wait in one while rank 0 validates."""
SHARDED = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM")
"""Environment variables by which accelerate asks for a sharded model."""


class Ranks:
    """The processes that train together. Where only one was started it is rank 0, and torch.distributed is not used."""

    def __init__(self) -> None:
        self.count = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))

    @property
    def is_helper(self) -> bool:
        """Whether rank 0 is another process."""
        return self.rank > 0

    def start(self) -> None:
        """Connects to the other processes; each takes its own GPU."""
        if self.count > 1:
            import torch
            from accelerate import PartialState

            if torch.cuda.is_available():
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
            PartialState(cpu=not torch.cuda.is_available(), timeout=LONGEST_WAIT)

    def rank_0_first(self) -> AbstractContextManager[None]:
        """A block that rank 0 has left before the other ranks enter it."""
        if self.count == 1:
            return nullcontext()
        from accelerate import PartialState

        return PartialState().main_process_first()

    def broadcast(self, message: Any) -> Any:
        """Rank 0's `message`, on every rank."""
        if self.count == 1:
            return message
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([message], from_process=0)[0]

    def score_together(self, rows: list[Any], score: Callable[[list[Any]], list[float]]) -> list[float]:
        """The scores of this process's `rows`: rank 0 calls `score` once, with the rows of all ranks in their order."""
        if self.count == 1:
            return score(rows)
        from accelerate.utils import gather_object

        all_rows: Sequence[Any] = gather_object(rows)
        scores = self.broadcast(None if self.is_helper else score(list(all_rows)))
        return scores[self.rank * len(rows) : (self.rank + 1) * len(rows)]

    def share(self, rows: Sequence[Any]) -> Sequence[Any]:
        """An even share of `rows`, in rank order."""
        size = len(rows) // self.count
        return rows[self.rank * size : (self.rank + 1) * size]
