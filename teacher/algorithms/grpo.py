"""GRPO (arXiv 2402.03300) with TRL's trainer: the reward is our students' gain, one call a step with whole groups.

Advantages are rewards minus their group's mean, not divided by its spread, and the loss is not divided by a
completion's own length (Dr. GRPO, arXiv 2503.20783): both divisions would reward short or low-contrast groups.
"""

import itertools
import math
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PrinterCallback
from trl import GRPOConfig, GRPOTrainer

from configs.schema import Config
from configs.seeds import stable_seed
from student.records import Document
from teacher.algorithms.distributed import Ranks
from teacher.algorithms.rest_em import trainer_settings
from teacher.gates.checks import Gate
from teacher.prompting.prompts import build_prompt
from teacher.prompting.strategies import spread
from teacher.records import Reward, Rewrite
from teacher.run.checkpoints import OPTIMIZER_FILE
from teacher.run.clock import Clock
from teacher.sampling import deal, explore_share, make_rewrite
from teacher.writers.local import TransformersWriter

ScoreStep = Callable[[int, list[list[Rewrite]]], list[list[Reward]]]
"""`(step within the round, groups) -> rewards`; journals what it scores."""

Rollout = Callable[[list[str], GRPOTrainer], dict[str, Any]]
"""What TRL asks for the completions of a step."""


class StudentGain:
    """The reward function that TRL calls with the completions of a step, G x m in a row for each document."""

    __name__ = "student_gain"

    def __init__(
        self,
        config: Config,
        writer: TransformersWriter,
        documents: Sequence[Document],
        gates: Iterable[Gate],
        score: ScoreStep,
        ranks: Ranks,
    ) -> None:
        self.settings = config.teacher
        self.group = rewrites_per_group(config)
        self.writer = writer
        self.documents = {document.id: document for document in documents}
        self.gates = list(gates)
        self.score = score
        self.ranks = ranks
        self.step = 0

    def __call__(
        self, prompts: list[str], completion_ids: list[list[int]], document_id: list[str], strategy: list[str], **_: Any
    ) -> list[float]:
        rows = list(zip(prompts, completion_ids, document_id, strategy, strict=True))
        return self.ranks.scored_together(rows, self._score)

    def _score(self, rows: Sequence[tuple[str, list[int], str, str]]) -> list[float]:
        rewrites = [
            make_rewrite(self.settings, self.documents[name], prompt, self.writer.read(ids), way, self.gates)
            for prompt, ids, name, way in rows
        ]
        groups = [rewrites[start : start + self.group] for start in range(0, len(rewrites), self.group)]
        assert all(len({rewrite.document_id for rewrite in group}) == 1 for group in groups), "TRL split a group"
        self.step += 1
        return [reward.value for rewards in self.score(self.step, groups) for reward in rewards]


def train_round(
    config: Config,
    round: int,
    writer: TransformersWriter,
    documents: Sequence[Document],
    gates: Iterable[Gate],
    score: ScoreStep,
    start: Path | None,
    clock: Clock | None = None,
    ranks: Ranks | None = None,
) -> tuple[dict[str, float | int], torch.optim.Optimizer]:
    """Trains the writer's model in place, in `steps_per_round` steps over all `documents`.

    Returns the metrics of the update and the optimiser, whose moments go on from those kept in the checkpoint `start`.
    Under `strategy` prompting a group has one prompt, hence one strategy; strategies rotate over documents and rounds.
    Of several `ranks` all call this at once, and rank 0 scores.
    """
    ranks = ranks or Ranks()
    started = time.perf_counter()
    optimizer = _optimizer(config, writer.model, start)
    # TRL loads the reference by the name in the model's config; the KL is to the teacher's start, not the round's.
    writer.model.config._name_or_path = config.teacher.model
    writer.tokenizer.padding_side = "left"
    gain = StudentGain(config, writer, documents, gates, score, ranks)
    rows = _rows(config, round, writer, documents)
    rollout = _rollout(config, round, writer, len(documents), clock or Clock(), ranks)
    sizes = step_sizes(config, len(documents))
    losses: list[float] = []
    history: list[dict[str, float]] = []
    # A trainer has steps of one size, so a round that does not divide evenly takes two.
    for size in sorted(set(sizes), reverse=True):
        steps, done = sizes.count(size), sum(other for other in sizes if other > size)
        part = rows.select(range(done, done + steps * size))
        trainer = _train(config, round, writer, part, size, gain, rollout, optimizer, ranks)
        losses += [trainer.state.log_history[-1]["train_loss"]] * steps
        history += trainer.state.log_history
    metrics = {
        "loss": statistics.fmean(losses),
        "kept": len(documents) * rewrites_per_group(config),
        "seconds": time.perf_counter() - started,
        "learning_rate": config.rl.learning_rate,
    }
    for name in ("kl", "entropy", "grad_norm"):
        logged = [line[name] for line in history if name in line]
        metrics |= {name: statistics.fmean(logged)} if logged else {}
    return metrics, optimizer


