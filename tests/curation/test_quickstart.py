"""The quickstart: what it leaves behind, and that no call ever writes over another one's results."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from configs.load import load_config, save_config
from configs.schema import Config
from curation import quickstart
from curation.cli import main
from curation.pipeline.curate import CurateSummary
from curation.quickstart import SUMMARY, fresh_run
from student.statistics.intervals import estimate
from teacher.training.summary import TrainSummary


def config_in(folder: Path, **rl) -> Config:
    sections = {"run": {"dir": folder / "run"}, "curation": {"output": folder / "run" / "dataset"}, "rl": rl}
    return Config.model_validate(sections)


def begin(config: Config, *, finish: bool) -> None:
    save_config(config, config.run.dir / "config.yaml")
    if finish:
        (config.run.dir / SUMMARY).write_text("{}")


def test_a_finished_run_is_never_written_over(tmp_path):
    first = fresh_run(config_in(tmp_path))
    assert first == config_in(tmp_path)
    begin(first, finish=True)
    second = fresh_run(config_in(tmp_path))
    assert second.run.dir == tmp_path / "run-2" and second.curation.output == tmp_path / "run-2" / "dataset"
    begin(second, finish=True)
    assert fresh_run(config_in(tmp_path)).run.dir == tmp_path / "run-3"


def test_an_unfinished_run_is_resumed_by_its_own_config_alone(tmp_path):
    begin(config_in(tmp_path), finish=False)
    assert fresh_run(config_in(tmp_path)).run.dir == tmp_path / "run"
    assert fresh_run(config_in(tmp_path, rounds=7)).run.dir == tmp_path / "run-2"


def test_a_folder_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "run").mkdir()
    assert fresh_run(config_in(tmp_path)).run.dir == tmp_path / "run-2"


def test_an_output_elsewhere_stays_where_it_is(tmp_path):
    config = Config.model_validate({"run": {"dir": tmp_path / "run"}, "curation": {"output": tmp_path / "elsewhere"}})
    begin(config, finish=True)
    assert fresh_run(config).curation.output == tmp_path / "elsewhere"


def test_a_training_that_no_round_won_is_told(tmp_path, monkeypatch, capsys):
    """Such a training cannot be had at will."""
    config = config_in(tmp_path)
    training = TrainSummary(
        algorithm="rest_em", rounds=2, best_round=0, reward_first=estimate([0.1, 0.2]),
        reward_last=estimate([0.2, 0.3]), heldout={}, differences={}, strategies_first={"copy": 1.0},
        strategies_last={"copy": 1.0}, examples=[], students=40, student_runs=36, seconds=1.0, checkpoint=None,
    )  # fmt: skip
    curation = CurateSummary(
        output=config.curation.output, teacher="tiny", trained=False, unbeaten=True, documents_in=3, documents_out=3,
        filtered=0, quarantined=0, failed=0, rows_out=3, tokens_out=30, shards=1, resumed=0, seconds=1.0,
    )  # fmt: skip
    steps = {"build_lab": None, "train_from_config": training, "curate": curation, "write_report": Path("report.html")}
    for name, result in steps.items():
        monkeypatch.setattr(quickstart, name, lambda *_, result=result, **__: result)
    config.run.dir.mkdir()
    save_config(config, config.run.dir / "config.yaml")
    figures = quickstart.run_quickstart(config)
    assert (figures["best_round"], figures["trained"], figures["student_runs"]) == (0, False, 36)
    out = capsys.readouterr().out
    assert "as it is: no round gained more" in out and "no round gained more than the untrained teacher" in out


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_whole_job_and_again(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("lab.yaml").write_text(
        """
        run: {dir: runs/lab}
        lab: {dir: lab, effort: 0.02, base_people: 16, train_people: 8, heldout_people: 8, curate_people: 8}
        data: {train: [lab/shards/train.jsonl], heldout: [lab/shards/heldout.jsonl]}
        student: {model: lab/student-fixed, lora: {rank: 4, alpha: 8}, steps: 3}
        teacher: {model: lab/teacher, prompting: policy, lora: null, max_new_tokens: 32,
                  strategies: [copy, permuted, question-answer]}
        gates: {min_words: 1, max_repetition: 1.0}
        rl: {algorithm: grpo, rounds: 1, documents_per_round: 8, group_size: 2, learning_rate: 1.0e-3}
        curation: {input: [lab/shards/curate.jsonl], output: runs/lab/dataset}
        """
    )
    assert main(["quickstart", "lab.yaml"]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    gains = {f"heldout_gain_{arm}" for arm in ("raw", "untrained", "trained")}
    assert {"reward_first", "reward_last", "documents_in", "rows_out", "seconds", *gains} <= figures.keys()
    assert figures["trained"] and 0 < figures["student_runs"] <= figures["students"]
    assert figures["documents_in"] == 8
    assert figures["rows_out"] == pq.read_table("runs/lab/dataset/data").num_rows
    assert json.loads(Path("runs/lab", SUMMARY).read_text()) == figures
    journal = [json.loads(line) for line in Path("runs/lab/journal/metrics.jsonl").read_text().splitlines()]
    heldout = {line["arm"]: line["gain/mean"] for line in journal if line["kind"] == "heldout"}
    assert {f"heldout_gain_{arm}": pytest.approx(gain, abs=1e-4) for arm, gain in heldout.items()} == {
        name: figures[name] for name in gains
    }
    assert "<html" in Path("runs/lab/report.html").read_text()
    assert load_config("runs/lab/config.yaml").rl.rounds == 1

    kept = {path: path.stat().st_mtime_ns for path in Path().rglob("*") if path.is_file()}
    assert main(["quickstart", "lab.yaml"]) == 0
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    # The same seed gives the same run, in a folder of its own, from the lab that was there.
    assert again["reward_last"] == figures["reward_last"] and Path("runs/lab-2/report.html").is_file()
    assert [path for path, time in kept.items() if path.stat().st_mtime_ns != time and path.name != ".lock"] == []
