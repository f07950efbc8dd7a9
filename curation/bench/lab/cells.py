"""What `notewright bench lab` compares: the students as declared, and with one thing changed at a time."""

from dataclasses import dataclass, replace
from typing import Any

from curation.lab.models import STUDENTS, StudentRecipe

ARMS = ("raw", "permuted", "question-answer")
"""What students learn from: biographies as they stand, repeated to the same tokens, and the two kinds of lessons."""

PEOPLE = slice(32, 128)
"""Of the training people. The settings of the lab were chosen on the first 32."""

LESSONS = 1
"""Lessons of each person and arm. Every batch of people has students with a seed of its own, so that what a seed does
is part of the spread between batches."""

INITIAL_WEIGHTS = 3
"""Students that are trained by each recipe as declared; by the changed ones a single student."""

CURVE = (2, 4, 8)
"""Wordings between those of the two students."""

RECIPES: dict[str, dict[str, Any]] = {
    "no practice phrasings": {"questions": ("reward", "heldout")},
    "lesson phrasings practised too": {"questions": ("reward", "heldout", "practice", "lesson")},
    "200 pretraining steps": {"steps": 200},
    "800 pretraining steps": {"steps": 800},
    "width 64": {"width": 64},
    "width 96": {"width": 96},
}
"""What is changed of how a student was trained."""

SETTINGS: dict[str, tuple[str, ...]] = {
    "rank 8": ("student.lora.rank=8", "student.lora.alpha=8"),
    "rank 64": ("student.lora.rank=64", "student.lora.alpha=64"),
    "10 lesson steps": ("student.steps=10",),
    "40 lesson steps": ("student.steps=40",),
    "one rewrite a lesson": ("rl.rewrites_per_lesson=1",),
}
"""What is changed of how lessons are taught."""

DECLARED = "as declared"


@dataclass(frozen=True, slots=True)
class Cell:
    """A comparison of two kinds of lessons."""

    change: str
    """What differs from the declared students and the preset."""
    recipe: StudentRecipe
    settings: tuple[str, ...] = ()
    initial_weights: int = 1

    @property
    def recipes(self) -> list[StudentRecipe]:
        """One for each student, which differ in their initial weights."""
        return [replace(self.recipe, seed=seed) for seed in range(self.initial_weights)]


def cells(quick: bool) -> list[Cell]:
    """The cells of the bench; with `quick` the declared students alone, a single one of each."""
    both = list(STUDENTS.values())
    found = [Cell(DECLARED, recipe, (), 1 if quick else INITIAL_WEIGHTS) for recipe in both]
    if quick:
        return found
    found += [Cell(f"{wordings} wordings", replace(both[0], wordings=wordings)) for wordings in CURVE]
    found += [Cell(name, replace(recipe, **change)) for name, change in RECIPES.items() for recipe in both]
    found += [Cell(name, recipe, settings) for name, settings in SETTINGS.items() for recipe in both]
    return found
