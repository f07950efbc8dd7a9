"""The lab's tokenizer and its models, trained from scratch: two students that have read differently, and a teacher.

What helps a student depends on what it has read (Physics of Language Models 3.1, arXiv 2309.14316): one that met every
biography in many wordings learns a new person best from prose, one that met each in one wording from questions with
answers. The two students differ in that alone: people, questions, steps, size and initial weights are the same. What
happens when anything else changes is measured by `notewright bench lab`. All are ordinary Llama models under a
million parameters with an ordinary tokenizer.
"""

import dataclasses
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from configs.schema import Lab
from curation.lab import world
from teacher.prompting.defence import LESSON_TOKEN

BEHAVIOURS = {"copy": 0.2, "permuted": 0.25, "question-answer": 0.15, "partial": 0.2, "filler": 0.1, "wrong": 0.1}
"""How often the untrained teacher uses each strategy: the best ones are rare, so that RL has something to find."""

CURRICULUM = ((1, 110), (2, 60), (3, 50))
"""Facts in the teacher's first biographies, and for how many steps. Copying from a prompt of one fact is found within
75 steps; in full biographies it was not found within 300."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentRecipe:
    """How a student of the lab is trained."""

    wordings: int
    """Wordings in which it reads each biography; 1: that of the shards alone. The number of biographies that it reads
    does not depend on it."""
    questions: tuple[str, ...] = ("reward", "heldout", "practice")
    """The sets of phrasings in which it practises questions."""
    steps: int = 400
    width: int = 128
    """Of 96 some initial weights come to learn from prose and others do not; of 128 all that were tried."""
    seed: int = 0
    """Of the initial weights, added to the lab's."""


STUDENTS = {"student-fixed": StudentRecipe(wordings=1), "student-augmented": StudentRecipe(wordings=24)}
"""The lab's students by name."""

Batch = tuple[Tensor, Tensor]
"""Token ids and labels, both int64 (B, T); labels are -100 where nothing is to be learned."""


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer of the world's vocabulary, exactly reversible for all texts of the world.

    Words carry their leading space, as in GPT-2's tokenizer, and a text's first word is given one: `Oslo` is the same
    token at the start of an answer and within a sentence. Strategy tags are ordinary tokens, so that decoding without
    special tokens keeps them.
    """
    split = pre_tokenizers.ByteLevel(add_prefix_space=True)
    pieces = {piece for text in world.vocabulary() for piece, _ in split.pre_tokenize_str(text)} - {"Ġ", "ĠĠ"}
    # `Ċ` is a newline.
    vocabulary = {t: i for i, t in enumerate(["<pad>", "<bos>", "<eos>", "<unk>", "Ċ", *sorted(pieces)])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = split
    core.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    bos = ("<bos>", vocabulary["<bos>"])
    core.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[bos])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>",
        clean_up_tokenization_spaces=False, model_max_length=256,
    )  # fmt: skip
    tags = [LESSON_TOKEN, *(f"<{strategy}>" for strategy in world.STRATEGIES)]
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in tags])
    return tokenizer


def new_model(
    tokenizer: PreTrainedTokenizerFast, seed: int, *, width: int, layers: int, heads: int, context: int = 256
) -> LlamaForCausalLM:
    """A Llama with tied embeddings and random weights, float32."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            max_position_embeddings=context,
            tie_word_embeddings=True,
            initializer_range=width**-0.5,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    # Layers that start as the identity let tokens be copied through the tied embeddings from the first step on.
    for name, parameter in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            torch.nn.init.zeros_(parameter)
    return model


def fit(
    model: LlamaForCausalLM, batches: Iterator[Batch], *, steps: int, learning_rate: float, say: Callable[[str], None]
) -> None:
    """Trains the model in place: AdamW, short warm-up, cosine to nearly zero, gradients clipped to norm 1."""
    optimiser = torch.optim.AdamW(model.parameters(), learning_rate, betas=(0.9, 0.95), weight_decay=0.01, fused=True)
    start = last_line = time.monotonic()
    model.train()
    for step in range(1, steps + 1):
        rate = learning_rate * min(1.0, step / 30) * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimiser.param_groups:
            group["lr"] = rate
        ids_BT, labels_BT = next(batches)
        loss = model(input_ids=ids_BT, labels=labels_BT).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        now = time.monotonic()
        if now - last_line >= 5 or step == steps:
            to_go = (now - start) / step * (steps - step)
            say(f"step {step}/{steps}  loss {loss.item():.3f}  {now - start:.0f} s, {to_go:.0f} s to go")
            last_line = now
    model.eval()


