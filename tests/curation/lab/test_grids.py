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
from student.grids.grid import pairs_text
from teacher.prompting.features import QUANTITIES
from teacher.ready.plans import named_plan, plan_names

TINY = [
    "lab.effort=0.002",
    "lab.train_tasks=8",
    "lab.heldout_tasks=8",
    "student.steps=2",
    "student.tokens_per_step=100",
]


def test_families_are_apart_and_of_both_kinds_alike():
    groups = [grids.families(group) for group in grids.GROUPS]
    rules = [set(of_group) for of_group in groups]
    assert not rules[0] & rules[1] and not (rules[0] | rules[1]) & rules[2]
    assert len(rules[0]) == len(rules[1]) == 2 * grids.OF_A_KIND and len(rules[2]) > 100
    for of_group in groups:
        assert set(Counter(family.kind for family in of_group).values()) == {len(of_group) // 2}


def test_a_plan_keeps_the_rules_that_it_should_and_no_others():
    """Turns keep rules of colours, other colours those of places."""
    cells = grids.draw_inputs(np.random.default_rng(0), 8).reshape(-1, grids.SIDE, grids.SIDE)
    kept: Counter[tuple[str, str]] = Counter()
    for chain in ("rotate-90", "transpose", "flip-columns", "flip-rows", "all-colours"):
        for family in grids.families("heldout"):
            view = draw_view(chain, np.random.default_rng(1), 1)
            rule = family._replace(colours=(*family.colours, *range(grids.COLOURS, 10)))
            kept[chain, family.kind] += all(
                np.array_equal(view.of(rule.apply(grid)), rule.apply(view.of(grid))) for grid in cells
            )
    turns = ("rotate-90", "transpose", "flip-columns", "flip-rows")
    assert all(kept[turn, "colours"] == grids.OF_A_KIND for turn in turns) and not kept["all-colours", "colours"]
    assert kept["all-colours", "places"] == grids.OF_A_KIND and all(kept[turn, "places"] <= 2 for turn in turns)


def test_a_batch_is_the_text_of_tasks_and_outputs_are_learnt():
    tokenizer = make_tokenizer()
    ids_BT, labels_BT = next(task_batches(tokenizer, 0, 1, rows_B=3))
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
    plans = [named_plan(name) for name in plan_names()]
    for task in tasks:
        # No plan's data hold the pair that is asked, though they turn grids and change colours.
        asked = pairs_text(task.asked)
        data = [text for plan in plans for text in plan.texts(task.shown, 0, 10**9)]
        assert len(data) > 100 and not any(asked in "".join(part.text for part in text) for text in data)


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
        "rl.documents_per_round=4", "rl.group_size=4", "evaluation.teacher_for=run", "evaluation.training_runs=1",
        *TINY, *changes,
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
    # The eight tasks are of eight families, which are their titles.
    assert arms["strategy:plan:own"]["together"]["accuracy"]["clusters"] == 8
    assert any("cluster-robust over 8 titles of documents" in note for note in result["notes"])
    assert all(arm["together"]["failed"] == arm["rejected"] == 0 for arm in arms.values())
    assert (
        arms["strategy:plan:own"]["together"]["steps"] == 2 and arms["strategy:plan:turns"]["together"]["steps"] == 40
    )


def test_the_preset_of_arc_runs_at_toy_size_with_a_head_over_fields(lab, tmp_path):
    """The student is the lab's, and the teacher chooses augmentations, steps and learning rate one after another."""
    shards, run = lab / "shards", tmp_path / "run"
    assert main(["train", "configs/arc-llama-1b.yaml", f"run.dir={run}", f"data.train=[{shards}/train.jsonl]",
                 f"data.heldout=[{shards}/heldout.jsonl]", "data.limit=3", "data.heldout_limit=2",
                 f"student.model={lab}/student-grids", "student.max_text_tokens=128", "student.max_lesson_tokens=150",
                 "student.decode=false", "student.steps=2", "student.gradient_checkpointing=false",
                 "teacher.model=head", "teacher.prompting=policy", "teacher.lora=null", "rl.rest_em.epochs=1",
                 "teacher.strategies=[plan:as-it-is]", "teacher.plan_bounds.learning_rates=[1e-6,1e-2]",
                 "teacher.plan_bounds.max_views=32",
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
    assert 1 <= step["plan/steps"] <= 2 and step["students_cut"] > 0, "texts of 60 tokens, two a step, end at 150"


def test_what_the_budget_cuts_is_said_and_a_budget_that_no_plan_meets_is_an_error(lab, tmp_path, capsys):
    arguments = settings(lab, tmp_path / "run", "evaluation.lab=false", "evaluation.arms=[none,strategy:plan:turns]",
                         "evaluation.against=none")  # fmt: skip
    assert main(["evaluate", *arguments, "student.max_lesson_tokens=1000"]) == 0
    result = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    arm = result["students"]["student-grids"]["arms"]["strategy:plan:turns"]["together"]
    assert arm["tokens_most"] <= 1000 and arm["steps"] < 40 and arm["cut"] == 8
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
        (["teacher.plan_bounds.max_steps=10"], "plan:as-it-is has 'steps' 40: a whole number from 1 to 10 is allowed"),
        (["reward.credit=shared"], "plan:NAME) is how one student learns one document"),
        (["rl.rewrites_per_lesson=2", "evaluation.arms=[none,untrained]"], "without rl.rewrites_per_lesson above 1"),
        (["rl.rewrites_per_lesson=2", "teacher.strategies=[faq]"], "evaluation.arms 'oracle' has lessons of one"),
        (["evaluation.scaling=[1,2]"], "without evaluation.scaling above 1"),
        (["evaluation.edits=2"], "without evaluation.replay with evaluation.edits above 1"),
        (["reward.screen.steps=40", "student.steps=48"], "reward.screen.steps are fewer than the 40 steps of plan:"),
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


def test_the_head_is_told_what_an_outputs_cells_depend_on():
    told: dict[str, list[tuple[float, ...]]] = {kind: [] for kind in grids.KINDS}
    for family, task in grids.make_tasks("heldout", 72, 0):
        text = pairs_text(task.shown)
        told[family.kind].append(tuple(QUANTITIES[name].measure(text) for name in ("recoloured", "rearranged")))
    # By chance four pairs may not contradict another rule.
    assert {recoloured for recoloured, _ in told["colours"]} == {1} and told["colours"].count((1, 0)) > 30
    assert {rearranged for _, rearranged in told["places"]} == {1} and told["places"].count((0, 1)) > 30
    taller = "0123=\n01/23"
    assert [QUANTITIES[name].measure(taller) for name in ("recoloured", "rearranged")] == [0, 1]
    for text in ("Ada was born in Oslo.\nShe lives there.", "01=\n00\n01=\n11\n1=\n1"):
        assert [QUANTITIES[name].measure(text) for name in ("recoloured", "rearranged")] == [0, 0]


def test_the_config_is_one_that_loads():
    assert load_config("configs/lab-grids.yaml").lab.world == "grids"
    with pytest.raises(UserError, match="world"):
        load_config("configs/lab-grids.yaml", ["lab.world=grid"])