def rewrites_per_group(config: Config) -> int:
    """Completions of a document in a step: G lessons of m. Each is compared with the mean of them all."""
    return config.rl.group_size * config.rl.rewrites_per_lesson


def steps_per_round(config: Config, documents: int) -> int:
    """Scored steps of a round of so many documents."""
    return len(step_sizes(config, documents))


def step_sizes(config: Config, documents: int) -> list[int]:
    """Documents of each step: at most as many as share a student, and as even as can be, larger steps first. No step is
    then so small that its documents have no company in their students."""
    steps = math.ceil(documents / config.reward.documents_per_student)
    base, larger = divmod(documents, steps)
    return [base + 1] * larger + [base] * (steps - larger)


def _train(
    config: Config,
    round: int,
    writer: TransformersWriter,
    rows: Dataset,
    per_step: int,
    gain: StudentGain,
    rollout: Rollout,
    optimizer: torch.optim.Optimizer,
    ranks: Ranks,
) -> GRPOTrainer:
    constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*'rollout_func'.*experimental")
        trainer = GRPOTrainer(
            model=writer.model,
            reward_funcs=gain,
            args=GRPOConfig(output_dir=scratch, **_settings(config, round, writer, len(rows), per_step, ranks)),
            train_dataset=rows,
            processing_class=writer.tokenizer,
            optimizers=(optimizer, constant),
            rollout_func=rollout,
        )
        trainer.remove_callback(PrinterCallback)
        reference = _reset_reference(writer.model)
        trainer.train()
        if reference:
            writer.model.delete_adapter("ref")
    return trainer


def _rollout(
    config: Config, round: int, writer: TransformersWriter, documents: int, clock: Clock, ranks: Ranks
) -> Rollout:
    """What samples in TRL's place: with dealt openings, and in batches of `teacher.batch_size`, where TRL would sample
    a whole step's rewrites at once.

    TRL takes the log-probabilities of what comes back from the model itself, openings included, so the ratio is 1
    whoever chose them: a dealt tag is learnt from as if the teacher had written it.
    """
    share = explore_share(config.rl, round) if config.teacher.prompting == "policy" else 0.0
    n, m = rewrites_per_group(config), config.rl.rewrites_per_lesson
    dealt = deal(config.teacher.strategies, documents, n, m, share, offset=round)
    openings = iter([writer.opening_ids(opening) for row in dealt for opening in row])

    def rollout(prompts: list[str], trainer: GRPOTrainer) -> dict[str, Any]:
        prompt_ids = writer.tokenizer(prompts)["input_ids"]
        opening_ids = list(ranks.share(list(itertools.islice(openings, len(prompts) * ranks.count))))
        with clock("sample"):
            if trainer.use_vllm:
                return _sample_inside(trainer, prompt_ids, opening_ids, config.teacher.max_new_tokens)
            completion_ids = writer.sample(prompt_ids, opening_ids)
        return {"prompt_ids": prompt_ids, "completion_ids": completion_ids, "logprobs": None}

    return rollout


