"""What names a curation run and what came of it: preflight, fingerprint, the lock, and manifest.json."""

import json
import os
from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.files import write_whole

WORK = ".notewright"
"""Folder inside the output folder for the unfinished run; of a finished one it keeps what makes a rerun quick."""


def write_manifest(output: Path, manifest: dict[str, Any]) -> None:
    """Writes manifest.json, the mark of a finished dataset."""
    write_whole(output / "manifest.json", json.dumps(manifest, indent=2, ensure_ascii=False).encode() + b"\n")


def read_manifest(output: Path) -> dict[str, Any]:
    """The manifest of a dataset folder. Raises UserError if the folder is none."""
    path = output / "manifest.json"
    if not path.is_file():
        raise UserError(f"{output} is no finished dataset: it has no manifest.json")
    return dict(json.loads(os.fsdecode(path.read_bytes())))