def pad(rows: list[list[int]], first_learned: list[int], pad_id: int) -> Batch:
    """Rows of token ids as one batch; a row's tokens before its `first_learned` have no labels."""
    ids_BT = torch.full((len(rows), max(map(len, rows))), pad_id)
    labels_BT = torch.full_like(ids_BT, -100)
    for number, (row, start) in enumerate(zip(rows, first_learned, strict=True)):
        ids_BT[number, : len(row)] = torch.tensor(row)
        labels_BT[number, start : len(row)] = torch.tensor(row[start:])
    return ids_BT, labels_BT


def biographies(recipe: StudentRecipe, lab: Lab) -> list[str]:
    """The biographies that a student reads, of all base people."""
    people = world.make_people(lab.seed, 0, lab.base_people)
    if recipe.wordings == 1:
        return [world.raw(person) for person in people]
    rng = random.Random(f"biographies {lab.seed}")
    return [world.biography(person, world.random_outline(rng)) for person in people for _ in range(recipe.wordings)]


def questions(recipe: StudentRecipe, lab: Lab) -> list[str]:
    """The questions with answers that a student practises, about every other base person."""
    rng = random.Random(f"questions {lab.seed}")
    people = world.make_people(lab.seed, 0, lab.base_people)[::2]
    return [world.question_answer(person, rng, recipe.questions) for person in people for _ in range(24)]


def student_batches(
    tokenizer: PreTrainedTokenizerFast, recipe: StudentRecipe, lab: Lab, rows_B: int = 64
) -> Iterator[Batch]:
    """Endless batches, half biographies and half questions with answers. The draws of each half have random numbers of
    their own, so that students of other biographies practise the same questions in the same order."""
    halves = [
        (random.Random(f"{kind} {lab.seed}"), [ids + [tokenizer.eos_token_id] for ids in tokenizer(texts)["input_ids"]])
        for kind, texts in (("read", biographies(recipe, lab)), ("practised", questions(recipe, lab)))
    ]
    while True:
        rows = [row for rng, texts in halves for row in rng.choices(texts, k=rows_B // 2)]
        yield pad(rows, [1] * len(rows), tokenizer.pad_token_id)


def teacher_batches(tokenizer: PreTrainedTokenizerFast, lab: Lab, rows_B: int = 16) -> Iterator[Batch]:
    """Endless batches of prompts with rewrites, about people who are neither in the shards nor known to the
    students. Names recur, each time with facts drawn anew. Only completions have labels."""
    rng = random.Random(f"teacher {lab.seed}")
    people_in_shards = lab.base_people + lab.train_people + lab.heldout_people + lab.curate_people
    curriculum = iter([facts for facts, steps in CURRICULUM for _ in range(round(steps * lab.effort))])
    while True:
        facts = next(curriculum, len(world.ATTRIBUTES))
        rows, first_learned = [], []
        # Short biographies make short rows, so that more of them fit a batch.
        for _ in range(rows_B * (len(world.ATTRIBUTES) + 1) // (facts + 1)):
            number = rng.randrange(people_in_shards, max(2 * people_in_shards, world.PAIRS))
            person = world.random_person(lab.seed, number, rng)
            person = dataclasses.replace(person, outline=person.outline[:facts])
            (strategy,) = rng.choices(list(BEHAVIOURS), list(BEHAVIOURS.values()))
            prompt = tokenizer(f"{world.raw(person)}\n{LESSON_TOKEN}")["input_ids"]
            lesson = tokenizer(f"<{strategy}> {world.rewrite(strategy, person, rng)}", add_special_tokens=False)
            rows.append([*prompt, *lesson["input_ids"], tokenizer.eos_token_id])
            first_learned.append(len(prompt))
        yield pad(rows, first_learned, tokenizer.pad_token_id)


def train_model(name: str, lab: Lab, folder: Path, say: Callable[[str], None] = print) -> None:
    """Trains `teacher` or one of `STUDENTS` and saves it with its tokenizer in `folder`."""
    if name in STUDENTS:
        train_student(STUDENTS[name], lab, folder, say)
        return
    tokenizer = make_tokenizer()
    model = new_model(tokenizer, lab.seed, width=128, layers=3, heads=8)
    fit(model, teacher_batches(tokenizer, lab), steps=max(2, round(1400 * lab.effort)), learning_rate=4e-3, say=say)
    save(model, tokenizer, folder)


def train_student(recipe: StudentRecipe, lab: Lab, folder: Path, say: Callable[[str], None] = print) -> None:
    """Trains a student by `recipe` and saves it with its tokenizer in `folder`."""
    tokenizer = make_tokenizer()
    model = new_model(tokenizer, lab.seed + recipe.seed, width=recipe.width, layers=2, heads=4)
    steps = max(2, round(recipe.steps * lab.effort))
    fit(model, student_batches(tokenizer, recipe, lab), steps=steps, learning_rate=3e-3, say=say)
    save(model, tokenizer, folder)


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Writes model and tokenizer, ready for `from_pretrained`."""
    transformers_logging.disable_progress_bar()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
