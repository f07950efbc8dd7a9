"""Exams: what students are asked, and what an outcome says about one document."""

import json
import statistics
from pathlib import Path
from types import SimpleNamespace

from configs.errors import UserError
from configs.schema import Reward as RewardSettings
from student.benchmarks.sources import Combined, make_benchmark
from student.records import Job, Outcome, Question, Split


def narrow(job: Job, outcome: Outcome, document_id: str) -> Outcome:
    """A student's outcome on the questions about one document."""
    answers = tuple(
        answer
        for question, answer in zip(job.exam.questions, outcome.answers, strict=True)
        if question.document_id == document_id
    )
    assert answers, f"the exam asks nothing about {document_id!r}"
    accuracies = {
        "accuracy_before": statistics.fmean(answer.correct_before for answer in answers),
        "accuracy_after": statistics.fmean(answer.correct_after for answer in answers),
    }
    gain = statistics.fmean(answer.gain for answer in answers)
    return Outcome(gain=gain, metrics=outcome.metrics | accuracies, answers=answers)


def forgotten(outcome: Outcome) -> float:
    """Loss gained on the retention texts, in nats a token; 0 where the exam had none."""
    return outcome.metrics.get("retention_after", 0.0) - outcome.metrics.get("retention_before", 0.0)


def retention_texts(reward: RewardSettings) -> tuple[str, ...]:
    """The `text` of each line of `reward.retention_texts`, empty where it names no file. Raises UserError."""
    if not reward.retention_texts:
        return ()
    path = Path(reward.retention_texts)
    if not path.is_file():
        raise UserError(f"reward.retention_texts: no file {str(path)!r}")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return tuple(json.loads(line)["text"] for line in lines if line.strip())
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"reward.retention_texts: {path}: every line is a JSON object with `text` ({error})") from None


def external_questions(
    reward: RewardSettings, prompt_template: str, split: Split | None = None
) -> tuple[Question, ...]:
    """The items of `reward.benchmarks`, of one split or of both. Raises UserError."""
    no_document = SimpleNamespace(text="", id="", metadata={})
    benchmarks = [make_benchmark(spec, prompt_template) for spec in reward.benchmarks]
    questions = Combined(benchmarks).exam(no_document).questions
    return tuple(question for question in questions if split in (None, question.split))
