"""Exams: what students know, read off the same stacked layers that trained them, and the outcome that follows.

Log-likelihoods are teacher-forced: prompt and gold answer are one packed text with labels at the answer. Decoding is
batched over all students: greedy, and sampled where their own confidence is asked for. Answers from before the training
are the same calls with the adapters off.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from transformers import LogitsProcessorList

from configs.seeds import stable_seed
from student.engine.encoding import Encoded, encode_answer, encode_prompt, encode_text
from student.engine.helpers import Helpers, torch_threads
from student.engine.models import SampledAnswers, fitted_prompt, generation_config, positions_of
from student.engine.schedule import Schedule
from student.engine.scores import Score, Scorer, joined
from student.engine.training import Progress, Usage, even_parts
from student.records import Answer, Exam, Job, Outcome, Question, mean_gain
from student.text.grading import agreement, exact_match, recalled

CHARACTERS_PER_TOKEN = 4
"""Of English text, about."""

Asked = tuple[int, Question | str]
"""A question, or a text whose likelihood is asked for, and the slot of the student that is asked."""


@dataclass(frozen=True, slots=True)
class Grade:
    """One student's answer to one question."""

    loglik: float
    """Mean log-likelihood of the gold answer's tokens, in nats."""
    correct: bool
    """Every gold token is the likeliest after the gold ones before it, and the likeliest token after the last one ends
    the answer (see `encoding.ends_answer`)."""
    extra: dict[str, float]


@dataclass(frozen=True, slots=True)
class ExamResult:
    """One student's answers to one exam; grades are aligned with its questions."""

    grades: list[Grade]
    retention_loss: float | None
    """Mean loss on the retention texts in nats a token; None without such texts."""


class Decoded(NamedTuple):
    """An answer that a student wrote."""

    text: str
    certainty: float | None
    """See `SampledAnswers.certainties`; None of a greedy answer."""


class ExamPart(NamedTuple):
    """What another process asks some students of a batch."""

    params_KP: np.ndarray | None
    """Their adapters; None asks the base."""
    asked: list[Asked]
    max_tokens: int


