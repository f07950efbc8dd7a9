"""The teacher's pen on local transformers: prompts in, sampled completions out."""

import time
from pathlib import Path

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from configs.errors import UserError
from configs.schema import Config, Teacher
from student.models import load_model


class TransformersWriter:
    """Samples with `model.generate`, left-padded, in batches of like length. Counts what it costs."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: Teacher) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.settings = settings
        self.tokens = 0
        """Tokens sampled so far."""
        self.seconds = 0.0
        """Time spent sampling so far."""

    @property
    def max_prompt_tokens(self) -> int | None:
        """Longest prompt that leaves room for `max_new_tokens`; None where the model names no context length."""
        context = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return None if context is None else max(1, context - self.settings.max_new_tokens)

    def count_tokens(self, text: str) -> int:
        return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def write(self, prompts: list[str], n: int, seed: int) -> list[list[str]]:
        """`n` completions a prompt, special tokens stripped; equal calls give equal texts on CPU.

        The global random state is left as it was.
        """
        started = time.perf_counter()
        lengths = [len(ids) for ids in self.tokenizer(prompts)["input_ids"]] if prompts else []
        order = sorted((p for p in range(len(prompts)) for _ in range(n)), key=lambda p: -lengths[p])
        texts: list[list[str]] = [[] for _ in prompts]
        # generate() takes no generator of its own, so the global one is lent and given back.
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for start in range(0, len(order), self.settings.batch_size):
                batch = order[start : start + self.settings.batch_size]
                for p, text in zip(batch, self._generate([prompts[p] for p in batch]), strict=True):
                    texts[p].append(text)
        self.seconds += time.perf_counter() - started
        return texts

    @torch.no_grad()
    def _generate(self, prompts: list[str]) -> list[str]:
        inputs = self.tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
        inputs = {name: inputs[name].to(self.model.device) for name in ("input_ids", "attention_mask")}
        self.model.eval()
        ids_BT = self.model.generate(**inputs, generation_config=self._generation())  # type: ignore[operator]
        new_BT = ids_BT[:, inputs["input_ids"].shape[1] :]
        self.tokens += int((new_BT != self.tokenizer.pad_token_id).sum())
        return self.tokenizer.batch_decode(new_BT, skip_special_tokens=True)

    def _generation(self) -> GenerationConfig:
        ends = self.model.generation_config.eos_token_id if self.model.generation_config else None
        eos = {*(ends if isinstance(ends, list) else [ends]), self.tokenizer.eos_token_id} - {None}
        settings = self.settings
        # top_k 0: the library's default of 50 would cut the tail that RL explores.
        sampling = {"temperature": settings.temperature, "top_p": settings.top_p, "top_k": 0}
        return GenerationConfig(
            max_new_tokens=settings.max_new_tokens,
            do_sample=settings.temperature > 0,
            **(sampling if settings.temperature > 0 else {}),
            pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=sorted(eos),
        )


def load_teacher(config: Config, checkpoint: Path | None = None, *, train: bool = False) -> TransformersWriter:
    """The teacher at a checkpoint (an adapter folder or a whole model), or at its start where that is None.

    With `train` its trainable weights require gradients and are float32, since steps of 1e-5 vanish in bfloat16.
    Raises UserError where there is no such model.
    """
    settings = config.teacher
    if checkpoint is not None and not checkpoint.is_dir():
        raise UserError(f"no teacher checkpoint at {checkpoint}")
    adapter = checkpoint is not None and (checkpoint / "adapter_config.json").is_file()
    name = settings.model if checkpoint is None or adapter else str(checkpoint)
    dtype = "float32" if train and settings.lora is None and settings.dtype == "auto" else settings.dtype
    model, tokenizer = load_model(name, device=settings.device, dtype=dtype)
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(checkpoint), is_trainable=train)  # type: ignore[assignment]
    elif train and settings.lora is not None:
        model = _with_adapter(model, config)
    return TransformersWriter(model, tokenizer, settings)


def _with_adapter(model: PreTrainedModel, config: Config) -> PreTrainedModel:
    from peft import LoraConfig, get_peft_model

    lora = config.teacher.lora
    assert lora is not None
    target = lora.target if isinstance(lora.target, str) else list(lora.target)
    settings = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, use_rslora=lora.rslora, target_modules=target, task_type="CAUSAL_LM"
    )
    with torch.random.fork_rng():
        torch.manual_seed(config.run.seed)
        return get_peft_model(model, settings)  # type: ignore[return-value]
