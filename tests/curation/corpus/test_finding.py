"""What is read is what the user named: files of any name, folders with what others leave in them, and nothing else."""

import os
from pathlib import Path

import fsspec
import pytest
from datatrove.data import Document
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from configs.errors import UserError
from curation.corpus.finding import Shard, Skipped, describe_skipped, find_shards
from curation.corpus.shards import BadRow, read_shard
from tests.curation.datasets import rows, write_jsonl

pytestmark = pytest.mark.wild

LETTERS = st.sampled_from(list("ab7 #:%@!&*?-,{}()$\\~|>'\"[]=.\t日é\u0301\udcff\U0001f600"))
NAMES = st.text(LETTERS, min_size=1, max_size=12)


def texts_of(shards: list[Shard]) -> list[str]:
    return [item.text for shard in shards for item in read_shard(shard) if isinstance(item, Document)]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(folder=NAMES.filter(lambda name: name[0] != "."), file=NAMES.filter(lambda name: name[0] != "."))
def test_a_name_is_one_path_to_the_letter(tmp_path: Path, folder: str, file: str) -> None:
    path = write_jsonl(tmp_path / folder / f"{file}.jsonl", rows(1))
    expected = [row["text"] for row in rows(1)]
    try:
        for pattern in (str(path), str(path.parent), f"{tmp_path}/*/*.jsonl", f"{tmp_path}/**/*.jsonl"):
            shards = find_shards((pattern,))
            assert texts_of(shards) == expected and [shard.url for shard in shards] == [str(path)]
            shards[0].name.encode()
    finally:
        path.unlink()
        path.parent.rmdir()


def test_a_pair_of_colons_is_no_chain_of_file_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("x::y.jsonl", "-x.jsonl", "_x.jsonl", ".x.jsonl", "*.jsonl", "~x.jsonl", "a#b.jsonl"):
        write_jsonl(tmp_path / name, rows(1))
        assert [shard.url for shard in find_shards((name,))] == [str(tmp_path / name)]


