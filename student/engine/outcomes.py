"""A student's outcome, from its exams before and after the lesson and from how its training went."""

import math
import statistics

from student.engine.exam import ExamResult, Grade
from student.engine.schedule import Schedule
from student.engine.training import Progress, Usage
from student.records import Answer, Job, Outcome


def outcome_of(
    job: Job, schedule: Schedule, progress: Progress, before: ExamResult, after: ExamResult, usage: Usage | None = None
) -> Outcome:
    """What one student gained. `usage` is its batch's, for `label_fraction`.

    It is an outcome with `error` if the lesson has no token to learn, or if training or exam gave no finite numbers.
    """
    if job.lesson.texts and not schedule.texts:
        return Outcome(gain=None, error="no token of the lesson is to be learnt: see loss_on")
    if progress.error is not None:
        return Outcome(gain=None, error=progress.error)
    answers = tuple(_answer(b, a) for b, a in zip(before.grades, after.grades, strict=True))
    if not all(math.isfinite(answer.loglik_after) for answer in answers):
        return Outcome(gain=None, error="the exam gave a log-likelihood that is not finite")
    metrics: dict[str, float] = {
        "steps": schedule.steps,
        "lesson_tokens": schedule.tokens(),
        "cut_tokens": sum(text.cut for text in schedule.texts),
    }
    if progress.losses:
        metrics |= {"train_loss_first": progress.losses[0], "train_loss_last": progress.losses[-1]}
    if before.retention_loss is not None and after.retention_loss is not None:
        metrics |= {"retention_before": before.retention_loss, "retention_after": after.retention_loss}
    splits = [question.split for question in job.exam.questions]
    reward = [a for a, split in zip(answers, splits, strict=True) if split == "reward"]
    heldout = [a for a, split in zip(answers, splits, strict=True) if split == "heldout"]
    if heldout:
        metrics |= {
            "heldout_gain": statistics.fmean(a.gain for a in heldout),
            "heldout_accuracy_before": statistics.fmean(a.correct_before for a in heldout),
            "heldout_accuracy_after": statistics.fmean(a.correct_after for a in heldout),
        }
    rewarded = reward or list(answers)
    if rewarded:
        metrics |= {
            "loglik_before": statistics.fmean(a.loglik_before for a in rewarded),
            "loglik_after": statistics.fmean(a.loglik_after for a in rewarded),
            "accuracy_before": statistics.fmean(a.correct_before for a in rewarded),
            "accuracy_after": statistics.fmean(a.correct_after for a in rewarded),
        }
    if usage is not None and usage.positions:
        metrics["label_fraction"] = usage.labels / usage.positions
    gain = statistics.fmean(a.gain for a in rewarded) if rewarded else 0.0
    return Outcome(gain=gain, metrics=metrics, answers=answers)


def _answer(before: Grade, after: Grade) -> Answer:
    extra = {f"{name}_before": value for name, value in before.extra.items()}
    extra |= {f"{name}_after": value for name, value in after.extra.items()}
    return Answer(
        loglik_before=before.loglik,
        loglik_after=after.loglik,
        correct_before=before.correct,
        correct_after=after.correct,
        extra=extra,
    )
