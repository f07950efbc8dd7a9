"""One answer from the answers that a student gave to several views of a task (arXiv 2411.07279, section 4.2)."""

from collections import Counter
from collections.abc import Sequence

from student.grids.augmentations import View
from student.grids.grid import grid_text, read_grid


def vote(views: Sequence[View], answers: Sequence[str], attempts: int = 1) -> list[str]:
    """The `attempts` commonest answers after each is undone by its view, the first of equals first; fewer where there
    are fewer different ones. An answer that is no grid has no vote."""
    votes: Counter[str] = Counter()
    for view, answer in zip(views, answers, strict=True):
        try:
            votes[grid_text(view.undo(read_grid(answer.strip())))] += 1
        except ValueError:
            continue
    return [answer for answer, _ in votes.most_common(attempts)]
