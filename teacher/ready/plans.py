"""Plans that need no teacher: files of JSON, `teacher/plans/*.json` or a user's own. How a lesson text that is a plan
is known, and whether documents are tasks that a plan can be followed on."""

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from configs.errors import UserError, nearest
from configs.files import read_given
from configs.schema.plans import PLAN, Plans
from student.grids.grid import read_pairs
from student.plans import Plan, read_plan
from student.records import Document

FOLDER = Path(__file__).parents[1] / "plans"
UNBOUNDED = Plans(learning_rates=(1e-12, 1e12), max_steps=2**62, max_epochs=2**62, max_views=2**62)
OPENING = '{"augmentations": '
"""Begins the text of every plan, as `str(plan)` writes it, and no pair of grids."""


def plan_names() -> list[str]:
    """The plans that come with the project."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


@lru_cache
def named_plan(name: str, key: str = "teacher.strategies") -> Plan:
    """The plan of a strategy `plan:NAME`, without `plan:`. Raises UserError for one that is not there or is none."""
    own = name.endswith(".json")
    path = Path(name) if own else FOLDER / f"{name}.json"
    if not own and not path.is_file():
        raise UserError(f"{key}: unknown plan {PLAN + name!r}: {nearest(name, plan_names())}")
    return _bounded(read_given(key, path), UNBOUNDED, f"{key}: {path}")


def plan_of(text: str) -> Plan | None:
    """The plan that a lesson's text is; None where it is a text to be learnt, even if it begins as a plan."""
    try:
        return read_plan(text, UNBOUNDED) if text.startswith(OPENING) else None
    except ValueError:
        return None


def check_plans(names: Iterable[str], bounds: Plans, documents: Iterable[Document], key: str) -> None:
    """Raises UserError for a plan (without `plan:`) out of bounds, and for documents that are no tasks of grids."""
    plans = {name: named_plan(name, key) for name in names}
    for name, plan in plans.items():
        _bounded(str(plan), bounds, f"{key}: {PLAN}{name}")
    for document in documents if plans else ():
        try:
            read_pairs(document.text)
        except ValueError as error:
            raise UserError(f"{key}: a plan needs tasks of grids, and document {document.id!r} {error}") from None


def _bounded(text: str, bounds: Plans, place: str) -> Plan:
    try:
        return read_plan(text, bounds)
    except ValueError as error:
        raise UserError(f"{place} {error}") from None