def _sample_inside(
    trainer: GRPOTrainer, prompt_ids: list[list[int]], opening_ids: list[list[int]], longest: int
) -> dict[str, Any]:
    """As `TransformersWriter.sample`, by the vLLM inside the trainer, with the log-probabilities that it sampled at."""
    rows = [[*prompt, *opening] for prompt, opening in zip(prompt_ids, opening_ids, strict=True)]
    _, sampled, found, _ = trainer.vllm_generation.generate(prompts=rows, images=None, num_generations=1)
    completion_ids, logprobs = [], []
    for opening, new, at in zip(opening_ids, sampled, found, strict=True):
        completion_ids.append([*opening, *new][:longest])
        # Nobody sampled an opening: TRL corrects nothing where the sampler's log-probability is no number.
        logprobs.append([*(math.nan for _ in opening), *(token[0] for token in at)][:longest])
    return {"prompt_ids": prompt_ids, "completion_ids": completion_ids, "logprobs": logprobs}


def vllm_settings(config: Config) -> dict[str, Any]:
    """What TRL is told of the vLLM inside its trainer; memory and tensor parallelism as in `serving.arguments`. It
    sleeps, and leaves the GPU to students and update, while it does not write."""
    given = config.serving.arguments

    def option(name: str, default: str) -> str:
        places = [place for place, word in enumerate(given[:-1]) if word == name]
        return given[places[-1] + 1] if places else default

    return {
        "use_vllm": True,
        "vllm_mode": "colocate",
        "vllm_enable_sleep_mode": True,
        "vllm_gpu_memory_utilization": float(option("--gpu-memory-utilization", "0.3")),
        "vllm_tensor_parallel_size": int(option("--tensor-parallel-size", "1")),
        "vllm_max_model_length": config.serving.context_tokens,
        "vllm_importance_sampling_mode": "token_truncate",
    }


def _optimizer(config: Config, model: PreTrainedModel, start: Path | None) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config.rl.learning_rate, weight_decay=0.0)
    if start is not None and (start / OPTIMIZER_FILE).is_file():
        optimizer.load_state_dict(torch.load(start / OPTIMIZER_FILE, weights_only=True))
        for group in optimizer.param_groups:  # the moments go on; a fork may have another rate
            group["lr"] = group["initial_lr"] = config.rl.learning_rate
    return optimizer


def _rows(config: Config, round: int, writer: TransformersWriter, documents: Sequence[Document]) -> Dataset:
    policy = config.teacher.prompting == "policy"
    ways = [""] * len(documents) if policy else spread(config.teacher.strategies, len(documents), offset=round)
    prompts = [
        build_prompt(writer.tokenizer, config.teacher, document, way, writer.max_prompt_tokens)
        for document, way in zip(documents, ways, strict=True)
    ]
    ids = [document.id for document in documents]
    return Dataset.from_dict({"prompt": prompts, "document_id": ids, "strategy": ways})


def _settings(
    config: Config, round: int, writer: TransformersWriter, documents: int, per_step: int, ranks: Ranks
) -> dict[str, Any]:
    batch = per_step * rewrites_per_group(config)
    local = batch // ranks.count
    rows_at_once = max(size for size in range(1, config.teacher.batch_size + 1) if local % size == 0)
    vllm = vllm_settings(config) if config.teacher.writer == "vllm" else {}
    return (
        trainer_settings(writer)
        | vllm
        | {
            "per_device_train_batch_size": rows_at_once,
            "gradient_accumulation_steps": local // rows_at_once,
            "generation_batch_size": batch,
            "ddp_find_unused_parameters": False,
            "num_generations": rewrites_per_group(config),
            "max_steps": documents // per_step,
            "learning_rate": config.rl.learning_rate,
            "max_completion_length": config.teacher.max_new_tokens,
            "temperature": config.teacher.temperature,
            "top_p": config.teacher.top_p,
            "top_k": 0,
            "beta": config.rl.kl,
            "loss_type": "dr_grpo",
            "scale_rewards": "none",
            "shuffle_dataset": False,
            "logging_strategy": "steps",
            "logging_steps": 1,
            "seed": stable_seed(config.run.seed, "grpo", round, per_step),
        }
    )


def _reset_reference(model: PreTrainedModel) -> bool:
    """Makes TRL's frozen `ref` adapter, a copy of the round's start, the teacher's start again (B = 0).

    False where there is none.
    """
    names = [name for name, _ in model.named_parameters() if ".lora_B.ref." in name]
    with torch.no_grad():
        for name in names:
            model.get_parameter(name).zero_()
    return bool(names)
