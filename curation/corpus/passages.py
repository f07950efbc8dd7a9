"""Documents become passages: parts of a length that the teacher can rewrite whole, cut where headings, paragraphs and
sentences end.

A passage is a document like any other, so that training, evaluation and curation need not know of it: its id is
`file#row/number`, its text the exact slice, and `metadata["passage"]` says of what (`student.records.Passage`). Every
character of a document is in exactly one of its passages. A document that fits is its own single passage, unchanged.

semantic-text-splitter finds pieces of Markdown or plain text (headings, blocks, lines, sentences, words; code, tables
and lists stay whole where they fit). It fills each from the left, so that a heading or the end of a section may be
left over as a piece of three tokens; what is left over is put to its neighbours here.
"""

import hashlib
import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any

from datatrove.data import Document
from semantic_text_splitter import MarkdownSplitter
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from configs.schema import Config
from student.grids.grid import read_pairs
from student.records import Passage
from student.text.headings import TITLE_CHARACTERS, fence_after, find_headings, heading_paths
from student.text.sentences import sentence_ends
from student.text.words import count_words, word_line, words
from teacher.prompting.strategies import brought_names, needs_model
from teacher.prompting.template import load_tokenizer
from teacher.ready.brought import texts_named

WINDOW = 1 << 16
"""Characters of a text that are cut or counted at a time, so that a row of 100 MB costs the memory of its text alone.
The splitter takes a time quadratic in a word or in nested quotes: 1 s for 64,000 characters, 11 s for twice as many."""
PIECE, LEAST = 3 / 4, 1 / 4
"""Of the most tokens of a passage. The pieces that are put together have at most the first share; so a passage below
the second can always take or join a neighbour."""
LOOK_BACK = 600
"""Characters before a cut in the middle of a sentence in which the sentence's beginning is looked for."""

WINDOWS = {"whole": 1, "halves": 2, "thirds": 3, "quarters": 4}
"""How many parts of a passage each of `curation.windows` is."""


