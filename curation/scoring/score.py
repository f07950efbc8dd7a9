"""Gains of rewrites that you bring: `notewright score FILE.jsonl --config CONFIG --output OUT.jsonl`.

An input line is `{"id", "text", "questions": [{"question", "answer"}], "rewrites": [...]}`; a rewrite is a text or an
object with one, as in teacher.ready.brought. Every rewrite teaches students of its own (`reward.repeats` of them,
whatever `reward.credit` is), which are asked all of its document's questions. The output has one line a rewrite, in
input order, as soon as its document is done:

    {"id", "rewrite", "gain", "gain_se", "gains", "accuracy_before", "accuracy_after", "loglik_before", "loglik_after",
     "error"}

`rewrite` is the position in `rewrites`, from 0, or first `"raw"`: the document's own text as the lesson. `gain` is in
`reward.measure`, `gain_se` its standard error over repeats, or with one repeat over the questions; `gains` has every
measure that the exam tells. Distractors (`reward.distractors`) are answers of the document's other questions: a line
is scored without looking at others, so that one whose questions tell no gain is rejected. A failed student leaves
nulls and its `error`. OUT.jsonl only grows; `OUT.state.json` beside it records what made it (students,
settings, seed), so that the same call goes on where the last one was stopped, and another call is refused.
"""

import hashlib
import json
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from configs.errors import RunError, UserError
from configs.files import append_whole, locked, write_json_lines, write_whole
from configs.schema import Config, Reward
from configs.schema.reward import Measure
from curation.console.progress import StudentProgress, say
from curation.scoring.rewrite_file import RAW, Reject, RewriteLine, read_rewrite_file
from student.benchmarks.sources import DocumentQuestions
from student.pools import make_pool
from student.records import Job, Lesson, Outcome, StudentPool
from teacher.reward.evaluation import mean_by_name
from teacher.reward.student_runs import gains_of, narrow


def run_score(path: Path, config: Config, output: Path, pool: StudentPool | None = None) -> int:
    """Scores every rewrite in `path` into `output`, and writes lines that are no document to `OUT.rejects.jsonl`.

    Returns the exit status: 0: all scored; 1: some lines were rejected, or some students failed; 2: no line is a
    document. Raises UserError (`output` was made by another call), RunError (the disk is full, `output` is locked).
    """
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    if output.exists() and not output.is_file():
        raise UserError(f"--output {output} is no regular file: rows are added to it, and it is read to go on")
    if output.exists() and output.samefile(path):
        raise UserError(f"--output {output} is the input itself")
    taken = RunError(f"another process is writing {output}; wait for it, or name another output")
    with locked(output.with_suffix(".lock"), if_taken=taken):
        return _score_file(path, config, output, pool)


def _score_file(path: Path, config: Config, output: Path, pool: StudentPool | None) -> int:
    benchmark = DocumentQuestions(config.student.prompt_template)
    repeats = config.reward.repeats
    rejects: list[Reject] = []
    row_counts: dict[str, int] = {}
    digests: dict[str, str] = {}
    # A first reading checks all lines and keeps only their digests: the file may be larger than memory.
    for line in read_rewrite_file(path, benchmark, config.reward):
        if isinstance(line, Reject):
            rejects.append(line)
        else:
            row_counts[line.id], digests[line.id] = len(line.texts), line.digest
    _write_rejects(output.with_suffix(".rejects.jsonl"), path, rejects)
    if not digests:
        why = f" (line {rejects[0].line}: {rejects[0].reason})" if rejects else ""
        raise UserError(f"{path}: no line holds a document with questions and rewrites{why}; nothing was scored")
    pool = pool or make_pool(config.student)
    state = {
        "format": 2,
        "students": pool.fingerprint,
        "prompt_template": config.student.prompt_template,
        "measure": config.reward.measure,
        "repeats": repeats,
        "seed": config.run.seed,
    }
    distill = config.student.objective == "distill"
    state |= {"objective": "distill"} if distill else {}
    earlier = _earlier_documents(output, state)
    failed_rows = _finished(output, row_counts)
    for name in failed_rows:
        if earlier.get(name, digests[name]) != digests[name]:
            raise UserError(f"document {name!r} has changed since {output} was begun; name another output")
    write_whole(output.with_suffix(".state.json"), json.dumps(state | {"documents": digests}) + "\n")

    failed = sum(failed_rows.values())
    total, done = (sum(row_counts[name] for name in names) * repeats for names in (row_counts, failed_rows))
    valid = (line for line in read_rewrite_file(path, benchmark, config.reward) if isinstance(line, RewriteLine))
    waiting = (line for line in valid if line.id not in failed_rows)
    with StudentProgress("scoring", total, done) as progress:
        for batch in _batches(waiting, repeats, pool.at_once):
            rows = _score_batch(batch, config.reward, config.run.seed, pool, distill)
            failed += sum(row["gain"] is None for row in rows)
            lines = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
            append_whole(output, lines.encode())
            progress.advance(len(rows) * repeats)
    if failed:
        say(f"{failed} rewrites have no gain: see `error` in {output}")
    return 1 if rejects or failed else 0


