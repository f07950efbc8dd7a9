"""Export against a Hub on the loopback: what arrives there, what is refused, and how a broken push goes on."""

import copy
import hashlib
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub.constants as hub_constants
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from configs.format import interval
from configs.load import save_config
from configs.schema import Config
from curation.cli import main
from curation.corpus.secrets import find_secrets
from curation.evaluation.run import run_evaluate
from curation.export import hub
from curation.export.provenance import describe_model
from curation.pipeline.curate import curate
from curation.pipeline.manifest import read_manifest, write_manifest
from teacher.run.journal import Journal
from tests.curation.datasets import curation_config, rows, write_jsonl
from tests.curation.evaluation.conftest import shop_config, write_shops
from tests.curation.export.hub_server import Blob, Fault, HubServer, Repo, running
from tests.processes import PATIENCE
from tests.teacher.conftest import student_folder, teacher_folder  # noqa: F401  (fixtures)

REPO = "me/lessons"
FILES_AT = "{repo_id}/resolve/{revision}/{filename}"
AWS_KEY = "AKIA" + "Q3EGRZ7TPL5MX2AB"


def checked_config(folder: Path, teacher: Path, documents: list[dict[str, Any]]) -> Config:
    """A curation that holds its texts against a benchmark."""
    item = rows(1, start=90)[0] | {"questions": [{"question": "who is it that nobody names", "answer": "nobody"}]}
    heldout = write_jsonl(folder / "heldout.jsonl", [item])
    config = curation_config(folder, teacher, write_jsonl(folder / "a.jsonl", documents))
    return config.model_copy(update={"data": config.data.model_copy(update={"heldout": (str(heldout),)})})


