"""Questions for documents that come without: written once by a model, checked, kept in a file that is yours to edit.

    asked = ensure_questions(config, documents, progress)

The file (`questions.file`) has one document a line, `{"id", "text_hash", "questions": [{"question", "answer"}],
"dropped": [{"question", "answer", "reason"}]}`. A line that is there is taken as it is, also with questions changed or
taken out; a document whose text has changed is asked anew. The teacher never sees any of it.
"""

import copy
import fcntl
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from configs.errors import RunError, UserError, nearest
from configs.schema import Config
from configs.seeds import item_hash
from student.benchmarks.items import parse_question
from student.records import Document
from teacher.questions.writer import Sheet, load_question_writer

LINE_KEYS = ["id", "text_hash", "questions", "dropped"]
SECONDS_BETWEEN_LINES = 10.0

Key = tuple[str, str]
"""A document's id and the hash of its text."""
Known = dict[Key, list[dict[str, Any]]]


def questions_file(config: Config) -> Path:
    """Where the written questions are kept."""
    return config.questions.file or config.run.dir / "questions.jsonl"


def ensure_questions(config: Config, documents: Sequence[Document], progress: Callable[[str], None]) -> list[Document]:
    """The documents that have questions: their own, those of the file, or else those that `questions.model` writes now.

    What is written is on disk batch by batch, so a killed call goes on where it stopped and ends with the same file.
    Documents that end without a question are left out, and counted in a warning.

    Raises:
        UserError: the file holds a malformed line, there is no such model, or no document has a question.
        RunError: the disk is full; the questions written so far are kept.
    """
    path = questions_file(config)
    unasked = [document for document in documents if not document.metadata.get("questions")]
    known = read_questions(path) if unasked else {}
    if any(key_of(document) not in known for document in unasked):
        known = _write_missing(config, unasked, path, progress)
    asked = [document for document in attach_questions(documents, known) if document.metadata.get("questions")]
    if documents and not asked:
        raise UserError(
            f"none of {len(documents)} documents has a question that passed the checks; {path} names each with its"
            " reason: edit it, or remove it and set another questions.model or a lower questions.min_lift"
        )
    if len(asked) < len(documents):
        left_out = len(documents) - len(asked)
        progress(
            f"warning: {left_out} of {len(documents)} documents have no question that passed, left out: see {path}"
        )
    return asked


def attach_questions(documents: Sequence[Document], known: Known) -> list[Document]:
    """The same documents; those without questions as copies with the known ones in `metadata["questions"]`."""
    return [_attached(document, known) for document in documents]


def _attached(document: Document, known: Known) -> Document:
    questions = known.get(key_of(document))
    if document.metadata.get("questions") or questions is None:
        return document
    asked = copy.copy(document)
    asked.metadata = {**document.metadata, "questions": questions}
    return asked


def key_of(document: Document) -> Key:
    """What a line of the file is found by."""
    return document.id, item_hash(document.text)


def read_questions(path: Path) -> Known:
    """The questions of each document of the file, without a torn last line; of two lines of one key the later one.

    No file is no questions. Raises UserError naming the line that is malformed.
    """
    if not path.is_file():
        return {}
    lines = path.read_bytes().split(b"\n")
    if not _is_json(lines[-1]):
        lines.pop()
    known = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                key, questions = _parse_line(line)
            except (ValueError, UserError) as error:
                raise UserError(f"{path}, line {number}: {error}") from None
            known[key] = questions
    return known


def _parse_line(line: bytes) -> tuple[Key, list[dict[str, Any]]]:
    record = json.loads(line)
    if not isinstance(record, dict):
        raise UserError("not an object")
    for key in record:
        if key not in LINE_KEYS:
            raise UserError(f"unknown key {key!r}; {nearest(key, LINE_KEYS)}")
    name, text_hash, questions = record.get("id"), record.get("text_hash"), record.get("questions")
    if not isinstance(name, str) or not isinstance(text_hash, str) or not isinstance(questions, list):
        raise UserError("needs `id`, `text_hash` and a list `questions`")
    for item in questions:
        parse_question(item, "{question}", name)
    return (name, text_hash), questions


def _write_missing(config: Config, unasked: Sequence[Document], path: Path, progress: Callable[[str], None]) -> Known:
    """What the file holds when every document of `unasked` has its line."""
    unasked = list({key_of(document): document for document in unasked}.values())
    with _locked(path):
        _mend(path, progress)
        known = read_questions(path)
        writer = load_question_writer(config)
        started = last_line = time.perf_counter()
        tally: Counter[str] = Counter()
        size = config.teacher.batch_size
        # Batches are cut before the known ones are left out, and a batch is written whole: a resumed call draws the
        # same random numbers as one that was never stopped.
        batches = [unasked[start : start + size] for start in range(0, len(unasked), size)]
        batches = [batch for batch in batches if any(key_of(document) not in known for document in batch)]
        for done, batch in enumerate(batches, start=1):
            missing = [(d, sheet) for d, sheet in zip(batch, writer.ask(batch), strict=True) if key_of(d) not in known]
            _append(path, b"".join(_line(document, sheet) for document, sheet in missing))
            for document, sheet in missing:
                known[key_of(document)] = sheet.questions
                tally.update(["kept"] * len(sheet.questions), documents=1)
                tally.update(item["reason"].partition(":")[0] for item in sheet.dropped)
            now = time.perf_counter()
            if done == len(batches) or now - last_line > SECONDS_BETWEEN_LINES:
                last_line = now
                left = round((len(batches) - done) * (now - started) / done)
                progress(_progress_line(tally, path) + (f" · {left} s left" if left else ""))
    return known


def _progress_line(tally: Mapping[str, int], path: Path) -> str:
    reasons = {name: count for name, count in tally.items() if name not in ("kept", "documents")}
    dropped = ", ".join(f"{count} {name}" for name, count in sorted(reasons.items(), key=lambda item: -item[1]))
    said = f"questions for {tally['documents']} documents in {path}: {tally['kept']} kept"
    return f"{said}, {sum(reasons.values())} dropped" + (f" ({dropped})" if dropped else "")


def _line(document: Document, sheet: Sheet) -> bytes:
    name, text_hash = key_of(document)
    record = {"id": name, "text_hash": text_hash, "questions": sheet.questions, "dropped": sheet.dropped}
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return not line.strip()
    return True


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not the file itself: an editor puts a new one in its place.
    lock = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise UserError(f"another process is writing questions to {path}") from None
    finally:
        os.close(lock)


def _mend(path: Path, progress: Callable[[str], None]) -> None:
    """Ends the last line: completes one without its line break, drops a torn one."""
    content = path.read_bytes() if path.is_file() else b""
    last = content[content.rfind(b"\n") + 1 :]
    if last and _is_json(last):
        _append(path, b"\n")
    elif last:
        os.truncate(path, len(content) - len(last))
        progress(f"{path}: dropped a torn last line of {len(last)} bytes")


def _append(path: Path, content: bytes) -> None:
    """All of `content` at the end of the file and on disk, or nothing of it. Raises RunError."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    size = os.fstat(file).st_size
    try:
        if os.write(file, content) < len(content):
            os.ftruncate(file, size)
            raise RunError(f"cannot write {path}: the disk is full; lines before it are kept")
        os.fsync(file)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}; lines before it are kept") from error
    finally:
        os.close(file)
