"""Does a step on a lesson lower the loss of its exam? The gradients of both in the adapters' space, without training.

After LESS (Xia et al. 2024, arXiv 2402.04333), which scores a training example by the cosine between its gradient and
that of the validation examples. An adapter that starts as PEFT's has B = 0. There the gradient of A is zero, and that
of B is the gradient of the full weight times A transposed, so that the random A is LESS's random projection: it is the
same for all that is compared. What is simpler than in LESS: the student is not warmed up and no checkpoints are
averaged, so there are no moments by which Adam would scale the lesson's gradient, and none are made up.
"""

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from student.engine.encoding import encode_answer
from student.engine.models import fitted_prompt, positions_of
from student.engine.packing import Piece, Targets, pack
from student.engine.schedule import plan_schedule
from student.engine.scores import Scorer
from student.engine.training import batch_loss
from student.records import Exam, Job, Lesson

JOBS_AT_ONCE = 8
"""Jobs whose gradients are held at once: of SmolLM2-135M at rank 16 each takes 40 MB."""


def gradient_alignments(scorer: Scorer, jobs: list[Job], *, seed: int, max_tokens: int) -> list[float | None]:
    """For each job the cosine between the gradient of its lesson's mean loss a token and that of its exam's loss, which
    is the mean over questions of the gold answer's mean loss a token; -1 ... 1. `seed` draws the A of all. None where
    one of the gradients is zero or not finite: nothing is to be learnt, or nothing is asked. The scorer has a stack."""
    found: list[float | None] = []
    tokenizer, positions = scorer.tokenizer, positions_of(scorer.model.config)
    for start in range(0, len(jobs), JOBS_AT_ONCE):
        members = jobs[start : start + JOBS_AT_ONCE]
        exams = list(dict.fromkeys(job.exam for job in members))
        pieces = [
            *(piece for slot, exam in enumerate(exams) for piece in _exam_pieces(tokenizer, exam, slot, positions)),
            *(
                piece
                for slot, job in enumerate(members, start=len(exams))
                for piece in _lesson_pieces(scorer, job.lesson, slot, max_tokens)
            ),
        ]
        gradients_KP = _gradients(scorer, pieces, len(exams) + len(members), seed, max_tokens)
        unit_KP = torch.nn.functional.normalize(gradients_KP, dim=1, eps=1e-30)
        for slot, job in enumerate(members, start=len(exams)):
            of_exam = exams.index(job.exam)
            cosine = float(unit_KP[slot] @ unit_KP[of_exam])
            usable = all(0 < float(gradients_KP[k].norm()) < float("inf") for k in (slot, of_exam))
            found.append(cosine if usable else None)
    return found


def _gradients(scorer: Scorer, pieces: list[Piece], n_slots: int, seed: int, max_tokens: int) -> Tensor:
    """Gradients (K, P) of each slot's loss at a fresh adapter."""
    stack, row_tokens = scorer.stack, scorer.settings.row_tokens
    assert stack is not None
    stack.allocate([seed] * n_slots)
    try:
        for batch in pack(pieces, n_slots, scorer.pad_id, stack.device, max_tokens=max_tokens, row_tokens=row_tokens):
            with torch.enable_grad(), stack.using(batch.rows):
                loss, _, _ = batch_loss(scorer.model, batch)
                loss.backward()
        return stack.grads_KP
    finally:
        stack.release()


def _lesson_pieces(scorer: Scorer, lesson: Lesson, slot: int, max_tokens: int) -> list[Piece]:
    schedule = scorer.with_targets(plan_schedule(scorer.tokenizer, lesson, scorer.settings), max_tokens)
    labels = sum(len(text.labelled) for text in schedule.texts)
    if schedule.problem is not None:
        return []
    targets: list[Targets | None] = [*schedule.targets] or [None] * len(schedule.texts)
    return [
        Piece(slot, text, share=1 / labels, targets=target)
        for text, target in zip(schedule.texts, targets, strict=True)
    ]


def _exam_pieces(tokenizer: PreTrainedTokenizerBase, exam: Exam, slot: int, positions: int | None) -> list[Piece]:
    answers = [encode_answer(tokenizer, fitted_prompt(tokenizer, q, positions), q.answer) for q in exam.questions]
    return [Piece(slot, a, share=1 / (len(answers) * len(a.labelled))) for a in answers if len(a.labelled)]
