"""Plans that need no teacher: files of JSON, `teacher/plans/*.json` or a user's own."""

from functools import lru_cache
from pathlib import Path

from configs.errors import UserError, nearest
from configs.files import read_given
from configs.schema.plans import PLAN, Plans
from student.plans import Plan, read_plan

FOLDER = Path(__file__).parents[1] / "plans"
UNBOUNDED = Plans(learning_rates=(1e-12, 1e12), max_steps=2**62, max_epochs=2**62, max_views=2**62)
NOT_DISTILLED = "by which a student learns texts: it cannot be distilled"
"""Why a plan does not go with `student.objective` 'distill'."""


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
    try:
        return read_plan(read_given(key, path), UNBOUNDED)
    except ValueError as error:
        raise UserError(f"{key}: {path} {error}") from None
