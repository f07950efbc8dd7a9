"""GRPO (arXiv 2402.03300) with TRL's trainer: the reward is our students' gain, one call a step with whole groups.

Advantages are rewards minus their group's mean, not divided by its spread, and the loss is not divided by a
completion's own length (Dr. GRPO, arXiv 2503.20783): both divisions would reward short or low-contrast groups.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PrinterCallback
from trl import GRPOConfig, GRPOTrainer

from configs.schema import Config
from student.records import Document
from teacher.checkpoints import OPTIMIZER_FILE
from teacher.gates import Gate
from teacher.records import Reward, Rewrite
from teacher.rest_em import trainer_settings
from teacher.reward import stable_seed
from teacher.sampling import make_rewrite
from teacher.strategies import build_prompt, spread
from teacher.writer import TransformersWriter

ScoreStep = Callable[[int, list[list[Rewrite]]], list[list[Reward]]]
"""`(step within the round, groups) -> rewards`; journals what it scores."""


class StudentGain:
    """The reward function that TRL calls with the completions of a step, G in a row for each document."""

    __name__ = "student_gain"

    def __init__(self, config: Config, documents: Sequence[Document], gates: Iterable[Gate], score: ScoreStep) -> None:
        self.settings = config.teacher
        self.group_size = config.rl.group_size
        self.documents = {document.id: document for document in documents}
        self.gates = list(gates)
        self.score = score
        self.step = 0

    def __call__(
        self, prompts: list[str], completions: list[str], document_id: list[str], strategy: list[str], **_: Any
    ) -> list[float]:
        rewrites = [
            make_rewrite(self.settings, self.documents[name], prompt, completion, way, self.gates)
            for prompt, completion, name, way in zip(prompts, completions, document_id, strategy, strict=True)
        ]
        groups = [rewrites[g : g + self.group_size] for g in range(0, len(rewrites), self.group_size)]
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
) -> tuple[dict[str, float | int], torch.optim.Optimizer]:
    """Trains the writer's model in place, one step for every `documents_per_step` documents.

    Returns the metrics of the update and the optimiser, whose moments go on from those kept in the checkpoint `start`.
    Under `strategy` prompting a group has one prompt, hence one strategy; strategies rotate over documents and rounds.
    """
    started = time.perf_counter()
    optimizer = _optimizer(config, writer.model, start)
    constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    # TRL loads the reference by the name in the model's config; the KL is to the teacher's start, not the round's.
    writer.model.config._name_or_path = config.teacher.model
    writer.tokenizer.padding_side = "left"
    with tempfile.TemporaryDirectory() as scratch:
        trainer = GRPOTrainer(
            model=writer.model,
            reward_funcs=StudentGain(config, documents, gates, score),
            args=GRPOConfig(output_dir=scratch, **_settings(config, round, writer, len(documents))),
            train_dataset=_rows(config, round, writer, documents),
            processing_class=writer.tokenizer,
            optimizers=(optimizer, constant),
        )
        trainer.remove_callback(PrinterCallback)
        reference = _reset_reference(writer.model)
        loss = trainer.train().training_loss
        if reference:
            writer.model.delete_adapter("ref")
    metrics = {
        "loss": loss,
        "kept": len(documents) * config.rl.group_size,
        "seconds": time.perf_counter() - started,
        "learning_rate": config.rl.learning_rate,
    }
    for name in ("kl", "entropy", "grad_norm"):
        logged = [line[name] for line in trainer.state.log_history if name in line]
        metrics |= {name: statistics.fmean(logged)} if logged else {}
    return metrics, optimizer


def documents_per_step(config: Config, documents: int) -> int:
    """Groups in one step: as many documents as share a student, or all there are."""
    return min(config.reward.documents_per_student, documents)


def whole_steps(config: Config, documents: Sequence[Document]) -> list[Document]:
    """The documents that fill whole steps; the rest of the round's hand is left out."""
    size = documents_per_step(config, len(documents))
    return list(documents[: len(documents) // size * size])


def _optimizer(config: Config, model: PreTrainedModel, start: Path | None) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config.rl.learning_rate, weight_decay=0.0)
    if start is not None and (start / OPTIMIZER_FILE).is_file():
        optimizer.load_state_dict(torch.load(start / OPTIMIZER_FILE, weights_only=True))
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


def _settings(config: Config, round: int, writer: TransformersWriter, documents: int) -> dict[str, Any]:
    per_step = documents_per_step(config, documents)
    batch = per_step * config.rl.group_size
    rows_at_once = max(size for size in range(1, config.teacher.batch_size + 1) if batch % size == 0)
    return trainer_settings(writer) | {
        "per_device_train_batch_size": rows_at_once,
        "gradient_accumulation_steps": batch // rows_at_once,
        "generation_batch_size": batch,
        "num_generations": config.rl.group_size,
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
        "seed": stable_seed(config.run.seed, "grpo", round),
    }


def _reset_reference(model: PreTrainedModel) -> bool:
    """Makes TRL's frozen `ref` adapter, a copy of the round's start, the teacher's start again (B = 0).

    False where there is none.
    """
    names = [name for name, _ in model.named_parameters() if ".lora_B.ref." in name]
    with torch.no_grad():
        for name in names:
            model.get_parameter(name).zero_()
    return bool(names)
