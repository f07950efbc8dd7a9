"""What a training run looks at before it begins: documents with and without questions, and models."""

import pytest

from configs.errors import UserError
from configs.schema import Config
from curation.experiment import train_from_config
from tests.curation.corpus import rows, write_jsonl


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


def test_a_writer_without_a_usable_question_ends_before_the_run_begins(config):
    with pytest.raises(UserError, match="none of 4 documents has a question"):
        train_from_config(config)
    assert not (config.run.dir / "config.yaml").exists()
