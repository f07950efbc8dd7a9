"""Questions for documents that have none: written once, checked, kept in a file that is yours to edit.

    documents = ensure_questions(config, documents, print)

The file (`questions.file`) has one document a line, `{"id", "text_hash", "questions": [{"question", "answer", "kind",
"split"}], "dropped": [{"question", "answer", "kind", "reason"}]}`. A line that is there is taken as it is, also with
questions changed, added or removed; one without `split` gets it by the fact that it asks for (teacher.questions.sides).
A document whose text has changed gets new questions. The teacher never sees any of it. A table of what was written,
kept and refused stands beside the file (teacher.questions.quality).
"""

import copy
import json
import os
import time
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from configs.errors import UserError, nearest
from configs.files import Record, append_whole, drop_torn_line, locked, parse_json, read_given, write_whole
from configs.schema import Config, Questions
from configs.seeds import item_hash
from student.benchmarks.items import HELDOUT_SHARE, WrittenQuestions, parse_question
from student.records import Document
from teacher.questions.quality import Quality, table_file
from teacher.questions.refusals import AskedQuestions
from teacher.questions.sides import with_sides
from teacher.questions.writer import CheckedQuestions, choose, load_question_writer

LINE_KEYS = ["id", "text_hash", "questions", "dropped"]
SECONDS_BETWEEN_LINES = 10.0
HOPELESS = 32
"""Documents without any usable question after which nothing more is written: a model that cannot do it costs no
more."""

DocumentKey = tuple[str, str]
"""A document's id and the hash of its text, by which its line of the file is found."""
QuestionsByDocument = dict[DocumentKey, list[dict[str, Any]]]
"""The questions of each document of the file."""


def questions_file(config: Config) -> Path:
    """Where the written questions are kept."""
    return config.questions.file or config.run.dir / "questions.jsonl"


def ensure_questions(config: Config, documents: Sequence[Document], progress: Callable[[str], None]) -> list[Document]:
    """The documents that have questions: their own, those of the file, or else those of `questions.kinds` that are
    written now.

    What is written is on disk batch by batch, so a killed call goes on where it stopped and ends with the same file.
    Documents that end without a question are left out, and counted in a warning.

    Raises:
        UserError: the file holds a malformed line, there is no such kind or model, or no document has a question.
        RunError: the disk is full; the questions written so far are kept.
    """
    path, share = questions_file(config), config.questions.heldout_share
    without = [document for document in documents if not document.metadata.get("questions")]
    written = read_questions(path) if without else {}
    if any(document_key(document) not in written for document in without):
        written = _write_missing(config, without, path, progress)
    kept = [document for document in attach_questions(documents, written, share) if document.metadata.get("questions")]
    if documents and not kept:
        raise _nothing_usable(config, len(documents), path)
    if missing := len(documents) - len(kept):
        progress(f"warning: {missing} of {len(documents)} documents have no question that passed, left out: see {path}")
    return kept


def _nothing_usable(config: Config, documents: int, path: Path) -> UserError:
    settings = config.questions
    ways = ["questions.kinds=[cloze] (made by rule)"] * (settings.asked_kinds != ("cloze",))
    ways += ["another questions.model", "a lower questions.min_lift"] * bool(settings.model)
    return UserError(
        f"none of {documents} documents has a question that passed the checks; {path} names each with its reason: edit"
        f" it, or remove it and set {', '.join(ways) or 'questions.max_known=1'}"
    )


def attach_questions(
    documents: Sequence[Document], written: QuestionsByDocument, heldout_share: float = HELDOUT_SHARE
) -> list[Document]:
    """The same documents; those without questions as copies with the written ones in `metadata["questions"]`, each on
    its side."""
    attached = []
    for document in documents:
        questions = written.get(document_key(document))
        if questions is not None and not document.metadata.get("questions"):
            document = copy.copy(document)
            own = WrittenQuestions(with_sides(document, questions, heldout_share))
            document.metadata = {**document.metadata, "questions": own}
        attached.append(document)
    return attached


def document_key(document: Document) -> DocumentKey:
    """The key of a document's line in the file."""
    return document.id, item_hash(document.text)


def read_questions(path: Path) -> QuestionsByDocument:
    """The questions of each document of the file, without a torn last line; of two lines of one key the later one. No
    file is no questions. Raises UserError naming the line that is malformed."""
    return {key: record["questions"] for key, record in read_lines(path).items()}


def read_lines(path: Path) -> dict[DocumentKey, Record]:
    """`read_questions` with the whole line of each document."""
    if not os.path.lexists(path):
        return {}
    lines = read_given("questions.file", path).encode().split(b"\n")
    if not _is_json(lines[-1]):
        lines.pop()
    written: dict[DocumentKey, Record] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                written.update([_parse_line(line)])
            except (ValueError, UserError) as error:
                raise UserError(f"{path}, line {number}: {error}") from None
    return written


