"""Shards to curate, and the config that curates them with the tiny teacher."""

import json
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq

from configs.schema import Config

WORDS = [f"{a}{b}" for a in ("ba", "de", "fi", "go", "lu", "ma") for b in ("n", "r", "s", "t", "l")]


def sentences(seed: int, words: int = 12) -> str:
    return " ".join(WORDS[(seed * 7 + i * (3 + seed % 5)) % len(WORDS)] for i in range(words))


def rows(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"id": f"person-{i}", "text": sentences(i), "title": f"title {i}"} for i in range(start, start + count)]


def write_jsonl(path: Path, records: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def curation_config(folder: Path, teacher: Path, *inputs: Path, output: str = "dataset", **curation: Any) -> Config:
    return Config.model_validate(
        {
            "run": {"dir": str(folder / "run")},
            "teacher": {
                "model": str(teacher),
                "prompting": "policy",
                "strategies": ["copy"],
                "max_new_tokens": 12,
                "temperature": 0.0,
                "batch_size": 4,
                "device": "cpu",
            },
            # The tiny teacher never ends by itself.
            "gates": {"max_repetition": 1.0, "truncated": False},
            "curation": {
                "input": [str(path) for path in inputs],
                "output": str(folder / output),
                "licence": "CC BY-SA 4.0",
                **curation,
            },
        }
    )


def manifest_of(config: Config) -> dict[str, Any]:
    return orjson.loads((config.curation.output / "manifest.json").read_bytes())


def data_bytes(config: Config) -> dict[str, bytes]:
    files = sorted((config.curation.output / "data").iterdir())
    return {path.name: path.read_bytes() for path in files}


def data_rows(config: Config) -> list[dict[str, Any]]:
    return pq.read_table(config.curation.output / "data").to_pylist()


def lines(config: Config, name: str) -> list[dict[str, Any]]:
    """The records of `quarantine` or `filtered`."""
    content = (config.curation.output / f"{name}.jsonl").read_bytes()
    return [orjson.loads(line) for line in content.splitlines()]
