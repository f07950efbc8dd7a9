"""`notewright score`: gains of rewrites in a file; a kill loses nothing, and another call mixes nothing in."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from configs.errors import RunError, UserError
from configs.load import save_config
from configs.schema import Config, Lora, Reward, Run, Student
from curation.scoring.score import output_row, run_score
from student.pools.inline import InlinePool
from student.records import Answer, Outcome
from tests.processes import happens
from tests.student.conftest import build, tokenizer  # noqa: F401

ROOT = Path(__file__).parents[3]
SETTINGS = Student(lora=Lora(rank=4, alpha=8), learning_rate=2e-2, steps=12)
CAT = {
    "id": "cat",
    "title": "a cat",
    "text": "the cat sat on the mat .",
    "questions": [
        {"question": "where did the cat sat ?", "answer": "mat"},
        {"question": "what sat on the mat ?", "answer": "the cat"},
    ],
    "rewrites": ["where did the cat sat ? mat . what sat on the mat ? the cat .", "it was it was it was"],
}
DOG = CAT | {"id": "dog", "text": "the dog ran over the rug .", "rewrites": ["the dog ran"]}


class Counting:
    """A real pool that counts what it trains, and stops where it is told to."""

    def __init__(self, pool, stop_after=None):
        self.pool, self.stop_after, self.students = pool, stop_after, 0
        self.fingerprint, self.at_once = pool.fingerprint, pool.at_once

    def examine(self, jobs, on_done=None):
        if self.stop_after is not None and self.students >= self.stop_after:
            raise KeyboardInterrupt
        self.students += len(jobs)
        return self.pool.examine(jobs)


@pytest.fixture
def pool(tokenizer):  # noqa: F811
    return InlinePool(SETTINGS, model=build("llama"), tokenizer=tokenizer)


@pytest.fixture
def config():
    return Config(student=SETTINGS)


def write(path, *rows):
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def many(count, start=0):
    return [CAT | {"id": f"cat-{i}", "text": CAT["text"] * (1 + i % 3)} for i in range(start, start + count)]


def test_every_rewrite_and_the_raw_text_has_its_line(tmp_path, pool, config):
    output = tmp_path / "out.jsonl"
    assert run_score(write(tmp_path / "in.jsonl", CAT, DOG), config, output, pool) == 0
    rows = read(output)
    assert [(row["id"], row["rewrite"]) for row in rows] == [
        ("cat", "raw"), ("cat", 0), ("cat", 1), ("dog", "raw"), ("dog", 0),
    ]  # fmt: skip
    assert " ".join(rows[0]) == (
        "id rewrite gain gain_se gains accuracy_before accuracy_after loglik_before loglik_after error"
    )
    answers, filler = rows[1], rows[2]
    assert answers["gain"] > filler["gain"] + 1
    assert answers["accuracy_after"] > filler["accuracy_after"] == 0.0 and answers["error"] is None
    for row in rows:
        assert row["gain"] == pytest.approx(row["loglik_after"] - row["loglik_before"], abs=1e-5)
        assert row["gain_se"] >= 0 and row["gains"] == {"loglik": row["gain"]}
    assert not (tmp_path / "out.rejects.jsonl").exists()


def test_every_measure_is_told_and_a_line_without_distractors_is_rejected(tmp_path, pool):
    config = Config(student=SETTINGS, reward=Reward(measure="contrast"))
    told = CAT | {"questions": [question | {"distractors": ["the sea"]} for question in CAT["questions"]]}
    alone = DOG | {"questions": DOG["questions"][:1]}
    output = tmp_path / "out.jsonl"
    assert run_score(write(tmp_path / "in.jsonl", told, alone), config, output, pool) == 1
    answers, filler = read(output)[1:]
    assert set(answers["gains"]) == {"loglik", "contrast", "choice"} and answers["gain"] == answers["gains"]["contrast"]
    assert answers["gain"] > filler["gain"]
    [rejected] = read(tmp_path / "out.rejects.jsonl")
    assert "contrast cannot be told" in rejected["reason"]


def test_the_standard_error_is_over_repeats_where_there_are_some(tmp_path, pool):
    config = Config(student=SETTINGS, reward=Reward(repeats=3))
    counting = Counting(pool)
    run_score(write(tmp_path / "in.jsonl", CAT), config, tmp_path / "out.jsonl", counting)
    assert counting.students == 9
    answers = tuple(
        Answer(loglik_before=-4.0, loglik_after=after, correct_before=False, correct_after=True)
        for after in (-3.0, -1.0)
    )
    outcomes = [Outcome(gain=gain, answers=answers) for gain in (1.0, 2.0, 3.0)]
    assert output_row("cat", 0, outcomes, "loglik")["gain_se"] == pytest.approx(1 / 3**0.5)
    assert output_row("cat", 0, outcomes[1:2], "loglik")["gain_se"] == pytest.approx(1.0)


def test_a_failed_student_is_a_row_with_its_error(tmp_path, pool, config):
    class Failing(Counting):
        def examine(self, jobs, on_done=None):
            outcomes = super().examine(jobs)
            return [outcomes[0], Outcome(gain=None, error="the loss is not finite"), *outcomes[2:]]

    output = tmp_path / "out.jsonl"
    assert run_score(write(tmp_path / "in.jsonl", CAT), config, output, Failing(pool)) == 1
    rows = read(output)
    assert rows[1]["error"] == "the loss is not finite"
    assert rows[1]["gain"] is rows[1]["accuracy_after"] is None
    assert rows[0]["error"] is rows[2]["error"] is None
    # Nothing is left to do, and the exit status still says that a gain is missing.
    assert run_score(tmp_path / "in.jsonl", config, output, Counting(pool, stop_after=0)) == 1
    half = output_row("cat", 0, [Outcome(gain=1.0), Outcome(gain=None, error="out of memory")], "loglik")
    assert half["gain"] == 1.0 and half["error"] == "1 of 2 students failed: out of memory"


def test_malformed_lines_are_named_and_kept_apart(tmp_path, pool, config, capsys):
    bad = [
        b"{not json",
        b"[1, 2]",
        b'{"id": "x", "text": "caf\xe9"}',
        {k: v for k, v in CAT.items() if k != "id"},
        CAT | {"id": "no questions", "questions": []},
        CAT | {"id": "no answer", "questions": [{"question": "who ?"}]},
        CAT | {"id": "rewrites", "rewrites": "one text"},
        CAT | {"id": "empty", "rewrites": [" "]},
        CAT | {"id": "half a pair \ud800"},
        CAT,
    ]
    source = write(tmp_path / "in.jsonl", CAT, b"", *bad, DOG)
    output = tmp_path / "out.jsonl"
    assert run_score(source, config, output, pool) == 1
    assert {row["id"] for row in read(output)} == {"cat", "dog"}
    rejects = read(tmp_path / "out.rejects.jsonl")
    assert [reject["line"] for reject in rejects] == list(range(3, 13))
    for reject, words in zip(
        rejects,
        ["not JSON", "not an object", "not UTF-8", "`id`", "`questions`", "`answer`", "`rewrites`", "`rewrites`",
         "surrogate", "earlier line"],
        strict=True,
    ):  # fmt: skip
        assert words in reject["reason"]
    assert "line 3: not JSON" in " ".join(capsys.readouterr().err.split())


def test_nothing_valid_trains_nobody(tmp_path, pool, config):
    source = write(tmp_path / "in.jsonl", b"{", b"[]")
    with pytest.raises(UserError, match=r"in\.jsonl: no line holds .* \(line 1: not JSON"):
        run_score(source, config, tmp_path / "out.jsonl", Counting(pool, stop_after=0))
    assert len(read(tmp_path / "out.rejects.jsonl")) == 2
    with pytest.raises(UserError, match=r"none\.jsonl: no line holds"):
        run_score(write(tmp_path / "none.jsonl"), config, tmp_path / "out2.jsonl", pool)
    with pytest.raises(UserError, match="no such file"):
        run_score(tmp_path / "missing.jsonl", config, tmp_path / "out.jsonl", pool)
    with pytest.raises(UserError, match="input itself"):
        run_score(source, config, source, pool)


def test_a_stopped_run_goes_on_and_trains_nobody_twice(tmp_path, pool, config):
    source = write(tmp_path / "in.jsonl", *many(30))
    whole, parts = tmp_path / "whole.jsonl", tmp_path / "parts.jsonl"
    run_score(source, config, whole, pool)
    with pytest.raises(KeyboardInterrupt):
        run_score(source, config, parts, Counting(pool, stop_after=60))
    first = len(read(parts))
    assert 0 < first < 90
    # A row and a half of a document that was not finished, as a kill leaves them.
    with parts.open("a") as file:
        file.write(whole.read_text().splitlines()[first] + '\n{"id": "cat-')
    rest = Counting(pool)
    assert run_score(source, config, parts, rest) == 0
    assert rest.students == 90 - first
    assert len(read(parts)) == 90
    for row, other in zip(read(whole), read(parts), strict=True):
        assert (row["id"], row["rewrite"]) == (other["id"], other["rewrite"])
        assert row["gain"] == pytest.approx(other["gain"], abs=1e-4)
    # More documents later are added; the finished ones stay as they are.
    before = parts.read_bytes()
    assert run_score(write(source, *many(31)), config, parts, more := Counting(pool)) == 0
    assert more.students == 3 and parts.read_bytes().startswith(before)


def test_an_output_of_another_call_is_refused(tmp_path, pool, config):
    source, output = write(tmp_path / "in.jsonl", CAT), tmp_path / "out.jsonl"
    run_score(source, config, output, pool)
    before = output.read_bytes()
    with pytest.raises(UserError, match="repeats: 1 -> 2"):
        run_score(source, Config(student=SETTINGS, reward=Reward(repeats=2)), output, pool)
    with pytest.raises(UserError, match="has changed"):
        run_score(write(tmp_path / "other.jsonl", CAT | {"text": "a dog ran ."}), config, output, pool)
    with pytest.raises(UserError, match="no document of the input"):
        run_score(write(tmp_path / "dog.jsonl", DOG), config, output, pool)
    (tmp_path / "out.state.json").unlink()
    with pytest.raises(UserError, match="does not say what made it"):
        run_score(source, config, output, pool)
    assert output.read_bytes() == before


def test_two_processes_never_write_one_output(tmp_path, pool, config):
    lock = tmp_path / "out.lock"
    hold = f"import fcntl,time; f=open({str(lock)!r},'a'); fcntl.lockf(f,fcntl.LOCK_EX); "
    hold += "print('held',flush=True); time.sleep(3600)"
    with subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None and other.stdout.readline() == "held\n"
            with pytest.raises(RunError, match="another process"):
                run_score(write(tmp_path / "in.jsonl", CAT), config, tmp_path / "out.jsonl", pool)
        finally:
            other.kill()


def test_a_full_disk_is_one_line_and_keeps_what_was_done(tmp_path, pool, config):
    source, output = write(tmp_path / "in.jsonl", *many(3)), tmp_path / "out.jsonl"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (900, hard))
    try:
        with pytest.raises(RunError, match=r"cannot write .*the same call goes on"):
            run_score(source, config, output, pool)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert output.stat().st_size == 0, "no line is torn"
    assert run_score(source, config, output, pool) == 0
    assert len(read(output)) == 9


def test_kill_9_loses_at_most_one_batch(tmp_path, tokenizer, config):  # noqa: F811
    model = tmp_path / "model"
    build("llama").save_pretrained(model)
    tokenizer.save_pretrained(model)
    config = Config(student=SETTINGS.model_copy(update={"model": str(model), "device": "cpu"}), run=Run(dir=tmp_path))
    save_config(config, tmp_path / "config.yaml")
    source, output = write(tmp_path / "in.jsonl", *many(400)), tmp_path / "out.jsonl"
    call = (
        "from pathlib import Path; from configs.load import load_config; "
        "from curation.scoring.score import run_score;"
        f"run_score(Path({str(source)!r}), load_config({str(tmp_path / 'config.yaml')!r}), Path({str(output)!r}))"
    )
    process = subprocess.Popen([sys.executable, "-c", call], cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"})
    begun = happens(lambda: output.exists() and output.stat().st_size, alive=lambda: process.poll() is None)
    assert begun and process.poll() is None, "the process ended by itself"
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = [json.loads(line) for line in output.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    assert 0 < len(kept) < 1200
    short = write(tmp_path / "short.jsonl", *many(max(3, len(kept) // 3 + 3)))
    counting = Counting(InlinePool(config.student))
    assert run_score(short, config, output, counting) == 0
    rows = read(output)
    assert len({(row["id"], row["rewrite"]) for row in rows}) == len(rows) == 3 * len(read(short))
    assert counting.students <= 9 + 2
    finished = len(kept) // 3 * 3
    assert rows[:finished] == kept[:finished]