def test_what_lies_beside_shards_is_counted_and_named(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.JSONL", "sub/c.jsonl"):
        write_jsonl(tmp_path / "in" / name, rows(1))
    for name in (".ipynb_checkpoints/a.jsonl", ".git/x.jsonl", "_temporary/0/a.jsonl", "_SUCCESS", "sub/.c.jsonl.crc"):
        write_jsonl(tmp_path / "in" / name, rows(1))
    for name in ("README.md", "rest.csv", "sub/more.json"):
        (tmp_path / "in" / name).write_text("text")
    os.mkfifo(tmp_path / "in/pipe.jsonl")
    (tmp_path / "in/again").symlink_to("sub")
    (tmp_path / "in/loop").symlink_to(".")
    (tmp_path / "in/z.jsonl").symlink_to("a.jsonl")
    skipped: Skipped = {}
    found = [shard.name for shard in find_shards((f"{tmp_path}/in",), skipped)]
    assert found == ["a.jsonl", "again/c.jsonl", "b.JSONL"]
    assert {reason: len(names) for reason, names in skipped.items()} == {
        "hidden": 5,
        "of another kind": 3,
        "that are no regular file": 1,
        "links to folders that are read": 2,
        "links to files that are read": 1,
    }
    assert "3 of another kind (README.md, rest.csv, more.json)" in describe_skipped(skipped)
    # A glob means the files that it names, as in a shell, and says what it leaves out too.
    skipped = {}
    assert [shard.name for shard in find_shards((f"{tmp_path}/in/*",), skipped)] == ["a.jsonl", "b.JSONL"]
    assert len(skipped["hidden"]) == 4 and len(skipped["of another kind"]) == 2
    assert [shard.name for shard in find_shards((f"{tmp_path}/in/.git/*",))] == ["x.jsonl"]
    with pytest.raises(UserError, match=r"no shards .* in .*\.csv; not read: 1 of another kind \(rest\.csv\)"):
        find_shards((f"{tmp_path}/in/*.csv",))
    with pytest.raises(UserError, match="no regular file"):
        find_shards((f"{tmp_path}/in/pipe.jsonl",))


def test_a_table_in_a_folder_is_read_by_a_glob(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "day=1/rows.jsonl/part-0.jsonl", rows(2))
    assert len(texts_of(find_shards((f"{tmp_path}/day=*/*.jsonl",)))) == 2


def test_the_folders_that_a_run_writes_are_no_input(tmp_path: Path) -> None:
    for name in ("a.jsonl", "out/data/train.jsonl", "run/metrics.jsonl", "old/a.jsonl", "old/quarantine.jsonl"):
        write_jsonl(tmp_path / name, rows(1))
    (tmp_path / "old/.notewright").mkdir()
    own, skipped = (tmp_path / "out", tmp_path / "run"), Skipped()
    assert [shard.name for shard in find_shards((str(tmp_path),), skipped, own)] == ["a.jsonl", "old/a.jsonl"]
    assert skipped["written by this run"] == ["out", "run"]
    assert skipped["with refused rows of a dataset"] == ["old/quarantine.jsonl"]
    assert [shard.name for shard in find_shards((f"{tmp_path}/**/*.jsonl",), own=own)] == ["a.jsonl", "old/a.jsonl"]
    with pytest.raises(UserError, match="a folder that this run writes"):
        find_shards((str(tmp_path / "out"),), own=own)


def test_a_glob_reads_nothing_below_the_folders_that_a_run_writes(tmp_path: Path) -> None:
    for name in ("a.jsonl", "out/data/train.jsonl", "runs/x/lab/b.jsonl", "runs/x/top.jsonl", "runs/y/lab/c.jsonl"):
        write_jsonl(tmp_path / name, rows(1))
    (tmp_path / "link").symlink_to("out/data")
    (tmp_path / "link.jsonl").symlink_to("runs/x/top.jsonl")
    own = (tmp_path / "out", tmp_path / "runs/x")

    def found(pattern: str) -> tuple[list[str], list[str]]:
        skipped: Skipped = {}
        shards = find_shards((f"{tmp_path}/{pattern}",), skipped, own)
        common = os.path.commonpath([os.path.dirname(shard.url) for shard in shards])
        unread = [os.path.relpath(f"{common}/{name}", tmp_path) for name in skipped.get("written by this run", [])]
        return [os.path.relpath(shard.url, tmp_path) for shard in shards], unread

    for pattern in ("**/*.jsonl", "**"):
        assert found(pattern)[0] == ["a.jsonl", "runs/y/lab/c.jsonl"]
        assert {"out", "runs/x", "link.jsonl"} <= set(found(pattern)[1]) and len(found(pattern)[1]) <= 4
    assert found("") == (["a.jsonl", "runs/y/lab/c.jsonl"], ["link", "link.jsonl", "out", "runs/x"])
    assert found("link.jsonl") == (["link.jsonl"], [])
    assert found("runs/*/lab/*.jsonl") == (["runs/y/lab/c.jsonl"], ["runs/x"])
    # What is named to the letter inside of them is meant, in every form.
    for pattern in ("runs/x/lab", "runs/x/lab/b.jsonl", "runs/x/lab/*.jsonl", "runs/x/lab/**"):
        assert found(pattern) == (["runs/x/lab/b.jsonl"], [])
    with pytest.raises(UserError, match=r"no shards .*; not read: 1 written by this run \(x\)"):
        found("runs/x/*.jsonl")


def test_a_glob_leaves_out_the_refused_rows_of_a_dataset(tmp_path: Path) -> None:
    for name in ("a.jsonl", "old/a.jsonl", "old/quarantine.jsonl", "quarantine.jsonl"):
        write_jsonl(tmp_path / name, rows(1))
    (tmp_path / "old/.notewright").mkdir()
    for pattern in ("**/*.jsonl", "**", ""):
        skipped: Skipped = {}
        shards = find_shards((f"{tmp_path}/{pattern}",), skipped)
        assert [shard.name for shard in shards] == ["a.jsonl", "old/a.jsonl", "quarantine.jsonl"]
        assert skipped["with refused rows of a dataset"] == ["old/quarantine.jsonl"]
    assert [shard.name for shard in find_shards((f"{tmp_path}/*/quarantine.jsonl",))] == ["quarantine.jsonl"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_read(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "sub/a.jsonl", rows(1))
    write_jsonl(tmp_path / "a.jsonl", rows(1))
    (tmp_path / "sub").chmod(0)
    try:
        for pattern in ("", "/sub", "/**/*.jsonl", "/*/a.jsonl"):
            with pytest.raises(UserError, match=r"/sub: Permission denied"):
                find_shards((f"{tmp_path}{pattern}",))
    finally:
        (tmp_path / "sub").chmod(0o700)


def test_a_folder_whose_listing_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As above, for root too, whom no mode of a file stops."""
    write_jsonl(tmp_path / "sub/a.jsonl", rows(1))
    write_jsonl(tmp_path / "a.jsonl", rows(1))
    real = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr("curation.corpus.finding.os.scandir", scandir)
    for pattern in ("", "/sub", "/**/*.jsonl", "/*/*.jsonl"):
        with pytest.raises(UserError, match=r"/sub: Permission denied"):
            find_shards((f"{tmp_path}{pattern}",))
    assert len(find_shards((f"{tmp_path}/*.jsonl",))) == 1


def test_a_link_to_nothing_is_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", rows(1))
    (tmp_path / "b.jsonl").symlink_to("/nowhere/b.jsonl")
    _, broken = find_shards((str(tmp_path),))
    assert list(read_shard(broken)) == [BadRow(None, "cannot be read: No such file or directory")]
    with pytest.raises(UserError, match=r"b\.jsonl is a link to /nowhere/b\.jsonl, which does not exist"):
        find_shards((str(tmp_path / "b.jsonl"),))


def test_local_and_remote_files_together(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/wild/in/a.jsonl", b'{"text": "remote"}\n')
    memory.pipe("/wild/in/.hidden/a.jsonl", b'{"text": "hidden"}\n')
    memory.pipe("/wild/in/notes.txt", b"text")
    write_jsonl(tmp_path / "a.jsonl", [{"text": "local"}])
    skipped: Skipped = {}
    try:
        shards = find_shards((f"{tmp_path}/a.jsonl", "memory://wild/in"), skipped)
        assert texts_of(shards) == ["local", "remote"] and shards[0].name == "a.jsonl"
        assert len({shard.name for shard in shards}) == 2
        assert {reason: len(names) for reason, names in skipped.items()} == {"hidden": 1, "of another kind": 1}
        # What is left out is named as the shards are, from the folder that these have in common.
        skipped = {}
        assert [shard.name for shard in find_shards(("memory://wild/in",), skipped)] == ["a.jsonl"]
        assert skipped == {"hidden": [".hidden/a.jsonl"], "of another kind": ["notes.txt"]}
        (tmp_path / "more.csv").write_text("text")
        skipped = {}
        find_shards((f"{tmp_path}/**/*.jsonl", f"{tmp_path}/*"), skipped)
        assert skipped == {"of another kind": ["more.csv"]}
    finally:
        memory.rm("/wild", recursive=True)


@pytest.mark.parametrize(
    "pattern", ["", " ", "\0", "a\0.jsonl", "x" * 300 + ".jsonl", "nowhere/*.jsonl", "[", "://", "a://", "::"]
)
def test_a_name_that_no_file_has_is_one_line(pattern: str) -> None:
    with pytest.raises(UserError) as caught:
        find_shards((pattern,))
    assert "\n" not in str(caught.value)
