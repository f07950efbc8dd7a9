"""Several processes train one teacher: `accelerate launch` starts them, and DDP adds up their gradients.

    accelerate launch --config_file configs/accelerate/ddp.yaml -m curation.cli train CONFIG.yaml

Rank 0 is the run: it reads and writes the run directory, examines students, validates and prints. The others follow it
into GRPO's steps alone: each samples its share of a step's completions and does its share of the backward pass, and all
completions are scored at once by rank 0, whose pool has all the students' devices.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

from configs.errors import UserError
from configs.schema import Config

LONGEST_WAIT = timedelta(days=7)
"""Of a collective: the others wait while rank 0 validates."""
SHARDED = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM")


class Ranks:
    """The processes that train together; one process, without torch.distributed, where nothing launched more."""

    def __init__(self) -> None:
        self.count = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))

    @property
    def follows(self) -> bool:
        """Whether this process is another's helper."""
        return self.rank > 0

    def check(self, config: Config) -> None:
        """Raises UserError for what several processes cannot train."""
        if self.count == 1:
            return
        if config.rl.algorithm != "grpo":
            raise UserError(
                f"accelerate launch started {self.count} processes, and rl.algorithm {config.rl.algorithm!r} trains in"
                " one: start `notewright train` (its students run on all GPUs with student.pool 'ray'), or take 'grpo'"
            )
        sharded = next((name for name in SHARDED if os.environ.get(name, "").lower() in ("true", "1")), None)
        if sharded is not None:
            raise UserError(
                f"accelerate launch with {sharded.rpartition('_USE_')[2]}: a teacher in shards cannot be saved or"
                " sampled from here; take DDP (configs/accelerate/ddp.yaml)"
            )
        rows = config.rl.group_size * config.rl.rewrites_per_lesson
        if rows % self.count:
            raise UserError(
                f"{self.count} processes cannot share groups of {rows} rewrites evenly: make rl.group_size a multiple"
                f" of {self.count}"
            )

    def start(self) -> None:
        """Meets the other processes; each takes its own GPU."""
        if self.count > 1:
            import torch
            from accelerate import PartialState

            if torch.cuda.is_available():
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
            PartialState(cpu=not torch.cuda.is_available(), timeout=LONGEST_WAIT)

    def first(self) -> AbstractContextManager[None]:
        """A block that rank 0 has left before the others enter it."""
        if self.count == 1:
            return nullcontext()
        from accelerate import PartialState

        return PartialState().main_process_first()

    def tell(self, message: Any) -> Any:
        """What rank 0 says, to all."""
        if self.count == 1:
            return message
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([message], from_process=0)[0]

    def scored_together(self, rows: list[Any], score: Callable[[list[Any]], list[float]]) -> list[float]:
        """The scores of this process's `rows`, which rank 0 finds for those of all processes, in their order."""
        if self.count == 1:
            return score(rows)
        from accelerate.utils import gather_object

        every: Sequence[Any] = gather_object(rows)
        scores = self.tell(None if self.follows else score(list(every)))
        return scores[self.rank * len(rows) : (self.rank + 1) * len(rows)]

    def share(self, rows: Sequence[Any]) -> Sequence[Any]:
        """The part of what all have that is for this process."""
        part = len(rows) // self.count
        return rows[self.rank * part : (self.rank + 1) * part]
