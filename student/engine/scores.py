"""Teacher-forced log-likelihoods of texts, each by the student of its slot.

Answers to one prompt share its computation. A pass over prompts leaves keys and values; the rows of further passes, an
answer each, take over those of their prompt (prefix sharing, as vLLM has it, arXiv 2309.06180). Whatever all answers of
a question begin with is part of its prompt here. A distractor's last token is left out, because nobody asks what
follows it: one of a single token needs no row.

What the base expects at the tokens of a lesson, with the document before them (`Scorer.with_targets`), is read in the
same two ways: the document is the prompt, and the texts about it are its answers.
"""

import copy
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from configs.schema import Student
from student.engine.encoding import Encoded, ending_tokens
from student.engine.lora import AdapterStack
from student.engine.loss import likeliest_logliks, likeliest_tokens, target_logliks
from student.engine.models import end_ids, positions_of
from student.engine.packing import Batch, Part, Piece, Rows, Targets, pack, padded, pass_tokens, passes
from student.engine.schedule import Schedule
from student.engine.training import last_hidden, loss_at_labels

TARGET_TOKENS = 50
"""The likeliest tokens of which a target tells the log-likelihoods, as in Askell et al. 2021 (arXiv 2112.00861)."""

TARGET_BYTES = 2 * 8 * TARGET_TOKENS + 2 * 4 * (TARGET_TOKENS + 1)
"""Bytes of a labelled token's target: as it is kept, and in the batches of a step, with tokens in 8 bytes each."""

KEPT_BYTES = 2**28
"""Most bytes of targets that are kept for students of the same lesson."""


class Score(NamedTuple):
    """Scores of one text's labelled tokens."""

    tokens: int
    loglik_sum: float
    greedy: bool
    """Every labelled token is the likeliest."""
    ended: bool
    """The likeliest token after the text ends an answer. Not told (False) of a distractor."""

    @property
    def loglik(self) -> float:
        """A token's mean."""
        return self.loglik_sum / max(1, self.tokens)


def joined(scores: Sequence[Score]) -> Score:
    """The score of a text from those of its parts, in order."""
    return Score(
        sum(score.tokens for score in scores),
        sum(score.loglik_sum for score in scores),
        all(score.greedy for score in scores),
        scores[-1].ended,
    )


@dataclass(frozen=True, slots=True)
class Candidates:
    """Answers to one question, each encoded with the prompt before it, for the student of a slot."""

    slot: int
    tag: int
    """A number by which the caller finds them again."""
    texts: Sequence[Encoded]
    """The gold answer's first."""
    shared: int
    """Tokens that all texts begin with."""

    @classmethod
    def of(cls, slot: int, tag: int, texts: Sequence[Encoded]) -> Self:
        shortest = min(map(len, texts))
        same_T = np.all([text.ids[:shortest] == texts[0].ids[:shortest] for text in texts], axis=0)
        return cls(slot, tag, texts, shortest if same_T.all() else int(same_T.argmin()))

    def can_share(self, max_tokens: int) -> bool:
        """Whether there is something to share, and a pass holds the longest text."""
        return len(self.texts) > 1 and self.shared > 0 and max(map(len, self.texts)) <= max_tokens


def prompts(questions: Sequence[Candidates]) -> list[Part]:
    """What all answers of each question share."""
    return [Part(q.slot, number, 0, 0, q.texts[0].ids[: q.shared]) for number, q in enumerate(questions)]


def rests(prompts: Sequence[Part], questions: Sequence[Candidates]) -> list[Part]:
    """What the answers of each of these prompts add, where they add anything. The owner is the prompt's row."""
    parts = []
    for row, prompt in enumerate(prompts):
        question = questions[prompt.owner]
        for number, text in enumerate(question.texts):
            ids = text.ids[question.shared : len(text) - (number > 0)]
            if len(ids):
                parts.append(Part(question.slot, row, number, question.shared, ids))
    return parts


