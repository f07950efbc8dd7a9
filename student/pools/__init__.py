"""Which pool runs the students."""

from configs.schema import Student
from student.pools.inline import InlinePool
from student.records import StudentPool


def make_pool(settings: Student, sharing: int = 1) -> StudentPool:
    """The pool that `student.pool` names. `sharing` pools, one for each student model, take turns on the same actors'
    resources. Raises UserError, see `InlinePool` and `RayPool`; and RunError where no actor starts."""
    match settings.pool:
        case "inline":
            return InlinePool(settings)
        case "ray":
            from student.pools.ray import RayPool

            return RayPool(settings, sharing=sharing)