def _write_rejects(path: Path, source: Path, rejects: list[Reject]) -> None:
    if not rejects:
        path.unlink(missing_ok=True)
        return
    write_json_lines(path, (asdict(reject) for reject in rejects))
    for reject in rejects[:5]:
        say(f"{source}, line {reject.line}: {reject.reason}")
    if len(rejects) > 5:
        say(f"{source}: {len(rejects) - 5} more lines rejected, see {path}")


def _earlier_documents(output: Path, state: dict[str, Any]) -> dict[str, str]:
    """Digests of the documents with which `output` was begun. Raises UserError if another `state` made it."""
    if not output.exists() or not output.stat().st_size:
        return {}
    path = output.with_suffix(".state.json")
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        raise UserError(f"{output} is there, and {path} does not say what made it; name another output") from None
    changed = [f"{key}: {before.get(key)} -> {value}" for key, value in state.items() if before.get(key) != value]
    if changed:
        raise UserError(f"{output} was made otherwise ({'; '.join(changed)}); name another output or the same config")
    return before["documents"]


def _finished(output: Path, row_counts: dict[str, int]) -> dict[str, int]:
    """Documents of which all rows are in the output, with how many of these have no gain. Cuts off what a killed
    process left incomplete: a torn line, or the first rows of a document. Raises UserError for foreign rows."""
    failed_rows: dict[str, int] = {}
    if not output.exists():
        return failed_rows
    complete_bytes = end = rows = failed = 0
    with output.open("r+b") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                row = json.loads(line)
                id, gain = row["id"], row["gain"]
            except (ValueError, TypeError, KeyError):
                raise UserError(f"{output}, line {number} is no row of ours; name another output") from None
            if id not in row_counts or id in failed_rows:
                raise UserError(f"{output}, line {number} is of no document of the input ({id!r}); name another output")
            end, rows, failed = end + len(line), rows + 1, failed + (gain is None)
            if rows == row_counts[id]:
                failed_rows[id], complete_bytes = failed, end
                rows = failed = 0
        file.truncate(complete_bytes)
    return failed_rows


def _batches(lines: Iterator[RewriteLine], repeats: int, at_once: int) -> Iterator[list[RewriteLine]]:
    """Whole documents, up to about `at_once` students. `kill -9` costs at most one such batch."""
    batch: list[RewriteLine] = []
    students = 0
    for line in lines:
        batch.append(line)
        students += len(line.texts) * repeats
        if students >= at_once:
            yield batch
            batch, students = [], 0
    if batch:
        yield batch


def _score_batch(
    lines: Sequence[RewriteLine], reward: Reward, run_seed: int, pool: StudentPool, distill: bool
) -> list[dict[str, Any]]:
    repeats = reward.repeats

    def seed(id: str, repeat: int) -> int:
        # The same for all rewrites of a document (common random numbers), another in each repeat.
        digest = hashlib.sha256(json.dumps([run_seed, id, repeat]).encode()).digest()
        return int.from_bytes(digest[:4], "big") >> 1

    jobs = [
        Job(
            lesson=Lesson(
                texts=(text,),
                document_ids=(line.id,),
                seed=seed(line.id, repeat),
                contexts=(line.texts[RAW],) if distill else (),
            ),
            exam=line.exam,
        )
        for line in lines
        for text in line.texts.values()
        for repeat in range(repeats)
    ]
    outcomes = (
        outcome if outcome.gain is None else narrow(job, outcome, None, reward.measure)
        for job, outcome in zip(jobs, pool.examine(jobs), strict=True)
    )
    return [
        output_row(line.id, key, [next(outcomes) for _ in range(repeats)], reward.measure)
        for line in lines
        for key in line.texts
    ]


def output_row(id: str, rewrite: int | str, outcomes: Sequence[Outcome], measure: Measure) -> dict[str, Any]:
    """The output line of one rewrite from its repeats; failed ones are left out as long as one succeeded."""
    succeeded = [outcome for outcome in outcomes if outcome.gain is not None]
    errors = [outcome.error for outcome in outcomes if outcome.error is not None]
    numbers = ("gain", "gain_se", "gains", "accuracy_before", "accuracy_after", "loglik_before", "loglik_after")
    row: dict[str, Any] = {"id": id, "rewrite": rewrite, **dict.fromkeys(numbers)}
    if succeeded:
        samples = [outcome.gain for outcome in succeeded if outcome.gain is not None]
        row["gain"], row["gains"] = statistics.fmean(samples), mean_by_name([gains_of(o) for o in succeeded])
        if len(outcomes) == 1:
            each = (answer.gain_of(measure) for answer in succeeded[0].answers)
            samples = [gain for gain in each if gain is not None]
        row["gain_se"] = statistics.stdev(samples) / math.sqrt(len(samples)) if len(samples) > 1 else None
        for key in row.keys() & succeeded[0].metrics.keys():
            row[key] = statistics.fmean(outcome.metrics[key] for outcome in succeeded)
    partly = f"{len(errors)} of {len(outcomes)} students failed: " if succeeded else ""
    row["error"] = f"{partly}{errors[0]}" if errors else None
    return row