def _parse_line(line: bytes) -> tuple[DocumentKey, Record]:
    record = parse_json(line.decode())
    if not isinstance(record, dict):
        raise UserError("not an object")
    for key in record:
        if key not in LINE_KEYS:
            raise UserError(f"unknown key {key!r}; {nearest(key, LINE_KEYS)}")
    name, text_hash, questions = record.get("id"), record.get("text_hash"), record.get("questions")
    dropped = record.setdefault("dropped", [])
    if not isinstance(dropped, list) or not all(isinstance(item, dict) for item in dropped):
        raise UserError("`dropped` is not a list of objects")
    if not isinstance(name, str) or not isinstance(text_hash, str) or not isinstance(questions, list):
        raise UserError("needs `id`, `text_hash` and a list `questions`")
    for item in questions:
        parse_question(item, "{question}", name)
    return (name, text_hash), record


def _write_missing(
    config: Config, documents: Sequence[Document], path: Path, progress: Callable[[str], None]
) -> QuestionsByDocument:
    """Writes the lines of those documents that have none; returns the whole file's questions."""
    documents = list({document_key(document): document for document in documents}.values())
    # Not the file itself: an editor puts a new one in its place.
    lock = path.with_name(f".{path.name}.lock")
    with locked(lock, if_taken=UserError(f"another process is writing questions to {path}")):
        _mend_last_line(path, progress)
        quality = Quality()
        asked = AskedQuestions()
        lines_by_key = read_lines(path)
        written = {key: line["questions"] for key, line in lines_by_key.items()}
        for line in lines_by_key.values():
            quality.count(line["questions"], line["dropped"])
        # Not those of an earlier text of a document, which its new questions resemble.
        for item in chain.from_iterable(written.get(document_key(document), ()) for document in documents):
            asked.add(item)
        writer = load_question_writer(config.questions, config.teacher, config.run.seed, config.student)
        started = last_line = time.perf_counter()
        size = config.teacher.batch_size
        # Batches are cut before the written ones are left out, and a batch is written whole: a resumed call draws the
        # same random numbers as one that was never stopped.
        batches = [documents[start : start + size] for start in range(0, len(documents), size)]
        batches = [batch for batch in batches if any(document_key(document) not in written for document in batch)]
        for done, batch in enumerate(batches, start=1):
            lines = b""
            for document, checked in zip(batch, writer.write(batch), strict=True):
                key = document_key(document)
                if key in written:
                    continue
                written[key] = _chosen(document, checked, asked, config.questions)
                record = dict(zip(LINE_KEYS, (*key, written[key], checked.dropped), strict=True))
                lines += json.dumps(record, ensure_ascii=False).encode() + b"\n"
                quality.count(written[key], checked.dropped)
            append_whole(path, lines)
            now = time.perf_counter()
            hopeless = len(written) >= HOPELESS and not any(written.values())
            if done == len(batches) or now - last_line > SECONDS_BETWEEN_LINES or hopeless:
                last_line = now
                remaining = round((len(batches) - done) * (now - started) / done)
                progress(
                    f"questions for {len(written)} documents in {path}: {quality.line()}"
                    + (f" · {remaining} s left" if remaining else "")
                )
            if hopeless:
                raise _nothing_usable(config, len(written), path)
    table = quality.table()
    write_whole(table_file(path), table)
    progress(table.rstrip())
    return written


def _chosen(document: Document, checked: CheckedQuestions, asked: AskedQuestions, settings: Questions) -> list[Record]:
    """The questions of a document that stay, each on its side; the others are put to the dropped ones."""
    fresh, of_document = [], AskedQuestions()
    for item in checked.questions:
        if reason := asked.refuse(item) or of_document.refuse(item):
            checked.dropped.append(item | {"reason": reason})
        else:
            fresh.append(item)
            of_document.add(item)
    chosen = choose(document, fresh, settings.per_document)
    # Only what the file keeps: a call that goes on knows no other questions.
    for item in chosen:
        asked.add(item)
    checked.dropped += [item | {"reason": "more than asked for"} for item in fresh if item not in chosen]
    return with_sides(document, chosen, settings.heldout_share)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return not line.strip()
    return True


def _mend_last_line(path: Path, progress: Callable[[str], None]) -> None:
    """Adds the line break that a whole last line lacks, drops a torn last line."""
    content = path.read_bytes() if path.is_file() else b""
    last = content[content.rfind(b"\n") + 1 :]
    if last and _is_json(last):
        append_whole(path, b"\n")
    elif last:
        progress(f"{path}: dropped a torn last line of {drop_torn_line(path)} bytes")
