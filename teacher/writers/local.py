"""The teacher in this process, on transformers: prompts in, sampled completions out."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteriaList

from configs.errors import RunError, UserError
from configs.schema import Teacher
from student.engine.encoding import prompt_ids
from student.engine.lora import decoder_config
from student.engine.models import end_ids, generation_config, load_model, loading, positions_of
from teacher.prompting.template import check_prompts
from teacher.records import Completion, Writer
from teacher.run.checkpoints import is_adapter
from teacher.writers.head import load_head
from teacher.writers.opening import AfterTag, TagChoice, check_tags

logger = logging.getLogger(__name__)


class TransformersWriter(Writer):
    """Samples with `model.generate`, left-padded, in batches of like length."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: Teacher) -> None:
        self.model, self.tokenizer, self.settings = model, tokenizer, settings
        self.context = positions_of(model.config)

    @property
    def end_ids(self) -> set[int]:
        """Tokens that end a completion: the model's, and the tokenizer's."""
        return end_ids(self.model.generation_config.eos_token_id, self.tokenizer)

    def write(
        self,
        prompts: list[str],
        n: int,
        seed: int,
        openings: Sequence[str] = (),
        temperatures: Sequence[float] = (),
    ) -> list[list[Completion]]:
        """Equal calls give equal texts on CPU. The global random state is left as it was."""
        prompted = prompt_ids(self.tokenizer, prompts)
        opening_ids = [self.opening_ids(opening) for opening in openings or [""] * len(prompts)]
        # generate() takes no generator of its own, so the global one is lent and given back.
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            sampled = self.sample(
                [ids for ids in prompted for _ in range(n)],
                [ids for ids in opening_ids for _ in range(n)],
                [temperature for temperature in temperatures for _ in range(n)],
            )
        completions = [self.read(ids) for ids in sampled]
        return [completions[p * n : (p + 1) * n] for p in range(len(prompts))]

    def attempt(
        self,
        prompts: list[str],
        n: int,
        seed: int,
        openings: Sequence[str] = (),
        temperatures: Sequence[float] = (),
    ) -> list[list[Completion]]:
        """If a batch fails, its prompts are tried one at a time, so that only those fail that must."""
        try:
            return self.write(prompts, n, seed, openings, temperatures)
        except RunError:
            raise
        except (RuntimeError, ValueError, IndexError) as error:
            if len(prompts) == 1:
                return [[Completion("", False, error)] * n]
            logger.warning(
                "the teacher failed on a batch of %d (%s); trying one at a time", len(prompts), type(error).__name__
            )
        openings = openings or [""] * len(prompts)
        temperatures = temperatures or [self.settings.temperature] * len(prompts)
        each = zip(prompts, openings, temperatures, strict=True)
        return [self.attempt([prompt], n, seed, [opening], [at])[0] for prompt, opening, at in each]

    def read(self, completion_ids: Sequence[int]) -> Completion:
        """The text of sampled tokens, without the one that ended them."""
        ended = bool(completion_ids) and completion_ids[-1] in self.end_ids
        text = self.tokenizer.decode(completion_ids[:-1] if ended else completion_ids, skip_special_tokens=True)
        assert isinstance(text, str)
        return Completion(text, ended, continuations=max(0, len(completion_ids) - 1) // self.settings.max_new_tokens)

    @torch.no_grad()
    def sample(
        self, prompt_ids: Sequence[list[int]], opening_ids: Sequence[list[int]], temperatures: Sequence[float] = ()
    ) -> list[list[int]]:
        """The token ids of a completion of each prompt, from the global random state: its opening, what was sampled
        and the token that ended it. One without an end is cut at `max_new_tokens`, opening included, or goes on
        (`teacher.continuations`), and one of a ready text ends with its tag."""
        training, most = self.model.training, self.settings.max_new_tokens
        self.model.eval()
        temperatures = temperatures or [self.settings.temperature] * len(prompt_ids)
        completions = [list(opening) for opening in opening_ids]
        stops = [self.opening_ids(tag) for tag in self.stops]
        unfinished = [row for row in range(len(prompt_ids)) if completions[row] not in stops]
        for limit in range(most, self.settings.longest + 1, most):
            for batch in self._batches(unfinished, [len(ids) for ids in prompt_ids], completions, temperatures):
                room = limit - min(len(completions[row]) for row in batch)
                opened = [bool(completions[row]) for row in batch]
                rows = [[*prompt_ids[row], *completions[row]] for row in batch]
                sampled = self._generate(rows, max(1, room), opened, temperatures[batch[0]])
                for row, new in zip(batch, sampled, strict=True):
                    # The room is that of the row with the shortest opening, so others may have sampled too much.
                    completions[row] = [*completions[row], *new][:limit]
            unfinished = [
                row
                for row in unfinished
                if len(completions[row]) == limit
                and completions[row][-1] not in self.end_ids
                and completions[row] not in stops
                and self.has_room(len(prompt_ids[row]) + limit)
            ]
        self.model.train(training)
        return completions

    def _batches(
        self, rows: Sequence[int], prompt_lengths: Sequence[int], completions: Sequence[list[int]],
        temperatures: Sequence[float],
    ) -> Iterator[list[int]]:  # fmt: skip
        """Rows to be sampled at once. Longest first: rows of a batch are of like length, and the batch that needs most
        memory comes at once. A batch has one temperature."""
        by_length = sorted(rows, key=lambda row: -prompt_lengths[row] - len(completions[row]))
        for temperature in dict.fromkeys(temperatures):
            some = [row for row in by_length if temperatures[row] == temperature]
            for start in range(0, len(some), self.settings.batch_size):
                yield some[start : start + self.settings.batch_size]

    def _generate(
        self, rows: list[list[int]], max_new_tokens: int, opened: list[bool], temperature: float
    ) -> list[list[int]]:
        """New tokens of each row, up to and with the first that ends it. `opened` are rows that have their opening."""
        settings, ends = self.settings, self.end_ids
        generation = generation_config(
            self.model,
            self.tokenizer,
            temperature=temperature,
            top_p=settings.top_p,
            max_new_tokens=max_new_tokens,
        )
        inputs = self.tokenizer.pad({"input_ids": rows}, padding_side="left", return_tensors="pt")
        inputs = {name: inputs[name].to(self.model.device) for name in ("input_ids", "attention_mask")}
        start, choosing = inputs["input_ids"].shape[1], [not has for has in opened]
        tags, stops = ([self.opening_ids(tag) for tag in some] for some in (self.tags, self.stops))
        held: dict[str, Any] = {}
        if tags:
            held = {
                "logits_processor": LogitsProcessorList([TagChoice(tags, start, choosing)]),
                "stopping_criteria": StoppingCriteriaList([AfterTag(stops, start, choosing)]),
            }
        ids_BT = self.model.generate(**inputs, generation_config=generation, **held)  # type: ignore[operator]

        def end_of(new: list[int], chooses: bool) -> int:
            ready = next((len(tag) for tag in stops if chooses and new[: len(tag)] == tag), None)
            return ready or next((t + 1 for t, token in enumerate(new) if token in ends), len(new))

        new_BT = ids_BT[:, start:].tolist()
        return [new[: end_of(new, chooses)] for new, chooses in zip(new_BT, choosing, strict=True)]


def load_teacher(
    settings: Teacher, checkpoint: Path | None = None, *, train_seed: int | None = None
) -> TransformersWriter:
    """The teacher at a checkpoint (an adapter folder or a whole model), or at its start where that is None. With
    `train_seed` it is to be trained: its trainable weights require gradients and are float32, since steps of 1e-5
    vanish in bfloat16, and a new adapter is drawn from that seed. Raises UserError where there is no such model, or one
    that no prompts can be made for."""
    if checkpoint is not None and not checkpoint.is_dir():
        raise UserError(f"no teacher checkpoint at {checkpoint}")
    if settings.chooses_only:
        return TransformersWriter(*load_head(settings, checkpoint), settings)
    train, adapter = train_seed is not None, is_adapter(checkpoint)
    name = settings.model if checkpoint is None or adapter else str(checkpoint)
    dtype = "float32" if train and settings.lora is None and settings.dtype == "auto" else settings.dtype
    model, tokenizer = load_model(name, device=settings.device, dtype=dtype)
    check_prompts(tokenizer, name)
    if adapter:
        from peft import PeftModel

        with loading(str(checkpoint)):
            model = PeftModel.from_pretrained(model, str(checkpoint), is_trainable=train)  # type: ignore[assignment]
    elif train_seed is not None and (lora := settings.lora) is not None:
        from peft import get_peft_model

        with torch.random.fork_rng():
            torch.manual_seed(train_seed)
            model = get_peft_model(model, decoder_config(model, lora))  # type: ignore[assignment]
    writer = TransformersWriter(model, tokenizer, settings)
    check_tags(writer)
    return writer
