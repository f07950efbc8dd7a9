"""What a run will take: counted, measured or assumed, and held against what runs then took."""

import gzip
import json
from pathlib import Path

import pytest
from rich.console import Console

from configs.errors import UserError
from configs.schema import Config
from curation.cli import main
from curation.corpus.finding import find_shards
from curation.pipeline.curate import curate
from curation.plan import corpus as plan_corpus
from curation.plan.corpus import survey_corpus
from curation.plan.plan import as_json, figures, make_plan, print_plan, with_range
from curation.plan.quantity import Quantity, exact
from curation.plan.training import count_students
from tests.curation.datasets import curation_config, manifest_of, rows, sentences, write_jsonl
from tests.curation.pipeline.test_echo import CONFIG, echo_config


def quiet(_: str) -> None: ...


def test_small_files_are_counted(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", rows(30))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    shards = find_shards((str(tmp_path),))
    found = survey_corpus(shards, None, 20)
    assert found.documents == exact(60, "counted") and found.files == found.files_read == 2 and len(found.sample) == 20
    assert len({document.id for document in found.sample}) == 20
    assert (
        survey_corpus(shards, 10, 50).documents == exact(20, "counted")
        and len(survey_corpus(shards, 10, 50).sample) == 20
    )
    (tmp_path / "c.jsonl").write_text("")
    with pytest.raises(UserError, match="no documents in 1 of 1 input files"):
        survey_corpus(find_shards((str(tmp_path / "c.jsonl"),)), None, 5)


@pytest.mark.parametrize("packed", [False, True])
def test_the_rest_of_large_files_is_extrapolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool) -> None:
    for index in range(6):
        content = "".join(json.dumps({"text": sentences(i + index, 10 + i % 7)}) + "\n" for i in range(2000))
        name = f"{index}.jsonl" + ".gz" * packed
        data = content.encode()
        (tmp_path / name).write_bytes(gzip.compress(data, 1) if packed else data)
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    monkeypatch.setattr(plan_corpus, "FILE_BYTES", size // 12)
    monkeypatch.setattr(plan_corpus, "ALL_BYTES", size // 4)
    found = survey_corpus(find_shards((str(tmp_path),)), None, 50)
    assert found.files == 6 and 3 <= found.files_read < 6 and found.documents.how == "extrapolated"
    assert found.documents.value == pytest.approx(12_000, rel=0.1)
    assert found.documents.low <= found.documents.value <= found.documents.high
    assert found.bytes == size and len(found.sample) == 50


def test_a_curation_ends_within_the_planned_intervals(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in/a.jsonl", [*rows(60), *({"text": f"key AKIAIOSFODNN7EXAMPL{i}"} for i in "ABCDEFGHIJ")])
    config = echo_config(tmp_path / "in", tmp_path / "out", "curation.filters.secrets=true")
    found = make_plan(config, progress=quiet)
    assert found.train is None and found.curate is not None and not (tmp_path / "out").exists()
    planned = figures(found.curate or ())
    assert planned["documents"] == exact(70, "counted")
    curate(config)
    manifest = manifest_of(config)
    assert planned["documents_written"].low <= manifest["rows"] <= planned["documents_written"].high
    assert planned["tokens_out"].low <= manifest["tokens"] <= planned["tokens_out"].high
    assert (
        planned["documents_written"].value == pytest.approx(60, rel=0.1)
        and planned["pipeline"].past_filters.how == "measured"
    )
    assert planned["gpu_hours"] is None and planned["hours_here"] is not None and planned["hours_here"].value < 0.01
    assert not any("assumed for" in note for note in found.notes), "no GPU is assumed where none writes"
    written = sum(shard["bytes"] for shard in manifest["shards"]) / 1e9
    assert written / 3 < planned["dataset_gb"].value < 3 * written


def test_a_teacher_on_this_machine_is_measured(tmp_path: Path, teacher: Path) -> None:
    source = write_jsonl(tmp_path / "in/a.jsonl", rows(40))
    config = curation_config(tmp_path, teacher, source, keep_raw=0.5)
    found = make_plan(config, price=2.0, progress=quiet)
    planned = figures(found.curate or ())
    assert planned["teacher"].parameters is not None
    assert planned["teacher"].rewrites_measured >= 2 and planned["teacher"].tokens_per_second
    # It never ends by itself: every rewrite has max_new_tokens words.
    assert planned["teacher"].rewrite_tokens.value == pytest.approx(12, abs=0.5)
    assert planned["teacher"].source_tokens.value == 12
    assert planned["tokens_written"].value == pytest.approx(40 * 12, rel=0.05)
    assert planned["gpu_hours"] is not None and planned["gpu_hours"].how == "assumed" and planned["gpus_at_least"] == 1
    assert planned["dollars"] is not None and planned["dollars"].value == pytest.approx(2 * planned["gpu_hours"].value)
    curate(config)
    tokens = manifest_of(config)["tokens"]
    assert planned["tokens_out"].value == pytest.approx(tokens, rel=0.25)
    assert planned["dollars_per_billion"] is not None
    assert planned["dollars_per_billion"].value == pytest.approx(
        planned["dollars"].value / planned["tokens_out"].value * 1e9, rel=0.05
    )


def test_notes_say_what_is_assumed_of_a_missing_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    source = write_jsonl(tmp_path / "in/a.jsonl", rows(40))
    config = curation_config(tmp_path, Path("nobody/writer-7B"), source)
    found = make_plan(config, device="a100-80gb", price=1.5, progress=quiet)
    planned = figures(found.curate or ())
    assert planned["teacher"].parameters == exact(7e9, "assumed")
    assert planned["hours_here"] is None and planned["gpu_hours"] is not None
    notes = " ".join(found.notes)
    assert "7e+09 parameters by its name" in notes and "was not run" in notes and "4 characters a token" in notes
    larger = make_plan(config, device="l4", parameters=70e9, progress=quiet).curate
    assert figures(larger or ())["gpus_at_least"] == 7 and figures(larger or ())["dollars"] is None
    with pytest.raises(UserError, match="a100-40gb"):
        make_plan(config, device="a100-40", progress=quiet)


def test_a_config_with_nothing_to_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing to plan: name curation\.input, or data\.train"):
        make_plan(Config(), progress=quiet)
    write_jsonl(tmp_path / "in/a.jsonl", rows(20))
    config = echo_config(tmp_path / "in", tmp_path / "out", "curation.filters.languages=[zh]")
    with pytest.raises(UserError, match="the filters leave none of 20 sampled documents"):
        make_plan(config, progress=quiet)


@pytest.mark.parametrize(
    ("changes", "a_round", "total"),
    [
        # 8 documents share a student: 2 batches x 4 lessons, and one batch of 8 documents once more for the noise.
        ({"rl": {"rounds": 2}}, 8 + 4, 2 * 12 + 3 * 1 * 2),
        ({"rl": {"rounds": 2}, "reward": {"repeats": 3}}, 24, 2 * 24 + 3 * 1 * 2),
        ({"rl": {"rounds": 2, "evaluation_lessons": 3}}, 8 + 4, 2 * 12 + 3 * 1 * 3),
        ({"rl": {"rounds": 1}, "reward": {"credit": "document", "repeats": 2}}, 16 * 4 * 2, 128 + 3 * 6 * 2),
        ({"rl": {"rounds": 1}, "student": {"models": ["a", "b"]}}, 24, 24 + 2 * 3 * 1 * 2),
    ],
)
def test_students_are_counted(changes: dict, a_round: int, total: int) -> None:
    given = {"rl": {"documents_per_round": 16, "group_size": 4}, "reward": {"documents_per_student": 8}}
    config = Config.model_validate({**changes, **{k: v | changes.get(k, {}) for k, v in given.items()}})
    found = count_students(config, 16, 6)
    assert (found.a_round, found.total) == (a_round, total)
    apart = config.model_copy(update={"rl": config.rl.model_copy(update={"validation_documents": 16})})
    with pytest.raises(UserError, match="sets 16 of 16 documents apart"):
        count_students(apart, 16, 6)


def test_the_verb_prints_a_table_or_json_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_jsonl(tmp_path / "in/a.jsonl", rows(50))
    given = ["plan", str(CONFIG), f"curation.input={tmp_path / 'in'}", f"curation.output={tmp_path / 'out'}"]
    assert main([*given, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["curate"]["documents"] == {"value": 50, "low": 50, "high": 50, "how": "counted"}
    assert found["train"] is None and found["device"]["name"] == "h100"
    assert main(given) == 0
    shown = capsys.readouterr().out
    assert "documents" in shown and "counted" in shown and "kB" in shown and "e-0" not in shown
    assert not (tmp_path / "out").exists() and sorted(p.name for p in tmp_path.iterdir()) == ["in"]


def test_a_quantity_shows_its_range() -> None:
    assert with_range(exact(3)) == "3" and with_range(Quantity(3, 2, 5, "measured")) == "3 (2 to 5)"


def test_a_whole_experiment_is_planned(tmp_path: Path, teacher: Path) -> None:
    asked = [r | {"questions": [{"question": "where", "answer": "ban"}]} for r in rows(12)]
    train = write_jsonl(tmp_path / "train.jsonl", asked)
    config = curation_config(tmp_path, teacher, write_jsonl(tmp_path / "in/a.jsonl", rows(10)))
    config = Config.model_validate(
        config.model_dump()
        | {"data": {"train": [str(train)]}, "student": {"model": str(teacher), "steps": 3, "device": "cpu",
           "lora": {"rank": 2}}, "rl": {"rounds": 2, "documents_per_round": 12, "group_size": 2}}
    )  # fmt: skip
    found = make_plan(config, progress=quiet)
    assert found.curate is not None
    planned = figures(found.train or ())
    assert planned["documents"] == 12 and planned["runs"].a_round > 0
    [student] = planned["students"]
    assert student.seconds_here is not None and student.seconds_here.value > 0 and student.steps == 3
    assert planned["hours_here"] is not None and planned["gpu_hours"] is not None
    json.dumps(as_json(found), allow_nan=False)
    print_plan(found, Console(width=100))