class Scorer:
    """Scores texts by the students in a stack, or by the base that they share."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        stack: AdapterStack | None,
        settings: Student,
    ):
        self.model, self.tokenizer, self.stack, self.settings = model, tokenizer, stack, settings
        self.shares_prompts = self.autocast = False
        """Whether the answers to a question share the computation of its prompt, and whether products are computed in
        bfloat16. `proof` sets both, and `settings.row_tokens`, as the model allows."""
        self.pad_id: int = tokenizer.pad_token_id  # type: ignore[assignment]  # load_model sees to it
        self.head: torch.nn.Linear = model.get_output_embeddings()  # type: ignore[assignment]
        self.positions = 0
        """Positions that were computed."""
        self.targets: dict[bytes, list[Targets]] = {}
        """Of lessons that were read, by their tokens."""

    @cached_property
    def ends_V(self) -> Tensor:
        """Whether each token ends an answer."""
        final = frozenset(end_ids(self.model.generation_config.eos_token_id, self.tokenizer))
        return ending_tokens(self.tokenizer, self.head.weight.shape[0], final).to(self.model.device)

    def rows(self, slots: list[int], trained: bool) -> Rows:
        """The students of a batch's rows."""
        return Rows.of(slots, self.stack.n_slots if self.stack and trained else 1, self.model.device)

    def adapters(self, rows: Rows, trained: bool) -> AbstractContextManager[None]:
        """Within it the model's rows are those of trained students, or of the base."""
        return self.stack.using(rows) if self.stack and trained else nullcontext()

    def eager(self) -> AbstractContextManager[object]:
        """Within it nothing is compiled. Every layer has a cache of its own: compiling for each would use up what the
        compiler allows a model."""
        return torch.compiler.set_stance("force_eager") if self.settings.compile else nullcontext()

    def rounding(self) -> torch.autocast:
        """Within it products are rounded as `autocast` says."""
        return torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.autocast)

    @torch.no_grad()
    def texts(self, texts: Sequence[tuple[int, Encoded]], trained: bool, max_tokens: int) -> list[Score]:
        """Scores of texts, each read by the student of a slot, in the order given; no pass has more than `max_tokens`
        positions, but for a longer text."""
        if not texts:
            return []
        tokens_Q, loglik_Q, likeliest_Q, ended_Q = (torch.zeros(len(texts), device=self.model.device) for _ in range(4))
        for batch, hidden in self._packed(texts, trained, max_tokens):
            with self.rounding():
                _, nll_N, likeliest_N = loss_at_labels(self.model, hidden, batch)
                next_P = likeliest_tokens(hidden.index_select(0, batch.last_P), self.head)
            tokens_Q.index_add_(0, batch.tag_N, torch.ones_like(nll_N))
            loglik_Q.index_add_(0, batch.tag_N, -nll_N)
            likeliest_Q.index_add_(0, batch.tag_N, likeliest_N.float())
            ended_Q[batch.tag_P] = self.ends_V[next_P].float()
        return _scores(tokens_Q, loglik_Q, likeliest_Q, ended_Q)

    def with_targets(self, schedule: Schedule, max_tokens: int) -> Schedule:
        """A schedule with what the base expects at each labelled token of its texts in their contexts; one without
        contexts as it is. A lesson is read by itself and once, so that its targets do not depend on what else is
        trained. A text that is longer with its document than the model reads is the schedule's `problem`."""
        texts, positions = schedule.in_context, positions_of(self.model.config)
        longest = max(map(len, texts), default=0)
        if positions is not None and longest > positions:
            problem = f"a text with its document before it is {longest} tokens, and the model reads {positions}"
            schedule = replace(schedule, problem=problem)
        if not texts or schedule.problem is not None:
            return schedule
        key = b"".join(array.tobytes() + b"|" for text in texts for array in (text.ids, text.labelled))
        if key not in self.targets:
            kept = sum(target.nbytes for of_lesson in self.targets.values() for target in of_lesson)
            if kept > KEPT_BYTES:
                self.targets.clear()
            self.targets[key] = self._expected(schedule, max_tokens)
        return replace(schedule, targets=self.targets[key])

    def answers(
        self, questions: Sequence[tuple[int, Sequence[Encoded]]], trained: bool, max_tokens: int
    ) -> list[list[Score]]:
        """Scores of the gold answer and distractors of questions, each put to the student of a slot, in the order
        given. Up to rounding they are those of `texts`, which computes what can share no prompt."""
        asked = [Candidates.of(slot, tag, texts) for tag, (slot, texts) in enumerate(questions)]
        shared, apart = self._sharing(asked, max_tokens)
        together = self.together(shared, trained, max_tokens)
        scores = {question.tag: of_question for question, of_question in zip(shared, together, strict=True)}
        of_texts = iter(self.texts([(q.slot, text) for q in apart for text in q.texts], trained, max_tokens))
        scores |= {question.tag: [next(of_texts) for _ in question.texts] for question in apart}
        return [scores[tag] for tag in range(len(asked))]

    @torch.no_grad()
    def together(self, questions: Sequence[Candidates], trained: bool, max_tokens: int) -> list[list[Score]]:
        """Scores of questions whose answers share the computation of their prompt."""
        scores: dict[int, list[Score]] = {}
        for numbers, hidden, places, last in self._shared(questions, trained, max_tokens):
            found = self._read(hidden, [questions[number].texts for number in numbers], places, last)
            scores |= zip(numbers, found, strict=True)
        return [scores[number] for number in range(len(questions))]

    def _sharing(self, asked: Sequence[Candidates], max_tokens: int) -> tuple[list[Candidates], list[Candidates]]:
        """The questions whose answers are to share the computation of their prompt, and the others."""
        # A pass is as wide as its longest prompt and answer together, and GPT-Neo's mask no wider than its positions.
        most = (positions_of(self.model.config) or sys.maxsize) // 2
        can = [self.shares_prompts and q.can_share(max_tokens) and max(map(len, q.texts)) <= most for q in asked]
        shared, apart = ([q for q, shares in zip(asked, can, strict=True) if shares == kind] for kind in (True, False))
        return shared, apart

    def _packed(
        self, texts: Sequence[tuple[int, Encoded]], trained: bool, max_tokens: int
    ) -> Iterator[tuple[Batch, Tensor]]:
        """Texts, each read by the student of a slot, in packed batches tagged by their numbers, with their last hidden
        states (R*T, D)."""
        n_slots = self.stack.n_slots if self.stack and trained else 1
        pieces = [Piece(slot, text, tag=tag) for tag, (slot, text) in enumerate(texts)]
        row_tokens = self.settings.row_tokens
        for batch in pack(
            pieces, n_slots, self.pad_id, self.model.device, max_tokens=max_tokens, row_tokens=row_tokens
        ):
            with self.adapters(batch.rows, trained), self.rounding():
                hidden = last_hidden(self.model, batch)
            self.positions += batch.positions
            yield batch, hidden

    def _shared(
        self, questions: Sequence[Candidates], trained: bool, max_tokens: int
    ) -> Iterator[tuple[list[int], Tensor, list[np.ndarray], list[int]]]:
        """Numbers of the questions of a pass over prompts, last hidden states (N, D) of it and of those over their
        answers, for each answer in turn the positions among them that predict its labelled tokens, and the position of
        the last token of each question's first answer."""
        pass_cost = pass_tokens(self.model.device)
        for batch in passes(prompts(questions), max_tokens, pass_cost) if questions else ():
            hidden, prompt_mask, cache = self._pass(batch, trained)
            # The places, in the states of all passes, of each prompt's first token and of each answer's own first.
            width = prompt_mask.shape[1]
            prompt_starts = [(row + 1) * width - len(prompt.ids) for row, prompt in enumerate(batch)]
            own_starts: dict[tuple[int, int], int] = {}
            states, count = [hidden], len(hidden)
            added = rests(batch, questions)
            for part in passes(added, max_tokens, pass_cost, width) if added else ():
                hidden, mask, _ = self._pass(part, trained, prompt_mask, copy.deepcopy(cache))
                own_starts |= {(p.owner, p.text): count + row * mask.shape[1] for row, p in enumerate(part)}
                states.append(hidden)
                count += len(hidden)
            asked = [questions[prompt.owner] for prompt in batch]
            places, last = [], []
            for row, question in enumerate(asked):
                for number, text in enumerate(question.texts):
                    in_prompt = prompt_starts[row] + np.arange(question.shared)
                    own = own_starts.get((row, number), 0) + np.arange(len(text) - question.shared)
                    place_T = np.concatenate([in_prompt, own])
                    places.append(place_T[text.labelled - 1])
                    last += [place_T[-1]] if number == 0 else []
            yield [prompt.owner for prompt in batch], torch.cat(states), places, last

    @torch.no_grad()
    def _expected(self, schedule: Schedule, max_tokens: int) -> list[Targets]:
        """The base's targets for each text of a schedule in its context."""
        numbers_of: dict[bytes, list[int]] = defaultdict(list)
        for number, (text, alone) in enumerate(zip(schedule.in_context, schedule.texts, strict=True)):
            numbers_of[text.ids[: len(text) - len(alone)].tobytes()].append(number)
        numbers_of_tag = list(numbers_of.values())
        texts = schedule.in_context
        documents = [Candidates.of(0, tag, [texts[n] for n in numbers]) for tag, numbers in enumerate(numbers_of_tag)]
        shared, apart = self._sharing(documents, max_tokens)
        targets: dict[int, Targets] = {}

        def read(numbers: Sequence[int], hidden: Tensor) -> None:
            """From the states that predict the labelled tokens of texts, one text after the other."""
            with self.rounding():
                tokens_NK, logliks_NB = likeliest_logliks(hidden, self.head, TARGET_TOKENS)
            ends = np.cumsum([len(texts[number].labelled) for number in numbers])[:-1]
            parts = (np.split(tokens_NK.int().cpu().numpy(), ends), np.split(logliks_NB.cpu().numpy(), ends))
            targets.update(zip(numbers, map(Targets, *parts), strict=True))

        for asked, hidden, places, _ in self._shared(shared, False, max_tokens):
            place_N = torch.from_numpy(np.concatenate(places)).to(hidden.device)
            read([n for number in asked for n in numbers_of_tag[shared[number].tag]], hidden.index_select(0, place_N))
        lone = [number for document in apart for number in numbers_of_tag[document.tag]]
        for batch, hidden in self._packed([(0, texts[number]) for number in lone], False, max_tokens):
            read([lone[tag] for tag in batch.tag_P.tolist()], hidden.index_select(0, batch.index_N))
        return [targets[number] for number in range(len(texts))]

    def _pass(
        self, parts: Sequence[Part], trained: bool, prompt_mask: Tensor | None = None, cache: Any = None
    ) -> tuple[Tensor, Tensor, Any]:
        """Last hidden states of a pass, rows one after the other (R*T, D), its mask (R, T), and keys and values. With
        those of prompts (`cache`), each row goes on after the prompt of its owner."""
        ids, mask, positions = padded(parts, self.pad_id, self.model.device, left=cache is None)
        whole_mask = mask
        if cache is not None and prompt_mask is not None:
            owner_R = torch.tensor([part.owner for part in parts], device=self.model.device)
            cache.reorder_cache(owner_R)
            whole_mask = torch.cat([prompt_mask[owner_R], mask], dim=1)
        rows = self.rows([part.slot for part in parts], trained)
        with self.eager(), self.adapters(rows, trained), self.rounding():
            output = self.model.get_decoder()(
                input_ids=ids, attention_mask=whole_mask, position_ids=positions, past_key_values=cache, use_cache=True
            )
        self.positions += ids.numel()
        return output.last_hidden_state.flatten(0, 1), mask, output.past_key_values

    def _read(
        self, hidden: Tensor, texts: Sequence[Sequence[Encoded]], places: Sequence[np.ndarray], last: Sequence[int]
    ) -> list[list[Score]]:
        """Scores of each question's texts. `places` are the positions of `hidden` that predict each text's labelled
        tokens, `last` those of the last token of each question's first text."""
        every = [text for of_question in texts for text in of_question]
        place_N, target_N = np.concatenate(places), np.concatenate([text.ids[text.labelled] for text in every])
        arrays = (np.repeat(np.arange(len(every)), [len(text.labelled) for text in every]), np.array(last))
        text_N, last_C = (torch.from_numpy(array).to(hidden.device) for array in arrays)
        with self.rounding():
            loglik_N, likeliest_N = target_logliks(hidden, self.head, place_N, target_N)
            next_C = likeliest_tokens(hidden.index_select(0, last_C), self.head)
        tokens_Q, loglik_Q, likeliest_Q, ended_Q = (torch.zeros(len(every), device=hidden.device) for _ in range(4))
        tokens_Q.index_add_(0, text_N, torch.ones_like(loglik_N))
        loglik_Q.index_add_(0, text_N, loglik_N)
        likeliest_Q.index_add_(0, text_N, likeliest_N.float())
        first = np.cumsum([0, *map(len, texts[:-1])])
        ended_Q[first] = self.ends_V[next_C].float()
        scores = iter(_scores(tokens_Q, loglik_Q, likeliest_Q, ended_Q))
        return [[next(scores) for _ in of_question] for of_question in texts]


def _scores(*columns_Q: Tensor) -> list[Score]:
    """From the number, log-likelihood and likeliest ones of each text's labelled tokens, and whether it ended."""
    return [
        Score(int(tokens), loglik, likeliest == tokens, bool(ended))
        for tokens, loglik, likeliest, ended in torch.stack(columns_Q, dim=1).tolist()
    ]
