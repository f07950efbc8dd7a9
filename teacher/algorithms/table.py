"""The algorithms that `rl.algorithm` selects from. No other module knows their names.

Their modules import TRL, which takes five seconds, when they first train: a config can be checked without it.
"""

import os

from configs.errors import UserError
from configs.schema import Config, Rl
from student.engine.models import pick_device
from teacher.algorithms.algorithm import Algorithm
from teacher.algorithms.distributed import SHARDED, Ranks
from teacher.algorithms.dpo import DPO
from teacher.algorithms.grpo import GRPO
from teacher.algorithms.rest_em import REST_EM
from teacher.prompting.strategies import is_ready

ALGORITHMS = {"rest_em": REST_EM, "grpo": GRPO, "dpo": DPO}


def algorithm_of(rl: Rl) -> Algorithm:
    """The algorithm of a config."""
    return ALGORITHMS[rl.algorithm]


def writes_on_server(config: Config) -> bool:
    """Whether the run starts a vLLM server to write: a trainer that samples by itself has its vLLM inside."""
    return config.teacher.writer == "vllm" and not algorithm_of(config.rl).samples_itself


def start_ranks(config: Config) -> Ranks:
    """The processes that train together, connected. Raises UserError as `check_algorithm` does."""
    ranks = Ranks()
    check_algorithm(config, ranks)
    ranks.start()
    return ranks


def check_algorithm(config: Config, ranks: Ranks) -> None:
    """Raises UserError where the algorithm cannot train with the config's writer, or in so many processes."""
    algorithm, name = algorithm_of(config.rl), config.rl.algorithm
    on_gpu = pick_device(config.teacher.device).type == "cuda"
    if config.teacher.writer == "vllm" and algorithm.samples_itself and not on_gpu:
        others = " or ".join(repr(other) for other, known in ALGORITHMS.items() if not known.samples_itself)
        raise UserError(
            f"teacher.writer 'vllm' with rl.algorithm {name!r} needs an NVIDIA GPU (vLLM runs inside TRL's"
            f" trainer): take teacher.writer 'transformers', or rl.algorithm {others}"
        )
    some_ready = any(map(is_ready, config.teacher.strategies))
    if algorithm.samples_itself and some_ready and config.teacher.prompting == "strategy":
        raise UserError(
            f"rl.algorithm {name!r} compares rewrites of one prompt, and ready strategies have none: set"
            " teacher.prompting 'policy', or leave them to evaluation.arms"
        )
    if config.teacher.writer == "vllm" and algorithm.samples_itself and some_ready:
        raise UserError(
            f"teacher.writer 'vllm' with rl.algorithm {name!r} does not stop at the tag of a ready strategy: take"
            " teacher.writer 'transformers', which samples little more than the tags"
        )
    if ranks.count == 1:
        return
    if not algorithm.several_processes:
        others = " or ".join(repr(other) for other, known in ALGORITHMS.items() if known.several_processes)
        raise UserError(
            f"accelerate launch started {ranks.count} processes, and rl.algorithm {name!r} trains in one: start"
            f" `notewright train` (its students run on all GPUs with student.pool 'ray'), or take {others}"
        )
    sharded = next((variable for variable in SHARDED if os.environ.get(variable, "").lower() in ("true", "1")), None)
    if sharded is not None:
        raise UserError(
            f"accelerate launch with {sharded.rpartition('_USE_')[2]}: a teacher in shards cannot be saved or"
            " sampled from here; take DDP (configs/accelerate/ddp.yaml)"
        )
    rows = config.rl.rewrites_per_document
    if rows % ranks.count:
        raise UserError(
            f"{ranks.count} processes cannot share groups of {rows} rewrites evenly: make rl.group_size a multiple"
            f" of {ranks.count}"
        )
