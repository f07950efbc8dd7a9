"""The teacher's pen on local transformers: prompts in, sampled completions out."""

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from configs.errors import UserError
from configs.schema import Config, Teacher
from student.engine.models import load_model
from teacher.prompting.strategies import tag_of
from teacher.records import Completion


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
        """Longest prompt that leaves room for an opening and `max_new_tokens`; None where the model names no context
        length."""
        context = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        tags = self.settings.strategies if self.settings.prompting == "policy" else ()
        opening = max((len(self.opening_ids(tag_of(name))) for name in tags), default=0)
        return None if context is None else max(1, context - opening - self.settings.max_new_tokens)

    @property
    def end_ids(self) -> set[int]:
        """Tokens that end a completion: the model's, and the tokenizer's."""
        declared = self.model.generation_config.eos_token_id if self.model.generation_config else None
        ends = {*(declared if isinstance(declared, list) else [declared]), self.tokenizer.eos_token_id}
        return {int(end) for end in ends if end is not None}

    def at(self, settings: Teacher) -> "TransformersWriter":
        """The same teacher, sampled from under other settings."""
        return TransformersWriter(self.model, self.tokenizer, settings)

    def count_tokens(self, text: str) -> int:
        return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def write(
        self, prompts: list[str], n: int, seed: int, openings: Sequence[str] | None = None
    ) -> list[list[Completion]]:
        """`n` completions a prompt, special tokens stripped; equal calls give equal texts on CPU.

        `openings` (one a prompt) are what the completions begin with, instead of what the teacher would have chosen.
        The global random state is left as it was.
        """
        started = time.perf_counter()
        prompt_ids = self.tokenizer(prompts)["input_ids"] if prompts else []
        opening_ids = [self.opening_ids(opening) for opening in openings or [""] * len(prompts)]
        # generate() takes no generator of its own, so the global one is lent and given back.
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            sampled = self.sample(
                [ids for ids in prompt_ids for _ in range(n)], [ids for ids in opening_ids for _ in range(n)]
            )
        completions = [self.read(ids) for ids in sampled]
        self.seconds += time.perf_counter() - started
        return [completions[p * n : (p + 1) * n] for p in range(len(prompts))]

    def opening_ids(self, opening: str) -> list[int]:
        """The tokens of a completion's opening, none for an empty one."""
        return self.tokenizer(opening, add_special_tokens=False)["input_ids"] if opening else []

    def read(self, completion_ids: Sequence[int]) -> Completion:
        """The text of sampled tokens, without the one that ended them."""
        ended = bool(completion_ids) and completion_ids[-1] in self.end_ids
        text = self.tokenizer.decode(completion_ids[:-1] if ended else completion_ids, skip_special_tokens=True)
        assert isinstance(text, str)
        return Completion(text, ended)

    @torch.no_grad()
    def sample(self, prompt_ids: Sequence[list[int]], opening_ids: Sequence[list[int]]) -> list[list[int]]:
        """A completion of each prompt, from the global random state: its opening, what was sampled, and the token that
        ended it. One without that is cut at `max_new_tokens`, opening included."""
        training = self.model.training
        self.model.eval()
        completions: list[list[int]] = [[] for _ in prompt_ids]
        rows = [[*prompt, *opening] for prompt, opening in zip(prompt_ids, opening_ids, strict=True)]
        order = sorted(range(len(rows)), key=lambda row: -len(rows[row]))
        for start in range(0, len(order), self.settings.batch_size):
            batch = order[start : start + self.settings.batch_size]
            room = self.settings.max_new_tokens - min(len(opening_ids[row]) for row in batch)
            for row, new in zip(batch, self._generate([rows[row] for row in batch], max(1, room)), strict=True):
                whole = [*opening_ids[row], *new][: self.settings.max_new_tokens]
                completions[row] = whole
                self.tokens += len(whole) - len(opening_ids[row])
        self.model.train(training)
        return completions

    def _generate(self, rows: list[list[int]], max_new_tokens: int) -> list[list[int]]:
        """New tokens of each row, up to and with the first that ends it."""
        inputs = self.tokenizer.pad({"input_ids": rows}, padding_side="left", return_tensors="pt")
        inputs = {name: inputs[name].to(self.model.device) for name in ("input_ids", "attention_mask")}
        generation = self._generation(max_new_tokens)
        ids_BT = self.model.generate(**inputs, generation_config=generation)  # type: ignore[operator]
        new_BT = ids_BT[:, inputs["input_ids"].shape[1] :].tolist()
        ends = self.end_ids
        cuts = [next((t + 1 for t, token in enumerate(new) if token in ends), len(new)) for new in new_BT]
        return [new[:cut] for new, cut in zip(new_BT, cuts, strict=True)]

    def _generation(self, max_new_tokens: int) -> GenerationConfig:
        settings = self.settings
        # top_k 0: the library's default of 50 would cut the tail that RL explores.
        sampling = {"temperature": settings.temperature, "top_p": settings.top_p, "top_k": 0}
        return GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=settings.temperature > 0,
            **(sampling if settings.temperature > 0 else {}),
            pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=sorted(self.end_ids),
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
