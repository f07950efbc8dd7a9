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
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from configs import schema
from configs.errors import UserError
from configs.schema import Serving
from configs.seeds import stable_seed
from student.engine.encoding import prompt_ids
from teacher.algorithms.algorithm import Algorithm, Metrics, SamplingRound
from teacher.algorithms.trainers import Pass, in_memory, trainer_settings
from teacher.prompting.prompts import build_prompt
from teacher.prompting.related import lacks_related
from teacher.prompting.strategies import prompts_of, spread
from teacher.ready.texts import ReadyTexts
from teacher.run.checkpoints import OPTIMIZER_FILE
from teacher.sampling import deal, explore_share, make_rewrite
from teacher.writers.head import untrained_name

if TYPE_CHECKING:
    from datasets import Dataset
    from trl import GRPOTrainer


def train_round(round: SamplingRound) -> tuple[Metrics, torch.optim.Optimizer]:
    """Trains the writer's model in place, in a step for each of `step_sizes`.

    Returns the metrics of the update and the optimiser, whose moments go on from those kept in the round's start. Under
    `strategy` prompting a group has one prompt, hence one strategy; strategies rotate over documents and rounds.
    """
    started = time.perf_counter()
    if round.ranks.count > 1:  # the others would wait for one that starts again
        teacher = round.config.teacher
        metrics, optimizer = _attempt(round, Pass(teacher.batch_size, teacher.gradient_checkpointing))
    else:
        metrics, optimizer = in_memory(round.writer, partial(_attempt, round))
    return metrics | {"seconds": time.perf_counter() - started}, optimizer


def _attempt(round: SamplingRound, at_once: Pass) -> tuple[Metrics, torch.optim.Optimizer]:
    """`train_round` in passes of this size. Begun again it samples the same rewrites, whose rewards are known."""
    writer, documents, rl = round.writer, round.documents, round.config.rl
    parameters = [parameter for parameter in writer.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rl.learning_rate, weight_decay=0.0)
    if round.start is not None and (round.start / OPTIMIZER_FILE).is_file():
        optimizer.load_state_dict(torch.load(round.start / OPTIMIZER_FILE, weights_only=True))
        for group in optimizer.param_groups:  # the moments go on, but a fork may have another rate
            group["lr"] = group["initial_lr"] = rl.learning_rate
    writer.tokenizer.padding_side = "left"
    student_gain, rollout, rows = _reward_function(round), _rollout(round), _rows(round)
    sizes = step_sizes(round.config.reward, len(documents))
    losses: list[float] = []
    history: list[dict[str, float]] = []
    # A trainer has steps of one size, so a round that does not divide evenly takes two trainers.
    for size in sorted(set(sizes), reverse=True):
        steps, done = sizes.count(size), sum(other for other in sizes if other > size)
        part = rows.select(range(done, done + steps * size))
        with untrained_name(round.config.teacher) as name:
            # TRL loads the reference by the name in the model's config: the KL is to the untrained teacher, not to the
            # round's start.
            writer.model.config._name_or_path = name
            log_history = _train(round, part, size, student_gain, rollout, optimizer, at_once)
        losses += [log_history[-1]["train_loss"]] * steps
        history += log_history
    metrics = {
        "loss": statistics.fmean(losses),
        "kept": len(documents) * rl.rewrites_per_document,
        "learning_rate": rl.learning_rate,
    }
    for name in ("kl", "entropy", "grad_norm"):
        logged = [line[name] for line in history if name in line]
        metrics |= {name: statistics.fmean(logged)} if logged else {}
    return metrics, optimizer


def step_sizes(reward: schema.Reward, documents: int) -> list[int]:
    """Documents of each step: at most as many as share a student, as even as can be, and the larger steps first. An
    uneven split would leave a last step whose few documents share a student with less company."""
    steps = math.ceil(documents / reward.documents_per_student)
    smaller, larger_steps = divmod(documents, steps)
    return [smaller + 1] * larger_steps + [smaller] * (steps - larger_steps)


