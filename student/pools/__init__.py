"""Pools train and examine students; `make_pool` picks one by the config."""

from configs.schema import Student
from student.pools.inline import InlinePool
from student.records import StudentPool


def make_pool(settings: Student, sharing: int = 1) -> StudentPool:
    """The pool that `student.pool` names. `sharing` is the number of pools (one for each student model) that share a
    cluster's resources. Raises UserError as `InlinePool` and `RayPool` do, and RunError if no actor starts."""
    if settings.pool == "inline":
        return InlinePool(settings)
    from student.pools.ray import RayPool

    return RayPool(settings, sharing=sharing)
