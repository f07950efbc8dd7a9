"""What a head sees of a document: a prompt of tokens, each of which says one thing about it.

A head (`teacher.model: head`) is a softmax over strategies (teacher/writers/head.py). It learns by the algorithms that
train language models, so its prompt and its choice are tokens too. The prompt of a document of 90 words is

    <document> words>=16 words>=32 words>=64 sentences>=2 sentences>=4 capitals>=0.05 letters>=3.5 <no brought:qa>

and the completion is a tag. A quantity is told by all the steps that it reaches ("thermometer code"), so that what is
learnt of documents of 90 words holds in part for those of 200. None of the document's own words is in the prompt.
"""

import re
import zlib
from collections import Counter
from collections.abc import Callable
from itertools import chain
from typing import NamedTuple

import numpy as np
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from configs.schema import Teacher
from student.grids.grid import Pair, read_pairs
from student.records import Document
from student.text.sentences import split_sentences
from student.text.words import count_words, words
from teacher.prompting.strategies import brought_names, check_chosen, strategy_label, tags_of
from teacher.ready.brought import texts_named

ANY = "<document>"
"""The token of every prompt: what is learnt of all documents."""
BUCKETS = 16
"""Words are hashed into so many buckets; one is told of where it holds twice its even share of the words, or more. So
documents of one language or form can be told from others."""
_WORD = re.compile(r"\w+")
_QUESTION = re.compile(r"[?？؟]")


def _of_pairs(measure: Callable[[list[Pair]], float]) -> Callable[[str], float]:
    """A measure of a task of grids; 0 of any other text."""

    def of_text(text: str) -> float:
        try:
            return measure(read_pairs(text))
        except ValueError:
            return 0.0

    return of_text


def _recoloured(pairs: list[Pair]) -> float:
    """Whether one rule makes all outputs: each colour becomes another one, wherever it stands. 1 or 0."""
    if any(pair.input.shape != pair.output.shape for pair in pairs):
        return 0.0
    changes = {change for pair in pairs for change in zip(pair.input.flat, pair.output.flat, strict=True)}
    return float(len(changes) == len({old for old, _ in changes}))


def _rearranged(pairs: list[Pair]) -> float:
    """Whether one rule makes all outputs: each cell is taken from a certain place of the input. 1 or 0."""
    if len({(pair.input.shape, pair.output.shape) for pair in pairs}) > 1:
        return 0.0
    inputs_PI, outputs_PO = (np.array([grid.ravel() for grid in grids]) for grids in zip(*pairs, strict=True))
    equal_IO = (inputs_PI[:, :, None] == outputs_PO[:, None]).all(axis=0)
    return float(equal_IO.any(axis=0).all())


class Quantity(NamedTuple):
    """A number about a text, and the steps by which it is told."""

    measure: Callable[[str], float]
    steps: tuple[float, ...]


def _share(is_counted: Callable[[str], bool]) -> Callable[[str], float]:
    """The share of a text's words that are counted."""

    def measure(text: str) -> float:
        found = _WORD.findall(text)
        return sum(map(is_counted, found)) / len(found) if found else 0.0

    return measure


QUANTITIES = {
    "words": Quantity(count_words, (16, 32, 64, 128, 256, 512, 1024, 2048)),
    "sentences": Quantity(lambda text: len(split_sentences(text)), (2, 4, 8, 16, 32, 64)),
    "numbers": Quantity(_share(lambda word: any(map(str.isdecimal, word))), (0.01, 0.02, 0.05, 0.1, 0.2)),
    "capitals": Quantity(_share(lambda word: word[0].isupper()), (0.05, 0.1, 0.2, 0.4)),
    "letters": Quantity(lambda text: sum(map(str.isalpha, text)) / max(1, count_words(text)), (3.5, 4, 4.5, 5, 6)),
    "questions": Quantity(lambda text: len(_QUESTION.findall(text)), (1, 2, 4, 8)),
    "recoloured": Quantity(_of_pairs(_recoloured), (1,)),
    "rearranged": Quantity(_of_pairs(_rearranged), (1,)),
}
"""Cheap, and of any language: words with a digit and words with a capital are shares of all words, letters are a mean
of a word. The last two are of tasks of grids: what an output's cells depend on."""


def head_prompt(settings: Teacher, document: Document) -> str:
    """The tokens of a document. `<no LABEL>` stands for a strategy whose text the document does not bring."""
    told = [ANY]
    for name, (measure, steps) in QUANTITIES.items():
        value = measure(document.text)
        told += [_step(name, step) for step in steps if value >= step]
    counts = Counter(zlib.crc32(word.encode()) % BUCKETS for word in words(document.text))
    told += [_bucket(i) for i in range(BUCKETS) if counts[i] and counts[i] >= 2 * counts.total() / BUCKETS]
    told += [_absence(name) for name in settings.strategies if not _has_text(document, name)]
    return " ".join(told)


def head_tokenizer(settings: Teacher) -> PreTrainedTokenizerFast:
    """A tokenizer that reads prompts and tags of these strategies; of other text it counts words and signs. Raises
    UserError for strategies that a head cannot choose among."""
    check_chosen(settings, settings.strategies)
    special = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    vocabulary = models.WordLevel({token: i for i, token in enumerate(special.values())}, unk_token="<unk>")
    backend = Tokenizer(vocabulary)
    backend.normalizer = normalizers.BertNormalizer(clean_text=False, strip_accents=False, lowercase=False)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, padding_side="left", **special)
    told = [ANY, *(_step(name, step) for name, (_, steps) in QUANTITIES.items() for step in steps)]
    told += [*map(_bucket, range(BUCKETS)), *map(_absence, settings.strategies), *chain(*choices(settings))]
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in told])
    return tokenizer


def choices(settings: Teacher) -> list[list[str]]:
    """What a completion of the head chooses, one after another, each among these tokens: a strategy's tag, and with
    `teacher.plans` the fields of a plan."""
    return [tags_of(settings.strategies), *settings.plan_options.fields]


def absences(tokenizer: PreTrainedTokenizerFast, settings: Teacher) -> list[tuple[int, int]]:
    """For each strategy, the token that says that a document has no text for it, and its tag's."""
    names = settings.strategies
    to_ids = tokenizer.convert_tokens_to_ids
    return list(zip(to_ids(list(map(_absence, names))), to_ids(tags_of(names)), strict=True))


def _step(name: str, step: float) -> str:
    return f"{name}>={step:g}"


def _bucket(number: int) -> str:
    return f"bucket-{number}"


def _absence(strategy: str) -> str:
    return f"<no {strategy_label(strategy)}>"


def _has_text(document: Document, strategy: str) -> bool:
    return all(texts_named(document, name) for name in brought_names([strategy]))
