"""Plans that a teacher writes before a text, or chooses field by field, and what a student is trained on by them."""

import json
import statistics
from dataclasses import replace

import pytest
from datatrove.data import Document
from pydantic import ValidationError

from configs.errors import UserError
from configs.files import read_json_lines
from configs.schema import Config, Plans, Teacher
from student.plans import Plan, Planned, read_plan
from student.records import Outcome, Segment
from teacher.gates.checks import build_gates
from teacher.prompting.plans import check_plans
from teacher.prompting.prompts import build_prompt
from teacher.ready.texts import ReadyTexts
from teacher.records import Completion
from teacher.reward.student_runs import StudentRuns
from teacher.run.journal import Journal
from teacher.sampling import make_rewrite
from teacher.training.loop import train_teacher
from teacher.writers.local import load_teacher
from tests.teacher.conftest import GoldPool
from tests.teacher.test_head import head_config

TEXT = "Where was Ada born? In Oslo. She studied law."
PLAN = {"learning_rate": 0.01, "steps": 12, "loss_on": "all", "raw_share": 0.25}
DOCUMENT = Document(text="Ada was born in Oslo, and she studied law there.", id="ada")
TASK = Document(text="01=\n10\n11=\n00", id="task")
OF_TASK = {"augmentations": {"identity": 2}, "leave_out": 1, "learning_rate": 0.01, "steps": 12, "loss_on": "outputs"}


def replied(reply, document=DOCUMENT, strategy="faq", **settings):
    teacher = Teacher(plans=True, strategies=(strategy,), **settings)
    gates = build_gates(Config().gates, teacher, None)
    return make_rewrite(teacher, ReadyTexts(document, 0), ["prompt"], [Completion(reply, True)], strategy, gates)


@pytest.mark.parametrize("form", ["{plan}\n{text}", "```json\n{plan}\n```\n{text}", "\n{plan} {text}"])
def test_a_reply_is_a_plan_and_the_text_behind_it(form):
    rewrite = replied(form.replace("{plan}", json.dumps(PLAN)).replace("{text}", TEXT))
    assert (rewrite.text, json.loads(rewrite.plan), rewrite.rejected) == (TEXT, PLAN, None)
    assert rewrite.taught == Planned(TEXT, rewrite.plan)


@pytest.mark.parametrize(
    ("reply", "document", "reason"),
    [
        (TEXT, DOCUMENT, "is no JSON"),
        (json.dumps(PLAN)[:-1], DOCUMENT, "is no JSON"),
        (json.dumps(PLAN | {"steps": 10**6}) + TEXT, DOCUMENT, "has 'steps' 1000000: a whole number from 1 to 1000"),
        (json.dumps(PLAN | {"raw_share": 2}) + TEXT, DOCUMENT, "has 'raw_share' 2: a number from 0 to 1"),
        (json.dumps(PLAN).replace('"steps"', '"learning_rate": 1, "steps"') + TEXT, DOCUMENT, "'learning_rate' twice"),
        (json.dumps(PLAN | {"loss_on": "answer"}) + TEXT, DOCUMENT, "has 'loss_on' 'answer'"),
        (json.dumps(PLAN), DOCUMENT, "has neither 'augmentations' nor a text"),
        (json.dumps(PLAN | {"loss_on": "outputs", "raw_share": 0}) + "Who was Ada?", DOCUMENT, "questions alone"),
        (json.dumps(OF_TASK), DOCUMENT, "has 'augmentations', which tasks of grids have"),
        (json.dumps(OF_TASK | {"raw_share": 0.5}), TASK, "has 'raw_share', which a plan with 'augmentations' does not"),
        (json.dumps(OF_TASK) + "So the student turns the grids.", TASK, "has a text beside it"),
    ],
)
def test_an_invalid_plan_is_a_rejected_lesson_with_its_reason(reply, document, reason):
    rewrite = replied(reply, document)
    assert rewrite.rejected == "plan" and reason in rewrite.reason and "\n" not in rewrite.reason


def test_a_task_is_learnt_by_a_plan_alone():
    rewrite = replied(json.dumps(OF_TASK), TASK, "plan")
    assert (rewrite.text, json.loads(rewrite.plan), rewrite.rejected) == ("", OF_TASK, None)
    assert read_plan(rewrite.plan, Plans()).steps == 12