class Cutter:
    """Cuts documents as `data.passage_tokens` says. The tokenizer is loaded when a document may be too long."""

    def __init__(self, config: Config, writes: bool | None = None):
        """`writes`: a model does, so that its tokens count; None: the one that is trained, if one is."""
        teacher = config.teacher
        self.writes = needs_model(teacher) and bool(teacher.model) if writes is None else writes
        self.config, self.most = config, config.data.passage_tokens
        self._brought = brought_names(config.teacher.strategies)

    def cut(self, document: Document) -> list[Document]:
        """The document itself, or its passages in order. Each question of the document is one of exactly one passage
        (see `deal_questions`)."""
        spans = self.spans(document)
        if len(spans) == 1:
            return [document]
        text = document.text
        paths = heading_paths(find_headings(text), text, (start for start, _ in spans))
        digest = hashlib.sha256(" ".join(text.split()).encode()).hexdigest()[:16]
        passages = []
        for number, ((start, end), headings) in enumerate(zip(spans, paths, strict=True), start=1):
            place = Passage(
                number=number, of=len(spans), start_index=start, end_index=end, headings=headings,
                document_id=document.id, document_hash=digest,
            )  # fmt: skip
            metadata = {**document.metadata, "passage": place}
            passages.append(Document(text[start:end], f"{document.id}/{number}", metadata=metadata))
        if isinstance(questions := document.metadata.get("questions"), list):
            for passage, own in zip(passages, deal_questions(questions, passages), strict=True):
                passage.metadata.pop("questions")
                if own:
                    passage.metadata["questions"] = type(questions)(own)
        return passages

    def spans(self, document: Document) -> list[tuple[int, int]]:
        """Beginnings and ends of the passages, in characters."""
        text, most = document.text, self.most
        whole = [(0, len(text))]
        # A token has a byte or more, and so has a word.
        if most is None or len(text.encode(errors="surrogatepass")) < most or self._is_one(document):
            return whole
        # The tokens of a text that is surely too long need not be counted.
        if len(text) <= 64 * most and self.count(text) <= most:
            return whole
        return list(itertools.pairwise([0, *itertools.accumulate(map(len, self._pieces(text, most)))]))

    def count(self, text: str) -> int:
        """Length in the teacher's tokens, in words where no model writes."""
        if self.tokenizer is None:
            return count_words(text)
        # The tokens of a text of 100 MB at once would take gigabytes.
        slices = (text[i : i + WINDOW] for i in range(0, len(text), WINDOW))
        return sum(len(self.tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"]) for part in slices)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The teacher's; None where no model writes."""
        return (
            load_tokenizer(self.config.teacher, self.config.serving, self.config.teacher.model) if self.writes else None
        )

    @cached_property
    def _splitter(self) -> MarkdownSplitter:
        assert self.most is not None
        most = max(1, int(PIECE * self.most))
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            return MarkdownSplitter.from_callback(self.count, most, trim=False)
        backend = Tokenizer.from_str(backend.to_str())
        backend.no_truncation()
        backend.no_padding()
        return MarkdownSplitter.from_huggingface_tokenizer(backend, most, trim=False)

    def _pieces(self, text: str, most: int) -> list[str]:
        """The texts of the passages."""
        windows = MarkdownSplitter(WINDOW, trim=False).chunks(text) if len(text) > WINDOW else [text]
        pieces = list(itertools.chain.from_iterable(map(self._splitter.chunks, windows)))
        groups = with_blanks(at_sentences(pieces, self.count, most))
        tokens = [sum(self.count(piece) for piece in group if not piece.isspace()) for group in groups]
        return join_small(["".join(group) for group in groups], tokens, most)

    def _is_one(self, document: Document) -> bool:
        """Whether its parts would be worth nothing: the texts that it brings are about all of it, and so is the rule of
        a task of grids."""
        with suppress(ValueError):
            return bool(read_pairs(document.text))
        return bool(document.metadata.get("rewrites")) or any(texts_named(document, name) for name in self._brought)


def with_blanks(pieces: Iterable[str]) -> list[list[str]]:
    """The pieces in groups of which none is blank, unless all are: blank ones stay with the one before, those of the
    beginning with the one after."""
    groups: list[list[str]] = []
    begun = False  # whether the last group holds more than blanks
    for piece in pieces:
        if groups and (piece.isspace() or not begun):
            groups[-1].append(piece)
        else:
            groups.append([piece])
        begun = begun or not piece.isspace()
    return groups


def at_sentences(pieces: Sequence[str], count: Callable[[str], int], most: int) -> list[str]:
    """The same text in pieces that begin with a sentence, where one begins shortly before: lines of wrapped text and
    abbreviations look like ends to the splitter. Code stays as it is, and no piece grows to more than `most`."""
    moved, fence = list(pieces), ""
    for i in range(1, len(moved)):
        before, after = moved[i - 1], moved[i]
        for line in pieces[i - 1].splitlines():
            fence = fence_after(line, fence)
        if not fence and (place := _sentence_before(before, after)) and count(before[place:] + after) <= most:
            moved[i - 1], moved[i] = before[:place], before[place:] + after
    return moved


def _sentence_before(before: str, after: str) -> int | None:
    """Where in `before` the sentence begins that goes on in `after`."""
    tail = before[-min(LOOK_BACK, len(before) // 4) :] if len(before) >= 4 else ""
    gap = tail[len(tail.rstrip()) :] + after[: len(after) - len(after.lstrip())]
    following = after.lstrip()[:1]
    # Behind a line's end only a small letter goes on with a sentence, and indented lines are code.
    if gap.count("\n") > 1 or ("\n" in gap and (not following.islower() or gap.endswith(("    ", "\t")))):
        return None
    paragraph = tail[max(tail.rfind("\n\n") + 2, tail.rfind("\n\r\n") + 3, 0) if "\n" in tail else 0 :]
    end_of_text = len(paragraph.rstrip())
    ends = [end for end in sentence_ends(paragraph + after[:40]) if end <= end_of_text]
    if not ends or ends[-1] == end_of_text:
        return None
    kept = len(before) - len(paragraph) + ends[-1]
    return kept + len(paragraph[ends[-1] :]) - len(paragraph[ends[-1] :].lstrip())


def join_small(pieces: Sequence[str], tokens: Sequence[int], most: int) -> list[str]:
    """Neighbours put together to texts of `most` tokens at most, so that the cuts are as few and as good as can be:
    before headings rather than between paragraphs, and there rather than within one. A text of less than `LEAST` costs
    more than any cut. Takes time linear in the pieces."""
    cuts = [0.0, *itertools.starmap(_cut_cost, itertools.pairwise(pieces))]
    best: list[tuple[float, int]] = [(0.0, 0)]
    for end in range(1, len(pieces) + 1):
        total, choices = 0, []
        for begin in range(end - 1, -1, -1):
            total += max(1, tokens[begin])
            if total > most and begin < end - 1:
                break
            short = 4 * max(0.0, 1 - total / (LEAST * most))
            choices.append((best[begin][0] + 1 + short + cuts[begin], begin))
        best.append(min(choices))
    ends = [len(pieces)]
    while ends[-1]:
        ends.append(best[ends[-1]][1])
    return ["".join(pieces[begin:end]) for end, begin in itertools.pairwise(ends)][::-1]


def _cut_cost(before: str, after: str) -> float:
    first = after.lstrip()
    if any(heading.place == 0 for heading in find_headings(first[: 2 * TITLE_CHARACTERS])):
        return 0.0
    gap = before[len(before.rstrip()) :] + after[: len(after) - len(first)]
    return 0.3 if gap.count("\n") > 1 else 0.6 if "\n" in gap else 0.9


def window(text: str, number: int, of: int) -> tuple[int, int]:
    """Beginning and end, in characters, of the `number`-th (from 1) of so many parts of a text, about equally long and
    cut where sentences or lines end; of the whole text where that has too few ends."""
    if of == 1:
        return 0, len(text)
    ends = [0, *sorted({*sentence_ends(text), *(line.end() for line in re.finditer(r"\n+", text))}), len(text)]
    start, end = (min(ends, key=lambda place: abs(place - len(text) * n / of)) for n in (number - 1, number))
    return (start, end) if text[start:end].strip() else (0, len(text))


def deal_questions(questions: Sequence[Any], passages: Sequence[Document]) -> list[list[Any]]:
    """The questions of each passage. A question belongs to the passage in which its answer stands; of several, or of
    all where it stands in none, to the one that holds most of the words of question and answer, where a word counts
    less the more passages hold it; of equal ones to the first."""
    texts = [words(passage.text) for passage in passages]
    lines, sets = list(map(word_line, texts)), list(map(set, texts))
    held_by = Counter(itertools.chain.from_iterable(sets))
    dealt: list[list[Any]] = [[] for _ in passages]
    for question in questions:
        item = question if isinstance(question, dict) else {}
        answer = words(str(item.get("answer") or ""))
        asked = {*words(str(item.get("question") or item.get("prompt") or "")), *answer}
        weights = {word: math.log(1 + len(passages) / held_by[word]) for word in sorted(asked) if word in held_by}

        def rank(i: int, answer: list[str] = answer, weights: dict[str, float] = weights) -> tuple[bool, float]:
            stands = bool(answer) and word_line(answer) in lines[i]
            return stands, sum(weight for word, weight in weights.items() if word in sets[i])

        dealt[max(range(len(passages)), key=rank)].append(question)
    return dealt
