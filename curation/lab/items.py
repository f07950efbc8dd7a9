"""What the lab gives to an evaluation: questions about people that its students have read of, and rewrites without
error."""

import random
from collections.abc import Sequence
from pathlib import Path

from configs.files import write_json_lines
from configs.schema import Lab
from curation.lab import world
from curation.lab.build import RETENTION_TEXTS

LAB = "lab"
"""In the config: the lab's own questions, or rewrites."""

BEST = {"student-augmented": "permuted", "student-fixed": "question-answer"}
"""The strategy that is worth most to each student; an evaluation compares it with every other strategy alone."""
JUNK = ("wrong", "filler")
"""Strategies that teach less than the documents do."""

PEOPLE = 16
REWRITES = "lab-rewrites.jsonl"


def lab_questions(lab: Lab, known: bool) -> list[dict[str, str]]:
    """Questions about base people none of whom is in the retention texts. With `known` both students have met questions
    about these people; else they have only read of them."""
    people = world.make_people(lab.seed, 0, lab.base_people)
    chosen = people[2 * RETENTION_TEXTS + (not known) :: 2] or people[int(not known) :: 2]  # the latter in a small lab
    return [item | {"split": "heldout"} for person in chosen[:PEOPLE] for item in world.exam_items(person)]


def lab_rewrites(lab: Lab, folder: Path, strategies: Sequence[str], rewrites: int) -> Path:
    """Writes a file in the format of `notewright score`: so many rewrites of each held-out person, by the `strategies`
    in turn. The world itself writes them, in the place of a stronger model that makes no mistake."""
    rows = []
    people = world.make_people(lab.seed, lab.base_people + lab.train_people, lab.heldout_people)
    for number, person in enumerate(people):
        row = world.document(person, f"lab-heldout-{number:05d}")
        rng = random.Random(f"rewrites {lab.seed} {number}")
        texts = [world.rewrite(strategies[i % len(strategies)], person, rng) for i in range(rewrites)]
        rows.append({key: row[key] for key in ("id", "text", "questions")} | {"rewrites": texts})
    path = folder / REWRITES
    write_json_lines(path, rows)
    return path
