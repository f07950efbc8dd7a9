"""A student's outcome, from its exams before and after the lesson and from how its training went."""

import math
import statistics

from student.engine.exam import ExamResult
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
    answers = tuple(
        Answer(
            loglik_before=b.loglik, loglik_after=a.loglik, correct_before=b.correct, correct_after=a.correct,
            extra={f"{name}_before": value for name, value in b.extra.items()}
            | {f"{name}_after": value for name, value in a.extra.items()},
        )
        for b, a in zip(before.grades, after.grades, strict=True)
    )  # fmt: skip
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
    by_split: dict[str, list[Answer]] = {"reward": [], "heldout": []}
    for question, answer in zip(job.exam.questions, answers, strict=True):
        by_split[question.split].append(answer)
    if heldout := by_split["heldout"]:
        metrics |= {
            "heldout_gain": statistics.fmean(a.gain for a in heldout),
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
    gain = statistics.fmean(a.gain for a in rewarded) if rewarded else 0.0
    return Outcome(gain=gain, metrics=metrics, answers=answers)