class Examiner:
    """Asks questions of the students in a scorer's stack, or of the base that they share."""

    def __init__(self, scorer: Scorer):
        """Decoding, which would round all weights at each token, is never in bfloat16 where the scorer's `autocast`
        is."""
        self.scorer, self.model, self.tokenizer = scorer, scorer.model, scorer.tokenizer
        self.settings = scorer.settings
        self._base_grades: dict[Question, Grade] = {}
        self._base_scores: dict[str, Score] = {}
        self._whole_exams: dict[Exam, ExamResult] = {}
        self.helpers: Helpers | None = None
        """Processes that ask some of the students (`ask_part`); whoever makes them sets it."""

    def before(self, exam: Exam, max_tokens: int, *, alone: bool = False) -> ExamResult:
        """The base's answers. Those to earlier exams are kept: the base answers each question once in its life. With
        `alone` it is asked the whole exam at once: an answer's last bits depend on what is asked with it."""
        if alone:
            if exam not in self._whole_exams:
                [self._whole_exams[exam]] = self._results([exam], False, max_tokens)
            return self._whole_exams[exam]
        questions = [q for q in dict.fromkeys(exam.questions) if q not in self._base_grades]
        texts = [t for t in dict.fromkeys(exam.retention_texts) if t not in self._base_scores]
        asked: list[Asked] = [*((0, question) for question in questions), *((0, text) for text in texts)]
        grades, scores = self._answers(asked, False, max_tokens)
        self._base_grades.update(zip(questions, grades, strict=True))
        self._base_scores.update(zip(texts, scores, strict=True))
        return ExamResult(
            [self._base_grades[q] for q in exam.questions],
            _mean_loss([self._base_scores[t] for t in exam.retention_texts]),
        )

    def after(self, exams: list[Exam], max_tokens: int) -> list[ExamResult]:
        """The trained students' answers: slot k takes `exams[k]`, all slots at once."""
        return self._results(exams, True, max_tokens)

    def _results(self, exams: list[Exam], trained: bool, max_tokens: int) -> list[ExamResult]:
        asked: list[Asked] = []
        for k, exam in enumerate(exams):
            asked += [*((k, question) for question in exam.questions), *((k, text) for text in exam.retention_texts)]
        graded, scored = self._answers(asked, trained, max_tokens)
        grades, scores = iter(graded), iter(scored)
        return [
            ExamResult([next(grades) for _ in exam.questions], _mean_loss([next(scores) for _ in exam.retention_texts]))
            for exam in exams
        ]

    def _answers(self, asked: list[Asked], trained: bool, max_tokens: int) -> tuple[list[Grade], list[Score]]:
        """Grades of the questions and scores of the texts among what is asked, slots in ascending order. Helpers ask
        some of it, as they train some of the students: with equal `max_tokens` for all that run at the same time."""
        processes = min(torch.get_num_threads(), 1 + len(self.helpers)) if self.helpers else 1
        lengths = [self._cost(item) for _, item in asked]
        here, *elsewhere = even_parts(lengths, sum(lengths), processes, max_tokens)
        if self.helpers is None or not elsewhere:
            return self._ask(asked, trained, max_tokens)
        max_tokens //= 1 + len(elsewhere)
        tasks = [self._part(asked[part], trained, max_tokens) for part in elsewhere]
        with torch_threads(1):
            results = self.helpers.share(tasks, lambda stopped: self._ask(asked[here], trained, max_tokens))
        grades, scores = zip(*results, strict=True)
        return list(chain(*grades)), list(chain(*scores))

    def _part(self, asked: list[Asked], trained: bool, max_tokens: int) -> ExamPart:
        """What a helper is to ask, with the adapters of no other students."""
        if not trained:
            return ExamPart(None, asked, max_tokens)
        assert self.scorer.stack is not None
        first, last = asked[0][0], asked[-1][0]
        params_KP = self.scorer.stack.params_KP[first : last + 1].numpy()
        return ExamPart(params_KP, [(slot - first, item) for slot, item in asked], max_tokens)

    def ask_part(self, part: ExamPart) -> tuple[list[Grade], list[Score]]:
        """In a helper: the answers of a part's students."""
        if part.params_KP is None:
            return self._ask(part.asked, False, part.max_tokens)
        assert self.scorer.stack is not None
        self.scorer.stack.adopt(torch.from_numpy(part.params_KP))
        try:
            return self._ask(part.asked, True, part.max_tokens)
        finally:
            self.scorer.stack.release()

    def _ask(self, asked: list[Asked], trained: bool, max_tokens: int) -> tuple[list[Grade], list[Score]]:
        """`_answers` in this process."""
        questions = [(slot, item) for slot, item in asked if isinstance(item, Question)]
        texts = [(slot, item) for slot, item in asked if isinstance(item, str)]
        return self._grade(questions, trained, max_tokens), self._score_texts(texts, trained, max_tokens)

    def _cost(self, item: Question | str) -> int:
        """Tokens that are computed for a question or a text, roughly: parts have to be even, not exact."""
        if isinstance(item, str):
            return 1 + len(item) // CHARACTERS_PER_TOKEN
        characters = sum(map(len, (item.prompt, item.answer, *item.distractors)))
        return 1 + characters // CHARACTERS_PER_TOKEN + self._answers_written * self.settings.max_answer_tokens

    @property
    def _answers_written(self) -> int:
        """Answers that are decoded for each question."""
        return self.settings.decode + self.settings.sampled_answers

    def _grade(self, questions: list[tuple[int, Question]], trained: bool, max_tokens: int) -> list[Grade]:
        """Grades of questions, each to the student of a slot."""
        encoded = {question: self._encode(question) for _, question in questions}
        asked = [(k, encoded[question]) for k, question in questions]
        scores = iter(self.scorer.answers(asked, trained, max_tokens))
        samples = self.settings.sampled_answers
        decoded = iter(self._decode(questions, trained, max_tokens) if self.settings.decode else ())
        sampled = iter(self._decode(questions, trained, max_tokens, samples) if samples else ())
        grades = []
        for _, question in questions:
            gold, *wrong = next(scores)
            bits = -gold.loglik_sum / math.log(2)
            extra = {
                "loglik_sum": gold.loglik_sum,
                "bits_per_byte": bits / max(1, len(question.answer.encode())),
                "greedy": float(gold.greedy),  # lm-eval's acc of loglikelihood tasks, which may go on
            }
            if question.text:
                extra["bits"] = -extra["bits_per_byte"]
            elif wrong:
                extra |= _against_distractors(question, gold, wrong)
            if self.settings.decode:
                answer = next(decoded).text
                extra["exact_match"] = float(exact_match(answer, question.answer))
                extra["recall"] = float(recalled(answer, question.answer))
            if samples:
                own = [next(sampled) for _ in range(samples)]
                extra["self_certainty"] = statistics.fmean(one.certainty for one in own if one.certainty is not None)
                extra["majority"] = agreement([one.text for one in own])
            grades.append(Grade(gold.loglik, gold.greedy and gold.ended, extra))
        return grades

    def _encode(self, question: Question) -> list[Encoded]:
        """The prompt with the gold answer, and with each distractor."""
        prompt = self._prompt(question)
        return [encode_answer(self.tokenizer, prompt, answer) for answer in (question.answer, *question.distractors)]

    def _prompt(self, question: Question) -> str:
        """A question's prompt, as far as the model has positions for it."""
        decoded = self.settings.max_answer_tokens if self._answers_written else 0
        return fitted_prompt(self.tokenizer, question, positions_of(self.model.config), decoded)

    def _score_texts(self, texts: list[tuple[int, str]], trained: bool, max_tokens: int) -> list[Score]:
        """A score of each text, over all its parts where it is longer than a text may be."""
        parts = [encode_text(self.tokenizer, text, "all", self.settings.max_text_tokens) for _, text in texts]
        encoded = [(k, part) for (k, _), own in zip(texts, parts, strict=True) for part in own]
        scores = iter(self.scorer.texts(encoded, trained, max_tokens))
        return [joined([next(scores) for _ in own]) for own in parts]

    @torch.no_grad()
    def _decode(
        self, questions: list[tuple[int, Question]], trained: bool, max_tokens: int, samples: int | None = None
    ) -> list[Decoded]:
        """Answers to questions, each by the student of a slot, in the order given: a greedy one to each, or so many
        samples."""
        questions = [asked for asked in questions for _ in range(samples or 1)]
        encoded = {question: encode_prompt(self.tokenizer, self._prompt(question)) for _, question in questions}
        prompts = [encoded[question] for _, question in questions]
        longest = max(map(len, prompts), default=0) + self.settings.max_answer_tokens
        at_once = max(1, max_tokens // longest)
        order = sorted(range(len(prompts)), key=lambda i: questions[i][0])
        # Without a cache that padding leaves alone, only prompts of one length are decoded together.
        widths = {len(prompts[i]) for i in order} if not self.scorer.shares_prompts else {None}
        groups = ([i for i in order if width in (None, len(prompts[i]))] for width in widths)
        pad, device = self.tokenizer.pad_token_id, self.model.device
        greedy = generation_config(self.model, self.tokenizer, max_new_tokens=self.settings.max_answer_tokens)
        answers: dict[int, Decoded] = {}
        for members in (group[start : start + at_once] for group in groups for start in range(0, len(group), at_once)):
            width = max(len(prompts[i]) for i in members)
            ids_BT = torch.tensor([[pad] * (width - len(prompts[i])) + prompts[i] for i in members], device=device)
            mask_BT = torch.tensor([[0] * (width - len(prompts[i])) + [1] * len(prompts[i]) for i in members])
            rows = self.scorer.rows([questions[i][0] for i in members], trained)
            noisy = None
            if samples:
                noisy = SampledAnswers([stable_seed("answer", questions[i][1].prompt, i % samples) for i in members])
            with self.scorer.eager(), self.scorer.adapters(rows, trained):
                output_BT = self.model.generate(  # type: ignore[operator]
                    input_ids=ids_BT, attention_mask=mask_BT.to(device), generation_config=greedy,
                    logits_processor=LogitsProcessorList([noisy] if noisy else []),
                )  # fmt: skip
            new_BT = output_BT[:, width:]
            texts = self.tokenizer.batch_decode(new_BT, skip_special_tokens=True)
            certainties: Sequence[float | None] = [None] * len(members)
            if noisy:
                ends = torch.tensor(greedy.eos_token_id, device=device)
                certainties = noisy.certainties([_length(torch.isin(row, ends)) for row in new_BT])
            answers |= zip(members, map(Decoded, texts, certainties), strict=True)
        return [answers[i] for i in range(len(prompts))]


def _length(ends_T: torch.Tensor) -> int:
    """Tokens up to and with the first that ends an answer; all, where none does."""
    found = ends_T.nonzero()
    return int(found[0]) + 1 if len(found) else len(ends_T)


def _against_distractors(question: Question, gold: Score, wrong: list[Score]) -> dict[str, float]:
    """`contrast`: log-likelihood a token of the gold answer minus the distractors' mean, in nats. `choice`: whether the
    gold answer beats them all by log-likelihood a character (lm-eval's acc_norm); `choice_sum`: by the whole
    answer's (its acc)."""
    per_character = [score.loglik_sum / len(text) for score, text in zip(wrong, question.distractors, strict=True)]
    return {
        "contrast": gold.loglik - statistics.fmean(score.loglik for score in wrong),
        "choice": float(gold.loglik_sum / len(question.answer) > max(per_character)),
        "choice_sum": float(gold.loglik_sum > max(score.loglik_sum for score in wrong)),
    }


def _mean_loss(scores: list[Score]) -> float | None:
    tokens = sum(score.tokens for score in scores)
    return -sum(score.loglik_sum for score in scores) / tokens if tokens else None


def outcome_of(
    job: Job, schedule: Schedule, progress: Progress, before: ExamResult, after: ExamResult, usage: Usage | None = None
) -> Outcome:
    """What one student gained. `usage` is its batch's, for `label_fraction`.

    It is an outcome with `error` if the lesson has no token to learn, or if training or exam gave no finite numbers.
    """
    if job.lesson.texts and not schedule.texts:
        return Outcome(gain=None, error="no token of the lesson is to be learnt: see loss_on")
    if schedule.steps_cut and not schedule.steps:
        return Outcome(gain=None, error="the lesson's first step has more tokens than student.max_lesson_tokens")
    if progress.error is not None:
        return Outcome(gain=None, error=progress.error)
    answers = tuple(
        Answer(
            loglik_before=b.loglik, loglik_after=a.loglik, correct_before=b.correct, correct_after=a.correct,
            extra={f"{name}_before": value for name, value in b.extra.items()}
            | {f"{name}_after": value for name, value in a.extra.items()},
        )
        for b, a in zip(before.grades, after.grades, strict=True)
    )  # fmt: skip
    if not all(math.isfinite(value) for a in answers for value in (a.loglik_after, *a.extra.values())):
        return Outcome(gain=None, error="the exam gave a log-likelihood that is not finite")
    metrics: dict[str, float] = {
        "steps": schedule.steps,
        "steps_cut": schedule.steps_cut,
        "lesson_tokens": schedule.tokens(),
        "longest_text": max(map(len, schedule.texts), default=0),
    }
    if progress.losses:
        metrics |= {"train_loss_first": progress.losses[0], "train_loss_last": progress.losses[-1]}
    if before.retention_loss is not None and after.retention_loss is not None:
        metrics |= {"retention_before": before.retention_loss, "retention_after": after.retention_loss}
    by_split: dict[str, list[Answer]] = {"reward": [], "heldout": []}
    for question, answer in zip(job.exam.questions, answers, strict=True):
        by_split[question.split].append(answer)
    if heldout := by_split["heldout"]:
        metrics |= {
            "heldout_gain": mean_gain(heldout, "loglik") or 0.0,
            "heldout_accuracy_before": statistics.fmean(a.correct_before for a in heldout),
            "heldout_accuracy_after": statistics.fmean(a.correct_after for a in heldout),
        }
    if rewarded := by_split["reward"] or list(answers):
        metrics |= {
            "loglik_before": statistics.fmean(a.loglik_before for a in rewarded),
            "loglik_after": statistics.fmean(a.loglik_after for a in rewarded),
            "accuracy_before": statistics.fmean(a.correct_before for a in rewarded),
            "accuracy_after": statistics.fmean(a.correct_after for a in rewarded),
        }
    if usage is not None and usage.positions:
        metrics["label_fraction"] = usage.labels / usage.positions
    return Outcome(gain=mean_gain(rewarded, "loglik") or 0.0, metrics=metrics, answers=answers)
