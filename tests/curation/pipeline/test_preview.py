"""A preview of a few documents has the verdicts of a run, and writes nothing."""

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from configs.errors import UserError
from curation.cli import main
from curation.pipeline import steps
from curation.pipeline.curate import curate
from curation.pipeline.preview import PreviewedRow, preview, print_preview
from curation.pipeline.rewriter import Written
from teacher.records import Completion
from tests.curation.datasets import curation_config, data_rows, lines, rows, sentences, write_jsonl
from tests.curation.pipeline.test_echo import CONFIG, echo_config

SECRET = "key AKIAIOSFODNN7EXAMPLE in the notes of the house by the river"


def corpus(folder: Path) -> Path:
    """Two files: a row that is none, a credential, a page with an address, and plain ones."""
    texts = [sentences(0), SECRET, f"ask ann@uni.edu about {sentences(1)}", sentences(2)]
    write_jsonl(folder / "a.jsonl", [{"text": text} for text in texts])
    (folder / "a.jsonl").write_bytes(b"{broken\n" + (folder / "a.jsonl").read_bytes())
    write_jsonl(folder / "b.jsonl", rows(4, 50))
    return folder


def test_a_preview_shows_the_rows_of_a_run(tmp_path: Path) -> None:
    filters = ("curation.filters.secrets=true", "curation.filters.pii=true", "curation.keep_raw=1")
    config = echo_config(corpus(tmp_path / "in"), tmp_path / "out", *filters)
    seen = list(preview(config, 100))
    assert not (tmp_path / "out").exists()
    assert [one.id for one in seen] == [
        f"{name}.jsonl#{row}" for name, size in (("a", 5), ("b", 4)) for row in range(size)
    ]
    assert [one.refusal and one.refusal.stage for one in seen[:4]] == ["read", None, "filter", None]
    assert seen[3].cleaned == seen[3].before.replace("ann@uni.edu", "email@example.com") and seen[1].cleaned is None
    # The same rows, in the same order, as the run that follows.
    curate(config)
    kept = [record for one in seen for record in one.records if record["reason"] is None]
    assert [(r["id"], r["text"], r["strategy"], r["tokens"]) for r in kept] == [
        (r["id"], r["text"], r["strategy"], r["tokens"]) for r in data_rows(config)
    ]
    assert {one.refusal.reason for one in seen if one.refusal} == {
        lines(config, "filtered")[0]["reason"], lines(config, "quarantine")[0]["reason"],
    }  # fmt: skip


def test_a_greedy_teacher_writes_the_same_texts_as_in_a_run(tmp_path: Path, teacher: Path) -> None:
    source = write_jsonl(tmp_path / "in/a.jsonl", rows(3))
    config = curation_config(tmp_path, teacher, source)
    texts = [record["text"] for one in preview(config, 3) for record in one.records]
    assert not config.curation.output.exists() and not config.run.dir.exists()
    curate(config)
    assert texts == [row["text"] for row in data_rows(config)], "greedy: the very texts"


def test_documents_are_spread_over_the_files(tmp_path: Path) -> None:
    for index in range(5):
        write_jsonl(tmp_path / f"in/{index}.jsonl", rows(1 if index == 0 else 6, 10 * index))
    config = echo_config(tmp_path / "in", tmp_path / "out")

    def files(documents: int, *overrides: str) -> list[str]:
        given = echo_config(tmp_path / "in", tmp_path / "out", *overrides) if overrides else config
        return [one.id.split(".")[0] for one in preview(given, documents)]

    assert files(1) == ["0"] and files(2) == ["0", "2"] and files(5) == list("01234")
    # A file that is too short leaves its share to those behind it.
    assert files(10) == list("0") + ["1"] * 3 + ["2"] * 2 + ["3"] * 2 + ["4"] * 2
    assert files(10, "curation.limit=1") == list("01234")
    assert len(files(1000)) == 25


def test_plain_lines_and_colours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "in"
    commanding = f"\x1b[31mred\x1b[0m {sentences(1)}\n[bold]not markup[/bold]"
    write_jsonl(source / "a.jsonl", [{"text": commanding}, {"text": "?!"}])
    config = echo_config(source, tmp_path / "out", "curation.dedup=exact")
    print_preview(config, 5)
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and "�[31mred�[0m" in shown, "a document commands no terminal"
    assert "[bold]not markup[/bold]" in shown and "echo · 15 tokens · kept" in shown
    assert "refused by gate: empty" in shown
    assert "2 rows: 2 reached the teacher\n2 rewrites: 1 kept, 1 refused by gate: empty\ntokens: 16 in, 15 out" in shown
    assert "duplicates (exact) are only found by `notewright curate`" in shown
    terminal = Console(force_terminal=True, width=100, record=True)
    print_preview(config, 5, terminal)
    painted = terminal.export_text(styles=True)
    assert "\x1b[" in painted and "╭" in painted and "kept" in painted


def test_a_long_text_is_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_jsonl(tmp_path / "in/a.jsonl", [{"text": " ".join(sentences(i) for i in range(60))}])
    print_preview(echo_config(tmp_path / "in", tmp_path / "out"), 1)
    assert "more characters)" in capsys.readouterr().out


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_jsonl(tmp_path / "in/a.jsonl", rows(2))
    with pytest.raises(UserError, match="no such file"):
        next(preview(echo_config(tmp_path / "nowhere.jsonl", tmp_path / "out"), 1))
    assert main(["preview", str(CONFIG), f"curation.input={tmp_path / 'in'}", "--documents", "0"]) == 2
    assert main(["preview", str(CONFIG), f"curation.input={tmp_path / 'in'}", "--documents", "1"]) == 0
    said = capsys.readouterr()
    assert "a.jsonl#0" in said.out and "Invalid value" in said.err and not (tmp_path / "out").exists()


def test_a_teacher_that_fails_is_shown_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(rewriter: Any, teacher: Any, requests: list[Any], *given: Any, **more: Any) -> Any:
        return [Written([""], [Completion("", False, RuntimeError("out of memory"))])] * len(requests)

    monkeypatch.setattr(steps, "write", fail)
    write_jsonl(tmp_path / "in/a.jsonl", rows(1))
    print_preview(echo_config(tmp_path / "in", tmp_path / "out"), 1)
    assert "a rewrite · the teacher failed: RuntimeError: out of memory" in capsys.readouterr().out


def test_what_cannot_be_read_is_shown_too(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jsonl.gz").write_bytes(b"no archive")
    config = echo_config(tmp_path / "in", tmp_path / "out")
    [one] = preview(config, 3)
    assert isinstance(one, PreviewedRow) and one.refusal is not None and one.refusal.stage == "read" and not one.records
