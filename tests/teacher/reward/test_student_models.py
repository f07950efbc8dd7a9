"""The models that students start from."""

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from configs.errors import UserError
from configs.files import read_json_lines
from student.pools.inline import InlinePool
from student.records import Outcome
from teacher.records import Rewrite
from teacher.reward.student_models import StudentPools, labels, merged_teacher, promote, round_bases, starting_bases
from teacher.reward.student_runs import StudentRuns
from teacher.run.checkpoints import save_checkpoint
from teacher.run.journal import Journal
from teacher.training.loop import train_teacher
from teacher.writers.local import load_teacher

LORA = {"rank": 2, "alpha": 4.0}
STUDENT = {"steps": 2, "learning_rate": 0.01, "device": "cpu", "lora": LORA}


def quiet(_line):
    pass


def test_a_merged_teacher_is_the_adapted_one(make_config):
    config = make_config(teacher={"lora": LORA})
    writer = load_teacher(config.teacher, train_seed=config.run.seed)
    with torch.no_grad():
        for parameter in writer.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    folders = [
        merged_teacher(
            config.teacher.model,
            save_checkpoint(config.run.dir, round, writer.model, writer.tokenizer, writer.settings, None),
            config.run.dir,
        )
        for round in (1, 2)
    ]
    assert not folders[0].exists(), "one at a time"
    merged = AutoModelForCausalLM.from_pretrained(folders[1])
    assert not isinstance(merged, PeftModel)
    ids = torch.arange(5).unsqueeze(0)
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, writer.model.eval()(ids).logits, rtol=1e-4, atol=1e-5)
        start = load_teacher(config.teacher).model(ids).logits
    assert (merged(ids).logits - start).abs().max() > 0.01


@pytest.mark.parametrize("lora", [None, LORA])
def test_the_teacher_as_its_own_student(make_config, make_documents, lora):
    """SEAL's single model: each round's students start from the teacher as it is then, the arms' from the first one."""
    made = []

    def pool(settings):
        made.append(settings.model)
        return InlinePool(settings)

    config = make_config(student=STUDENT | {"model": "teacher"}, teacher={"lora": lora})
    summary = train_teacher(config, make_documents(8), make_documents(4, "heldout"), pool, quiet)
    start = config.teacher.model
    second = config.run.dir / ("teacher/checkpoint-0001" if lora is None else "student/teacher-0001")
    assert made == [start, str(second), start]
    assert set(summary.heldout) == {"raw", "untrained", "trained"}


def test_several_students_are_each_reported(make_config, make_documents, teacher_folder, student_folder):
    config = make_config(student=STUDENT | {"models": (str(teacher_folder), str(student_folder))}, rl={"rounds": 1})
    summary = train_teacher(config, make_documents(8), make_documents(4, "heldout"), InlinePool, quiet)
    names = labels(config.student.names)
    assert set(names.values()) == {teacher_folder.name, student_folder.name}
    assert set(summary.heldout["raw"].by_student) == set(config.student.names)
    lines = read_json_lines(config.run.dir / "journal" / "metrics.jsonl")
    trained = next(line for line in lines if line.get("arm") == "trained")
    difference = next(line for line in lines if line["kind"] == "difference")
    for label in names.values():
        assert f"student/{label}/gain/mean" in trained
        assert f"student/{label}/trained_minus_raw/mean" in difference


def test_students_that_gain_enough_are_the_next_base(make_config, make_documents, student_folder):
    config = make_config(
        student=STUDENT | {"model": str(student_folder), "steps": 6},
        rl={"validation_documents": 4, "promotion_threshold": 0.001, "rounds": 1, "false_keep": None},
    )
    train_teacher(config, make_documents(12), [], InlinePool, quiet)
    [line] = [x for x in read_json_lines(config.run.dir / "journal" / "metrics.jsonl") if x["kind"] == "promotion"]
    assert line["students"] == 1
    assert line["validation_gain"] > line["threshold"]
    promoted = config.run.dir / "student" / "promoted-0001" / "0"
    assert round_bases(config, None) == {str(student_folder): str(promoted)}
    assert starting_bases(config) == {str(student_folder): str(student_folder)}
    old, new = (AutoModelForCausalLM.from_pretrained(folder) for folder in (student_folder, promoted))
    assert any(not torch.equal(a, b) for a, b in zip(old.parameters(), new.parameters(), strict=True))
    InlinePool(config.student.model_copy(update={"model": str(promoted)}))
    assert not list(promoted.parent.glob("*adapter-*"))


def test_a_student_that_fails_is_not_promoted(make_config, make_documents, gold_pool):
    class Failing(gold_pool):
        def keep(self, job, folder):
            folder.mkdir(parents=True)
            return Outcome(gain=None, error="diverged")

    promoting = {"validation_documents": 4, "promotion_threshold": 0.1}
    config, documents = make_config(student={"model": "models/a"}, rl=promoting), make_documents(8)
    lesson = Rewrite(document_id=documents[0].id, strategy="copy", text="gold", completion="gold", prompt="")
    with Journal(config.run.dir) as journal:
        runs = StudentRuns(config, documents, journal)
        figures = promote(1, [lesson], StudentPools(config, lambda _: Failing()), runs)
    assert figures == {"lessons": 1, "students": 1, "gain/a": None, "error": "a: diverged"}
    assert not list((config.run.dir / "student").iterdir())


def test_impossible_settings_of_students_are_refused(make_config, make_documents, gold_pool):
    promoting = {"validation_documents": 4, "promotion_threshold": 0.1}
    itself = make_config(rl=promoting, student={"model": "teacher"})
    with pytest.raises(UserError, match=r"student\.model cannot be 'teacher'"):
        train_teacher(itself, make_documents(12), [], lambda _: gold_pool(), quiet)


def test_labels_are_short_and_distinct():
    assert labels(["models/a", "models/b"]) == {"models/a": "a", "models/b": "b"}
    assert labels(["x/a", "y/a"]) == {"x/a": "x/a", "y/a": "y/a"}
