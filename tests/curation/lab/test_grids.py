"""The lab's grids: families are apart, the right plan keeps a rule, `train` and `evaluate` run on tasks and plans."""

import json
from collections import Counter

import numpy as np
import pytest
import torch

from configs.errors import UserError
from configs.load import load_config
from configs.schema import Lab
from curation.cli import main
from curation.lab import build, grids
from curation.lab.build import build_lab
from curation.lab.grid_student import make_tokenizer, task_batches, train_grid_student
from student.grids.augmentations import draw_view
from student.grids.grid import grid_text, pairs_text
from teacher.prompting.features import QUANTITIES

TINY = [
    "lab.effort=0.002",
    "lab.train_tasks=8",
    "lab.heldout_tasks=8",
    "student.steps=2",
    "student.tokens_per_step=100",
]


def test_families_are_apart_and_each_kind_has_its_share():
    groups = [grids.families(group) for group in grids.GROUPS]
    names = [{family.name for family in group} for group in groups]
    assert all(len(of_group) == 14 for of_group in names) and len(set.union(*names)) == 42
    assert all(
        Counter(family.kind for family in group) == dict.fromkeys(("whole", "row", "column"), 6) for group in groups
    )


def test_a_plan_keeps_the_rules_that_it_should_and_no_others():
    """Turns keep rules of the whole grid, mirrors left to right those of rows, and colours none."""
    cells = np.random.default_rng(0).integers(grids.COLOURS, size=(40, 3, 3), dtype=np.int8)
    kept: Counter[tuple[str, str]] = Counter()
    for chain in ("rotate-90", "transpose", "flip-columns", "flip-rows", "all-colours"):
        for family in grids.families("heldout"):
            view = draw_view(chain, np.random.default_rng(1), 1)
            outputs = family.apply(cells, np.random.default_rng(2))
            # The rule of the task as it is, held against the task as the view shows it.
            rule = {(r, c, old): new[r, c] for old_grid, new in zip(cells, outputs, strict=True)
                    for (r, c), old in np.ndenumerate(old_grid)}  # fmt: skip
            kept[chain, family.kind] += all(
                rule.get((r, c, colour), shown[r, c]) == shown[r, c]
                for old_grid, new in zip(cells, outputs, strict=True)
                for shown in (view.of(new),)
                for (r, c), colour in np.ndenumerate(view.of(old_grid))
            )
    assert kept["rotate-90", "whole"] == kept["transpose", "whole"] == kept["flip-columns", "row"] == 6
    assert kept["flip-rows", "column"] == 6 and not kept["rotate-90", "row"] and not kept["rotate-90", "column"]
    assert sum(kept["all-colours", kind] for kind in ("whole", "row", "column")) == 0


def test_a_batch_is_the_text_of_tasks_and_outputs_are_learnt():
    tokenizer = make_tokenizer()
    ids_BT, labels_BT = next(task_batches(tokenizer, 0, rows_B=3))
    _, task = next(grids.make_tasks("base", 1, 0))
    text = pairs_text([*task.shown, *task.asked])
    assert len(tokenizer(text)["input_ids"]) + 1 == ids_BT.shape[1]
    for ids, labels in zip(ids_BT, labels_BT, strict=True):
        written = tokenizer.decode(ids[1:-1])
        assert tokenizer(written)["input_ids"] == ids[:-1].tolist()
        learnt = tokenizer.decode(torch.where(labels == -100, 0, labels), skip_special_tokens=True)
        assert learnt == "".join(line + "\n" for line in written.split("\n")[1::2])[:-1]