def test_a_prompt_holds_the_schema_of_what_suits_the_document(make_config):
    tokenizer = load_teacher(make_config().teacher).tokenizer
    shown = {
        (strategy, document.id): build_prompt(
            tokenizer, Teacher(plans=True, plan_bounds=Plans(max_steps=77)), document, strategy
        )
        for strategy, document in (("faq", DOCUMENT), ("plan", TASK))
    }
    for prompt in shown.values():
        assert prompt.count('"maximum": 77') == 1 and "{plan}" not in prompt
    assert '"raw_share"' in shown["faq", "ada"] and '"rotate-90"' not in shown["faq", "ada"]
    assert '"rotate-90"' in shown["plan", "task"] and '"raw_share"' not in shown["plan", "task"]
    assert "First write a plan" in shown["faq", "ada"] and "First write a plan" not in shown["plan", "task"]


@pytest.fixture
def job_of(tmp_path):
    document = Document(
        text=DOCUMENT.text, id="ada", metadata={"questions": [{"question": "Where?", "answer": "Oslo"}]}
    )
    student = {"steps": 8, "warmup_steps": 4, "learning_rate": 0.5}
    config = Config.model_validate({"student": student, "reward": {"credit": "document"}})
    runs = StudentRuns(config, [document], Journal(tmp_path / "journal"))
    return lambda text, steps=None: runs.job(["ada"], [("ada", text)], 1, "reward", steps).lesson


def test_a_student_learns_as_its_plan_says(job_of):
    lesson = job_of(Planned(TEXT, json.dumps(PLAN)))
    assert (lesson.learning_rate, lesson.steps, lesson.loss_on, lesson.warmup_steps) == (0.01, 12, "all", 6)
    assert set(lesson.texts) == {TEXT, DOCUMENT.text} and set(lesson.document_ids) == {"ada"}
    sizes = [sum(len(text) for text in lesson.texts if text == one) for one in (DOCUMENT.text, TEXT)]
    assert sizes[0] / sum(sizes) == pytest.approx(0.25, abs=0.02)
    masked = job_of(Planned(TEXT, json.dumps(PLAN | {"loss_on": "outputs", "raw_share": 0})))
    assert masked.texts == ((Segment("input", "Where was Ada born?"), Segment("output", " In Oslo. She studied law.")),)
    assert masked.loss_on == "output"
    assert job_of(Planned("", json.dumps(PLAN | {"raw_share": 1}))).texts == (DOCUMENT.text,)
    short = job_of(Planned(TEXT, json.dumps(PLAN)), 3)
    assert (short.steps, short.warmup_steps) == (3, 2)


def test_no_text_is_taken_for_a_plan(job_of):
    """Neither a document that looks like one nor a text that it brings."""
    for text in (json.dumps(OF_TASK), json.dumps(PLAN) + TEXT):
        lesson = job_of(text)
        assert lesson.texts == (text,) and (lesson.steps, lesson.learning_rate) == (8, None)


def test_a_teacher_that_cannot_write_plans_costs_rejected_lessons_and_nothing_else(make_config, make_documents):
    """A random model's replies are no JSON: each is a rejected lesson with its reason, and the run goes on."""
    documents = make_documents(8)
    for number, document in enumerate(documents):
        document.text = TASK.text.replace("1", str(1 + number))
    teacher = {"prompting": "strategy", "strategies": ("plan",), "plans": True}
    config = make_config(teacher=teacher, reward={"credit": "document"}, rl={"rounds": 1})
    train_teacher(config, documents, (), lambda _: GoldPool(), lambda line: None)
    lines = read_json_lines(config.run.dir / "journal" / "rewrites.jsonl")
    assert {line["rejected"] for line in lines} == {"plan"} and all("is no JSON" in line["reason"] for line in lines)
    step = next(x for x in read_json_lines(config.run.dir / "journal" / "metrics.jsonl") if x["kind"] == "step")
    assert step["gates/plan"] == len(lines) == 32


class StepsPool(GoldPool):
    """Students of long documents gain by many steps, those of short ones by few."""

    def _outcome(self, job) -> Outcome:
        [text, *_] = job.lesson.texts
        suits = (job.lesson.steps == 9) == ("long" in text)
        return super()._outcome(job) if suits else super()._outcome(_without(job))


def _without(job):
    return replace(job, lesson=replace(job.lesson, texts=("dust",) * len(job.lesson.texts)))