def _reward_function(round: SamplingRound) -> Callable[..., list[float]]:
    """The function that TRL calls for the rewards of a step, with all rewrites of a document in a row."""
    documents = {document.id: document for document in round.documents}
    steps = itertools.count(1)

    def score(rows: Sequence[tuple[str, list[int], str, str]]) -> list[float]:
        teacher, size = round.config.teacher, round.config.rl.rewrites_per_document
        seed = stable_seed(round.config.run.seed, "sample", round.number)
        ready = {id: ReadyTexts(documents[id], seed) for _, _, id, _ in rows}
        rewrites = [
            make_rewrite(teacher, ready[id], [prompt], [round.writer.read(token_ids)], strategy, round.gates)
            for prompt, token_ids, id, strategy in rows
        ]
        groups = [rewrites[start : start + size] for start in range(0, len(rewrites), size)]
        assert all(len({rewrite.document_id for rewrite in group}) == 1 for group in groups), "TRL split a group"
        return [reward.value for rewards in round.score(next(steps), groups) for reward in rewards]

    def student_gain(
        prompts: list[str], completion_ids: list[list[int]], document_id: list[str], strategy: list[str], **_: Any
    ) -> list[float]:
        rows = list(zip(prompts, completion_ids, document_id, strategy, strict=True))
        return round.ranks.score_together(rows, score)

    return student_gain


def _train(
    round: SamplingRound,
    rows: "Dataset",
    documents_per_step: int,
    student_gain: Callable[..., list[float]],
    rollout: Callable[..., dict[str, Any]],
    optimizer: torch.optim.Optimizer,
    at_once: Pass,
) -> list[dict[str, float]]:
    """Trains on `rows` in steps of one size; returns TRL's log."""
    from transformers import PrinterCallback
    from trl import GRPOConfig, GRPOTrainer

    writer = round.writer
    constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*'rollout_func'.*experimental")
        trainer = GRPOTrainer(
            model=writer.model,
            reward_funcs=student_gain,
            args=GRPOConfig(output_dir=scratch, **_settings(round, len(rows), documents_per_step, at_once)),
            train_dataset=rows,
            processing_class=writer.tokenizer,
            optimizers=(optimizer, constant),
            rollout_func=rollout,
        )
        trainer.remove_callback(PrinterCallback)
        # TRL's frozen `ref` adapter is a copy of the round's start; with B = 0 it is the untrained teacher again.
        reference = [name for name, _ in writer.model.named_parameters() if ".lora_B.ref." in name]
        with torch.no_grad():
            for name in reference:
                writer.model.get_parameter(name).zero_()
        trainer.train()
        if reference:
            writer.model.delete_adapter("ref")
    return trainer.state.log_history


def _rollout(round: SamplingRound) -> Callable[..., dict[str, Any]]:
    """A function that samples in TRL's place: with dealt openings, and in batches of `teacher.batch_size`, where TRL
    would sample a whole step's rewrites at once. The tag of a ready text is a whole completion.

    TRL takes the log-probabilities of the completions from the model itself, openings included, so the ratio is 1
    whoever chose them: a dealt tag is learnt from as if the teacher had written it.
    """
    teacher, rl, writer, ranks = round.config.teacher, round.config.rl, round.writer, round.ranks
    share = explore_share(rl, round.number) if teacher.prompting == "policy" else 0.0
    dealt = deal(
        teacher.strategies, len(round.documents), rl.rewrites_per_document, rl.rewrites_per_lesson, share,
        offset=round.number,
    )  # fmt: skip
    openings = iter([writer.opening_ids(opening) for row in dealt for opening in row])

    def rollout(prompts: list[str], trainer: "GRPOTrainer") -> dict[str, Any]:
        prompted = prompt_ids(writer.tokenizer, prompts)
        opening_ids = list(ranks.share(list(itertools.islice(openings, len(prompts) * ranks.count))))
        with round.clock("sample"):
            if trainer.use_vllm:
                return _sample_inside(trainer, prompted, opening_ids, teacher.max_new_tokens)
            completion_ids = writer.sample(prompted, opening_ids)
        return {"prompt_ids": prompted, "completion_ids": completion_ids, "logprobs": None}

    return rollout