def test_tasks_are_those_of_the_seed_and_their_questions_are_no_part_of_the_text():
    tasks = [task for _, task in grids.make_tasks("heldout", 30, 0)]
    again = [task for _, task in grids.make_tasks("heldout", 30, 0)]
    assert [task.row("heldout") for task in tasks] == [task.row("heldout") for task in again]
    assert all(grid_text(task.asked[0].output) not in pairs_text(task.shown) for task in tasks)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Built in this process: another one imports torch for as long as all the rest takes."""
    folder = tmp_path_factory.mktemp("grids")

    def train(names, lab, progress):
        for name in names:
            with build._placed(lab, name) as place:
                train_grid_student(lab, place, progress)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "_train", train)
        build_lab(Lab(world="grids", dir=folder, effort=0.002, train_tasks=8, heldout_tasks=8), progress=lambda _: None)
    return folder


def settings(lab, run, *changes):
    return [
        "configs/lab-grids.yaml", f"lab.dir={lab}", f"run.dir={run}", f"data.train=[{lab}/shards/train.jsonl]",
        f"data.heldout=[{lab}/shards/heldout.jsonl]", f"student.model={lab}/student-grids", "rl.rounds=1",
        "rl.documents_per_round=4", "rl.group_size=4", *TINY, *changes,
    ]  # fmt: skip


def plan_file(folder, **changes):
    plan = {"augmentations": {"identity": 1}, "learning_rate": 0.001, "steps": 2} | changes
    path = folder / "own.json"
    path.write_text(json.dumps(plan))
    return f"plan:{path}"


def test_the_same_verbs_train_and_evaluate_on_tasks_and_plans(lab, tmp_path, capsys):
    own = plan_file(tmp_path)
    arguments = settings(lab, tmp_path / "run", f"teacher.strategies=[{own},plan:turns]")
    assert main(["train", *arguments]) == 0
    # The lab is there as these settings would build it, so it is not built again.
    assert main(["evaluate", *arguments]) == 0
    result = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    arms = result["students"]["student-grids"]["arms"]
    assert list(arms) == ["none", "untrained", "trained", "strategy:plan:own", "strategy:plan:turns", "oracle"]
    compared = {(one["arm"], one["against"]) for one in result["students"]["student-grids"]["comparisons"]}
    assert {("trained", "untrained"), ("trained", "none")} <= compared
    assert set(arms["oracle"]["strategies"]) <= {"plan:own", "plan:turns"}
    # For each of the eight tasks: one untaught, one taught by each plan, and again one by each for `oracle` to choose.
    assert result["student_runs"] == 8 * 5
    # The eight tasks are of four families, which are their titles.
    assert arms["strategy:plan:own"]["together"]["accuracy"]["clusters"] == 4
    assert any("cluster-robust over 4 titles of documents" in note for note in result["notes"])
    assert all(arm["together"]["failed"] == arm["rejected"] == 0 for arm in arms.values())
    assert (
        arms["strategy:plan:own"]["together"]["steps"] == 2 and arms["strategy:plan:turns"]["together"]["steps"] == 24
    )


def test_the_preset_of_arc_runs_at_toy_size_with_a_head_over_fields(lab, tmp_path):
    """The student is the lab's, and the teacher chooses augmentations, steps and learning rate one after another."""
    shards, run = lab / "shards", tmp_path / "run"
    assert main(["train", "configs/arc-llama-1b.yaml", f"run.dir={run}", f"data.train=[{shards}/train.jsonl]",
                 f"data.heldout=[{shards}/heldout.jsonl]", "data.limit=3", "data.heldout_limit=2",
                 f"student.model={lab}/student-grids", "student.max_text_tokens=128", "student.max_lesson_tokens=300",
                 "student.decode=false", "student.steps=2", "student.gradient_checkpointing=false",
                 "teacher.model=head", "teacher.prompting=policy", "teacher.lora=null", "rl.rest_em.epochs=1",
                 "teacher.strategies=[plan:as-it-is]", "teacher.plan_bounds.learning_rates=[1e-6,1e-2]",
                 "teacher.plan_options.augmentations=[{identity: 4},{identity: 2, flip-rows: 2}]",
                 "teacher.plan_options.learning_rate=[0.0001,0.001]", "teacher.plan_options.steps=[1,2]",
                 "rl.learning_rate=0.2", "rl.group_size=6", "rl.evaluation_lessons=1"]) == 0  # fmt: skip
    lines = [json.loads(line) for line in (run / "journal" / "rewrites.jsonl").read_text().splitlines()]
    plans = [json.loads(line["plan"]) for line in lines if line["arm"] == "train"]
    assert len(plans) == 18 and {plan["steps"] for plan in plans} == {1, 2}
    assert {tuple(plan["augmentations"]) for plan in plans} == {("identity",), ("identity", "flip-rows")}
    assert all(line["rejected"] is None and not line["text"] for line in lines if line["arm"] != "raw")
    metrics = [json.loads(line) for line in (run / "journal" / "metrics.jsonl").read_text().splitlines()]
    step = next(line for line in metrics if line["kind"] == "step")
    assert 1 <= step["plan/steps"] <= 2 and step["students_cut"] > 0, "texts of 100 tokens, two a step, end at 300"


