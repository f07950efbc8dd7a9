"""Does a step on a lesson lower the loss of its exam? The gradients of both in the adapters' space, without training.

After LESS (Xia et al. 2024, arXiv 2402.04333), which scores a training example by the cosine between its gradient and
that of the validation examples. An adapter that starts as PEFT's has B = 0. There the gradient of A is zero, and that
of B is the gradient of the full weight times A transposed, so that the random A is LESS's random projection: it is the
same for all that is compared. What is simpler than in LESS: the student is not warmed up and no checkpoints are
averaged, so there are no moments by which Adam would scale the lesson's gradient, and none are made up.
"""

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from configs.schema import Student
from student.engine.encoding import Encoded, encode_answer
from student.engine.lora import AdapterStack
from student.engine.models import fitted_prompt, positions_of
from student.engine.packing import Piece, pack
from student.engine.schedule import plan_schedule
from student.engine.training import batch_loss
from student.records import Exam, Job, Lesson

JOBS_AT_ONCE = 8
"""Jobs whose gradients are held at once: of SmolLM2-135M at rank 16 each takes 40 MB."""


def gradient_alignments(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    stack: AdapterStack,
    settings: Student,
    jobs: list[Job],
    *,
    seed: int,
    max_tokens: int,
) -> list[float | None]:
    """For each job the cosine between the gradient of its lesson's mean loss a token and that of its exam's loss, which
    is the mean over questions of the gold answer's mean loss a token; -1 ... 1. `seed` draws the A of all. None where
    one of the gradients is zero or not finite: nothing is to be learnt, or nothing is asked."""
    found: list[float | None] = []
    positions = positions_of(model.config)
    for start in range(0, len(jobs), JOBS_AT_ONCE):
        members = jobs[start : start + JOBS_AT_ONCE]
        exams = list(dict.fromkeys(job.exam for job in members))
        pieces = [
            *(piece for slot, exam in enumerate(exams) for piece in _exam_pieces(tokenizer, exam, slot, positions)),
            *(
                piece
                for slot, job in enumerate(members, start=len(exams))
                for piece in _lesson_pieces(tokenizer, job.lesson, settings, slot)
            ),
        ]
        gradients_KP = _gradients(
            model, stack, pieces, len(exams) + len(members), tokenizer, settings, seed, max_tokens
        )
        unit_KP = torch.nn.functional.normalize(gradients_KP, dim=1, eps=1e-30)
        for slot, job in enumerate(members, start=len(exams)):
            of_exam = exams.index(job.exam)
            cosine = float(unit_KP[slot] @ unit_KP[of_exam])
            usable = all(0 < float(gradients_KP[k].norm()) < float("inf") for k in (slot, of_exam))
            found.append(cosine if usable else None)
    return found


def _gradients(
    model: PreTrainedModel,
    stack: AdapterStack,
    pieces: list[Piece],
    n_slots: int,
    tokenizer: PreTrainedTokenizerBase,
    settings: Student,
    seed: int,
    max_tokens: int,
) -> Tensor:
    """Gradients (K, P) of each slot's loss at a fresh adapter."""
    stack.allocate([seed] * n_slots)
    try:
        batches = pack(
            pieces, n_slots, tokenizer.pad_token_id, stack.device, max_tokens=max_tokens,
            row_tokens=settings.row_tokens,
        )  # type: ignore[arg-type]  # fmt: skip
        for batch in batches:
            with torch.enable_grad(), stack.using(batch.rows):
                loss, _, _ = batch_loss(model, batch)
                loss.backward()
        return stack.grads_KP
    finally:
        stack.release()


def _lesson_pieces(tokenizer: PreTrainedTokenizerBase, lesson: Lesson, settings: Student, slot: int) -> list[Piece]:
    texts = plan_schedule(tokenizer, lesson, settings).texts
    return _pieces(texts, sum(len(text.labelled) for text in texts), slot)


def _exam_pieces(tokenizer: PreTrainedTokenizerBase, exam: Exam, slot: int, positions: int | None) -> list[Piece]:
    answers = [encode_answer(tokenizer, fitted_prompt(tokenizer, q, positions), q.answer) for q in exam.questions]
    return [piece for text in answers for piece in _pieces([text], len(answers) * len(text.labelled), slot)]


def _pieces(texts: list[Encoded], labels: int, slot: int) -> list[Piece]:
    """Each labelled token with an equal share of one, by a number of labels."""
    return [Piece(slot, text, share=1 / labels) for text in texts if len(text.labelled)]
