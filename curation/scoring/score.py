"""Gains of rewrites that you bring: `notewright score FILE.jsonl --config CONFIG --output OUT.jsonl`.

An input line is `{"id", "text", "questions": [{"question", "answer"}], "rewrites": [...]}`, `title` and other keys are
allowed. Every rewrite teaches students of its own (`reward.repeats` of them, whatever `reward.credit` is) and these are
asked all of its document's questions. The output has one line a rewrite, in input order, as soon as its document is
done:

    {"id", "rewrite", "gain", "gain_se", "accuracy_before", "accuracy_after", "loglik_before", "loglik_after", "error"}

`rewrite` is the position in `rewrites`, from 0, or `"raw"`: the document's own text as the lesson, first of each
document. `gain` is in nats a gold-answer token. `gain_se` is the standard error of the gain over repeats, or with
one repeat over the questions. A failed student leaves nulls and its `error`.

OUT.jsonl only grows. `OUT.state.json` beside it says what made it (students, settings, seed), so that the same call
goes on where the last one was stopped, and another one is refused. Lines that are no document go to
`OUT.rejects.jsonl`.
"""

import fcntl
import hashlib
import json
import math
import os
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from configs.errors import RunError, UserError
from configs.files import write_whole
from configs.schema import Config
from curation.console.progress import say
from curation.console.student_progress import StudentProgress
from curation.scoring.rewrite_file import Reject, RewriteLine, read_items
from student.benchmarks.sources import DocumentQuestions
from student.pools import make_pool
from student.records import Job, Lesson, Outcome, StudentPool


class Listed(NamedTuple):
    """A valid document of the input, as kept in memory."""

    rows: int
    digest: str


def run_score(path: Path, config: Config, output: Path, pool: StudentPool | None = None) -> int:
    """Scores every rewrite in `path` into `output`; returns the exit status.

    0: all scored; 1: some lines were rejected, or some students failed; 2: no line is a document. Raises UserError (the
    file is missing, `output` was made otherwise) and RunError (the disk is full, another process writes `output`).
    """
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    if output.exists() and not output.is_file():
        raise UserError(f"--output {output} is no regular file: rows are added to it, and it is read to go on")
    if output.exists() and output.samefile(path):
        raise UserError(f"--output {output} is the input itself")
    benchmark = DocumentQuestions(config.student.prompt_template)
    output.parent.mkdir(parents=True, exist_ok=True)
    with _locked(output):
        rejects, items = _survey(path, benchmark)
        _write_rejects(output.with_suffix(".rejects.jsonl"), rejects)
        for reject in rejects[:5]:
            say(f"{path}, line {reject.line}: {reject.reason}")
        if len(rejects) > 5:
            say(f"{path}: {len(rejects) - 5} more lines rejected, see {output.with_suffix('.rejects.jsonl')}")
        if not items:
            say(f"{path}: no line holds a document with questions and rewrites; nothing was scored")
            return 2
        pool = pool or make_pool(config.student)
        before = _check_state(output, config, pool)
        done = _finished(output, items)
        changed = [name for name in done if before.get(name, items[name].digest) != items[name].digest]
        if changed:
            raise UserError(f"document {changed[0]!r} has changed since {output} was begun; name another output")
        _write_state(output, config, pool, items)
        failed = _score_rest(path, benchmark, config, pool, output, items, done)
    if failed:
        say(f"{failed} rewrites have no gain: see `error` in {output}")
    return 1 if rejects or failed else 0


def _survey(path: Path, benchmark: DocumentQuestions) -> tuple[list[Reject], dict[str, Listed]]:
    """The rejects, and the valid documents by id, in input order."""
    rejects: list[Reject] = []
    items: dict[str, Listed] = {}
    for item in read_items(path, benchmark):
        if isinstance(item, Reject):
            rejects.append(item)
        else:
            items[item.id] = Listed(len(item.texts), item.digest)
    return rejects, items


def _score_rest(
    path: Path,
    benchmark: DocumentQuestions,
    config: Config,
    pool: StudentPool,
    output: Path,
    items: dict[str, Listed],
    done: dict[str, int],
) -> int:
    """Trains and appends what is not in the output yet; returns how many rows of the whole output have no gain."""
    failed = sum(done.values())
    repeats = config.reward.repeats
    total, before = (sum(items[name].rows for name in part) * repeats for part in (items, done))
    waiting = (item for item in read_items(path, benchmark) if isinstance(item, RewriteLine) and item.id not in done)
    with StudentProgress("scoring", total, before) as progress:
        for batch in _batches(waiting, repeats, pool.at_once):
            rows = _score(batch, config, pool)
            failed += sum(row["gain"] is None for row in rows)
            _append(output, rows)
            progress.advance(len(rows) * repeats)
    return failed


def _batches(items: Iterator[RewriteLine], repeats: int, at_once: int) -> Iterator[list[RewriteLine]]:
    """Whole documents, up to about `at_once` students: what `kill -9` can cost."""
    batch: list[RewriteLine] = []
    students = 0
    for item in items:
        batch.append(item)
        students += len(item.texts) * repeats
        if students >= at_once:
            yield batch
            batch, students = [], 0
    if batch:
        yield batch


