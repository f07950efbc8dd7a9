"""Tasks side by side: their results arrive in order, and the first error ends all of them."""

import multiprocessing
import time
from functools import partial

import pytest

from configs.errors import RunError
from curation.console.progress import say
from curation.console.workers import run_side_by_side


def works(number):
    say("a line for the user")
    return number


def fails():
    raise RunError("the disk is full")


def never_ends():
    while True:
        time.sleep(0.1)


@pytest.mark.parametrize("workers", [1, 2])
def test_results_keep_the_order_of_tasks_and_lines_are_shown(workers, capfd):
    tasks = {name: partial(works, number) for number, name in enumerate("ab")}
    assert list(run_side_by_side(tasks, workers, kept="all is kept").items()) == [("a", 0), ("b", 1)]
    assert capfd.readouterr().err.count("a line for the user") == 2


def test_the_first_error_ends_all_tasks():
    others = multiprocessing.active_children()
    with pytest.raises(RunError, match="the disk is full"):
        run_side_by_side({"a": never_ends, "b": fails}, 2, kept="all is kept")
    assert set(multiprocessing.active_children()) <= set(others)