@pytest.mark.parametrize("algorithm", ["rest_em", "grpo"])
def test_a_head_learns_which_plan_suits_which_document(make_documents, tmp_path, algorithm):
    documents = make_documents(32)
    for number, document in enumerate(documents):
        kind = "long" if number % 2 else "short"
        document.text += " and there is much more to say of it" * (12 if number % 2 else 1)
        document.metadata["rewrites"] = [{"strategy": "text", "text": f"gold {kind} {number}"}]
    teacher = {
        "strategies": ("brought:text",), "plans": True,
        "plan_options": {"learning_rate": [0.001, 0.01], "steps": [2, 9]},
    }  # fmt: skip
    config = head_config(tmp_path / "run", rl={"algorithm": algorithm}).model_dump()
    config["teacher"] |= teacher
    config = Config.model_validate(config)
    train_teacher(config, documents, (), lambda _: StepsPool(), lambda line: None)
    lines = read_json_lines(config.run.dir / "journal" / "rewrites.jsonl")
    plans = {(line["round"], read_plan(line["plan"], Plans()).steps, "long" in line["text"]) for line in lines}
    assert plans >= {(1, steps, is_long) for steps in (2, 9) for is_long in (True, False)}
    suits = [
        statistics.fmean(
            (read_plan(line["plan"], Plans()).steps == 9) == ("long" in line["text"])
            for line in lines
            if line["round"] == round
        )
        for round in (1, 3)
    ]
    # GRPO learns within its first round already.
    assert 0.4 < suits[0] < 0.7 and suits[1] > 0.8, suits
    head = load_teacher(config.teacher, config.run.dir / "teacher" / "checkpoint-0003")
    assert head.write([build_prompt(head.tokenizer, config.teacher, documents[1])], 3, seed=0)[0][0].ended


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        ({"teacher": {"plans": True}}, "without reward.credit other than 'document'"),
        ({"teacher": {"plan_options": {"steps": [1]}}, "reward": {"credit": "document"}}, "they go with teacher.model"),
        (
            {"teacher": {"plans": True, "model": "head", "strategies": ["echo"]}, "reward": {"credit": "document"}},
            "and these need them",
        ),
        (
            {"teacher": {"plans": True}, "reward": {"credit": "document", "screen": {"steps": 2}}},
            "without reward.screen.steps",
        ),
        (
            {"teacher": {"plans": True}, "reward": {"credit": "document"}, "student": {"with_document": True}},
            "without student.with_document",
        ),
    ],
)
def test_settings_that_do_not_go_with_plans_are_refused(sections, reason):
    with pytest.raises(ValidationError, match=reason):
        Config.model_validate(sections)


def test_plans_that_cannot_be_are_refused_before_the_run(tmp_path):
    absurd = tmp_path / "absurd.json"
    absurd.write_text(str(Plan(learning_rate=0.01, steps=10**6, loss_on="all")))
    grids = tmp_path / "grids.json"
    grids.write_text(json.dumps(OF_TASK))
    head = {"model": "head", "prompting": "policy", "plans": True, "lora": None}
    cases = [
        ({"strategies": ("plan",)}, "'plan' asks for a plan: set teacher.plans"),
        ({"strategies": ("plan",), "plans": True}, "asks for plans of tasks of grids, and 'ada' is none"),
        ({"strategies": (f"echo+plan:{absurd}",)}, "has 'steps' 1000000"),
        ({"strategies": (f"plan:{grids}",)}, "has 'augmentations', which tasks of grids have"),
        (head | {"strategies": ("echo",), "plan_options": {"steps": [5]}}, "{\"steps\": 5} lacks 'learning_rate'"),
        (
            head | {"strategies": ("echo",), "plan_options": {"learning_rate": [7.0], "steps": [5]}},
            "has 'learning_rate' 7.0",
        ),
    ]
    for settings, reason in cases:
        teacher = Teacher.model_validate(settings)
        with pytest.raises(UserError) as refused:
            check_plans(teacher, teacher.strategies, [DOCUMENT], "teacher.strategies")
        assert reason in str(refused.value) and "\n" not in str(refused.value)
    for settings in ({"strategies": (f"plan:{grids}",)}, {"plans": True}):
        with pytest.raises(UserError, match="by which a student learns texts: it cannot be distilled"):
            check_plans(Teacher.model_validate(settings), settings.get("strategies", ()), [], "key", distill=True)
