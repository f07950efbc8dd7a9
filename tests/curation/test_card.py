"""The card says what is true of the folder, in words that the Hub and `datasets` understand."""

from pathlib import Path

import pytest
from datasets import load_dataset
from huggingface_hub import DatasetCard

from curation.card import dataset_card, licence_ids, size_category
from curation.manifest import read_manifest
from curation.pipeline import curate
from tests.curation.corpus import curation_config, rows, write_jsonl


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, teacher: Path) -> Path:
    root = tmp_path_factory.mktemp("card")
    documents = rows(9) + [{"text": "pipes | in `a` cell \n\n---\n# heading"}]
    config = curation_config(root, teacher, write_jsonl(root / "a|b.jsonl", documents), output="my-lessons")
    curate(config)
    return config.curation.output


def test_folder_loads(folder: Path, tmp_path: Path) -> None:
    dataset = load_dataset(str(folder), cache_dir=str(tmp_path))
    assert list(dataset) == ["train"] and dataset["train"].num_rows == read_manifest(folder)["rows"]
    assert dataset["train"][3]["id"] == "a|b.jsonl#3"
    streamed = next(iter(load_dataset(str(folder), split="train", streaming=True)))
    assert streamed == dataset["train"][0]


def test_metadata(folder: Path) -> None:
    data = DatasetCard.load(folder / "README.md").data
    manifest = read_manifest(folder)
    assert data.language == ["en"] and data.license == "cc-by-sa-4.0"
    assert data.annotations_creators == ["machine-generated"] and data.source_datasets == ["original"]
    assert data.size_categories == ["n<1K"]
    assert data.configs == [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}]
    info = data.dataset_info
    assert info["splits"][0]["num_examples"] == manifest["rows"]
    assert info["download_size"] == sum(shard["bytes"] for shard in manifest["shards"])
    assert {f["name"] for f in info["features"]} >= {
        "text",
        "id",
        "source_file",
        "source_row",
        "teacher_hash",
        "licence",
    }


def test_content(folder: Path) -> None:
    text = (folder / "README.md").read_text()
    manifest = read_manifest(folder)
    assert text.count("\n# my-lessons\n") == 1
    assert "**untrained**" in text and "was not trained" in text
    assert rows(1)[0]["text"] in text and manifest["examples"][0]["text"] in text
    assert "| `a\\|b.jsonl` | 10 |" in text and manifest["fingerprint"] in text
    assert str(folder.parent) not in text + (folder / "manifest.json").read_text()
    # Every table is whole: a line of it has as many cells as the one above.
    table: list[int] = []
    for line in text.splitlines():
        table = [*table, line.replace("\\|", "").count("|")] if line.startswith("|") else []
        assert len(set(table)) <= 1, line


def test_trained_teacher_and_unknown_licence(folder: Path) -> None:
    manifest = read_manifest(folder)
    manifest |= {
        "settings": manifest["settings"] | {"trained": True},
        "licences": {"unknown": 4, "MIT": 3, "House rules": 2},
    }
    card = dataset_card("x", manifest, repo_id="me/x")
    assert card.data.license == ["mit", "other", "unknown"] and card.data.license_name == "house-rules"
    assert "licence of 4 rows is unknown" in card.content and 'load_dataset("me/x"' in card.content
    assert "trained by reinforcement learning" in card.content and "untrained" not in card.content


def test_hub_words() -> None:
    sizes = {0: "n<1K", 999: "n<1K", 1000: "1K<n<10K", 5_000_000: "1M<n<10M", 10**12: "n>1T"}
    assert {rows: size_category(rows) for rows in sizes} == sizes
    assert licence_ids(["CC BY-SA 4.0", "cc-by-sa-4.0", "Apache-2.0"]) == (["apache-2.0", "cc-by-sa-4.0"], [])
    assert licence_ids(["CC BY-NC 2.0"]) == (["cc-by-nc-2.0"], [])