def rewrite_shards(folder: Path, shards: int, change: Callable[[list[dict[str, Any]]], None] = lambda _: None) -> None:
    """The same rows, changed, in so many shards, with a manifest that holds."""
    table = pq.read_table(folder / "data")
    records = table.to_pylist()
    change(records)
    shutil.rmtree(folder / "data")
    (folder / "data").mkdir()
    manifest = read_manifest(folder)
    manifest["shards"] = []
    for index in range(shards):
        path = folder / f"data/train-{index:05d}-of-{shards:05d}.parquet"
        part = records[index * len(records) // shards : (index + 1) * len(records) // shards]
        pq.write_table(pa.Table.from_pylist(part, schema=table.schema), path)
        shard = {"path": f"data/{path.name}", "rows": len(part), "bytes": path.stat().st_size}
        manifest["shards"].append(shard | {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()})
    licences = [record["licence"] for record in records]
    manifest["licences"] = {licence: licences.count(licence) for licence in licences}
    write_manifest(folder, manifest)


@pytest.fixture(scope="module")
def curated(tmp_path_factory: pytest.TempPathFactory, teacher: Path) -> Path:
    root = tmp_path_factory.mktemp("export")
    config = checked_config(root, teacher, rows(12))
    curate(config)
    rewrite_shards(config.curation.output, 3)
    return config.curation.output


@pytest.fixture
def folder(curated: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(curated, tmp_path / "copied"))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    with running() as found:
        monkeypatch.setattr(hub_constants, "ENDPOINT", found.url)
        monkeypatch.setattr(hub_constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{found.url}/{FILES_AT}")
        monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(hub_constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(hub_constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setenv("HF_TOKEN", "hf_writer")
        # The library waits 1, 2, 4, 8 and 8 seconds before it gives up.
        monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda _: None))
        yield found


def export(folder: Path, *options: str, repo_id: str = REPO) -> int:
    return main(["export", str(folder), "--repo-id", repo_id, *options])


def refused(capsys: pytest.CaptureFixture[str], code: int, folder: Path, *options: str, repo_id: str = REPO) -> str:
    """The one line that an export which must fail says."""
    capsys.readouterr()
    assert export(folder, *options, repo_id=repo_id) == code
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


def remote(server: HubServer, repo_id: str = REPO, kind: str = "dataset") -> dict[str, bytes]:
    return {p: b.content for p, b in server.repos[kind, repo_id].files.items() if p != ".gitattributes"}


def changes(server: HubServer) -> list[str]:
    """The requests that may change something; that the repository shall exist is said by each push."""
    return [path for method, path in server.log if method not in ("GET", "HEAD") and "/paths-info/" not in path]


def test_what_arrives(folder: Path, server: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert export(folder) == 0
    repo, manifest = server.repos["dataset", REPO], read_manifest(folder)
    assert repo.private and repo.tags == {"v1": repo.head} and repo.branches.keys() == {"main"}
    assert f"Fingerprint: {manifest['fingerprint']}" in repo.messages[repo.head]
    arrived = remote(server)
    assert arrived.keys() == {shard["path"] for shard in manifest["shards"]} | {"manifest.json", "README.md"}
    for shard in manifest["shards"]:
        assert hashlib.sha256(arrived[shard["path"]]).hexdigest() == shard["sha256"]
    assert arrived["manifest.json"] == (folder / "manifest.json").read_bytes()
    assert f'load_dataset("{REPO}", split="train")' in arrived["README.md"].decode()
    assert "verified" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    # The same again: nothing is sent, nothing committed, the tag is the same.
    commits, server.log = len(repo.commits), []
    assert export(folder) == 0
    assert len(repo.commits) == commits and changes(server) == ["/api/repos/create"]
    assert "all is there, nothing was done" in capsys.readouterr().out


READ_BACK = """
import json, sys
from datasets import load_dataset
whole = load_dataset(sys.argv[1], split="train", revision="v1")
streamed = next(iter(load_dataset(sys.argv[1], split="train", streaming=True)))
print(json.dumps({"texts": list(whole["text"]), "ids": list(whole["id"]), "first": streamed["text"]}))
"""


def test_datasets_reads_it_back(folder: Path, server: HubServer, tmp_path: Path) -> None:
    assert export(folder) == 0
    environment = os.environ | {"HF_ENDPOINT": server.url, "HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0"}
    environment |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_writer"}
    done = subprocess.run([sys.executable, "-c", READ_BACK, REPO], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    back, table = json.loads(done.stdout.splitlines()[-1]), pq.read_table(folder / "data").to_pydict()
    assert back["texts"] == table["text"] and back["ids"] == table["id"] and back["first"] == table["text"][0]


def test_dry_run_shows_and_sends_nothing(
    folder: Path, server: HubServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    assert export(folder, "--dry-run", "--tag", "v7") == 0
    shown = capsys.readouterr().out
    assert not server.log and not server.repos
    assert f"dataset {REPO} (private, tag v7)" in shown and "nothing was pushed" in shown
    for shard in read_manifest(folder)["shards"]:
        assert f"{shard['bytes']:>15,}  {shard['sha256'][:12]}  {shard['path']}" in shown
    assert "license: cc-by-sa-4.0" in shown and "size_categories" in shown and "| # lessons" in shown
    assert "stays here: .notewright, filtered.jsonl, quarantine.jsonl" in shown
    # What it shows is what is pushed.
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    assert export(folder, "--tag", "v7") == 0
    for path, content in remote(server).items():
        assert f"{len(content):>15,}  {hashlib.sha256(content).hexdigest()[:12]}  {path}" in shown


def _lose_rows(folder: Path) -> None:
    path = folder / read_manifest(folder)["shards"][1]["path"]
    pq.write_table(pq.read_table(path).slice(1), path)


def _forge(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: write_manifest(folder, read_manifest(folder) | changes)


def _forget_a_shard(folder: Path) -> None:
    manifest = read_manifest(folder)
    write_manifest(folder, manifest | {"shards": manifest["shards"][1:]})


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda folder: shutil.rmtree(folder), "no such folder"),
        (lambda folder: (folder / "manifest.json").unlink(), "no finished dataset: it has no manifest.json"),
        (
            lambda folder: (folder / "manifest.json").write_text('{"rows": '),
            "manifest.json is not as this version writes it",
        ),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "manifest.json"),
        (_forge(rows=99), "rows is not the sum of the shards' rows"),
        (_forge(fingerprint="0" * 64), "fingerprint is not that of its settings"),
        (_forge(shards=[{"path": "data/x.parquet"}]), "it lacks 'rows'"),
        (_forge(licences={"MIT": 12}), "licences of the rows"),
        (_lose_rows, "00001-of-00003.parquet is not as manifest.json has it"),
        (
            lambda folder: (folder / "data/train-00002-of-00003.parquet").unlink(),
            "train-00002-of-00003.parquet is miss",
        ),
        (lambda folder: (folder / "notes.txt").write_text("mine"), r"no curation wrote (notes.txt)"),
        (
            lambda folder: (folder / "data/train-old.parquet").write_text("x"),
            "wrote (data/train-old.parquet)",
        ),
        (_forget_a_shard, "rows is not the sum"),
    ],
)
def test_a_folder_that_is_not_as_its_manifest_says_is_refused(
    folder: Path, server: HubServer, capsys: pytest.CaptureFixture[str], harm: Callable[[Path], None], says: str
) -> None:
    harm(folder)
    assert says in refused(capsys, 2, folder) and not server.log


def test_secrets(folder: Path, server: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    def leak(records: list[dict[str, Any]]) -> None:
        records[4]["text"] += f" the key is {AWS_KEY} ."

    rewrite_shards(folder, 2, leak)
    line = refused(capsys, 2, folder)
    assert "1 texts seem to hold secrets: a.jsonl#4 (AWS Access Key)" in line and AWS_KEY not in line and not server.log
    assert export(folder, "--allow-secrets") == 0


def test_a_secret_of_a_source_does_not_leave_in_an_example(
    tmp_path: Path, teacher: Path, server: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    documents = [row | {"text": f"{row['text']} {AWS_KEY}"} for row in rows(6)]
    config = checked_config(tmp_path, teacher, documents)
    curate(config)
    line = refused(capsys, 2, config.curation.output)
    assert "manifest.json" in line and "AWS Access Key" in line and not server.log


def test_kinds_of_secrets() -> None:
    jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
    texts = {
        "token " + "ghp_" + "a1B2" * 9: "GitHub Token",
        "use " + "hf_" + "AbCdEfGhIjKlMnOpQr" + "StUvWxYzAbCdEfGh": "Hugging Face Token",
        "-----BEGIN RSA PRIVATE " + "KEY-----\nMII": "Private Key",
        f"Bearer {jwt}": "JSON Web Token",
        "postgres://bob:hunter2@db.local/x": "Basic Auth Credentials",
    }
    assert {text: find_secrets(text) for text in texts} == {text: [kind] for text, kind in texts.items()}
    prose = "Her password was a secret; the key to 10.1.2.3 or 8.8.8.8, sha256 " + hashlib.sha256(b"x").hexdigest()
    assert find_secrets(prose) == [] and find_secrets("aws key management, sk-learn, hf_hub_download, AKIA") == []


def test_licences(folder: Path, server: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    def mixed(records: list[dict[str, Any]]) -> None:
        for record, licence in zip(
            records, ["unknown", "unknown", "CC BY-ND 4.0", "MIT", "CC BY-NC 4.0"], strict=False
        ):
            record["licence"] = licence

    rewrite_shards(folder, 2, mixed)
    line = refused(capsys, 2, folder)
    assert "licence of 2 rows is unknown" in line and "1 rows come under CC BY-ND 4.0" in line and not server.log
    assert "CC BY-ND" in refused(capsys, 2, folder, "--allow-licence", "unknown")
    assert export(folder, "--allow-licence", "unknown", "--allow-licence", "cc by-nd 4.0") == 0
    card = remote(server)["README.md"].decode()
    assert set(yaml.safe_load(card.split("---\n")[1])["license"]) == {
        *("cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-sa-4.0", "mit", "unknown")
    }
    assert "they ask for: no derivatives, non-commercial use, share-alike, attribution" in card


def test_texts_without_a_leak_check_are_refused(
    tmp_path: Path, teacher: Path, server: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    config = curation_config(tmp_path, teacher, write_jsonl(tmp_path / "a.jsonl", rows(5)))
    curate(config)
    assert "no leak check ran" in refused(capsys, 2, config.curation.output) and not server.log
    assert export(config.curation.output, "--allow-unchecked") == 0
    assert "**Not checked.**" in remote(server)["README.md"].decode()


def test_a_token_without_the_right_is_refused(
    folder: Path, server: HubServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "may not write to other/lessons" in refused(capsys, 2, folder, repo_id="other/lessons")
    assert "names no owner" in refused(capsys, 2, folder, repo_id="lessons")
    assert "--repo-id 'me/les sons'" in refused(capsys, 2, folder, repo_id="me/les sons")
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    assert "does not accept the token" in refused(capsys, 2, folder)
    monkeypatch.delenv("HF_TOKEN")
    assert "no token for the Hub: set HF_TOKEN" in refused(capsys, 2, folder)
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refused(capsys, 2, folder)
    assert not server.repos


def test_no_network(
    folder: Path, server: HubServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with running() as gone:
        monkeypatch.setattr(hub_constants, "ENDPOINT", gone.url)
    assert "cannot reach the Hub at http://127.0.0.1" in refused(capsys, 1, folder)


def test_tags_and_versions(folder: Path, server: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(folder) == 0
    repo = server.repos["dataset", REPO]
    first = repo.head
    rewrite_shards(folder, 2)
    assert "holds another version" in refused(capsys, 2, folder, "--tag", "v2")
    assert "has a tag v1 of other content" in refused(capsys, 2, folder, "--replace")
    assert repo.head == first
    assert export(folder, "--replace", "--tag", "v2") == 0
    # The shards of the first version are gone from the head, and still there under its tag.
    assert {path for path in remote(server) if path.startswith("data/")} == {
        shard["path"] for shard in read_manifest(folder)["shards"]
    }
    assert repo.tags == {"v1": first, "v2": repo.head} and len(repo.commits[first]) == 6


def test_a_tag_that_appears_meanwhile(folder: Path, server: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.faults = [Fault("POST", "/tag/", 409)]
    assert "has a tag v1 of other content" in refused(capsys, 2, folder)


def test_other_content_is_left_alone(folder: Path, server: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    repo = server.repos["dataset", REPO] = Repo(private=True)
    repo.commit(repo.files | {"thesis.csv": Blob(b"years of work", False), "README.md": Blob(b"---\n{}\n---\n", False)})
    for options in ([], ["--replace"]):
        assert f"{REPO} holds other content (thesis.csv)" in refused(capsys, 2, folder, *options)
    assert remote(server).keys() == {"thesis.csv", "README.md"} and not server.sent()


def test_public_only_once_it_is_complete(folder: Path, server: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.faults = [Fault("POST", "/tag/", 500, times=1)]
    assert "answered 500" in refused(capsys, 1, folder, "--public")
    assert server.repos["dataset", REPO].private
    assert export(folder, "--public") == 0
    assert not server.repos["dataset", REPO].private
    assert "is public already: say --public" in refused(capsys, 2, folder)
    assert export(folder, "--public") == 0


@pytest.mark.parametrize("status", [500, 0])
def test_a_broken_upload_goes_on(
    folder: Path, server: HubServer, capsys: pytest.CaptureFixture[str], status: int
) -> None:
    hashes = [shard["sha256"] for shard in read_manifest(folder)["shards"]]
    server.faults = [Fault("PUT", "/lfs/", status, skip=1)]
    line = refused(capsys, 1, folder)
    assert ("answered 500" if status else "connection to") in line and "the same command goes on" in line
    assert list(server.large) == hashes[:1] and not remote(server)
    server.faults, server.log = [], []
    assert export(folder) == 0
    assert server.sent() == hashes[1:] and len(remote(server)) == 5


def test_a_short_outage_is_survived(folder: Path, server: HubServer) -> None:
    server.faults = [Fault("PUT", "/lfs/", 503, times=2), Fault("PUT", "/lfs/", 0, skip=1, times=1)]
    assert export(folder) == 0


@pytest.mark.parametrize(("status", "says"), [(500, "answered 500"), (0, "connection to"), (412, "changed by someone")])
def test_a_broken_commit_goes_on(
    folder: Path, server: HubServer, capsys: pytest.CaptureFixture[str], status: int, says: str
) -> None:
    server.faults = [Fault("POST", "/commit/", status)]
    assert says in refused(capsys, 1, folder) and not remote(server)
    server.faults, server.log = [], []
    assert export(folder) == 0 and not server.sent()


def test_many_files_go_in_several_commits(
    folder: Path, server: HubServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hub, "FILES_PER_COMMIT", 2)
    server.faults = [Fault("POST", "/commit/", 500, skip=1)]
    assert "answered 500" in refused(capsys, 1, folder)
    assert not remote(server) and not server.repos["dataset", REPO].tags
    server.faults = []
    assert export(folder) == 0 and len(remote(server)) == 5
    # They come together on a branch: nobody is shown half a dataset.
    repo = server.repos["dataset", REPO]
    assert [len(files) - 1 for files in repo.commits.values()] == [0, 2, 4, 5, 5]


def test_what_arrived_wrong_is_not_tagged(folder: Path, server: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.spoil = lambda content: content[:-1] + b"?"
    line = refused(capsys, 1, folder, "--public")
    assert "is not what was pushed" in line and "00000-of-00003.parquet differs" in line and "main is as it was" in line
    repo = server.repos["dataset", REPO]
    assert not repo.tags and repo.private and not remote(server)
    server.spoil = lambda content: content
    assert export(folder) == 0 and len(remote(server)) == 5


@pytest.mark.parametrize("branch", ["main", "notewright-"])
def test_a_change_by_somebody_else_meanwhile(
    folder: Path, server: HubServer, capsys: pytest.CaptureFixture[str], branch: str
) -> None:
    def somebody_commits(answered: bool) -> bool:
        path = server.log[-1][1]
        if "/commit/" in path and f"/{branch}" in path and not answered:
            repo = server.repos["dataset", REPO]
            name = next(name for name in repo.branches if name.startswith(branch))
            repo.commit(repo.commits[repo.branches[name]] | {"README.md": Blob(b"---\n{}\n---\n", False)}, name)
            server.kill = lambda answered: False
        return False

    server.kill = somebody_commits
    assert f"{REPO} was changed by someone else meanwhile" in refused(capsys, 1, folder)
    assert remote(server).keys() == ({"README.md"} if branch == "main" else set())
    assert export(folder) == 0 and len(remote(server)) == 5


def test_the_branch_of_another_push_stays(folder: Path, server: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.faults = [Fault("POST", "/commit/main", 500)]
    assert "answered 500" in refused(capsys, 1, folder)
    server.faults = []
    [left] = server.repos["dataset", REPO].branches.keys() - {"main"}
    rewrite_shards(folder, 2)
    assert export(folder) == 0
    assert f"the branch {left} of {REPO} is of another push" in capsys.readouterr().err
    assert server.repos["dataset", REPO].branches.keys() == {"main", left}


def export_in_a_process(folder: Path, server: HubServer, options: tuple[str, ...], number: int, answered: bool) -> bool:
    """Runs an export that is killed at its request of this number, before or after the Hub did what it asks for.
    Returns whether it was; false where it makes fewer requests."""
    process = multiprocessing.get_context("fork").Process(target=lambda: os._exit(export(folder, *options)))
    begun, killed = len(server.log), False

    def kill(after: bool) -> bool:
        nonlocal killed
        if not killed and after == answered and len(server.log) - begun == number:
            killed = True
            process.kill()
        return killed

    server.kill = kill
    process.start()
    process.join(PATIENCE)
    server.kill = lambda answered: False
    assert process.exitcode == (-signal.SIGKILL if killed else 0)
    return killed


@pytest.mark.slow
@pytest.mark.parametrize(("version", "answered"), [(1, False), (2, True)])
def test_a_push_killed_at_any_request(
    folder: Path, server: HubServer, monkeypatch: pytest.MonkeyPatch, version: int, answered: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(hub, "FILES_PER_COMMIT", 2)
    options: tuple[str, ...] = ("--public",)
    if version == 2:
        assert export(folder) == 0
        rewrite_shards(folder, 2)
        options = ("--public", "--replace", "--tag", "v2")
    start = copy.deepcopy(server.repos), dict(server.large)
    old = remote(server) if version == 2 else {}
    new = {shard["path"] for shard in read_manifest(folder)["shards"]} | {"manifest.json", "README.md"}
    for number in itertools.count(1):
        server.repos, server.large, server.log = copy.deepcopy(start[0]), dict(start[1]), []
        killed = export_in_a_process(folder, server, options, number, answered)
        repo = server.repos.get(("dataset", REPO))
        if repo is None:
            assert killed and number == 1
        else:
            published = remote(server)
            assert published == old or published.keys() == new
            assert {tag: set(repo.commits[sha]) - {".gitattributes"} for tag, sha in repo.tags.items()} in (
                *([{}, {"v1": new}] if version == 1 else [{"v1": set(old)}, {"v1": set(old), "v2": new}]),
            )
            assert repo.private or (published.keys() == new and f"v{version}" in repo.tags)
        assert export(folder, *options) == 0
        repo = server.repos["dataset", REPO]
        assert remote(server).keys() == new and repo.branches == {"main": repo.head} and not repo.private
        assert repo.tags[f"v{version}"] == repo.head and len(repo.tags) == version
        # A file that had arrived is not sent again.
        assert max(Counter(server.sent()).values()) == 1 or not answered
        if not killed:
            break
        server.log = []
        assert export(folder, *options) == 0 and changes(server) == ["/api/repos/create"]
    capsys.readouterr()
    assert number > 20


@pytest.fixture
def trained(tmp_path: Path, teacher: Path) -> Config:
    """A dataset by a teacher with a LoRA adapter, and the run that it comes from."""
    from peft import LoraConfig, get_peft_model

    from student.engine.models import load_model
    from teacher.run.checkpoints import save_checkpoint

    config = checked_config(tmp_path, teacher, rows(6))
    model, tokenizer = load_model(str(teacher), device="cpu")
    adapted = get_peft_model(
        model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    )
    checkpoint = save_checkpoint(config.run.dir, 2, adapted, tokenizer, config.teacher, None)
    (checkpoint / "optimizer.pt").write_bytes(b"only training needs it")
    student = shutil.copytree(teacher, tmp_path / "tiny-student")
    (student / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    config = config.model_copy(update={"student": config.student.model_copy(update={"model": str(student)})})
    save_config(config, config.run.dir / "config.yaml")
    with Journal(config.run.dir) as journal:
        for arm, mean in (("raw", 1.25), ("untrained", 1.99), ("trained", 5.48)):
            figures = {"gain/mean": mean, "gain/low": mean - 0.5, "gain/high": mean + 0.5, "accuracy/mean": mean / 10}
            journal.metric({"kind": "heldout", "round": 0, "arm": arm, "documents": 48, **figures})
        journal.metric({"kind": "difference", "round": 2, "trained_minus_raw/mean": 4.23})
    (config.run.dir / "journal/data").write_text("0123456789abcdef\n")
    curate(config)
    return config


def test_teacher(trained: Config, server: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    output, run = trained.curation.output, trained.run.dir
    assert export(output, "--teacher", str(run)) == 0
    arrived = remote(server, f"{REPO}-teacher", "model")
    weights = run / "teacher/checkpoint-0002/adapter_model.safetensors"
    assert arrived["adapter_model.safetensors"] == weights.read_bytes()
    assert arrived.keys() >= {"adapter_config.json", "tokenizer.json", "README.md", "notewright.json"}
    assert "optimizer.pt" not in arrived
    assert all(str(run.parent).encode() not in content for content in arrived.values())
    assert json.loads(arrived["adapter_config.json"])["base_model_name_or_path"] == "tiny-teacher"
    card = arrived["README.md"].decode()
    data = yaml.safe_load(card.split("---\n")[1])
    assert data["library_name"] == "peft" and data["datasets"] == [REPO] and data["license"] == "unknown"
    assert f'model.generation_config = GenerationConfig.from_pretrained("{REPO}-teacher")' in card
    assert json.loads(arrived["generation_config.json"])["max_new_tokens"] == trained.teacher.max_new_tokens
    assert "0123456789abcdef" in card and "rest_em, 2 of 2 rounds" in card
    assert "| the trained teacher, one training run | 5.480 [4.980, 5.980] | 0.55 | 48 |" in card
    assert "| trained (one training run) − raw | 4.230 |" in card
    marks = json.loads(arrived["notewright.json"])
    assert marks["weights_hash"] == read_manifest(output)["settings"]["teacher_hash"] and marks["dataset"] == REPO
    # The dataset's card names the models and their licences, the teacher's repository and its gains.
    card = remote(server)["README.md"].decode()
    assert "`tiny-teacher` (a folder of its maker), licence unknown" in card
    assert "`tiny-student` (a folder of its maker), licence apache-2.0" in card
    assert (
        f"huggingface.co/{REPO}-teacher" in card
        and "| the untrained teacher | 1.990 [1.490, 2.490] | 0.20 | 48 |" in card
    )
    server.log = []
    assert export(output, "--teacher", str(run)) == 0 and not server.sent()


def test_the_run_around_the_dataset_is_found(
    trained: Config,
    server: HubServer,
    teacher_folder: Path,  # noqa: F811
    student_folder: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    inside = Path(shutil.move(trained.curation.output, trained.run.dir / "dataset"))
    assert export(inside) == 0
    assert "tiny-student" in remote(server)["README.md"].decode() and ("model", f"{REPO}-teacher") not in server.repos
    # An evaluation beside the dataset is newer than the journal's figures.
    evaluation_run = {"dir": tmp_path / "evaluated"}
    config = shop_config(teacher_folder, student_folder, write_shops(tmp_path), run=evaluation_run)
    (student,) = run_evaluate(config).students.values()
    shutil.copy(config.run.dir / "evaluation.json", inside)
    assert export(inside, "--tag", "v2") == 0
    card = remote(server)["README.md"].decode()
    gain, accuracy = student.arms["raw"].together.gain, student.arms["raw"].together.accuracy
    texts = (interval(*gain.bounds, 3), interval(*accuracy.bounds, 2))
    assert f"| the raw documents | {texts[0]} | {texts[1]} | 8 |" in card and "5.480" not in card
    assert f"| {student.arms['repeated'].words} |" in card


def test_licences_of_models(server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, content in (("card", "---\nlicense: mit\n---\n"), ("bare", "no metadata")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "README.md").write_text(content)
    (tmp_path / "bare/config.json").write_text('{"license": "apache-2.0"}')
    repo = server.repos["model", "org/base"] = Repo(private=False)
    repo.commit({"README.md": Blob(b"---\nlicense: gemma\n---\n", False)})
    models = [str(tmp_path / "card"), str(tmp_path / "bare"), "org/base", "org/nothing", "no model at all"]
    found = [describe_model(model) for model in models]
    assert [m.licence for m in found] == ["mit", "apache-2.0", "gemma", "unknown", "unknown"]
    assert [m.name for m in found[:3]] == ["card", "bare", "org/base"]
    with running() as gone:
        monkeypatch.setattr(hub_constants, "ENDPOINT", gone.url)
    assert describe_model("org/base").licence == "unknown"


def test_another_teacher_is_refused(
    trained: Config, folder: Path, server: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, run = trained.curation.output, trained.run.dir
    assert "is no run directory" in refused(capsys, 2, output, "--teacher", str(tmp_path))
    assert "untrained teacher: leave out --teacher" in refused(capsys, 2, folder, "--teacher", str(run))
    weights = run / "teacher/checkpoint-0002/adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    assert "did not write" in refused(capsys, 2, output, "--teacher", str(run))
    shutil.rmtree(run / "teacher/checkpoint-0002")
    assert "has no teacher/checkpoint-0002" in refused(capsys, 2, output, "--teacher", str(run))
    (output / "evaluation.json").write_text(orjson.dumps([1]).decode())
    assert "evaluation.json is not as this version writes it" in refused(capsys, 2, output)
    assert not server.log
