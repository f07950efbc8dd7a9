"""ExamResult an exam: what students know, read off the same stacked layers that trained them.

Log-likelihoods are teacher-forced: prompt and gold answer in one packed row, labels at the answer. Decoding is greedy
and batched over all students. Before-values are the same calls with the adapters off.
"""

import math
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from configs.schema import Student
from student.engine.encoding import encode_answer, encode_prompt, encode_text
from student.engine.grading import exact_match, recalled
from student.engine.lora import AdapterStack, Rows
from student.engine.packing import Piece, pack
from student.engine.training import batch_loss
from student.records import Exam, Question


@dataclass(frozen=True, slots=True)
class Grade:
    """One question answered once."""

    loglik: float
    """Mean log-likelihood of the gold answer's tokens, in nats."""
    correct: bool
    """Every gold token is the likeliest after the gold ones before it."""
    extra: dict[str, float]


@dataclass(frozen=True, slots=True)
class ExamResult:
    """One student's answers to one exam; grades are aligned with its questions."""

    grades: list[Grade]
    retention_loss: float | None
    """Mean loss on the retention texts in nats a token; None without such texts."""


@dataclass(frozen=True, slots=True)
class _Score:
    tokens: int
    loglik_sum: float
    correct: bool


class Examiner:
    """Asks questions of the students in a stack, or of the base they share."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, stack: AdapterStack | None, settings: Student
    ):
        self.model, self.tokenizer, self.stack, self.settings = model, tokenizer, stack, settings
        self._base_questions: dict[Question, Grade] = {}
        self._base_texts: dict[str, _Score] = {}

    def before(self, exam: Exam, max_tokens: int) -> ExamResult:
        """The base's sitting; each question and text is asked of the base once in its life."""
        questions = [q for q in dict.fromkeys(exam.questions) if q not in self._base_questions]
        texts = [t for t in dict.fromkeys(exam.retention_texts) if t not in self._base_texts]
        grades = self._grade([(0, question) for question in questions], False, max_tokens)
        scores = self._read([(0, text) for text in texts], False, max_tokens)
        self._base_questions.update(zip(questions, grades, strict=True))
        self._base_texts.update(zip(texts, scores, strict=True))
        return ExamResult(
            [self._base_questions[q] for q in exam.questions],
            _mean_loss([self._base_texts[t] for t in exam.retention_texts]),
        )

    def after(self, exams: list[Exam], max_tokens: int) -> list[ExamResult]:
        """Slot k sits `exams[k]`, all slots at once."""
        asked = [(k, q) for k, exam in enumerate(exams) for q in exam.questions]
        read = [(k, t) for k, exam in enumerate(exams) for t in exam.retention_texts]
        grades = iter(self._grade(asked, True, max_tokens))
        scores = iter(self._read(read, True, max_tokens))
        return [
            ExamResult([next(grades) for _ in exam.questions], _mean_loss([next(scores) for _ in exam.retention_texts]))
            for exam in exams
        ]

    def _grade(self, asked: list[tuple[int, Question]], trained: bool, max_tokens: int) -> list[Grade]:
        candidates = [(k, q, answer) for k, q in asked for answer in (q.answer, *q.choices)]
        texts = [Piece(k, encode_answer(self.tokenizer, q.prompt, a)) for k, q, a in candidates]
        scores = iter(self._score(texts, trained, max_tokens))
        answers = iter(self._decode(asked, trained, max_tokens) if self.settings.decode else [""] * len(asked))
        grades = []
        for _, question in asked:
            gold, answer = next(scores), next(answers)
            choices = [next(scores) for _ in question.choices]
            extra = {
                "loglik_sum": gold.loglik_sum,
                "bits_per_byte": -gold.loglik_sum / math.log(2) / max(1, len(question.answer.encode())),
            }
            if choices:
                extra |= _multiple_choice(question, choices)
            if self.settings.decode:
                extra["exact_match"] = float(exact_match(answer, question.answer))
                extra["token_recall"] = float(recalled(answer, question.answer))
            grades.append(Grade(gold.loglik_sum / max(1, gold.tokens), gold.correct, extra))
        return grades

    def _read(self, texts: list[tuple[int, str]], trained: bool, max_tokens: int) -> list[_Score]:
        encoded = [Piece(k, encode_text(self.tokenizer, t, "all", self.settings.max_text_tokens)) for k, t in texts]
        return self._score(encoded, trained, max_tokens)

    @torch.no_grad()
    def _score(self, pieces: list[Piece], trained: bool, max_tokens: int) -> list[_Score]:
        """Labelled tokens, summed log-likelihood and all-likeliest of each piece, in the order given."""
        if not pieces:
            return []
        stack = self.stack if trained else None
        tagged = [Piece(p.slot if stack else 0, p.text, 1.0, tag) for tag, p in enumerate(pieces)]
        n_slots = stack.n_slots if stack else 1
        device = self.model.device
        tokens, loglik, correct = (torch.zeros(len(pieces), device=device) for _ in range(3))
        pad_id, row_tokens = self.tokenizer.pad_token_id, self.settings.row_tokens
        for batch in pack(tagged, n_slots, pad_id, device, max_tokens=max_tokens, row_tokens=row_tokens):
            if stack is None:
                _, nll_N, likeliest_N = batch_loss(self.model, batch)
            else:
                with stack.using(batch.rows):
                    _, nll_N, likeliest_N = batch_loss(self.model, batch)
            tokens.index_add_(0, batch.tag_N, torch.ones_like(nll_N))
            loglik.index_add_(0, batch.tag_N, -nll_N)
            correct.index_add_(0, batch.tag_N, likeliest_N.float())
        return [
            _Score(int(n), total, right == n)
            for n, total, right in zip(tokens.tolist(), loglik.tolist(), correct.tolist(), strict=True)
        ]

    @torch.no_grad()
    def _decode(self, asked: list[tuple[int, Question]], trained: bool, max_tokens: int) -> list[str]:
        """Greedy answers, in the order given."""
        prompts = [(k, encode_prompt(self.tokenizer, q.prompt)) for k, q in asked]
        longest = max((len(ids) for _, ids in prompts), default=0) + self.settings.max_answer_tokens
        at_once = max(1, max_tokens // longest)
        order = sorted(range(len(prompts)), key=lambda i: prompts[i][0])
        answers = [""] * len(prompts)
        for start in range(0, len(order), at_once):
            members = order[start : start + at_once]
            texts = self._generate([prompts[i] for i in members], trained)
            for i, text in zip(members, texts, strict=True):
                answers[i] = text
        return answers

    def _generate(self, prompts: list[tuple[int, list[int]]], trained: bool) -> list[str]:
        width = max(len(ids) for _, ids in prompts)
        pad, device = self.tokenizer.pad_token_id, self.model.device
        ids_BT = torch.tensor([[pad] * (width - len(ids)) + ids for _, ids in prompts], device=device)
        mask_BT = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for _, ids in prompts], device=device)

        def generate() -> torch.Tensor:
            return self.model.generate(  # type: ignore[operator]
                input_ids=ids_BT, attention_mask=mask_BT, do_sample=False, num_beams=1, temperature=None, top_p=None,
                top_k=None, repetition_penalty=1.0, no_repeat_ngram_size=0, pad_token_id=pad,
                max_new_tokens=self.settings.max_answer_tokens,
            )  # fmt: skip

        # A cache is another one in each layer: compiling them all would use up what the compiler allows a model.
        with torch.compiler.set_stance("force_eager") if self.settings.compile else nullcontext():
            if trained and self.stack is not None:
                with self.stack.using(Rows.of([k for k, _ in prompts], self.stack.n_slots, device)):
                    out = generate()
            else:
                out = generate()
        return self.tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)


def _multiple_choice(question: Question, choices: list[_Score]) -> dict[str, float]:
    """Whether the gold choice has the highest summed log-likelihood (raw) and the highest per character (normalised,
    as in lm-eval's acc and acc_norm)."""
    gold = question.choices.index(question.answer)
    raw = [score.loglik_sum for score in choices]
    normalised = [score.loglik_sum / max(1, len(text)) for score, text in zip(choices, question.choices, strict=True)]
    return {
        "choice": float(max(range(len(raw)), key=raw.__getitem__) == gold),
        "choice_norm": float(max(range(len(raw)), key=normalised.__getitem__) == gold),
    }


def _mean_loss(scores: list[_Score]) -> float | None:
    tokens = sum(score.tokens for score in scores)
    return -sum(score.loglik_sum for score in scores) / tokens if tokens else None
