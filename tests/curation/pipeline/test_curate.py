"""Curation end to end with a real tiny teacher: what a user gets, and what survives."""

import errno
import gzip
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest

from configs.errors import RunError, UserError
from configs.load import save_config
from configs.schema import Config, Questions
from configs.seeds import item_hash
from curation.corpus.finding import Shard
from curation.corpus.training_data import training_id
from curation.pipeline import curate as pipeline
from curation.pipeline import dataset
from curation.pipeline.curate import curate, print_curation
from curation.pipeline.inputs import rewriting_inputs
from curation.pipeline.rewriter import load_rewriter
from teacher.questions.cache import questions_file
from teacher.records import Completion
from teacher.run.checkpoints import write_best
from teacher.writers.local import TransformersWriter
from tests.curation.datasets import curation_config, data_bytes, data_rows, lines, manifest_of, rows, write_jsonl
from tests.processes import PATIENCE, happens


def quarantine(config: Config) -> list[dict[str, Any]]:
    return lines(config, "quarantine")


def test_shards_in_dataset_out(tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Equal ids in both files: the source's ids are kept, ours are unique.
    a = write_jsonl(tmp_path / "in/a.jsonl", [row | {"licence": "MIT"} for row in rows(6)])
    (tmp_path / "in/b.jsonl.gz").write_bytes(gzip.compress(b"".join(orjson.dumps(row) + b"\n" for row in rows(5))))
    config = curation_config(tmp_path, teacher, a, tmp_path / "in/b.jsonl.gz")
    summary = curate(config)
    assert (summary.documents_in, summary.documents_out, summary.rows_out, summary.resumed) == (11, 11, 11, 0)
    assert "no trained teacher" in capsys.readouterr().err and not summary.trained
    table = data_rows(config)
    assert [row["id"] for row in table] == [f"a.jsonl#{i}" for i in range(6)] + [f"b.jsonl.gz#{i}" for i in range(5)]
    assert [row["source_id"] for row in table] == [f"person-{i}" for i in [*range(6), *range(5)]]
    assert [row["licence"] for row in table] == ["mit"] * 6 + ["cc-by-sa-4.0"] * 5
    assert all(row["tokens"] == len(row["text"].split()) and row["source_tokens"] == 12 for row in table)
    manifest = manifest_of(config)
    [shard] = manifest["shards"]
    path = config.curation.output / shard["path"]
    assert shard["rows"] == 11 and shard["bytes"] == path.stat().st_size
    assert shard["sha256"] == subprocess.run(["sha256sum", path], capture_output=True, text=True).stdout.split()[0]
    metadata = pq.read_metadata(path)
    assert metadata.row_group(0).column(0).compression == "ZSTD"
    assert metadata.row_group(0).column(0).has_column_index and metadata.row_group(0).column(0).has_offset_index
    # The writer's greedy continuation of the bare document is what stands in the row.
    writer = load_rewriter(rewriting_inputs(config)).writer
    assert writer is not None
    assert writer.write([rows(1)[0]["text"] + "\n<lesson>"], 1, 0)[0][0].text == table[0]["text"]


def test_finished_folder_returns_at_once(tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = curation_config(tmp_path, teacher, write_jsonl(tmp_path / "a.jsonl", rows(6)))
    first = curate(config)
    stamps = {p: p.stat().st_mtime_ns for p in config.curation.output.rglob("*.*") if p.is_file()}
    monkeypatch.setattr(pipeline, "_run", lambda *_: pytest.fail("ran again"))
    second = curate(config)
    assert second.rows_out == first.rows_out and second.resumed == 6
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps
    next((config.curation.output / "data").iterdir()).unlink()
    with pytest.raises(RunError, match="missing"):
        curate(config)


def test_every_document_has_one_terminal_record(tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = [orjson.dumps(row) for row in rows(20)]
    broken[3], broken[4] = b'{"text": "\xff"}', broken[4][:10]
    broken[8] = orjson.dumps({"text": "poison " + rows(1)[0]["text"]})
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(broken))
    whole = gzip.compress(b"".join(orjson.dumps(row | {"noise": os.urandom(64).hex()}) + b"\n" for row in rows(30)))
    (tmp_path / "b.jsonl.gz").write_bytes(whole[:-400])
    (tmp_path / "c.jsonl").write_bytes(b"")
    (tmp_path / "d.parquet").write_bytes(b"PAR1 no footer")
    config = curation_config(
        tmp_path,
        teacher,
        *(tmp_path / n for n in ("a.jsonl", "b.jsonl.gz", "c.jsonl", "d.parquet")),
        rewrites_per_document=2,
    )
    config = config.model_copy(
        update={
            "teacher": config.teacher.model_copy(update={"temperature": 1.0}),
            "gates": config.gates.model_copy(update={"min_words": 12}),
        }
    )
    real = TransformersWriter.write

    def failing(self: TransformersWriter, prompts: list[str], *given: Any, **named: Any) -> list[list[Completion]]:
        if any("poison" in prompt for prompt in prompts):
            raise RuntimeError("out of memory")
        return real(self, prompts, *given, **named)

    monkeypatch.setattr(TransformersWriter, "write", failing)
    summary = curate(config)
    files = {file["path"]: file for file in manifest_of(config)["files"]}
    for file in files.values():
        parts = [file[key] for key in ("documents_out", "filtered", "quarantined", "failed")]
        assert file["documents_in"] == sum(parts)
    assert files["a.jsonl"]["documents_in"] == 20 and files["a.jsonl"]["failed"] == 1
    assert "truncated" in files["b.jsonl.gz"]["reason"] and 15 < files["b.jsonl.gz"]["documents_in"] <= 30
    assert files["c.jsonl"]["reason"] == "empty" and files["c.jsonl"]["documents_in"] == 0
    assert "unreadable footer" in files["d.parquet"]["reason"]
    records = quarantine(config)
    assert {record["stage"] for record in records} == {"read", "gate", "teacher"} and all(r["reason"] for r in records)
    terminal = Counter((r["source_file"], r["source_row"], r["rewrite"]) for r in [*data_rows(config), *records])
    assert set(terminal.values()) == {1}
    documents = sum(file["documents_in"] for file in files.values())
    unreadable = [key for key in terminal if key[2] is None and key[1] is not None]
    assert len([key for key in terminal if key[2] is not None]) == 2 * (documents - len(unreadable))
    assert summary.rows_out == len(data_rows(config)) and summary.quarantined >= len(unreadable)
    assert [r["reason"] for r in records if r["stage"] == "teacher"] == ["RuntimeError: out of memory"] * 2
    assert len({row["id"] for row in data_rows(config)}) == summary.rows_out


def test_strategies_get_equal_shares(tmp_path: Path, teacher: Path) -> None:
    config = curation_config(tmp_path, teacher, write_jsonl(tmp_path / "a.jsonl", rows(9)))
    strategies = ("rewrite", "implications", "table")
    changes = {"prompting": "strategy", "strategies": strategies}
    config = config.model_copy(update={"teacher": config.teacher.model_copy(update=changes)})
    curate(config)
    shares = Counter(record["strategy"] for record in [*data_rows(config), *quarantine(config)])
    assert shares == dict.fromkeys(strategies, 3)


def test_trained_checkpoint_is_used_and_named(tmp_path: Path, teacher: Path) -> None:
    from peft import LoraConfig, get_peft_model

    from student.engine.models import load_model

    config = curation_config(tmp_path, teacher, write_jsonl(tmp_path / "a.jsonl", rows(4)))
    curate(config)
    model, _ = load_model(str(teacher), device="cpu")
    adapted = get_peft_model(
        model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    )
    adapted.save_pretrained(tmp_path / "run/teacher/checkpoint-0002")
    with pytest.raises(UserError, match=r"another run .*teacher_hash: .*trained: False -> True"):
        curate(config)
    trained = config.model_copy(
        update={"curation": config.curation.model_copy(update={"output": tmp_path / "trained"})}
    )
    assert curate(trained).teacher == "tiny-teacher+checkpoint-0002"
    assert [r["text"] for r in data_rows(trained)] != [r["text"] for r in data_rows(config)]


@pytest.mark.parametrize("asked_by", ["data.heldout", "evaluation.benchmarks", "evaluation.retention_questions"])
def test_items_of_exams_do_not_pass(tmp_path: Path, teacher: Path, asked_by: str) -> None:
    config = curation_config(tmp_path, teacher, write_jsonl(tmp_path / "a.jsonl", rows(6)))
    curate(config)
    leaked = data_rows(config)[2]["text"]
    item = {"question": leaked, "answer": "yes"}
    if asked_by == "data.heldout":
        path = write_jsonl(tmp_path / "heldout.jsonl", [rows(1, start=50)[0] | {"questions": [item]}])
        asked = {"data": config.data.model_copy(update={"heldout": (str(path),)})}
    else:
        spec = f"file:{write_jsonl(tmp_path / 'benchmark.jsonl', [item])}"
        value = (spec,) if asked_by == "evaluation.benchmarks" else spec
        asked = {"evaluation": config.evaluation.model_copy(update={asked_by.split(".")[1]: value})}
    output = config.curation.model_copy(update={"output": tmp_path / "checked"})
    checked = config.model_copy(update={"curation": output, **asked})
    curate(checked)
    assert "leak" in [r["reason"] for r in quarantine(checked) if r["source_row"] == 2]
    assert leaked not in [r["text"] for r in data_rows(checked)]


def test_an_original_that_holds_a_question_about_another_document_is_no_row(tmp_path: Path, teacher: Path) -> None:
    asked = {"question": "Who won the cup in 1911?", "answer": "Ann Bell", "split": "heldout"}
    about = write_jsonl(tmp_path / "heldout.jsonl", [rows(1, start=50)[0] | {"questions": [asked]}])
    texts = [f"{rows(1)[0]['text']} who won the cup in 1911 ann bell", rows(2)[1]["text"]]
    shard = write_jsonl(tmp_path / "a.jsonl", [{"text": text} for text in texts])
    config = curation_config(tmp_path, teacher, shard, keep_raw=1.0)
    curate(config.model_copy(update={"data": config.data.model_copy(update={"heldout": (str(about),)})}))
    assert [row["text"] for row in data_rows(config) if row["strategy"] == "raw"] == texts[1:]


def test_questions_written_for_training_do_not_pass(
    tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = curation_config(tmp_path, teacher, write_jsonl(tmp_path / "a.jsonl", rows(6)))
    bare = write_jsonl(tmp_path / "heldout.jsonl", rows(1, start=50))
    data = config.data.model_copy(update={"heldout": (str(bare),)})
    config = config.model_copy(update={"data": data, "questions": Questions(model="teacher")})
    curate(config)
    assert "1 documents without questions" in capsys.readouterr().err
    leaked, text = data_rows(config)[2]["text"], rows(1, start=50)[0]["text"]
    line = {
        "id": training_id(Shard(str(bare), bare.name), 0, text),
        "text_hash": item_hash(text),
        "dropped": [],
    }
    write_jsonl(questions_file(config), [line | {"questions": [{"question": leaked, "answer": "yes"}]}])
    with pytest.raises(UserError, match="benchmark_items"):
        curate(config)
    checked = config.model_copy(
        update={"curation": config.curation.model_copy(update={"output": tmp_path / "checked"})}
    )
    curate(checked)
    assert "leak" in [r["reason"] for r in quarantine(checked) if r["source_row"] == 2]
    assert leaked not in [r["text"] for r in data_rows(checked)]


def test_the_temperature_that_curation_samples_at(tmp_path: Path, teacher: Path) -> None:
    shard = write_jsonl(tmp_path / "a.jsonl", rows(6))
    greedy = curation_config(tmp_path, teacher, shard)
    curate(greedy)
    assert {row["temperature"] for row in data_rows(greedy)} == {0.0}
    # RL samples at 1.0; what curates does not, so it is the same run as the greedy one.
    trained_at = greedy.teacher.model_copy(update={"temperature": 1.0, "evaluation_temperature": 0.0})
    assert curate(greedy.model_copy(update={"teacher": trained_at})).resumed == 6
    own = curation_config(tmp_path, teacher, shard, temperature=0.7)
    with pytest.raises(UserError, match=r"teacher\.temperature: 0\.0 -> 0\.7"):
        curate(own.model_copy(update={"teacher": trained_at}))


def test_a_training_that_did_not_beat_the_teacher(
    tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = curation_config(tmp_path, teacher, write_jsonl(tmp_path / "a.jsonl", rows(4)))
    (config.run.dir / "teacher/checkpoint-0001").mkdir(parents=True)
    write_best(config.run.dir, 0, 0.5)
    summary = curate(config)
    assert summary.unbeaten and not summary.trained and summary.teacher == "tiny-teacher"
    assert "no round gained more than the untrained teacher in" in capsys.readouterr().err
    print_curation(summary)
    assert "(no round gained more than the untrained teacher)" in capsys.readouterr().out
    assert "than which no round of its training gained more" in (config.curation.output / "README.md").read_text(
        encoding="utf-8"
    )
    other = config.teacher.model_copy(update={"prompting": "strategy"})
    save_config(config.model_copy(update={"teacher": other}), config.run.dir / "config.yaml")
    with pytest.raises(UserError, match=r"trained another teacher \(teacher\.prompting: strategy -> policy\)"):
        curate(config)


def test_mistakes_are_one_line(tmp_path: Path, teacher: Path) -> None:
    good = write_jsonl(tmp_path / "a.jsonl", rows(6))
    empty = write_jsonl(tmp_path / "empty.jsonl", [])
    with pytest.raises(UserError, match=r"no such file: .*missing\.jsonl"):
        curate(curation_config(tmp_path, teacher, good, tmp_path / "missing.jsonl"))
    with pytest.raises(UserError, match=r"no documents in 1 input file \(empty.jsonl: empty\)"):
        curate(curation_config(tmp_path, teacher, empty))
    with pytest.raises(UserError, match=r"curation\.input names no shards"):
        curate(curation_config(tmp_path, teacher))
    with pytest.raises(UserError, match="would write the same text again: at most 1, or set"):
        curate(curation_config(tmp_path, teacher, good, rewrites_per_document=2))
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"chapter\.tex"):
        curate(curation_config(tmp_path, teacher, good, output="thesis"))
    assert os.listdir(tmp_path / "thesis") == ["chapter.tex"]


def test_another_config_is_refused_with_the_difference(tmp_path: Path, teacher: Path) -> None:
    shard = write_jsonl(tmp_path / "a.jsonl", rows(6))
    config = curation_config(tmp_path, teacher, shard)
    curate(config)
    before = data_bytes(config)
    with pytest.raises(UserError, match=r"teacher\.temperature: 0\.0 -> 0\.7"):
        curate(curation_config(tmp_path, teacher, shard, temperature=0.7))
    write_jsonl(shard, rows(7))
    with pytest.raises(UserError, match=r"input\.a\.jsonl"):
        curate(config)
    write_jsonl(shard, rows(6))
    # The same content under a new time stamp is the same run, and so is another number of workers.
    assert curate(curation_config(tmp_path, teacher, shard, workers=2)).resumed == 6
    assert data_bytes(config) == before


def test_a_run_in_which_nothing_passes_is_an_error(tmp_path: Path, teacher: Path) -> None:
    config = curation_config(tmp_path, teacher, write_jsonl(tmp_path / "a.jsonl", rows(6)))
    config = config.model_copy(update={"gates": config.gates.model_copy(update={"min_words": 99})})
    with pytest.raises(RunError, match=r"nothing is left of 6 documents: empty 6; the work is kept"):
        curate(config)
    assert not (config.curation.output / "data").exists()


def test_only_one_curation_writes_to_a_folder(tmp_path: Path, teacher: Path) -> None:
    config = curation_config(tmp_path, teacher, write_jsonl(tmp_path / "a.jsonl", rows(6)))
    lock = config.curation.output / ".notewright/lock"
    lock.parent.mkdir(parents=True)
    hold = f"import fcntl,time; f=open({str(lock)!r},'a'); fcntl.lockf(f,fcntl.LOCK_EX); "
    hold += "print('held',flush=True); time.sleep(3600)"
    other = subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another curation is writing"):
            curate(config)
    finally:
        other.kill()
        other.wait()
    assert curate(config).rows_out == 6


def test_shards_are_split_by_size_and_regrouped(tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "ROW_GROUP_ROWS", 5)
    config = curation_config(tmp_path, teacher, write_jsonl(tmp_path / "a.jsonl", rows(23)))
    real = pipeline.merge
    monkeypatch.setattr(pipeline, "merge", lambda *given, **more: real(*given[:-1], 2000, **more))
    curate(config)
    names = [shard["path"] for shard in manifest_of(config)["shards"]]
    assert len(names) > 1 and names == [f"data/train-{i:05d}-of-{len(names):05d}.parquet" for i in range(len(names))]
    assert sum(shard["rows"] for shard in manifest_of(config)["shards"]) == 23
    assert [row["source_row"] for row in data_rows(config)] == list(range(23))
    assert not list((config.curation.output / ".notewright").glob("merged*"))


COMMAND = """
import sys
from configs.load import load_config
from curation.pipeline.curate import curate
print(curate(load_config(sys.argv[1])))
"""


def processes_of(session: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except (OSError, ValueError):
            continue
        if entry.name.isdigit() and int(fields[3]) == session and fields[0] != "Z":
            found.append(int(entry.name))
    return found


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_kill_9_half_way_then_rerun(tmp_path: Path, teacher: Path, workers: int) -> None:
    inputs = [write_jsonl(tmp_path / f"in/{n}.jsonl", rows(80, start)) for n, start in (("a", 0), ("b", 500))]
    config, undisturbed = (
        curation_config(tmp_path, teacher, *inputs, output=name, workers=workers if name == "killed" else 1)
        for name in ("killed", "undisturbed")
    )
    # Long enough a batch that the kill falls into the middle of the work.
    slow = config.teacher.model_copy(update={"max_new_tokens": 60})
    config, undisturbed = (c.model_copy(update={"teacher": slow}) for c in (config, undisturbed))
    save_config(config, tmp_path / "config.yaml")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(tmp_path / "config.yaml")], env=environment, start_new_session=True
    )
    parts = config.curation.output / ".notewright/parts"
    there = happens(lambda: len(list(parts.glob("*/*.parquet"))) >= 12, alive=lambda: child.poll() is None)
    assert there, "ended or stalled before it could be killed"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    # At once: nobody waits for orphans.
    summary = curate(config)
    assert 12 * 4 <= summary.resumed < 160
    assert summary.documents_in == 160 == summary.rows_out + summary.quarantined
    assert Counter((r["source_file"], r["source_row"]) for r in [*data_rows(config), *quarantine(config)]) == {
        (path.name, row): 1 for path in inputs for row in range(80)
    }
    assert happens(lambda: not processes_of(child.pid)), "the killed run left processes behind"
    curate(undisturbed)
    assert data_bytes(config) == data_bytes(undisturbed)
    assert manifest_of(config) == manifest_of(undisturbed)


@pytest.mark.slow
def test_kill_9_of_one_worker_then_rerun(tmp_path: Path, teacher: Path) -> None:
    inputs = [write_jsonl(tmp_path / f"in/{n}.jsonl", rows(80, start)) for n, start in (("a", 0), ("b", 500))]
    config, again, undisturbed = (
        curation_config(tmp_path, teacher, *inputs, output=name, workers=workers)
        for name, workers in (("killed", 2), ("killed", 1), ("undisturbed", 1))
    )
    slow = config.teacher.model_copy(update={"max_new_tokens": 60})
    config, again, undisturbed = (c.model_copy(update={"teacher": slow}) for c in (config, again, undisturbed))
    save_config(config, tmp_path / "config.yaml")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", COMMAND, str(tmp_path / "config.yaml")]
    child = subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.PIPE, text=True)
    parts = config.curation.output / ".notewright/parts"
    try:
        there = happens(lambda: len(list(parts.glob("*/*.parquet"))) >= 6, alive=lambda: child.poll() is None)
        assert there, "ended or stalled before it could be killed"
        # The workers are those that say they were spawned to work; the other child keeps track of resources.
        spawned = [pid for pid in processes_of(child.pid) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        os.kill(spawned[0], signal.SIGKILL)
        # datatrove's own pool would wait for ever.
        _, errors = child.communicate(timeout=PATIENCE)
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
    assert child.returncode != 0 and "RunError: a worker process died" in errors
    # With one worker, which is the same run: two more would be spawned for seconds.
    summary = curate(again)
    assert 0 < summary.resumed < 160
    curate(undisturbed)
    assert data_bytes(config) == data_bytes(undisturbed)
    assert manifest_of(config) == manifest_of(undisturbed)


def test_full_disk(tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = curation_config(tmp_path, teacher, write_jsonl(tmp_path / "a.jsonl", rows(40)))
    real, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(dataset.os, "fsync", full)
        with pytest.raises(
            RunError, match=r"the disk is full at .*: 20 documents are finished and kept in .*run the same"
        ):
            curate(config)
    assert not (config.curation.output / "manifest.json").exists()
    summary = curate(config)
    assert (summary.resumed, summary.rows_out) == (20, 40)


def test_full_disk_for_real(tmp_path: Path, teacher: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(small)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("may not mount a small tmpfs here")
    try:
        config = curation_config(tmp_path, teacher, write_jsonl(tmp_path / "a.jsonl", rows(80)), output="small/dataset")
        with pytest.raises(RunError, match=r"the disk is full at .*: [1-9][0-9]* documents are finished"):
            curate(config)
        subprocess.run(["mount", "-o", "remount,size=8m", str(small)], check=True)
        summary = curate(config)
        assert summary.resumed > 0 and summary.rows_out == 80
        assert [row["source_row"] for row in data_rows(config)] == list(range(80))
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)
