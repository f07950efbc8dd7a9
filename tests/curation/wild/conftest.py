"""The experiment of the broken calls; each test gets a copy of it as its working folder."""

import json
import shutil
from pathlib import Path

import pytest

from tests.curation.wild.broken_files import ROW
from tests.curation.wild.world import CONFIG
from tests.teacher.conftest import WORDS, student_folder, teacher_folder  # noqa: F401  (fixtures)


def _rows(start, count):
    for i in range(start, start + count):
        questions = [
            {"question": f"what is in shop {i} ?", "answer": WORDS[i % 20], "split": "reward"},
            {"question": f"what would shop {i} hold ?", "answer": WORDS[i % 20], "split": "heldout"},
        ]
        text = f"in the shop {i % 10} {WORDS[i % 19]} {WORDS[(7 * i) % 20]} {i}"
        yield ROW | {"id": f"d{i}", "title": f"t{i}", "text": text, "questions": questions}


@pytest.fixture(scope="session")
def original(tmp_path_factory, teacher_folder, student_folder) -> Path:  # noqa: F811
    folder = tmp_path_factory.mktemp("wild") / "world"
    folder.mkdir()
    shutil.copytree(teacher_folder, folder / "teacher")
    shutil.copytree(student_folder, folder / "student")
    (folder / "e.yaml").write_text(CONFIG)
    for name, start, count in (("train", 0, 8), ("heldout", 100, 4), ("corpus", 200, 6), ("bare", 300, 4)):
        rows = [row | ({"questions": None} if name == "bare" else {}) for row in _rows(start, count)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def world(original, tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "world"
    shutil.copytree(original, folder)
    # Datatrove keeps what it knows of a folder by its name, which is another one for each test.
    (folder / "e.yaml").write_text(CONFIG.replace("output: dataset", f"output: {folder}/dataset"))
    monkeypatch.chdir(folder)
    return folder
