"""The paired result of one student, from its two sittings and how its training went."""

import math
import statistics
from dataclasses import replace

from student.engine.exam import ExamResult, Grade
from student.engine.schedule import Schedule
from student.engine.training import Progress, Usage
from student.records import Answer, Job, Outcome


def outcome_of(job: Job, schedule: Schedule, progress: Progress, before: ExamResult, after: ExamResult) -> Outcome:
    """The paired result of one student; one with `error` where no token of its lesson is to be learnt, or training or
    the exam gave no finite numbers."""
    if job.lesson.texts and not schedule.texts:
        return Outcome(gain=None, error="no token of the lesson is to be learnt: see loss_on")
    if progress.error is not None:
        return Outcome(gain=None, error=progress.error)
    answers = tuple(_pair(b, a) for b, a in zip(before.grades, after.grades, strict=True))
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
    counted = reward or list(answers)
    if not counted:
        return Outcome(gain=0.0, metrics=metrics)
    metrics |= {
        "loglik_before": statistics.fmean(a.loglik_before for a in counted),
        "loglik_after": statistics.fmean(a.loglik_after for a in counted),
        "accuracy_before": statistics.fmean(a.correct_before for a in counted),
        "accuracy_after": statistics.fmean(a.correct_after for a in counted),
    }
    return Outcome(gain=statistics.fmean(a.gain for a in counted), metrics=metrics, answers=answers)


def with_label_fraction(outcome: Outcome, usage: Usage) -> Outcome:
    """The outcome with the share of its batch's positions that carried a label."""
    if outcome.error is not None or not usage.positions:
        return outcome
    return replace(outcome, metrics=outcome.metrics | {"label_fraction": usage.labels / usage.positions})


def _pair(before: Grade, after: Grade) -> Answer:
    extra = {f"{name}_before": value for name, value in before.extra.items()}
    extra |= {f"{name}_after": value for name, value in after.extra.items()}
    return Answer(
        loglik_before=before.loglik,
        loglik_after=after.loglik,
        correct_before=before.correct,
        correct_after=after.correct,
        extra=extra,
    )