def _score(items: Sequence[RewriteLine], config: Config, pool: StudentPool) -> list[dict[str, Any]]:
    """The output rows of some documents, in their order."""
    jobs = [
        Job(lesson=Lesson(texts=(text,), document_ids=(item.id,), seed=_seed(config, item.id, repeat)), exam=item.exam)
        for item in items
        for text in item.texts.values()
        for repeat in range(config.reward.repeats)
    ]
    outcomes = iter(pool.examine(jobs))
    return [
        output_row(item.id, key, [next(outcomes) for _ in range(config.reward.repeats)])
        for item in items
        for key in item.texts
    ]


def output_row(id: str, rewrite: int | str, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The output line of one rewrite from its repeats; failed ones are left out as long as one ran."""
    ran = [outcome for outcome in outcomes if outcome.gain is not None]
    errors = [outcome.error for outcome in outcomes if outcome.error is not None]
    row: dict[str, Any] = {"id": id, "rewrite": rewrite, "gain": None, "gain_se": None}
    row |= dict.fromkeys(("accuracy_before", "accuracy_after", "loglik_before", "loglik_after"))
    if ran:
        gains = [outcome.gain for outcome in ran if outcome.gain is not None]
        over = gains if len(outcomes) > 1 else [answer.gain for answer in ran[0].answers]
        row |= {
            "gain": statistics.fmean(gains),
            "gain_se": statistics.stdev(over) / math.sqrt(len(over)) if len(over) > 1 else None,
        }
        row |= {key: statistics.fmean(outcome.metrics[key] for outcome in ran) for key in row if key in ran[0].metrics}
    if errors:
        row["error"] = f"{len(errors)} of {len(outcomes)} students failed: {errors[0]}" if ran else errors[0]
    else:
        row["error"] = None
    return row


def _seed(config: Config, id: str, repeat: int) -> int:
    """The same for all rewrites of a document (common random numbers), another in each repeat."""
    return int.from_bytes(hashlib.sha256(json.dumps([config.run.seed, id, repeat]).encode()).digest()[:4], "big") >> 1


def _state(config: Config, pool: StudentPool) -> dict[str, Any]:
    """What the numbers depend on beside the documents."""
    return {
        "format": 1,
        "students": pool.fingerprint,
        "prompt_template": config.student.prompt_template,
        "repeats": config.reward.repeats,
        "seed": config.run.seed,
    }


def _check_state(output: Path, config: Config, pool: StudentPool) -> dict[str, str]:
    """Digests of the documents that `output` was begun with; raises UserError where it was made otherwise."""
    if not output.exists() or not output.stat().st_size:
        return {}
    path = output.with_suffix(".state.json")
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        raise UserError(f"{output} is there, and {path} does not say what made it; name another output") from None
    now = _state(config, pool)
    changed = [f"{key}: {before.get(key)} -> {value}" for key, value in now.items() if before.get(key) != value]
    if changed:
        raise UserError(f"{output} was made otherwise ({'; '.join(changed)}); name another output or the same config")
    return before["documents"]


def _write_state(output: Path, config: Config, pool: StudentPool, items: dict[str, Listed]) -> None:
    state = _state(config, pool) | {"documents": {name: item.digest for name, item in items.items()}}
    write_whole(output.with_suffix(".state.json"), json.dumps(state) + "\n")


def _finished(output: Path, items: dict[str, Listed]) -> dict[str, int]:
    """Documents all of whose rows are in the output, with how many of these have no gain.

    Cuts off what a killed process left half: a torn line, or the first rows of a document. Raises UserError where the
    output holds something that the input does not make.
    """
    done: dict[str, int] = {}
    if not output.exists():
        return done
    kept = end = rows = failed = 0
    with output.open("r+b") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                row = json.loads(line)
                id, gain = row["id"], row["gain"]
            except (ValueError, TypeError, KeyError):
                raise UserError(f"{output}, line {number} is no row of ours; name another output") from None
            if id not in items or id in done:
                raise UserError(f"{output}, line {number} is of no document of the input ({id!r}); name another output")
            end, rows, failed = end + len(line), rows + 1, failed + (gain is None)
            if rows == items[id].rows:
                done[id], kept = failed, end
                rows = failed = 0
        file.truncate(kept)
    return done


def _append(output: Path, rows: list[dict[str, Any]]) -> None:
    lines = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    try:
        with output.open("ab") as file:
            file.write(lines.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        kept = "documents before are kept, the same call goes on"
        raise RunError(f"cannot write {output}: {error.strerror}; {kept}") from error


def _write_rejects(path: Path, rejects: list[Reject]) -> None:
    """The reject file of this input; none where all lines are valid."""
    if rejects:
        lines = ({"line": r.line, "reason": r.reason, "content": r.content} for r in rejects)
        write_whole(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _locked(output: Path) -> Iterator[None]:
    """Keeps a second process off the same output; the kernel frees it however this one ends."""
    with output.with_suffix(".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"another process is writing {output}; wait for it, or name another output") from None
        yield