def test_what_the_budget_cuts_is_said_and_a_budget_that_no_plan_meets_is_an_error(lab, tmp_path, capsys):
    arguments = settings(lab, tmp_path / "run", "evaluation.lab=false", "evaluation.arms=[none,strategy:plan:turns]",
                         "evaluation.against=none")  # fmt: skip
    assert main(["evaluate", *arguments, "student.max_lesson_tokens=1000"]) == 0
    result = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    arm = result["students"]["student-grids"]["arms"]["strategy:plan:turns"]["together"]
    assert arm["tokens_most"] <= 1000 and arm["steps"] < 24 and arm["cut"] == 8
    assert "student.max_lesson_tokens=1000 cut the last steps of 8 students." in result["notes"]
    capsys.readouterr()
    arguments = [line.replace(str(tmp_path / "run"), str(tmp_path / "other")) for line in arguments]
    assert main(["evaluate", *arguments, "evaluation.arms=[strategy:plan:turns,strategy:plan:colours]",
                 "evaluation.against=strategy:plan:turns", "student.max_lesson_tokens=8"]) == 1  # fmt: skip
    error = capsys.readouterr().err
    assert "student.max_lesson_tokens" in error.splitlines()[-1]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (["teacher.strategies=[plan:turn,plan:colours]"], "unknown plan 'plan:turn': did you mean 'turns'?"),
        (["teacher.plan_bounds.max_steps=10"], "plan:as-it-is has 'steps' 24: a whole number from 1 to 10 is allowed"),
        (["reward.credit=shared"], "plan:NAME) is how one student learns one document"),
        (["rl.rewrites_per_lesson=2", "evaluation.arms=[none,untrained]"], "without rl.rewrites_per_lesson above 1"),
        (["rl.rewrites_per_lesson=2", "teacher.strategies=[faq]"], "evaluation.arms 'oracle' has lessons of one"),
        (["evaluation.scaling=[1,2]"], "without evaluation.scaling above 1"),
        (["evaluation.edits=2"], "without evaluation.replay with evaluation.edits above 1"),
        (["reward.screen.steps=24", "student.steps=48"], "reward.screen.steps are fewer than the 24 steps of plan:"),
        (["data.train=[models.jsonl]"], "has 'augmentations', which tasks of grids have, and the document"),
        (["teacher.plan_bounds.learning_rates=[1,0]"], "the lowest and the highest"),
    ],
)
def test_mistakes_with_plans_cost_one_line_before_anything_runs(lab, tmp_path, capsys, changes, problem):
    text = {"text": "Ada was born in Oslo.", "questions": [{"question": "Where?", "answer": "Oslo", "split": "reward"}]}
    (tmp_path / "models.jsonl").write_text(json.dumps(text) + "\n")
    changes = [change.replace("models.jsonl", str(tmp_path / "models.jsonl")) for change in changes]
    assert main(["train", *settings(lab, tmp_path / "run", *changes)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and problem in error


@pytest.mark.parametrize(
    ("verb", "changes", "advice"),
    [
        ("reliability", [], "measure --credit document"),
        ("validity", ["validity.target=student", "validity.documents=2"], "set validity.credits to [document]"),
    ],
)
def test_a_plan_shares_no_student_when_rewards_are_measured(lab, tmp_path, capsys, verb, changes, advice):
    arguments = settings(lab, tmp_path / "run", "teacher.strategies=[plan:turns,plan:colours]", *changes)
    assert main([verb, *arguments]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == f"error: a plan is how one student learns one document, and shares none: {advice}"


def test_a_plan_is_no_text_for_a_dataset(lab, tmp_path, capsys):
    arguments = settings(lab, tmp_path / "run", f"curation.input=[{lab}/shards/train.jsonl]")
    assert main(["curate", *arguments]) == 2
    assert "is how a student learns, and no text that a dataset could hold" in capsys.readouterr().err


def test_the_head_is_told_what_decides_on_a_cells_colour():
    told: dict[str, list[tuple[float, ...]]] = {"whole": [], "row": [], "column": []}
    names = ("recoloured", "recoloured-rows", "recoloured-columns")
    for family, task in grids.make_tasks("heldout", 54, 0):
        told[family.kind].append(tuple(QUANTITIES[name].measure(pairs_text(task.shown)) for name in names))
    assert set(told["whole"]) == {(1, 1, 1)}
    # By chance four pairs may not contradict another rule.
    assert all(rows == 1 for _, rows, _ in told["row"]) and told["row"].count((0, 1, 0)) >= 14
    assert all(columns == 1 for *_, columns in told["column"]) and told["column"].count((0, 0, 1)) >= 14
    assert QUANTITIES["recoloured"].measure("Ada was born in Oslo.\nShe lives there.") == 0


def test_the_config_is_one_that_loads():
    assert load_config("configs/lab-grids.yaml").lab.world == "grids"
    with pytest.raises(UserError, match="world"):
        load_config("configs/lab-grids.yaml", ["lab.world=grid"])
