"""Broken runs and datasets of earlier calls, output folders that cannot be written, endpoints that are none."""

import os
import shutil

import pytest

from curation.cli import main
from tests.curation.wild.world import complaint

pytestmark = [pytest.mark.wild, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def finished(original, tmp_path_factory):
    """The world after a training and a curation."""
    folder, before = tmp_path_factory.mktemp("finished") / "world", os.getcwd()
    shutil.copytree(original, folder)
    os.chdir(folder)
    try:
        assert main(["train", "e.yaml"]) == 0
        assert main(["curate", "e.yaml", "curation.writer=echo", "data.heldout=[]"]) == 0
    finally:
        os.chdir(before)
    return folder


BROKEN = {
    "run/config.yaml": (b"", b"[1]", b"\xff", b"studnet: {}"),
    "run/journal/metrics.jsonl": (b"[1]\n", b"{}\n", b"\xff\n", b"{\n"),
    "run/journal/rewrites.jsonl": (b"[1]\n", b"\xff\n"),
    "run/journal/outcomes.sqlite": (b"no database" * 100, b"SQLite format 3\0"),
    "run/teacher/checkpoint-0001/config.json": (b"", b"[1]", b"{}"),
    "run/teacher/checkpoint-0001/model.safetensors": (b"", b"\xff" * 64),
    "run/teacher/best.json": (b"", b"[1]", b"{}", b'{"round": "x"}'),
    "dataset/manifest.json": (b"", b"[1]", b"{}", b"\xff"),
}
READERS = {
    "run": ("train e.yaml", "report run", "curate e.yaml curation.output=other", "preview e.yaml"),
    "dataset": ("export dataset --repo-id a/b --dry-run", "curate e.yaml curation.writer=echo data.heldout=[]"),
}
CASES = [
    pytest.param(file, content, line, id=f"{line}-{file}-{content[:8]!r}")
    for file, contents in BROKEN.items()
    for content in contents
    for line in READERS[file.partition("/")[0]]
]


@pytest.mark.parametrize(("file", "content", "line"), CASES)
def test_runs(file, content, line, finished, tmp_path, monkeypatch, capfd):
    folder = tmp_path / "world"
    shutil.copytree(finished, folder)
    monkeypatch.chdir(folder)
    (folder / file).write_bytes(content)
    # A call that does not read the file goes on without it.
    assert not (wrong := complaint(capfd, line.split(), (file.partition("/")[0], "checkpoint"), passes=())), wrong


OUTPUTS = ("e.yaml/x", "/proc/none/x", "/dev/null/x", "nowhere/x", "teacher/config.json", "/proc/fs")
WRITERS = (
    "train e.yaml run.dir={}", "curate e.yaml curation.writer=echo data.heldout=[] curation.output={}",
    "score train.jsonl --config e.yaml --output {}", "init {} --data train.jsonl --teacher teacher --student student",
    "warm-up e.yaml --model student --data bare.jsonl --data corpus.jsonl --output {} --tokens 200",
    "reliability e.yaml --documents 2 --repeats 2 --output {}", "evaluate e.yaml run.dir={}", "lab e.yaml lab.dir={}",
)  # fmt: skip


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("writer", WRITERS)
def test_outputs(writer, output, world, capfd):
    if "reliability" in writer and output == "teacher/config.json":
        pytest.skip("its file is written anew")
    (world / "nowhere").symlink_to("gone/further")
    name = output.partition("/x")[0]
    says = (name, "warm-up needs", "passages under")
    assert not (wrong := complaint(capfd, writer.format(output).split(), says)), wrong


@pytest.mark.parametrize(
    "url", ["", "host/v1", "http://", "ftp://host", "http://localhost:1/v1", "http://[", "x" * 500]
)
def test_endpoints(url, world, capfd):
    settings = [f"serving.url={url}", "serving.model=m", "serving.deadline_seconds=1", "teacher.writer=endpoint"]
    line = ["curate", "e.yaml", "data.heldout=[]", "teacher.prompting=strategy", "teacher.strategies=[faq]", *settings]
    assert not (wrong := complaint(capfd, line, ("serving.url", url or "serving.url"))), wrong
    monkey = ["serving.api_key_variable=NOBODY_SET_THIS", "serving.url=http://localhost:1/v1"]
    assert not (wrong := complaint(capfd, [*line, *monkey], ("NOBODY_SET_THIS",))), wrong
