"""The student of the lab's grids: a small causal language model that has met tasks of other families.

From them it has its skill at grids: to read a pair, to take an output's cells from an input's, to change a colour. A
new rule it can hardly tell from the pairs in its context; it learns it by training on them.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from configs.schema import Lab
from curation.lab.grids import COLOURS, SHOWN, SIDE, Family, draw_inputs, families
from curation.lab.models import Batch, fit, new_model, save
from student.grids.grid import ANSWER, ROW
from student.grids.grid import COLOURS as DIGITS

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of single characters: each cell is a token."""
    characters = [*SPECIAL, "\n", ROW, ANSWER[0], *map(str, range(DIGITS))]
    vocabulary = {token: i for i, token in enumerate(characters)}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    core.decoder = decoders.Fuse()
    core.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", vocabulary["<bos>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>",
        clean_up_tokenization_spaces=False, model_max_length=256,
    )  # fmt: skip


def task_batches(tokenizer: PreTrainedTokenizerFast, seed: int, steps: int, rows_B: int = 32) -> Iterator[Batch]:
    """Batches of tasks, one a row, of families drawn anew for each; outputs are learnt. Families come in one after
    another in the first 60% of `steps`, since no skill was found in all at once. In a fifth of the tasks outputs are
    copies."""
    rng = np.random.default_rng(seed)
    of_base = families("base")
    copy = Family(tuple(range(COLOURS)), tuple(range(SIDE**2)))
    to_id = tokenizer.convert_tokens_to_ids
    line_break, row, equals, *digits = to_id(["\n", ROW, ANSWER[0], *map(str, range(DIGITS))])
    P = SHOWN + 1
    for step in range(steps):
        met = max(1, round(len(of_base) * min(1.0, step / (0.6 * steps))))
        known = [*of_base[:met], *[copy] * max(1, met // 4)]
        inputs_BPHW = draw_inputs(rng, rows_B)
        chosen = rng.integers(len(known), size=rows_B)
        outputs_BPHW = np.stack([known[i].apply(grids) for i, grids in zip(chosen, inputs_BPHW, strict=True)])
        # Which digit stands for a colour is drawn for each task.
        digits_BC = rng.permuted(np.tile(digits, (rows_B, 1)), axis=1)
        of_row = np.arange(rows_B)[:, None, None, None]
        asked, answers = (_as_tokens(digits_BC[of_row, grids], row) for grids in (inputs_BPHW, outputs_BPHW))

        ends_BP1 = np.full((rows_B, P, 1), line_break)
        ends_BP1[:, -1] = tokenizer.eos_token_id
        asked_BPT = np.concatenate([asked, [[[equals, line_break]] * P] * rows_B], axis=-1)
        answers_BPT = np.concatenate([answers, ends_BP1], axis=-1)
        ids_BT = np.concatenate([asked_BPT, answers_BPT], axis=-1).reshape(rows_B, -1)
        labels_BT = np.concatenate([np.full_like(asked_BPT, -100), answers_BPT], axis=-1).reshape(rows_B, -1)
        opening_B1 = np.full((rows_B, 1), tokenizer.bos_token_id)
        yield (
            torch.from_numpy(np.concatenate([opening_B1, ids_BT], axis=-1)),
            torch.from_numpy(np.concatenate([np.full_like(opening_B1, -100), labels_BT], axis=-1)),
        )


def _as_tokens(cells_BPHW: np.ndarray, row: int) -> np.ndarray:
    """Grids one after another (B, P, tokens), with the token `row` between rows."""
    tokens = np.full((*cells_BPHW.shape[:3], SIDE + 1), row)
    tokens[..., :SIDE] = cells_BPHW
    return tokens.reshape(*cells_BPHW.shape[:2], -1)[..., :-1]


def train_grid_student(lab: Lab, folder: Path, say: Callable[[str], None] = print) -> None:
    """Trains the student and saves it with its tokenizer in `folder`."""
    tokenizer = make_tokenizer()
    model = new_model(tokenizer, lab.seed, width=64, layers=3, heads=4)
    steps = max(2, round(1000 * lab.effort))
    fit(model, task_batches(tokenizer, lab.seed, steps), steps=steps, learning_rate=3e-3, say=say)
    save(model, tokenizer, folder)
