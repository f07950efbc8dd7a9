"""The card says what is true of the folder, in words that the Hub and `datasets` understand."""

from pathlib import Path

import pytest
from datasets import load_dataset
from huggingface_hub import DatasetCard

from curation.corpus.licences import terms
from curation.pipeline.card import NO_ITEMS, dataset_card, leaks_checked, licence_ids, size_category
from curation.pipeline.curate import curate
from curation.pipeline.manifest import read_manifest
from tests.curation.datasets import curation_config, rows, write_jsonl


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
    assert "samples that is predicted best" not in card.content
    manifest["settings"] |= {"curation": manifest["settings"]["curation"] | {"best_of": 4}}
    assert "1 a document, each the one of 4 samples that is predicted best" in dataset_card("x", manifest).content
    assert card.data.license == ["mit", "other", "unknown"] and card.data.license_name == "house-rules"
    assert "licence of 4 rows is unknown" in card.content and 'load_dataset("me/x"' in card.content
    assert "trained by reinforcement learning" in card.content and "untrained" not in card.content


def test_the_card_says_whether_leaks_were_checked(folder: Path) -> None:
    manifest = read_manifest(folder)
    settings = manifest["settings"]
    # This curation had no benchmark: the gate ran on nothing.
    assert settings["benchmark_items"] == NO_ITEMS and not leaks_checked(manifest)
    assert "**Not checked.**" in (folder / "README.md").read_text()
    checked = manifest | {"settings": settings | {"benchmark_items": "ab" * 32}, "reasons": {"leak": 3}}
    content = dataset_card("x", checked).content
    assert leaks_checked(checked) and f"3 of {manifest['rewrites']} were refused for a leak" in content
    assert "Not checked" not in content and "contaminated" not in content
    assert not leaks_checked(checked | {"gates": ["empty"]}) and leaks_checked(manifest | {"leak_check": {"items": 9}})


def test_mixed_filtered_and_evaluated(folder: Path) -> None:
    manifest = read_manifest(folder)
    manifest |= {"strategies": {"table": 6, "raw": 4}, "filter_reasons": {"language": 7}}
    leaks = {"benchmarks": {"file:x.jsonl": 30}, "by_benchmark": {"file:x.jsonl": 2}, "checked": 12, "n": 8}
    manifest["leak_check"] = leaks
    manifest["settings"] = manifest["settings"] | {"benchmark_items": "ab" * 32}
    result = {"arm": "raw text", "gain": "0.5 [0.4, 0.6]", "accuracy": "", "n": "48"}
    result["in"] = "in choice (share of questions)"
    facts = {
        "base": {"name": "b", "licence": "mit", "local": True},
        "results": [result],
        "teacher_repo": "me/x-teacher",
    }
    content = dataset_card("x", manifest, "me/x", facts).content
    assert f"{manifest['rows'] - 4} lessons that" in content and "With them are 4 source texts" in content
    assert "| language | 7 |" in content and "| file:x.jsonl | 30 | 2 |" in content
    assert "| gain in choice (share of questions) |" in content
    assert "| raw text | 0.5 [0.4, 0.6] |  | 48 |" in content and "What was refused is not published" in content
    assert "`b` (a folder of its maker), licence mit" in content and "huggingface.co/me/x-teacher" in content
    assert "What students gained" not in dataset_card("x", manifest).content


def test_terms() -> None:
    assert terms(["CC BY-NC-SA 4.0", "MIT"]) == ["non-commercial use", "share-alike", "attribution"]
    assert terms(["cc0-1.0", "unlicense", "House rules"]) == []
    assert terms(["CC BY-NC-ND 4.0"])[0] == "no derivatives" and terms(["LGPL-3.0"]) == ["share-alike"]


def test_names_of_the_hub() -> None:
    sizes = {0: "n<1K", 999: "n<1K", 1000: "1K<n<10K", 5_000_000: "1M<n<10M", 10**12: "n>1T"}
    assert {rows: size_category(rows) for rows in sizes} == sizes
    assert licence_ids(["CC BY-SA 4.0", "cc-by-sa-4.0", "Apache-2.0"]) == (["apache-2.0", "cc-by-sa-4.0"], [])
    assert licence_ids(["CC BY-NC 2.0"]) == (["cc-by-nc-2.0"], [])
