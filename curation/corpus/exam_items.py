"""What `evaluate` asks beside the questions about its documents: read here, since no lesson of any verb may hold it."""

from types import SimpleNamespace
from typing import Literal

from configs.errors import UserError
from configs.schema import Config
from curation.lab.items import LAB, lab_questions
from student.benchmarks.items import FixedQuestions, parse_question
from student.benchmarks.sources import make_benchmark
from student.records import Benchmark, Question

ItemSource = tuple[Literal["benchmark", "retention"], str]
"""What items about no document are for, and the config's line that names them."""


def evaluation_items(config: Config) -> dict[ItemSource, tuple[Question, ...]]:
    """The items of `evaluation.benchmarks` and `evaluation.retention_questions`. Raises UserError for a benchmark that
    cannot be read or holds none."""
    settings, template = config.evaluation, config.student.prompt_template
    sources: list[ItemSource] = [("benchmark", line) for line in settings.benchmarks]
    sources += [("retention", settings.retention_questions)] if settings.retention_questions else []
    no_document = SimpleNamespace(text="", id="", metadata={})
    items = {}
    for kind, line in sources:
        benchmark: Benchmark
        if line == LAB:
            of_lab = lab_questions(config.lab, known=kind == "retention")[: settings.benchmark_limit]
            benchmark = FixedQuestions(parse_question(item, template) for item in of_lab)
        else:
            benchmark = make_benchmark(line, template, settings.benchmark_limit)
        items[kind, line] = benchmark.exam(no_document).questions
        if not items[kind, line]:
            raise UserError(f"evaluation: {line!r} holds no questions that are about no document")
    return items


def all_evaluation_items(config: Config) -> list[Question]:
    """The items of `evaluation_items`, of all sources."""
    return [question for questions in evaluation_items(config).values() for question in questions]
