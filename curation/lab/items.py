"""What the lab brings to an evaluation: questions about people that its students have read of, and rewrites without
error."""

import json
import random
from collections.abc import Sequence
from pathlib import Path

from configs.files import write_whole
from configs.schema import Lab
from curation.lab import world
from curation.lab.build import RETENTION_TEXTS

LAB = "lab"
"""In the config: the lab's own questions, or rewrites."""

PEOPLE = 16
REWRITES = "lab-rewrites.jsonl"


def lab_questions(lab: Lab, folder: Path, known: bool) -> str:
    """A file of questions as a benchmark line, about base people none of whom is in the retention texts. `known`: those
    about whom both students have been asked; else people of whom they have read and never been asked."""
    people = world.make_people(lab.seed, 0, lab.base_people)[2 * RETENTION_TEXTS + (not known) :: 2][:PEOPLE]
    if not people:  # a small lab
        people = world.make_people(lab.seed, 0, lab.base_people)[int(not known) :: 2][:PEOPLE]
    items = [item | {"split": "heldout"} for person in people for item in world.exam_items(person)]
    path = folder / f"lab-{'known' if known else 'unasked'}.jsonl"
    write_whole(path, "".join(json.dumps(item) + "\n" for item in items))
    return f"file:{path}"


def lab_rewrites(lab: Lab, folder: Path, ways: Sequence[str], most: int) -> Path:
    """A file in the format of `notewright score`: `most` rewrites of each held-out person in the `ways` in turn, by the
    world itself. It stands for a stronger model that makes no mistake."""
    people = world.make_people(lab.seed, lab.base_people + lab.train_people, lab.heldout_people)
    lines = []
    for number, person in enumerate(people):
        row = world.document(person, f"lab-heldout-{number:05d}")
        rng = random.Random(f"rewrites {lab.seed} {number}")
        rewrites = [world.rewrite(ways[i % len(ways)], person, rng) for i in range(most)]
        lines.append({key: row[key] for key in ("id", "text", "questions")} | {"rewrites": rewrites})
    path = folder / REWRITES
    write_whole(path, "".join(json.dumps(line) + "\n" for line in lines))
    return path
