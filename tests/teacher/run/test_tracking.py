import struct
import subprocess
import sys

import pytest

from configs.files import read_json_lines
from teacher.run.journal import Journal
from teacher.run.tracking import Tracker
from tests.processes import happens


def test_metrics_are_always_written_and_wandb_is_not_imported_when_disabled(tmp_path):
    program = (
        "import sys; from pathlib import Path; from configs.schema import Config, Run\n"
        "from teacher.run.journal import Journal; from teacher.run.tracking import Tracker\n"
        f"config = Config(run=Run(dir=Path({str(tmp_path)!r})))\n"
        "with Journal(config.run.dir) as journal, Tracker(config, journal) as tracker:\n"
        "    tracker.log('step', 1, {'reward/mean': 0.5}, step=1)\n"
        "assert 'wandb' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    [record] = read_json_lines(tmp_path / "journal" / "metrics.jsonl")
    assert (record["kind"], record["round"], record["step"], record["reward/mean"]) == ("step", 1, 1, 0.5)


def read_wandb_file(path):
    """Records of a .wandb file: a 7-byte header, then LevelDB's log format (blocks of 32 KiB, fragments with CRC)."""
    content, place, records, parts = path.read_bytes(), 7, [], b""
    assert content[:4] == b":W&B"
    while place + 7 <= len(content):
        room = 32768 - place % 32768
        if room < 7:
            place += room
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        if place + 7 + length > len(content):
            break  # still being written
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or its last fragment
            records.append(parts)
            parts = b""
    return records


def test_wandb_offline_leaves_a_run_that_parses(make_config, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB__SERVICE_WAIT", "600")  # its process starts slowly on a busy machine
    for name in ("CONFIG", "CACHE", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / name))
    config = make_config(tracking={"wandb": "offline", "project": "lab"})
    with Journal(config.run.dir) as journal, Tracker(config, journal) as tracker:
        tracker.log("step", 1, {"reward/mean": 0.25, "strategy/copy": 1.0}, step=1)
        tracker.log("heldout", 1, {"gain/mean": 0.75}, arm="trained")
        tracker.log("heldout", 1, {"gain/mean": 0.99}, arm="trained")  # a repeat is mirrored no more than it is written
    [file] = (config.run.dir / "wandb").glob("offline-run-*/run-*.wandb")
    history, projects = {}, set()

    def is_written() -> bool:
        """wandb's process may write the last records after it has answered that the run is finished."""
        for data in read_wandb_file(file):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "history":
                history.update({"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item})
            if record.WhichOneof("record_type") == "run":
                projects.add(record.run.project)
        return "reward/mean" in history and "heldout/trained/gain/mean" in history

    assert happens(is_written)
    assert history["reward/mean"] == "0.25"
    assert history["heldout/trained/gain/mean"] == "0.75"
    assert projects == {"lab"}
