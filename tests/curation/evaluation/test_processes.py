"""Tasks of student models in worker processes: their reports arrive, and the first error ends all of them."""

import multiprocessing
import time

import pytest

from configs.errors import RunError
from curation.evaluation.processes import StudentCounts, run_tasks


def works(report):
    report("a line for the user")
    report(StudentCounts(expected=2))
    report(StudentCounts(finished=2))
    return "result"


def fails(report):
    raise RunError("the disk is full")


def never_ends(report):
    while True:
        time.sleep(0.1)


@pytest.mark.parametrize("workers", [1, 2])
def test_results_keep_the_order_of_tasks_and_lines_are_shown(workers, capsys):
    assert run_tasks("evaluating", [works, works], workers) == ["result", "result"]
    lines = capsys.readouterr().err
    assert lines.count("a line for the user") == 2 and "evaluating: 4/4 students" in lines


def test_the_first_error_ends_all_tasks():
    others = multiprocessing.active_children()
    with pytest.raises(RunError, match="the disk is full"):
        run_tasks("evaluating", [never_ends, fails], 2)
    assert set(multiprocessing.active_children()) <= set(others)
