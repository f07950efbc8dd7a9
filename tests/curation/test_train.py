"""What a training run looks at before it begins: documents with and without questions, and models."""

import json
from pathlib import Path

import pytest

from configs.errors import UserError
from configs.load import load_config
from configs.schema import Config, Lab
from configs.seeds import item_hash
from curation.corpus.finding import Shard
from curation.corpus.question_preview import print_questions
from curation.corpus.training_data import read_documents, training_id
from curation.lab.build import build_lab
from curation.study.groups import read_groups
from curation.train import train_from_config
from teacher.questions.cache import ensure_questions, questions_file, read_questions
from teacher.questions.quality import table_file
from tests.curation.datasets import rows, write_jsonl


@pytest.fixture
def config(tmp_path, teacher) -> Config:
    """Documents without questions, and a teacher that writes no sentence."""
    shard = write_jsonl(tmp_path / "documents.jsonl", rows(4))
    return Config.model_validate(
        {
            "run": {"dir": tmp_path / "run"},
            "data": {"train": [str(shard)]},
            "teacher": {"model": str(teacher), "prompting": "policy", "max_new_tokens": 12, "device": "cpu"},
            "student": {"model": str(teacher), "device": "cpu"},
            "questions": {"model": "teacher"},
        }
    )


def with_(config: Config, **sections) -> Config:
    changed = {name: getattr(config, name).model_dump() | values for name, values in sections.items()}
    return Config.model_validate(config.model_dump() | changed)


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"questions": {"model": ""}}, r"4 without questions; set questions\.model"),
        ({"questions": {"model": "models/none"}}, r"questions\.model 'models/none'"),
        ({"teacher": {"model": "models/none"}}, r"teacher\.model 'models/none'"),
        ({"student": {"model": "", "models": ["teacher", "models/none"]}}, r"student\.models 'models/none'"),
        ({"data": {"train": ["gone.jsonl"]}}, r"gone\.jsonl"),
    ],
)
def test_a_mistake_is_named_before_anything_is_written(config, sections, said):
    with pytest.raises(UserError, match=said):
        train_from_config(with_(config, **sections))
    assert not config.run.dir.exists()


def test_questions_that_were_written_serve_the_reliability_too(config, tmp_path):
    # The second document brings its own rewrites' questions; the first has those of the file.
    asked = [{"question": "Who?", "answer": "She"}]
    made = [row | {"rewrites": ["one text", "another text"]} for row in rows(2)]
    path = write_jsonl(tmp_path / "brought.jsonl", [made[0], made[1] | {"questions": asked}])
    key = {"id": training_id(Shard(str(path), path.name), 0, made[0]["text"]), "text_hash": item_hash(made[0]["text"])}
    written = [{"question": "Where?", "answer": "There", "split": "reward"}]
    write_jsonl(questions_file(config), [key | {"questions": written, "dropped": []}])
    groups = read_groups(config, str(path), 4, None)
    assert [group.document.metadata["questions"] for group in groups] == [written, asked]
    with pytest.raises(UserError, match=r"1 documents? without questions|set questions\.model"):
        read_groups(with_(config, questions={"model": ""}), str(write_jsonl(path, made)), 4, None)


def test_the_questions_are_shown_before_and_after_they_are_written(config, capsys, tmp_path):
    texts = [f"Ada{n} Berg was born in Oslo. She moved to Rome in 19{n}." for n in (10, 20, 30)]
    shard = write_jsonl(tmp_path / "bare.jsonl", [{"text": text} for text in texts])
    given = {"data": {"train": (str(shard),)}, "questions": {"model": "", "kinds": ("cloze",)}}
    config = with_(config, **given)
    print_questions(config, 2)
    before = capsys.readouterr().out
    assert "cloze, reward: " in before and not config.run.dir.exists()
    asked = ensure_questions(config, read_documents(config.data.train, questions_needed=False), print)
    questions = [item for document in asked for item in document.metadata["questions"]]
    capsys.readouterr()
    print_questions(config, 2)
    after = capsys.readouterr().out
    assert after.startswith(table_file(questions_file(config)).read_text())
    assert f"cloze, {questions[0]['split']}: {questions[0]['question']} -> {questions[0]['answer']}" in after
    with pytest.raises(UserError, match="no questions are written"):
        print_questions(with_(config, questions={"kinds": ()}), 2)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_from_bare_text_to_a_trained_teacher(tmp_path):
    """Three minutes of a core. With given questions the trained teacher's students reach 0.74 and the untrained one's
    0.19 (configs/lab.yaml); a wrong one here would stay near the latter."""
    build_lab(Lab())
    people = [json.loads(line) for line in Path("models/lab/shards/train.jsonl").read_text().splitlines()]
    bare = write_jsonl(tmp_path / "bare" / "people.jsonl", [{"id": row["id"], "text": row["text"]} for row in people])
    config = load_config(
        "configs/lab-bare-text.yaml", [f"run.dir={tmp_path / 'run'}", f"data.train=[{bare.parent}]", "data.limit=null"]
    )
    summary = train_from_config(config)
    answers = {row["text"]: {item["answer"] for item in row["questions"]} for row in people}
    written = read_questions(questions_file(config))
    assert len(written) == len(people)
    true = [
        item["answer"] in answers[row["text"]]
        for row, questions in zip(people, written.values(), strict=True)
        for item in questions
    ]
    assert len(true) >= 4 * len(people) and sum(true) >= 0.99 * len(true)
    assert summary.strategies_last["question-answer"] > 0.8
    assert summary.heldout["trained"].accuracy.mean > summary.heldout["untrained"].accuracy.mean + 0.3
    assert table_file(questions_file(config)).is_file()


def test_a_writer_without_a_usable_question_ends_before_the_run_begins(config):
    with pytest.raises(UserError, match="none of 4 documents has a question"):
        train_from_config(config)
    assert not (config.run.dir / "config.yaml").exists()
