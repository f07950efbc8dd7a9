"""Exams: what students are asked, and what an outcome says about one document."""

import json
import statistics
from pathlib import Path
from types import SimpleNamespace

from configs.errors import UserError
from configs.schema import Config
from student.benchmarks.sources import Combined, DocumentQuestions, make_benchmark
from student.records import Job, Outcome, Question


def narrow(job: Job, outcome: Outcome, document_id: str) -> Outcome:
    """A student's outcome on the questions about one document alone."""
    answers = tuple(
        answer
        for question, answer in zip(job.exam.questions, outcome.answers, strict=True)
        if question.document_id == document_id
    )
    assert answers, f"the exam asks nothing about {document_id!r}"
    metrics = {
        "accuracy_before": statistics.fmean(answer.correct_before for answer in answers),
        "accuracy_after": statistics.fmean(answer.correct_after for answer in answers),
    }
    return Outcome(gain=statistics.fmean(a.gain for a in answers), metrics=outcome.metrics | metrics, answers=answers)


def forgotten(outcome: Outcome) -> float:
    """Loss gained on the retention texts, nats a token; 0 where the exam had none."""
    return outcome.metrics.get("retention_after", 0.0) - outcome.metrics.get("retention_before", 0.0)


def asked_about(job: Job) -> list[str]:
    """The documents that the exam asks about."""
    return list(dict.fromkeys(q.document_id for q in job.exam.questions if q.document_id))


def read_texts(path: str) -> tuple[str, ...]:
    """The `text` of each line of a JSONL file. Raises UserError."""

    if not Path(path).is_file():
        raise UserError(f"reward.retention_texts: no file {path!r}")
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
        return tuple(json.loads(line)["text"] for line in lines if line.strip())
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"reward.retention_texts: {path}: every line is a JSON object with `text` ({error})") from None


def external_questions(config: Config) -> tuple[Question, ...]:
    """All items of `reward.benchmarks`, of both splits. Raises UserError."""
    nothing = SimpleNamespace(text="", id="", metadata={})
    benchmarks = [make_benchmark(spec, config.student.prompt_template) for spec in config.reward.benchmarks]
    return Combined(benchmarks).exam(nothing).questions


def document_questions(config: Config) -> DocumentQuestions:
    """The benchmark of a config: each document's own questions."""
    return DocumentQuestions(config.student.prompt_template)