def _sample_inside(
    trainer: "GRPOTrainer", prompt_ids: list[list[int]], opening_ids: list[list[int]], max_new_tokens: int
) -> dict[str, Any]:
    """Samples as `TransformersWriter.sample` does, with the vLLM inside the trainer and its log-probabilities."""
    rows = [[*prompt, *opening] for prompt, opening in zip(prompt_ids, opening_ids, strict=True)]
    _, sampled_ids, sampled_logprobs, _ = trainer.vllm_generation.generate(prompts=rows, images=None, num_generations=1)
    completion_ids, logprobs = [], []
    for opening, new_ids, new_logprobs in zip(opening_ids, sampled_ids, sampled_logprobs, strict=True):
        completion_ids.append([*opening, *new_ids][:max_new_tokens])
        # Nobody sampled an opening: TRL corrects nothing where the sampler's log-probability is no number.
        logprobs.append([*(math.nan for _ in opening), *(token[0] for token in new_logprobs)][:max_new_tokens])
    return {"prompt_ids": prompt_ids, "completion_ids": completion_ids, "logprobs": logprobs}


def _vllm_settings(serving: Serving) -> dict[str, Any]:
    """TRL's settings of the vLLM inside its trainer; memory and tensor parallelism are those of `serving.arguments`. It
    sleeps while it does not write, and leaves the GPU to students and update."""

    def option(name: str, default: str) -> str:
        """The value after the last `name`."""
        places = [place for place, word in enumerate(serving.arguments[:-1]) if word == name]
        return serving.arguments[places[-1] + 1] if places else default

    return {
        "use_vllm": True,
        "vllm_mode": "colocate",
        "vllm_enable_sleep_mode": True,
        "vllm_gpu_memory_utilization": float(option("--gpu-memory-utilization", "0.3")),
        "vllm_tensor_parallel_size": int(option("--tensor-parallel-size", "1")),
        "vllm_max_model_length": serving.context_tokens,
        "vllm_importance_sampling_mode": "token_truncate",
    }


def _rows(round: SamplingRound) -> "Dataset":
    """A row for each document: `prompt`, `document_id` and `strategy` (empty where the teacher chooses by itself)."""
    from datasets import Dataset

    teacher, documents, writer = round.config.teacher, round.documents, round.writer
    strategies = [""] * len(documents)
    if teacher.prompting == "strategy":
        strategies = spread(teacher.strategies, len(documents), offset=round.number)
    rows = []
    for document, strategy in zip(documents, strategies, strict=True):
        if lacks_related(document, strategy):
            raise UserError(f"GRPO asks about every document, and {document.id} has no related passage: {strategy}")
        [asked] = prompts_of(strategy)
        prompt = build_prompt(writer.tokenizer, teacher, document, asked, writer.max_prompt_tokens)
        rows.append({"prompt": prompt, "document_id": document.id, "strategy": strategy})
    return Dataset.from_list(rows)


def _settings(round: SamplingRound, documents: int, documents_per_step: int, at_once: Pass) -> dict[str, Any]:
    """The settings of `GRPOConfig` for so many documents."""
    teacher, rl = round.config.teacher, round.config.rl
    batch = documents_per_step * rl.rewrites_per_document
    local_batch = batch // round.ranks.count
    rows_at_once = max(size for size in range(1, at_once.rows + 1) if local_batch % size == 0)
    vllm = _vllm_settings(round.config.serving) if teacher.writer == "vllm" else {}
    settings = trainer_settings(round.writer, at_once) | vllm
    return settings | {
        "per_device_train_batch_size": rows_at_once,
        "gradient_accumulation_steps": local_batch // rows_at_once,
        "generation_batch_size": batch,
        "ddp_find_unused_parameters": False,
        "num_generations": rl.rewrites_per_document,
        "max_steps": documents // documents_per_step,
        "learning_rate": rl.learning_rate,
        "max_completion_length": teacher.max_new_tokens,
        "temperature": teacher.temperature,
        "top_p": teacher.top_p,
        "top_k": 0,
        "beta": rl.grpo.kl,
        "loss_type": "dr_grpo",
        "scale_rewards": "none",
        "shuffle_dataset": False,
        "logging_strategy": "steps",
        "logging_steps": 1,
        "seed": stable_seed(round.config.run.seed, "grpo", round.number, documents_per_step),
    }


GRPO = Algorithm(train_round=train_round, step_sizes=step_sizes, several_processes=True, keeps_optimizer=True)
