"""The input of `notewright score`: each line as a document with rewrites, or as a reject with its reason."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

from configs.errors import UserError
from configs.files import parse_json, reading
from configs.schema import Reward
from student.benchmarks.sources import DocumentQuestions
from student.records import Exam
from teacher.ready.brought import FORM, read_brought
from teacher.reward.distractors import draw_distractors

RAW = "raw"


@dataclass(frozen=True, slots=True)
class RewriteLine:
    """One valid input line; `texts` are lessons by `rewrite` key: `"raw"` first, then 0, 1, ..."""

    id: str
    texts: dict[int | str, str]
    exam: Exam

    @property
    def digest(self) -> str:
        """Hash of everything that the line's scores depend on."""
        questions = [(question.prompt, question.answer, question.distractors) for question in self.exam.questions]
        return hashlib.sha256(json.dumps([list(self.texts.values()), questions]).encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Reject:
    """An input line that is no document with rewrites; `line` counts from 1."""

    line: int
    reason: str
    content: str


def read_rewrite_file(
    path: Path, benchmark: DocumentQuestions, reward: Reward | None = None
) -> Iterator[RewriteLine | Reject]:
    """The lines of `path` in order, without blank ones. A line with the `id` of an earlier one is rejected: the rows of
    the two could not be told apart. With `reward` questions have its distractors, and a line that does not tell its
    measure is rejected."""
    ids: set[str] = set()
    with reading("rewrites", path), path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                parsed = _parse(line, benchmark)
                if reward is not None:
                    parsed = _with_distractors(parsed, reward)
                if parsed.id in ids:
                    raise UserError(f"id {parsed.id!r} stands on an earlier line")
                ids.add(parsed.id)
                yield parsed
            except UserError as error:
                yield Reject(number, str(error), line.decode("utf-8", errors="replace").rstrip("\n"))


def _with_distractors(line: RewriteLine, reward: Reward) -> RewriteLine:
    """Raises UserError where no question has any, and `reward.measure` needs them."""
    questions = draw_distractors({line.id: line.exam.questions}, reward.distractors_drawn).questions[line.id]
    if reward.needs_distractors and not any(question.distractors for question in questions):
        raise UserError(f"no question has a distractor, so that {reward.measure} cannot be told: give `distractors`")
    return replace(line, exam=replace(line.exam, questions=tuple(questions)))


def _parse(line: bytes, benchmark: DocumentQuestions) -> RewriteLine:
    """Raises UserError with the reason where the line is no document with rewrites."""
    try:
        row = parse_json(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8: byte {line[error.start]:#04x} at {error.start}") from None
    if not isinstance(row, dict):
        raise UserError(f"not an object but {type(row).__name__}")
    for key in ("id", "text"):
        if not isinstance(row.get(key), str) or not row[key].strip():
            raise UserError(f"`{key}` must be a non-empty string")
    questions, rewrites = row.get("questions"), row.get("rewrites")
    if not isinstance(questions, list) or not questions or not all(isinstance(q, dict) for q in questions):
        raise UserError("`questions` must be a list of at least one {question, answer}")
    if rewrites is None:
        raise UserError(FORM)
    try:
        texts = [brought.text for brought in read_brought(rewrites)]
    except ValueError as error:
        raise UserError(str(error)) from None
    # Scoring asks all questions, so none is held out.
    questions = [{**question, "split": "reward"} for question in questions]
    document = SimpleNamespace(text=row["text"], id=row["id"], metadata={"questions": questions})
    return RewriteLine(row["id"], {RAW: row["text"], **dict(enumerate(texts))}, benchmark.exam(document))
