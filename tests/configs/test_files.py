"""Files that appear whole, grow by whole lines, and are locked."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from configs.errors import UserError
from configs.files import append_whole, drop_torn_line, locked, read_json_lines

HOLD = """
import sys, time
from pathlib import Path
from configs.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(3600)
"""


def test_a_lock_keeps_out_other_processes_until_its_own_dies(tmp_path):
    path = tmp_path / "folder" / "lock"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    holder = subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE, text=True, env=environment)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    try:
        with pytest.raises(BlockingIOError), locked(path):
            pass
    finally:
        holder.kill()
        holder.wait()
    with locked(path):
        pass


def test_a_lock_keeps_out_its_own_process_too(tmp_path):
    path = tmp_path / "lock"
    for _ in range(2):
        with locked(path):
            with pytest.raises(UserError, match="mine"), locked(path, wait=True, if_taken=UserError("mine")):
                pass
            # A forked child holds nothing, and is kept out by the kernel.
            child = os.fork()
            if not child:
                try:
                    with locked(path):
                        os._exit(1)
                except BlockingIOError as error:
                    os._exit(0 if error.errno else 2)
            assert os.waitpid(child, 0)[1] == 0


def test_lines_are_added_whole_and_torn_ones_dropped(tmp_path):
    path = tmp_path / "lines.jsonl"
    append_whole(path, b'{"a": 1}\n{"a": 2}\n')
    append_whole(path, b'{"a": 3', sync=False)
    assert [line["a"] for line in read_json_lines(path)] == [1, 2]
    assert (drop_torn_line(path), drop_torn_line(path)) == (7, 0)
    append_whole(path, b'{"a": 4}\n')
    assert [line["a"] for line in read_json_lines(path)] == [1, 2, 4]
