"""How far a run is: what is read from the log of its batches, and how it is said."""

from pathlib import Path

import pytest

from curation.console import progress
from curation.console.progress import CurationProgress, StudentProgress, log_batch


def batch(log: Path, documents: int = 10, failed: int = 0) -> None:
    kept = documents - failed - 1
    log_batch(
        log, documents=documents, rewrites=documents, rows=kept, failed=failed, tokens=20 * kept, source_tokens=300
    )


def test_batches_of_any_process_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "progress.jsonl"
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(progress, "POLL_SECONDS", 3600)
    with CurationProgress(log, done=30, total=100) as shown:
        batch(log)
        batch(log, failed=2)
        clock[0] = 110.0
    said = capsys.readouterr().err
    assert said == (
        "curating: 50/100 documents, 2.00 documents/s, 60 tokens/s in, 32 out, 80% kept, 2 failed, 25 s to go\n"
    )
    assert [shown.counts[name] for name in ("documents", "rows", "failed", "tokens")] == [20, 16, 2, 320]


def test_a_torn_line_is_read_when_it_is_whole(tmp_path: Path) -> None:
    log = tmp_path / "progress.jsonl"
    shown = CurationProgress(log, done=0, total=50)
    assert not shown._read() and shown.counts["documents"] == 0
    batch(log)
    whole = log.read_bytes()
    log.write_bytes(whole + whole[:20])
    assert shown._read() and shown.counts["documents"] == 10
    assert not shown._read()
    log.write_bytes(whole + whole)
    assert shown._read() and shown.counts["documents"] == 20
    # What a full disk tore for good costs that line.
    log.write_bytes(whole * 2 + b'{"documents": 1\n' + whole)
    assert shown._read() and shown.counts["documents"] == 30


def test_lines_come_every_ten_seconds_and_the_last_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "progress.jsonl"
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    shown = CurationProgress(log, done=0, total=1000)
    for now in (3.0, 6.0, 11.0, 14.0, 22.0):
        clock[0] = now
        batch(log)
        shown._read()
        shown._show()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == [
        "curating: 30/1000 documents", "curating: 50/1000 documents",
    ]  # fmt: skip
    assert lines[0].endswith("6 min to go")


def test_nothing_done_says_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with CurationProgress(tmp_path / "progress.jsonl", done=5, total=5):
        pass
    assert capsys.readouterr().err == ""


def test_students_of_several_calls_are_counted_together(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with StudentProgress("measuring", 10, done=2) as shown:
        shown.within(4, 8)
        shown.within(8, 8)
        shown.expect(6)
        clock[0] = 16.0
        shown.within(4, 10)
        shown.advance(1)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "measuring: 2/10 students were finished before",
        "measuring: 14/20 students, 0.75 students/s, 8 s to go",
        "measuring: 15/20 students, 0.81 students/s, 6 s to go",
    ]


def test_a_terminal_gets_a_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    log = tmp_path / "progress.jsonl"
    batch(log)
    with CurationProgress(log, done=2, total=30) as shown:
        assert shown._bar is not None
    [task] = shown._bar.tasks
    assert (task.completed, task.total) == (12, 30) and "documents/s" in task.fields["rates"]
