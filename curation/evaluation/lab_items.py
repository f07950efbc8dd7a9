"""Questions about the people of whom the lab's students have read: what they knew before any lesson."""

import json
from pathlib import Path

from configs.files import write_whole
from configs.schema import Lab
from curation.lab import world
from curation.lab.build import RETENTION_TEXTS

LAB = "lab"
"""In the config: the lab's own questions."""

PEOPLE = 16


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
